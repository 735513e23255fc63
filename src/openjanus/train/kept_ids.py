"""Codebook ids of a run's drawings: kept ones from the caches, others computed and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from openjanus.data.encoding import EncodedSample, with_image_ids
from openjanus.data.id_cache import (
    IdCache,
    fingerprint_of,
    module_hash,
    picture_stamp,
    source_digest,
)
from openjanus.data.islands import VERSION as ISLANDS_VERSION
from openjanus.data.samples import Kind
from openjanus.data.sources import Source
from openjanus.data.stream import StepSamples
from openjanus.model.janus import JanusModel
from openjanus.processor.prompt import Processor
from openjanus.train.config import JanusTrainConfig
from openjanus.train.source_config import SourceConfig
from openjanus.train.start import beside


def open_caches(
    config: JanusTrainConfig,
    model: JanusModel,
    configs: Sequence[SourceConfig],
    sources: Sequence[Source],
) -> list[IdCache | None]:
    """The cache of each source of drawings; None where the run keeps no ids."""
    if config.id_cache is None:
        return [None for _ in sources]
    root = beside(config.run.dir, config.id_cache)
    tokenizer_hash = module_hash(model.vq)
    how: dict[str, Any] = {} if config.bf16 else {"bf16": False}
    if config.tokenize == "islands":
        how["islands"] = ISLANDS_VERSION
    names = [
        source_digest(one.type, {**one.options, **how}, fingerprint_of(source))
        for one, source in zip(configs, sources, strict=True)
    ]
    return [
        IdCache(
            root / name,
            tokenizer_hash=tokenizer_hash,
            source=name,
            num_items=len(source),
            num_image_tokens=model.config.num_gen_image_tokens,
            codebook_size=model.config.codebook_size,
        )
        for name, source in zip(names, sources, strict=True)
    ]


class KeptIds:
    """Puts ids in place of pictures.

    Args:
        caches: Of each source of drawings.
        sources: All, by kind.
        processor: Of the model.
        tokenize: (G, 3, S, S) -> (G, N) ids.
    """

    def __init__(
        self,
        caches: Sequence[IdCache | None],
        sources: Mapping[Kind, Sequence[Source]],
        processor: Processor,
        tokenize: Callable[[Tensor], Tensor],
    ) -> None:
        self._caches = caches
        self.sources = sources
        self.processor = processor
        self._tokenize = tokenize

    def flush(self) -> None:
        """Write what is in memory."""
        for cache in self._caches:
            if cache is not None:
                cache.flush()

    def put_in(self, step: StepSamples) -> list[EncodedSample]:
        """Put codebook ids in place of pictures: known ones from the cache, others computed."""
        samples = list(step.samples)
        stamps: list[int | None] = [None for _ in samples]
        missing: list[int] = []
        for place, (draw, sample) in enumerate(zip(step.draws, samples, strict=True)):
            if sample.targets:  # a document's pictures are several, the cache has one an item
                missing.append(place)
            if sample.target is None or sample.target.ndim == 1:
                continue
            cache = self._caches[draw.source]
            if cache is not None and hasattr(self.sources["gen"][draw.source], "fingerprint"):
                stamps[place] = picture_stamp(sample.target)  # a file may change under its name
            known = None if cache is None else cache.get(draw.index, stamps[place])
            if known is None:
                missing.append(place)
            else:
                samples[place] = replace(sample, target=known)
        computed = with_image_ids([samples[i] for i in missing], self.processor, self._tokenize)
        for place, sample in zip(missing, computed, strict=True):
            samples[place] = sample
            draw = step.draws[place]
            cache = self._caches[draw.source] if sample.target is not None else None
            if cache is not None and sample.target is not None:
                cache.put([draw.index], sample.target[None], [stamps[place]])
        return samples
