"""What a task is, and the registry of tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Protocol

from openjanus.config import near
from openjanus.pipeline import Janus

ENTRY_POINT_GROUP: Final = "openjanus.tasks"
"""Packages add tasks under this group of entry points."""

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
        """Ask a batch of one group and judge the answers; files go under the folder."""
        ...

    def summarise(
        self, janus: Janus, predictions: Sequence[Prediction], folder: Path, *, seed: int
    ) -> dict[str, Any]:
        """Scores of all predictions, in the order of the requests; plain data."""
        ...


TaskFactory = Callable[..., Task]

_FACTORIES: dict[str, TaskFactory] = {}


def register_task(name: str, factory: TaskFactory) -> None:
    """Make a task known to `build_task` in this process.

    Raises:
        ValueError: Another factory has the name.
    """
    known = _FACTORIES.setdefault(name, factory)
    if known is not factory:
        raise ValueError(f"task {name!r} is taken by {known!r}: choose another name")


def task_names() -> list[str]:
    """Names of every task that can be built."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)} | set(_FACTORIES))


def build_task(name: str, options: Mapping[str, Any]) -> Task:
    """Build a task.

    Raises:
        KeyError: Unknown name; the message names near matches.
        ValueError: An option that the task does not have, or a value that it refuses.
    """
    factory = _factory(name)
    known = list(inspect.signature(factory).parameters)
    for key in options:
        if key not in known:
            raise ValueError(f"task {name!r}: unknown option {key!r}; {near(key, known)}")
    return factory(**options)


def _factory(name: str) -> TaskFactory:
    if name in _FACTORIES:
        return _FACTORIES[name]
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return point.load()
    raise KeyError(f"unknown task {name!r}; {near(name, task_names())}")
