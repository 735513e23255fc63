"""Codebook ids of every picture to draw, before a run: what the run would compute step by step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tqdm import tqdm

from openjanus.data.encoding import EncodedSample, encode_sample
from openjanus.data.fetching import BadSample, Reader, Workers
from openjanus.data.mixture import Draw
from openjanus.data.samples import Sample
from openjanus.data.stream import StepSamples
from openjanus.pipeline.load import choose_device
from openjanus.processor.prompt import Processor
from openjanus.train.config import JanusTrainConfig
from openjanus.train.parallel import World
from openjanus.train.start import start_model
from openjanus.train.trainer import ENCODE_CHUNK, JanusTrainer


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawingEncoder:
    """Tokenizes samples whole: no prompt is hidden, and every drawing of a document is there."""

    processor: Processor
    max_length: int
    counts_drawings: tuple[bool, ...]
    """Of each source, whether it says how many pictures an item draws."""

    def __call__(self, sample: Sample, draw: Draw) -> EncodedSample:
        """Tokenize a sample.

        Raises:
            ValueError: Too long, or its ids have no place in the cache.
        """
        if len(sample.targets) > 1 and not self.counts_drawings[draw.source]:
            raise ValueError(
                f"{sample.key}: its source does not say how many pictures an item "
                "draws, so their ids are not kept: give it num_drawn(index)"
            )
        return encode_sample(sample, self.processor, max_length=self.max_length)


def encode_images(config: JanusTrainConfig, *, tell: Callable[[str], None]) -> dict[str, int]:
    """Fill the id caches of a recipe's sources of drawings.

    The ids are made by the run's own tokenizer in the run's own way, so the run finds them; those
    that are known and whose pictures are as they were are not made again. Pictures are read by
    ``config.num_workers`` processes, whose number changes nothing of what is written.

    Args:
        config: The run.
        tell: Gets a line for each item that cannot be used.

    Returns:
        ``encoded`` pictures, and ``broken`` items.

    Raises:
        ValueError: The run keeps no ids, or a cache is another tokenizer's.
    """
    if config.id_cache is None:
        raise ValueError("id_cache is null, so no ids are kept: name a folder by id_cache")
    model, processor = start_model(config)
    trainer = JanusTrainer(
        model, processor, config, world=World(device=choose_device(config.device))
    )
    sources = trainer.sources.get("gen", ())
    encode = DrawingEncoder(
        processor=processor,
        max_length=config.max_length,
        counts_drawings=tuple(hasattr(source, "num_drawn") for source in sources),
    )
    counts = {"encoded": 0, "broken": 0}
    with closing(Workers(Reader({"gen": sources}, encode), config.num_workers)) as workers:
        for number, source in enumerate(sources):
            draws = (
                Draw(kind="gen", source=number, index=index, epoch=0)
                for index in range(len(source))
            )
            with tqdm(total=len(source), desc=config.sources.gen[number].type) as bar:
                for piece in workers.pieces(draws, ENCODE_CHUNK):
                    _fill(trainer, piece, counts, tell)
                    bar.update(len(piece))
    trainer.state_dict()  # writes what is in memory
    return counts


def _fill(
    trainer: JanusTrainer,
    piece: list[tuple[Draw, EncodedSample | BadSample]],
    counts: dict[str, int],
    tell: Callable[[str], None],
) -> None:
    """Put the ids of some draws into the caches, and name what is broken of them."""
    whole: list[tuple[Draw, EncodedSample]] = []
    for draw, sample in piece:
        if isinstance(sample, BadSample):
            tell(f"not encoded: {sample.name}: {sample.reason}")
            counts["broken"] += 1
        else:
            whole.append((draw, sample))
            counts["encoded"] += len(sample.drawings)
    trainer.fill(
        StepSamples(
            draws=tuple(draw for draw, _ in whole),
            samples=tuple(sample for _, sample in whole),
            state={},
        )
    )
