"""Held-out loss on fixed samples, and eval tasks, in the middle of a run.

What is measured is what is shipped: where a run keeps an average of its weights, that. Every
process measures the whole held-out loss, for where weights are sharded all must run the same
forwards; tasks run in the first process, on the model in one piece.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from openjanus.data.collate import Batch, collate
from openjanus.data.encoding import EncodedSample, SampleEncoder, with_image_ids
from openjanus.data.files.base import FileSource
from openjanus.data.mixture import Draw
from openjanus.data.samples import KINDS, Kind, Sample
from openjanus.data.sources import Source, build_source
from openjanus.eval.runner import SETTINGS_NAME, run_task
from openjanus.eval.task import build_task
from openjanus.model.janus import JanusModel
from openjanus.pipeline import Janus
from openjanus.processor.prompt import Processor
from openjanus.rules import near
from openjanus.train.config import JanusTrainConfig
from openjanus.train.feed import facts_of_source
from openjanus.train.losses import LossKind
from openjanus.train.parallel import World
from openjanus.train.watch_config import ValTaskConfig

NO_SCORES = ("seconds", "broken")
"""What a summary has that is not a score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Items:
    """Part of a source."""

    source: Source
    first: int
    count: int
    label: str

    def spread(self, wanted: int) -> list[int]:
        """Up to ``wanted`` indices, evenly over the part."""
        number = min(wanted, self.count)
        return [self.first + place * self.count // number for place in range(number)]


class Validation:
    """Measures a model that is being trained; changes nothing of it and draws no random number.

    Args:
        model: With its weights, on its device.
        processor: Of the model.
        config: The run.
        sources: What is trained on, by kind; the last ``config.held_back`` items are not.
        encode: How the run tokenizes samples; what it hides or cuts at random is left out here.
        tokenize: (G, 3, S, S) -> (G, N) codebook ids.
        measure: A batch's sums and counts of supervised tokens by kind, without gradients.
        shipped: Within it, the model has the weights that are shipped.
        whole_model: The model in one piece, in the first process; all must call it.
        world: All processes.

    Raises:
        KeyError: An unknown source or task.
        ValueError: Options that one of them refuses, a kind without a usable sample, or a
            held-out loss for ``run.best`` that is not measured.
    """

    def __init__(
        self,
        model: JanusModel,
        processor: Processor,
        config: JanusTrainConfig,
        *,
        sources: Mapping[Kind, Sequence[Source]],
        encode: SampleEncoder,
        tokenize: Callable[[Tensor], Tensor],
        measure: Callable[[Batch], tuple[Mapping[LossKind, Tensor], Mapping[LossKind, int]]],
        shipped: Callable[[], AbstractContextManager[None]],
        whole_model: Callable[[], JanusModel | None],
        world: World,
    ) -> None:
        self.model = model
        self.processor = processor
        self.config = config
        self._encode = replace(encode, cond_drop=0.0, first_sentence=0.0)
        self._tokenize = tokenize
        self._measure = measure
        self._shipped = shipped
        self._whole_model = whole_model
        self.world = world
        for task in config.val.tasks:
            build_task(task.task, task.options)  # a slip is told now, not when it is first due
        self.samples: dict[Kind, list[EncodedSample]] = {}
        self._keys: set[str] = set()
        self._trained_in = {_folder(one) for some in sources.values() for one in some}
        self.facts: dict[str, Any] = {}
        """Of sources that are not trained on, by their keys."""
        if config.val.every > 0:
            for kind in KINDS:
                if parts := self._parts(kind, sources.get(kind, ())):
                    self.samples[kind] = self._read(kind, parts)
        self.keys = frozenset(self._keys)
        """Of all samples that what is trained on may hold too: none may be trained on."""
        self._check_metric()

    def _check_metric(self) -> None:
        """Refuse a held-out loss to go by that none of the samples gives."""
        best = self.config.run.best
        if best is None or not best.metric.startswith("val_"):
            return
        samples = [sample for some in self.samples.values() for sample in some]
        kinds: list[LossKind] = list(self.samples)
        if any(sample.drawings for sample in samples):
            kinds.append("gen")  # a document's words are text, what it draws is not
        if self.config.und_image_loss:
            kinds.append("und_image")
        known = ["val_loss", *(f"val_loss_{kind}" for kind in dict.fromkeys(kinds))]
        if best.metric not in known:
            raise ValueError(
                f"run.best.metric is {best.metric!r}, which nothing here measures; "
                f"{near(best.metric, known)}"
            )

    def _parts(self, kind: Kind, trained: Sequence[Source]) -> list[_Items]:
        """Where the samples of a kind come from."""
        config = self.config
        named = getattr(config.val, kind)
        known = [(source.type, source.options) for source in getattr(config.sources, kind)]

        def held_back(place: int) -> _Items:
            source, count = trained[place], config.held_back
            name = known[place][0] if known else type(source).__name__
            label = f"held back of {name}"
            return _Items(source=source, first=len(source) - count, count=count, label=label)

        if not named:
            share = config.ratio[KINDS.index(kind)]
            return [held_back(place) for place in range(len(trained))] if share > 0 else []
        parts = []
        for place, source in enumerate(named):
            if (source.type, source.options) in known:
                parts.append(held_back(known.index((source.type, source.options))))
                continue
            built = build_source(source.type, source.options)
            self.facts[f"val.{kind}[{place}]"] = facts_of_source(built)
            parts.append(_Items(source=built, first=0, count=len(built), label=f"of {source.type}"))
        return parts

    def _read(self, kind: Kind, parts: Sequence[_Items]) -> list[EncodedSample]:
        read: dict[tuple[int, int], EncodedSample] = {}
        broken: dict[tuple[int, int], str] = {}
        for place, part in enumerate(parts):
            share = len(range(place, self.config.val.samples, len(parts)))
            for index in part.spread(share) if share > 0 else ():
                try:
                    sample = part.source[index]
                    if not isinstance(sample, Sample) or sample.kind != kind:
                        raise ValueError(f"not a sample of kind {kind!r}: move its source")
                    draw = Draw(kind=kind, source=place, index=index, epoch=0)
                    read[place, index] = self._encode(sample, draw)
                except Exception as error:  # noqa: BLE001 - any code of a source: named
                    broken[place, index] = f"{type(error).__name__}: {error}"
        # What one process cannot read none measures, or they would wait for each other for ever.
        anywhere: dict[tuple[int, int], str] = {}
        for rank, told in enumerate(self.world.gather(broken)):
            where = f" (in process {rank} of {self.world.size})" if rank > 0 else ""
            anywhere = {at: reason + where for at, reason in told.items()} | anywhere
        for place, index in sorted(anywhere):
            name = f"{kind} item {index} {parts[place].label}"
            self._tell(f"validation leaves out {name}: {anywhere[place, index]}")
        found = {at: sample for at, sample in read.items() if at not in anywhere}
        if not found:
            raise ValueError(
                f"no sample of kind {kind!r} can be validated on: check val.{kind} and max_length"
            )
        for (place, _), sample in found.items():
            # Keys are relative to a folder: files of the same name in another are others.
            here = _folder(parts[place].source)
            if here is None or here in self._trained_in or None in self._trained_in:
                self._keys.add(sample.key)
        counts = [sum(at == place for at, _ in found) for place in range(len(parts))]
        labels = [f"{n} {part.label}" for n, part in zip(counts, parts, strict=True)]
        self._tell(f"validation {kind}: {', '.join(labels)}")
        return list(found.values())

    def _tell(self, line: str) -> None:
        if self.world.is_main:
            tqdm.write(line, file=sys.stderr)

    def refuse_trained(self, keys: Sequence[str]) -> None:
        """Check that a step trains on none of the samples.

        Raises:
            ValueError: It does; the message names one.
        """
        for key in keys:
            if key in self.keys:
                raise ValueError(
                    f"sample {key} is validated on and would be trained on: give val sources "
                    "other items, or name the training source itself, whose held-back items are "
                    "taken then"
                )

    def run(self, folder: Path, step: int) -> dict[str, Any]:
        """Measure what is due after a step; nothing where nothing is. All processes call this.

        Args:
            folder: Of the run; predictions of tasks go below its ``eval``.
            step: Optimizer steps done.

        Raises:
            ValueError: A task has no score of the name that ``run.best`` goes by.
        """
        val = self.config.val
        with_losses = val.every > 0 and step % val.every == 0
        tasks = [task for task in val.tasks if step % task.every == 0]
        if not with_losses and not tasks:
            return {}
        values: dict[str, Any] = {}
        try:
            with self._shipped():
                if with_losses:
                    values |= self.losses()
                if tasks:
                    values |= self._tasks(tasks, folder / "eval" / f"step-{step:08d}")
        finally:
            self.model.train()
        return values

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """``val_loss``, a mean over all supervised tokens, and ``val_loss_KIND``; in nats.

        A kind is that of tokens, as in training: the words of a document count as text, and what
        it draws as gen.
        """
        self.model.eval()
        sums: dict[LossKind, float] = {}
        counts: dict[LossKind, int] = {}
        device = self.model.language_model.model.embed_tokens.weight.device
        for kind, samples in self.samples.items():
            if kind == "gen":  # ids are computed once: the tokenizer is never trained here
                samples[:] = with_image_ids(samples, self.processor, self._tokenize)
            for chunk in _chunks(samples, self.config.val.batch_size):
                batch = collate(chunk, self.processor).to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16):
                    lost, counted = self._measure(batch)
                for part, total in lost.items():
                    sums[part] = sums.get(part, 0.0) + float(total)
                    counts[part] = counts.get(part, 0) + counted[part]
        values = {"val_loss": round(sum(sums.values()) / sum(counts.values()), 6)}
        return values | {f"val_loss_{kind}": round(sums[kind] / counts[kind], 6) for kind in sums}

    def _tasks(self, tasks: Sequence[ValTaskConfig], folder: Path) -> dict[str, Any]:
        """Scores of tasks, in all processes; the others wait for the first one."""
        model = self._whole_model()

        def ask() -> dict[str, Any]:
            assert model is not None  # in the first process
            janus = Janus(model, self.processor.tokenizer)
            values: dict[str, Any] = {}
            for task in tasks:
                values |= self._task(janus, task, folder / task.task)
            return values

        values = self.world.from_main(self.world.on_main(ask))
        assert values is not None
        return values

    def _task(self, janus: Janus, task: ValTaskConfig, output: Path) -> dict[str, Any]:
        if output.exists():  # of a run that went on from before this step
            shutil.rmtree(output)
        summary = run_task(
            janus,
            task.task,
            limit=task.limit,
            output=output,
            seed=task.seed,
            options=task.options,
        )
        asked = json.loads((output / SETTINGS_NAME).read_text(encoding="utf-8"))
        scores = {k: v for k, v in summary.items() if k not in asked and k not in NO_SCORES}
        prefix = f"eval_{task.task}"
        values = dict(_numbers(scores, prefix))
        best = self.config.run.best
        if best is not None and best.metric.startswith(prefix) and best.metric not in values:
            raise ValueError(
                f"task {task.task!r} has no score {best.metric!r}, run.best.metric; "
                f"{near(best.metric, list(values))}"
            )
        return values


def _folder(source: Source) -> Path | None:
    """What an item's key is relative to, where it is known."""
    folder = source.folder() if isinstance(source, FileSource) else None
    return None if folder is None else folder.resolve()


def _chunks(samples: Sequence[EncodedSample], size: int) -> Iterator[Sequence[EncodedSample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings, their keys joined by underscores."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{name}_{key}")
    elif isinstance(value, int | float):
        yield name, float(value)
