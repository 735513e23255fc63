"""What a task is, and the registry of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from openjanus.pipeline import Janus
from openjanus.registry import Registry

Prediction = dict[str, Any]
"""One line of `predictions.jsonl`: plain data with at least the `key` of its request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One thing that a model is asked for."""

    key: str
    """Names the request for ever; predictions are found again by it."""
    group: str
    """Requests of one group may be answered in one batch."""
    prompt: str
    """What the model is asked, in words: part of the record's prompt hash."""
    pictures: tuple[str, ...] = ()
    """Name and size in bytes of each file that is shown: an answer is kept for these alone."""
    data: Any = None
    """Whatever else the task needs to ask and to judge."""


class Task(Protocol):
    """A family of questions with its scoring; built once a run from its options."""

    rules: str
    """Name and version of the scoring rules, as the result states them."""
    batch_size: int
    """Requests answered at once; never changes an answer."""

    def settings(self, janus: Janus) -> dict[str, Any]:
        """Plain data: every option, the model's own among them, on which a score depends."""
        ...

    def requests(self, *, limit: int | None, seed: int) -> Sequence[Request]:
        """Everything that is asked, in order, keys unique; None asks all."""
        ...

    def answer(self, janus: Janus, batch: Sequence[Request], folder: Path) -> list[Prediction]:
        """Ask a batch of one group and judge the answers; files go under the folder.

        A prediction with an `error` is of a broken item: it is named, counted and left out.
        """
        ...

    def summarise(
        self, janus: Janus, predictions: Sequence[Prediction], folder: Path, *, seed: int
    ) -> dict[str, Any]:
        """Scores of all predictions without an error, in the order of the requests; plain data."""
        ...


TASKS = Registry(
    "task",
    "openjanus.tasks",
    {
        "pope": "openjanus.eval.tasks.pope:Pope",
        "mme": "openjanus.eval.tasks.mme:Mme",
        "mmbench": "openjanus.eval.tasks.mmbench:MMBench",
        "seed": "openjanus.eval.tasks.seed:Seed",
        "gqa": "openjanus.eval.tasks.gqa:Gqa",
        "vqav2": "openjanus.eval.tasks.vqav2:VQAv2",
        "mmmu": "openjanus.eval.tasks.mmmu:Mmmu",
        "mmvet": "openjanus.eval.tasks.mmvet:MMVet",
    },
)
"""Every task by name; packages add theirs under the group of entry points."""

register_task = TASKS.register
task_names = TASKS.names


def build_task(name: str, options: Mapping[str, Any]) -> Task:
    """Build a task; see ``Registry.build``."""
    return TASKS.build(name, options)
