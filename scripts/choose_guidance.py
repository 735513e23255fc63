"""How many drawings a judge accepts at several guidance scales and temperatures.

    python scripts/choose_guidance.py MODEL PER_TAG SCALE,TEMPERATURE [SCALE,TEMPERATURE ...]

The prompts are of the training split, so that a choice leaves the held-out ones alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

import openjanus
from openjanus.worlds.emoji.captions import geneval_caption
from openjanus.worlds.emoji.judge import judge_drawings
from openjanus.worlds.emoji.sampling import sample_scene
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS
from openjanus.worlds.emoji.sprites import Sprites

SEED = 2026
BATCH = 16


def prompts(per_tag: int) -> Iterator[tuple[str, str]]:
    """(tag, prompt) pairs, as many of each tag; what the judge cannot read is left out."""
    rng, sprites = np.random.default_rng(SEED), Sprites.load()
    empty = np.zeros((96, 96, 3), dtype=np.uint8)
    for tag in GENEVAL_TAGS:
        found = 0
        while found < per_tag:
            prompt = geneval_caption(sample_scene(rng, tag, sprites), rng)
            try:
                judge_drawings([empty], [prompt])
            except ValueError:  # a thing that has no name in GenEval's grammar
                continue
            found += 1
            yield tag, prompt


def main(model: str, per_tag: int, settings: list[tuple[float, float]]) -> None:
    """Print the share accepted, in all and by tag, one line a setting."""
    janus = openjanus.load(model)
    tags, asked = zip(*prompts(per_tag), strict=True)
    for scale, temperature in settings:
        pictures = [
            drawing.images[0]
            for start in range(0, len(asked), BATCH)
            for drawing in janus.draw_batch(
                asked[start : start + BATCH],
                seed=start,
                guidance_scale=scale,
                temperature=temperature,
            )
        ]
        right = [verdict.correct for verdict in judge_drawings(pictures, list(asked))]
        by_tag = {
            tag: float(np.mean([ok for ok, one in zip(right, tags, strict=True) if one == tag]))
            for tag in GENEVAL_TAGS
        }
        told = "  ".join(f"{tag} {share:.2f}" for tag, share in by_tag.items())
        print(f"{scale:g},{temperature:g}  {np.mean(right):.3f}  {told}", flush=True)


if __name__ == "__main__":
    pairs = [text.split(",") for text in sys.argv[3:]]
    main(sys.argv[1], int(sys.argv[2]), [(float(s), float(t)) for s, t in pairs])
