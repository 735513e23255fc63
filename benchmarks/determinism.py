"""Whether a drawing is the same whoever is drawn beside it, and in whichever way.

    python benchmarks/determinism.py --output FILE [--prompts N] [--kinds KIND ...]
        [--guidance G ...] [--model MODEL] [--threads N] [--seed S]

Each of `--prompts` held-out prompts (`best_of.py` says which) is drawn with one seed in 12 ways:
alone, in batches of 2, 4 and 8, in batches of 4 in another order, and streamed with three states
shown; each with one id a step, and looking ahead to 8. Steps have 16 rows. A drawing's hash is that
of its ids and of its pixels.

`ours` is the number of hashes that a prompt has over all ways, in the mean: 1 is one hash each.
`theirs` is 1, what is wanted. `differ` counts prompts that have more than one, `flips` ids that are
not those of the prompt alone with one id a step, of all ids of the other ways, and `by_way` the
prompts of each way whose hash is another. Kinds: `fp32` as weights lie, `fp32 packed` as the
command draws, and the same in `bf16`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from best_of import requests
from torch import Tensor
from tqdm import tqdm

import openjanus
from openjanus.engine.engine import EngineOptions
from openjanus.pipeline import Janus

KINDS = {
    "fp32": ("float32", False),
    "fp32 packed": ("float32", True),
    "bf16": ("bfloat16", False),
    "bf16 packed": ("bfloat16", True),
}
"""Dtype, and whether weights are packed."""
LOOK_AHEAD = (1, 8)
BATCHES = (2, 4, 8)
SHUFFLED = 4
STATES = 3

Drawn = tuple[str, Tensor]
"""A drawing's hash and its ids."""
Way = Callable[[Janus, Sequence[str], float, int], list[Drawn]]
"""Draws prompts, at a guidance scale, by a seed: theirs in the order of the prompts."""


def seed_of(prompt: str, seed: int) -> int:
    """Of the prompt, not of its place."""
    return zlib.crc32(prompt.encode()) + seed


def drawn(image: Any, image_ids: Tensor) -> Drawn:
    """What is compared of a drawing."""
    whole = image_ids.numpy().tobytes() + image.tobytes()
    return hashlib.sha256(whole).hexdigest(), image_ids


def alone(janus: Janus, prompts: Sequence[str], scale: float, seed: int) -> list[Drawn]:
    """One after another."""
    found = []
    for prompt in prompts:
        one = janus.draw(prompt, seed=seed_of(prompt, seed), guidance_scale=scale)
        found.append(drawn(one.images[0], one.image_ids[0]))
    return found


def in_batches(size: int) -> Way:
    """So many at a time."""

    def draw(janus: Janus, prompts: Sequence[str], scale: float, seed: int) -> list[Drawn]:
        found = []
        for first in range(0, len(prompts), size):
            part = list(prompts[first : first + size])
            seeds = [seed_of(prompt, seed) for prompt in part]
            drawings = janus.draw_batch(part, seed=seeds, guidance_scale=scale)
            found += [drawn(one.images[0], one.image_ids[0]) for one in drawings]
        return found

    return draw


def shuffled(janus: Janus, prompts: Sequence[str], scale: float, seed: int) -> list[Drawn]:
    """In batches, each prompt beside others than in its own order."""
    order = list(range(len(prompts)))
    random.Random(seed).shuffle(order)
    found = in_batches(SHUFFLED)(janus, [prompts[place] for place in order], scale, seed)
    by_place = dict(zip(order, found, strict=True))
    return [by_place[place] for place in range(len(prompts))]


def streamed(janus: Janus, prompts: Sequence[str], scale: float, seed: int) -> list[Drawn]:
    """One after another, its states shown."""
    found = []
    for prompt in prompts:
        options = {"seed": seed_of(prompt, seed), "guidance_scale": scale}
        *_, last = janus.draw_stream(prompt, partial_images=STATES, **options)
        found.append(drawn(last.image, last.image_ids))
    return found


def ways() -> dict[str, Way]:
    """By name; the first is what the others are compared with."""
    batches = {f"batches of {size}": in_batches(size) for size in BATCHES}
    return {"alone": alone, **batches, "shuffled": shuffled, "streamed": streamed}


def models(name: str, kind: str) -> dict[int, Janus]:
    """One model by how far it looks ahead."""
    dtype, is_packed = KINDS[kind]
    first = openjanus.load(name, device="cpu", dtype=dtype)
    if is_packed:
        first.pack()
    tokenizer = first.processor.tokenizer
    options = {width: EngineOptions(look_ahead=width) for width in LOOK_AHEAD}
    return {
        width: Janus(first.model, tokenizer, engine_options=one) for width, one in options.items()
    }


def compare(by_way: dict[str, list[Drawn]]) -> dict[str, Any]:
    """The figures of some prompts drawn in every way; the first way is the one to be met."""
    reference, *others = by_way.values()
    hashes = [{one for one, _ in each} for each in zip(*by_way.values(), strict=True)]
    wrong = [
        int((ids != wanted).sum())
        for other in others
        for (_, ids), (_, wanted) in zip(other, reference, strict=True)
    ]
    total = sum(len(ids) for _, ids in reference) * len(others)
    return {
        "ours": statistics.fmean(map(len, hashes)),
        "theirs": 1.0,
        "ratio": 1 / statistics.fmean(map(len, hashes)),
        "unit": "hashes a prompt",
        "prompts": len(reference),
        "ways": len(by_way),
        "differ": sum(len(one) > 1 for one in hashes),
        "flips": sum(wrong) / total,
        "by_way": {
            name: sum(a != b for (a, _), (b, _) in zip(other, reference, strict=True))
            for name, other in by_way.items()
        },
    }


def measure(kind: str, prompts: Sequence[str], scale: float | None, asked: Any) -> dict[str, Any]:
    """Every prompt in every way."""
    by_width = models(asked.model, kind)
    own = by_width[LOOK_AHEAD[0]].config.drawing.guidance_scale
    scale = own if scale is None else scale
    found: dict[str, list[Drawn]] = {}
    total = len(LOOK_AHEAD) * len(ways())
    with tqdm(total=total, desc=f"{kind}, guidance {scale:g}") as bar:
        for width, janus in by_width.items():
            for name, way in ways().items():
                told = "one id a step" if width == 1 else f"looking ahead to {width}"
                found[f"{name}, {told}"] = way(janus, prompts, scale, asked.seed)
                bar.update()
    return {"guidance": scale} | compare(found)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Whether a drawing is the same in every way.")
    parser.add_argument("--prompts", type=int, default=100, help="up to 144")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--guidance", type=float, nargs="+", help="5 and the model's own by default"
    )
    parser.add_argument("--model", default="nano")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args(arguments)


def main() -> None:
    """Print the figures of each kind as they are known, and write them all."""
    asked = parse()
    torch.set_num_threads(asked.threads)
    lines = requests(-(-asked.prompts // 6) * 6)[: asked.prompts]
    prompts = [line["prompt"] for line in lines]
    record: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(asked).items()}}
    for scale in asked.guidance or (5.0, None):
        for kind in asked.kinds:
            row = measure(kind, prompts, scale, asked)
            record[f"{kind}, guidance {row['guidance']:g}"] = row
            print(
                f"{kind}, guidance {row['guidance']:g}: {row['ours']:.3f} hashes a prompt, "
                f"{row['differ']} of {row['prompts']} prompts differ, {row['flips']:.4%} of ids",
                flush=True,
            )
            asked.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
