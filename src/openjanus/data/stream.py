"""The samples of each step: drawn by the mixture, fetched, tokenized, and replaced where broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from openjanus.data.collate import EncodedSample
from openjanus.data.mixture import Draw, Mixture
from openjanus.data.samples import Kind, Sample
from openjanus.data.sources import Source

MAX_ATTEMPTS = 16
"""Replacements tried for one sample before the source is given up."""


class TooManyBadSamples(ValueError):
    """More samples could not be used than the run allows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BadSample:
    """A sample that could not be used."""

    name: str
    """kind, source and index, and the sample's key where it has one."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSamples:
    """What a step trains on."""

    draws: tuple[Draw, ...]
    samples: tuple[EncodedSample, ...]
    bad: tuple[BadSample, ...] = field(default=())
    """What was replaced on the way."""


class SampleStream:
    """Samples by step; step k is the same whether or not any other was asked for.

    A sample that raises, or that the encoder refuses, is named and replaced by another of the
    same source; which one is a function of the broken one's place.

    Args:
        sources: By kind, in the order of the mixture's weights.
        mixture: The order.
        batch_size: Samples a step.
        encode: Tokenizes a sample; gets the draw as well, for what depends on the epoch.
    """

    def __init__(
        self,
        sources: Mapping[Kind, Sequence[Source]],
        mixture: Mixture,
        *,
        batch_size: int,
        encode: Callable[[Sample, Draw], EncodedSample],
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        self.sources = sources
        self.mixture = mixture
        self.batch_size = batch_size
        self.encode = encode

    def step(self, step: int) -> StepSamples:
        """The samples of a step, from 0.

        Raises:
            TooManyBadSamples: Replacement after replacement is broken.
        """
        draws: list[Draw] = []
        samples: list[EncodedSample] = []
        bad: list[BadSample] = []
        for wanted in self.mixture.batch(step, self.batch_size):
            draw, sample = self._usable(wanted, bad)
            draws.append(draw)
            samples.append(sample)
        return StepSamples(draws=tuple(draws), samples=tuple(samples), bad=tuple(bad))

    def _usable(self, wanted: Draw, bad: list[BadSample]) -> tuple[Draw, EncodedSample]:
        draw = wanted
        for attempt in range(1, MAX_ATTEMPTS + 1):
            name = f"{draw.kind} source {draw.source} item {draw.index}"
            try:
                sample = self.sources[draw.kind][draw.source][draw.index]
                if not isinstance(sample, Sample):
                    raise TypeError(f"the source gave a {type(sample).__name__}, not a Sample")
                name = f"{name} ({sample.key})"
                if sample.kind != draw.kind:
                    raise ValueError(f"the sample is of kind {sample.kind!r}: move its source")
                return draw, self.encode(sample, draw)

            except Exception as error:  # noqa: BLE001 - any code of a source: named, limited
                bad.append(BadSample(name=name, reason=f"{type(error).__name__}: {error}"))
                draw = self.mixture.replacement(wanted, attempt)
        raise TooManyBadSamples(
            f"{MAX_ATTEMPTS} samples in a row cannot be used, the last: {bad[-1].name}: "
            f"{bad[-1].reason}; check the source and its options"
        )
