"""Codebook ids of every picture to draw, before a run: what the run would compute step by step."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm

from openjanus.data.encoding import EncodedSample, encode_sample
from openjanus.data.mixture import Draw
from openjanus.data.stream import StepSamples
from openjanus.pipeline.load import choose_device
from openjanus.train.config import JanusTrainConfig
from openjanus.train.parallel import World
from openjanus.train.start import start_model
from openjanus.train.trainer import ENCODE_CHUNK, JanusTrainer


def encode_images(config: JanusTrainConfig, *, tell: Callable[[str], None]) -> dict[str, int]:
    """Fill the id caches of a recipe's sources of drawings.

    The ids are made by the run's own tokenizer in the run's own way, so the run finds them; those
    that are known and whose pictures are as they were are not made again.

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
    counts = {"encoded": 0, "broken": 0}
    for number, source in enumerate(trainer.sources.get("gen", ())):
        for start in tqdm(
            range(0, len(source), ENCODE_CHUNK), desc=config.sources.gen[number].type
        ):
            samples: list[EncodedSample] = []
            draws: list[Draw] = []
            for index in range(start, min(start + ENCODE_CHUNK, len(source))):
                try:
                    sample = source[index]
                    if sample.kind != "gen":
                        raise ValueError(f"{sample.key}: no picture to draw in it")
                    if len(sample.targets) > 1 and not hasattr(source, "num_drawn"):
                        raise ValueError(
                            f"{sample.key}: its source does not say how many pictures an item "
                            "draws, so their ids are not kept: give it num_drawn(index)"
                        )
                    encoded = encode_sample(sample, processor, max_length=config.max_length)
                except Exception as error:  # noqa: BLE001 - any code of a source: as in training
                    tell(f"not encoded: {error}")
                    counts["broken"] += 1
                    continue
                samples.append(encoded)
                draws.append(Draw(kind="gen", source=number, index=index, epoch=0))
            trainer.fill(StepSamples(draws=tuple(draws), samples=tuple(samples), state={}))
            counts["encoded"] += sum(len(sample.drawings) for sample in samples)
    trainer.state_dict()  # writes what is in memory
    return counts
