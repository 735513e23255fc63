"""Fit the small decoder that shows a model's unfinished pictures, and put it into a folder.

    python scripts/fit_previewer.py MODEL FOLDER [--pictures PICTURES] [--count 3000]
        [--steps 3000] [--width 48] [--seed 0]

Learns to come near what MODEL's own image tokenizer decodes, from PICTURES (a folder of files), or
from scenes as the nano learnt to draw them; of each, as many rows from the top as chance says.
Writes FOLDER/previewer.safetensors, which `openjanus.load(FOLDER)` takes where it lies beside the
model's weights, and prints how far it is off pictures that were held back, in grey levels of 255.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm, trange

from openjanus.data.islands import IslandIds
from openjanus.model.previewer import Previewer
from openjanus.model.vq import VQTokenizer
from openjanus.pipeline.load import locate
from openjanus.processor.image import crop_to_square, open_image, uint8_to_pixel_values
from openjanus.weights.formats import load_model
from openjanus.weights.previewer import new_previewer, save_previewer
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS

BATCH = 32
HELD_BACK = 20
"""One picture in so many is measured on."""
LR = 4e-3
ENDINGS = (".jpeg", ".jpg", ".png", ".webp")


def scenes(size: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """What the nano learnt to draw: training scenes in slots on one ground."""
    source = SceneSource(
        seed=seed,
        size=size,
        tags=dict.fromkeys(GENEVAL_TAGS, 1.0),
        grid=12,
        two_sizes=True,
        slots=True,
        one_ground=True,
        vendors=["noto"],
    )
    return (source.picture(index) for index in range(count))


def files(folder: Path, count: int) -> list[Path]:
    """The first pictures of a folder by name."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if not found:
        raise SystemExit(f"no pictures in {folder}: it needs files that end in {' '.join(ENDINGS)}")
    return found[:count]


@torch.no_grad()
def collect(
    vq: VQTokenizer,
    pictures: Iterator[np.ndarray],
    encode: Callable[[Tensor], Tensor],
    side: int,
    count: int,
) -> tuple[Tensor, Tensor]:
    """Ids (n, g, g) of pictures, and what the tokenizer's own decoder makes of them, in 16 bits."""
    ids, made, group = [], [], []
    for index, picture in enumerate(tqdm(pictures, total=count, desc="decoding")):
        group.append(picture)
        if len(group) == BATCH or index == count - 1:
            found = encode(uint8_to_pixel_values(np.stack(group)))
            ids.append(found.view(-1, side, side))
            made.append(vq.decode_ids(found).half())
            group = []
    return torch.cat(ids), torch.cat(made)


def off(previewer: Previewer, ids: Tensor, made: Tensor, rows: int) -> float:
    """Grey levels between the first rows as shown then and as the whole picture has them."""
    with torch.no_grad():
        shown = previewer(ids[:, :rows])
    whole = made[:, :, : shown.shape[2]].float()
    return float((shown.clamp(-1, 1) - whole).abs().mean() * 127.5)


def fit(
    previewer: Previewer, ids: Tensor, made: Tensor, steps: int, generator: torch.Generator
) -> None:
    """Train by the mean absolute error over the rows that are known."""
    side = ids.shape[1]
    optimizer = torch.optim.AdamW(previewer.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    bar = trange(steps, desc="fitting")
    for _ in bar:
        some = torch.randint(len(ids), (BATCH,), generator=generator)
        ends = torch.randint(1, side + 1, (BATCH, 1, 1), generator=generator)
        known = (torch.arange(side)[None, :, None] < ends).expand(-1, -1, side)  # (B, g, g)
        seen = known.repeat_interleave(previewer.patch, 1).repeat_interleave(previewer.patch, 2)
        distance = (previewer(ids[some], known) - made[some].float()).abs().mean(1)  # (B, S, S)
        loss = (distance * seen).sum() / seen.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(off=f"{127.5 * loss.item():.2f}")


def main(given: Sequence[str]) -> None:
    """Collect, fit, write and measure."""
    parser = argparse.ArgumentParser(description="Fit the decoder of unfinished pictures.")
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(given)

    # Not by `openjanus.load`, which refuses the stale previewer that is to be replaced.
    model, _ = load_model(locate(asked.model), device="cpu", dtype=torch.float32)
    vq, size = model.vq, model.config.gen_image_size
    side = math.isqrt(model.config.num_gen_image_tokens)
    if not isinstance(vq, VQTokenizer):
        raise SystemExit(f"{asked.model} has another image tokenizer than a VQ: it has no codebook")
    if asked.pictures is None:
        pictures, count = scenes(size, asked.count, asked.seed), asked.count
        encode = IslandIds(vq.encode_to_ids, side)
    else:
        paths = files(asked.pictures, asked.count)
        pictures = (np.asarray(crop_to_square(open_image(path), size)) for path in paths)
        count, encode = len(paths), vq.encode_to_ids
    asked.folder.mkdir(parents=True, exist_ok=True)
    ids, made = collect(vq, pictures, encode, side, count)
    held = torch.arange(count) % HELD_BACK == 0

    generator = torch.Generator().manual_seed(asked.seed)
    previewer = new_previewer(vq, width=asked.width)
    for weight in previewer.parameters():
        fan = weight[0].numel() if weight.dim() > 1 else 0
        torch.nn.init.normal_(weight, std=fan**-0.5 if fan else 0.0, generator=generator)
    fit(previewer, ids[~held], made[~held], asked.steps, generator)
    print(f"{save_previewer(asked.folder, previewer, vq)}: {asked.width} channels")
    for rows in sorted({max(1, side // 4), side // 2, side}):
        print(f"{rows} rows: {off(previewer, ids[held], made[held], rows):.2f} grey levels off")


if __name__ == "__main__":
    main(sys.argv[1:])
