"""How a run's configuration becomes its order of samples, and what is made of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

from openjanus.data.encoding import SampleEncoder
from openjanus.data.fetching import Crew
from openjanus.data.id_cache import content_fingerprint_of, fingerprint_of
from openjanus.data.mixture import ALWAYS, Mixture
from openjanus.data.packed import PackedStream
from openjanus.data.packing import BinRules
from openjanus.data.samples import KINDS, Kind
from openjanus.data.sources import Source
from openjanus.data.stream import SampleStream, Share, Stream
from openjanus.processor.prompt import Processor
from openjanus.train.config import JanusTrainConfig
from openjanus.train.source_config import SourceConfig


def mixture_of(
    config: JanusTrainConfig,
    named: Mapping[Kind, Sequence[SourceConfig]],
    sources: Mapping[Kind, Sequence[Source]],
) -> Mixture:
    """The order over all sources but for what is held back of each.

    Raises:
        ValueError: Nothing is left of a source to train on; or as ``Mixture``.
    """
    for kind, share in zip(KINDS, config.ratio, strict=True):
        for place, source in enumerate(sources.get(kind, ())) if share > 0 else ():
            if 0 < len(source) <= config.held_back:
                raise ValueError(
                    f"sources.{kind}[{place}] has {len(source)} items, and held_back keeps the "
                    f"last {config.held_back} of every source from training: give more, or lower "
                    "--held_back"
                )
    return Mixture(
        {kind: [len(s) - config.held_back for s in sources.get(kind, ())] for kind in KINDS},
        {
            kind: [s.weight for s in named[kind]] or [1.0 for _ in sources.get(kind, ())]
            for kind in KINDS
        },
        config.ratio,
        seed=config.run.seed,
        spans={
            kind: [(s.from_step, s.until_step) for s in named[kind]]
            or [ALWAYS for _ in sources.get(kind, ())]
            for kind in KINDS
        },
    )


def facts_of_source(source: object) -> dict[str, Any]:
    """How many items a source has, which files they are of, and what some of them hold.

    Where it has an end, files, and items that are soon read.
    """
    items = len(source) if isinstance(source, Sized) else None
    return {
        "items": items,
        "fingerprint": fingerprint_of(source),
        "content": content_fingerprint_of(source),
    }


def told_of_others(
    before: Mapping[str, Any], now: Mapping[str, Any], *, moved: bool = False
) -> str | None:
    """How ``facts_of_source`` differ, to go between a source and "when"; None where they do not.

    Args:
        before: Of the checkpoint; an older one knows nothing of what items hold.
        now: Of this run.
        moved: Whether the files are others by the same names, so that items are compared too.
    """
    if before["items"] != now["items"]:
        return f"has {now['items']} items now, and had {before['items']}"
    if before["fingerprint"] != now["fingerprint"]:
        return "is of files that are not what they were"
    if moved and before.get("content") != now["content"]:
        return "holds words or pictures that are not what they were"
    return None


def refuse_other_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with files that were changed since: their order would be another.

    Args:
        before: ``facts_of_source`` by name, of the checkpoint.
        now: The same, of this run; a name that the other has not is left alone.

    Raises:
        ValueError: The source has other items or files.
    """
    for name, facts in now.items():
        told = told_of_others(before.get(name, facts), facts)
        if told is not None:
            raise ValueError(
                f"{name} {told} when the checkpoint was written, so what was trained on and what "
                "comes next cannot be told: bring its files back, or start another run from these "
                "weights with --init"
            )


def encoder_of(config: JanusTrainConfig, processor: Processor) -> SampleEncoder:
    """What becomes of a sample."""
    return SampleEncoder(
        processor=processor,
        max_length=config.max_length,
        seed=config.run.seed,
        mask_prompt=config.mask_prompt,
        cond_drop=config.cond_drop,
        first_sentence=config.first_sentence,
        learn_image_start=config.image_start_loss,
        max_images=config.pack_images,
    )


def open_stream(config: JanusTrainConfig, crew: Crew, mixture: Mixture, share: Share) -> Stream:
    """Samples or packs, step after step."""
    if config.batch_unit == "samples":
        return SampleStream(crew, mixture, batch_size=config.batch_size, share=share)
    assert config.pack_length is not None
    rules = BinRules(
        capacity=config.pack_length, max_open=config.open_packs, max_images=config.pack_images
    )
    return PackedStream(
        crew,
        mixture,
        batch_size=config.batch_size,
        rules=rules,
        ratio_unit=config.ratio_unit,
        share=share,
    )
