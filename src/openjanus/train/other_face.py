"""What a fine-tuning costs: losses on samples that are not trained on, before and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from openjanus.data.collate import Batch, collate
from openjanus.data.encoding import EncodedSample, with_image_ids
from openjanus.data.samples import KINDS, Kind
from openjanus.data.sources import Source, build_source
from openjanus.model.janus import JanusModel
from openjanus.processor.prompt import Processor
from openjanus.train.config import JanusTrainConfig
from openjanus.train.feed import facts_of_source
from openjanus.train.parallel import ALONE, World
from openjanus.train.source_config import SourceConfig

BATCH = 8
"""Samples looked at together: the same at every measurement, so that losses can be compared."""


class OtherFace:
    """Held-out losses by kind at the start, at the end, and every so often.

    Args:
        config: Of the run, with ``watch``.
        model: Whose losses.
        processor: Of the model.
        encode: A sample as tokens, nothing of it hidden.
        tokenize: Pictures to codebook ids.
        measure: A batch's sums and counts of supervised tokens by kind, without gradients.
        shipped: Within it, the model has the weights that are shipped.
        warn: Told what got worse, or cannot be read; one line.
        world: All processes.

    Raises:
        KeyError: An unknown source.
        ValueError: Options that a source refuses, no source, or none of its samples is usable.
    """

    def __init__(
        self,
        config: JanusTrainConfig,
        model: JanusModel,
        processor: Processor,
        *,
        encode: Callable[[Any], EncodedSample],
        tokenize: Callable[[Any], Any],
        measure: Callable[[Batch], tuple[Mapping[Any, Tensor], Mapping[Any, int]]],
        shipped: Callable[[], AbstractContextManager[None]],
        warn: Callable[[str], None],
        world: World = ALONE,
    ) -> None:
        assert config.watch is not None, "there is nothing to watch otherwise"
        self.config = config.watch
        self.run = config
        self.model = model
        self.processor = processor
        self.warn = warn
        self._measure = measure
        self._shipped = shipped
        self.start: dict[str, float] = {}
        self._batches: dict[Kind, list[list[EncodedSample]]] = {}
        named: dict[Kind, list[SourceConfig]] = {
            "und": self.config.sources.und,
            "text": self.config.sources.text,
            "gen": self.config.sources.gen,
        }
        self.facts: dict[str, Any] = {}
        """Of the sources, by their keys."""
        for kind in KINDS:
            sources = [build_source(source.type, source.options) for source in named[kind]]
            for place, source in enumerate(sources):
                self.facts[f"watch.sources.{kind}[{place}]"] = facts_of_source(source)
            if samples := self._read(kind, sources, encode, world):
                ready = with_image_ids(samples, processor, tokenize)
                self._batches[kind] = _in_batches(ready)
        if not self._batches:
            raise ValueError("watch.sources must name a source: add one of und, text or gen")

    def _read(
        self,
        kind: Kind,
        sources: Sequence[Source],
        encode: Callable[[Any], EncodedSample],
        world: World,
    ) -> list[EncodedSample]:
        """The first samples of each source, but for those that are broken, which are named."""
        read: dict[tuple[int, int], EncodedSample] = {}
        broken: dict[tuple[int, int], str] = {}
        for place, source in enumerate(sources):
            if len(source) < self.config.samples:
                raise ValueError(
                    f"watch.samples is {self.config.samples}, and a source to watch has "
                    f"{len(source)}: lower it"
                )
            for index in range(self.config.samples):
                try:
                    read[place, index] = encode(source[index])
                except Exception as error:  # noqa: BLE001 - any code of a source: named
                    broken[place, index] = f"{type(error).__name__}: {error}"
        # What one process cannot read none measures, or they would wait for each other for ever.
        anywhere = {at: reason for told in world.gather(broken) for at, reason in told.items()}
        for (place, index), reason in sorted(anywhere.items()):
            self.warn(f"watch leaves out {kind} source {place} item {index}: {reason}")
        samples = [sample for at, sample in read.items() if at not in anywhere]
        if sources and not samples:
            raise ValueError(
                f"no sample of kind {kind!r} can be watched: check watch.sources.{kind} and "
                "max_length"
            )
        return samples

    def before(self, step: int) -> dict[str, float]:
        """The losses before anything is trained; nothing at any other step than 0."""
        if step != 0:
            return {}
        self.start = self.measure()
        return {f"{name}_start": value for name, value in self.start.items()}

    def after(self, step: int) -> dict[str, float]:
        """The losses after a step (from 0), if it is time for them; a warning where they grew."""
        done, every = step + 1, self.config.every
        if done != self.run.run.last_step and not (every and done % every == 0):
            return {}
        values = self.measure()
        for name, value in values.items():
            grown = value - self.start[name]
            if grown > self.config.margin:
                self.warn(
                    f"{name} is {value:.4f} after {done} steps, {grown:.4f} above its start and "
                    f"past watch.margin ({self.config.margin}): mix more samples of this kind in, "
                    "or lower optim.lr or run.steps"
                )
        return values

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Nats a token by kind, of all supervised tokens alike."""
        with self._shipped():
            return self._losses()

    def _losses(self) -> dict[str, float]:
        training = self.model.training
        self.model.eval()
        values = {}
        device = self.model.language_model.model.embed_tokens.weight.device
        for kind, batches in self._batches.items():
            total, count = 0.0, 0
            for samples in batches:
                batch = collate(samples, self.processor, pack_length=None).to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.run.bf16):
                    sums, counts = self._measure(batch)
                total += float(sums[kind])
                count += counts[kind]
            values[f"watch_{kind}"] = round(total / count, 5)
        self.model.train(training)
        return values


def _in_batches(samples: Sequence[EncodedSample]) -> list[list[EncodedSample]]:
    return [list(samples[start : start + BATCH]) for start in range(0, len(samples), BATCH)]
