"""Codebook ids of a run's drawings: kept ones from the caches, others computed and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from openjanus.data.encoding import EncodedSample, with_image_ids
from openjanus.data.id_cache import (
    Entries,
    IdCache,
    fingerprint_of,
    module_hash,
    picture_stamp,
    source_digest,
)
from openjanus.data.islands import VERSION as ISLANDS_VERSION
from openjanus.data.sources import Source
from openjanus.data.stream import StepSamples
from openjanus.model.janus import JanusModel
from openjanus.processor.prompt import Processor
from openjanus.train.config import JanusTrainConfig
from openjanus.train.source_config import SourceConfig
from openjanus.train.start import beside


@dataclass(frozen=True, slots=True)
class SourceIds:
    """What is kept of a source."""

    cache: IdCache
    entries: Entries


def open_caches(
    config: JanusTrainConfig,
    model: JanusModel,
    configs: Sequence[SourceConfig],
    sources: Sequence[Source],
) -> list[SourceIds | None]:
    """The cache of each source of drawings; None where the run keeps no ids."""
    if config.id_cache is None:
        return [None for _ in sources]
    root = beside(config.run.dir, config.id_cache)
    tokenizer_hash = module_hash(model.vq)
    how: dict[str, Any] = {} if config.bf16 else {"bf16": False}
    if config.tokenize == "islands":
        how["islands"] = ISLANDS_VERSION
    kept: list[SourceIds | None] = []
    for one, source in zip(configs, sources, strict=True):
        entries = Entries(source)
        options = {**one.options, **how}
        name = source_digest(one.type, options, fingerprint_of(source), entries.digest)
        cache = IdCache(
            root / name,
            tokenizer_hash=tokenizer_hash,
            source=name,
            num_items=len(entries),
            num_image_tokens=model.config.num_gen_image_tokens,
            codebook_size=model.config.codebook_size,
        )
        kept.append(SourceIds(cache, entries))
    return kept


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A picture whose ids are not known, and where they will be kept."""

    place: int
    """Its sample in the step."""
    number: int
    """Which of the sample's drawings it is."""
    cache: IdCache
    entry: int
    stamp: int


class KeptIds:
    """Puts ids in place of pictures.

    Args:
        kept: What is kept of each source of drawings.
        processor: Of the model.
        tokenize: (G, 3, S, S) -> (G, N) ids.
    """

    def __init__(
        self,
        kept: Sequence[SourceIds | None],
        processor: Processor,
        tokenize: Callable[[Tensor], Tensor],
    ) -> None:
        self._kept = kept
        self.processor = processor
        self._tokenize = tokenize

    def flush(self) -> None:
        """Write what is in memory."""
        for one in self._kept:
            if one is not None:
                one.cache.flush()

    def put_in(self, step: StepSamples) -> list[EncodedSample]:
        """Put codebook ids in place of pictures: known ones from the cache, others computed."""
        samples = list(step.samples)
        unknown: list[_Unknown] = []
        for place, (draw, sample) in enumerate(zip(step.draws, samples, strict=True)):
            kept = self._kept[draw.source] if sample.drawings else None
            if kept is None:
                continue
            targets = [target for _, target in sample.drawings]
            for number, target in enumerate(targets):
                entry = kept.entries.find(draw.index, sample.picture + number)
                if entry is None or target is None or target.ndim == 1:
                    continue
                stamp = picture_stamp(target)  # a file may change under its name
                known = kept.cache.get(entry, stamp)
                if known is None:
                    unknown.append(_Unknown(place, number, kept.cache, entry, stamp))
                else:
                    targets[number] = known
            samples[place] = sample.with_targets(targets)
        samples = with_image_ids(samples, self.processor, self._tokenize)
        for one in unknown:
            _, ids = samples[one.place].drawings[one.number]
            assert ids is not None
            one.cache.put(one.entry, ids, one.stamp)
        return samples
