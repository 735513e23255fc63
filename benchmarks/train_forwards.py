"""How much sooner a training step's forwards are done than the model's own, on a CPU.

    python benchmarks/train_forwards.py [--rounds N] [--output FILE]

Forward and backward under bf16 autocast, at the nano's size with random weights; the two take turns
and the medians are compared. `ours` is the training step's, `theirs` the model's own, `ratio` how
many times sooner ours is done.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from openjanus.model.attention import document_mask
from openjanus.model.janus import build_model
from openjanus.presets import preset
from openjanus.train.fast_forward import run_decoder, run_encoder

PICTURES, ROWS, TOKENS = 48, 12, 352


def seconds(run: Callable[[], Tensor]) -> float:
    """One forward and backward."""
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        out = run()
    out.float().square().mean().backward()
    return time.perf_counter() - began


def main() -> None:
    """Print both medians and their ratio, for the encoder and for the decoder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = {}
    model = build_model(preset("nano-v0"), device="cpu")
    generator = torch.Generator().manual_seed(0)
    model.init_weights(generator)
    encoder, decoder = model.und_encoder, model.language_model.model
    pixels = torch.randn(PICTURES, 3, 96, 96, generator=generator)
    embeds = torch.randn(ROWS, TOKENS, decoder.config.hidden_size, generator=generator)
    positions = torch.arange(TOKENS // 2).repeat(2).expand(ROWS, TOKENS)
    mask = document_mask(torch.arange(2).repeat_interleave(TOKENS // 2).expand(ROWS, TOKENS))
    contests = {
        f"encoder, {PICTURES} pictures": (
            lambda: encoder(pixels),
            lambda: run_encoder(encoder, pixels),
        ),
        f"decoder, {ROWS} rows of {TOKENS}, two documents each": (
            lambda: decoder(embeds, positions=positions, mask=mask),
            lambda: run_decoder(decoder, embeds, positions=positions, mask=mask),
        ),
    }
    for name, runs in contests.items():
        times: tuple[list[float], list[float]] = ([], [])
        for run in runs:
            seconds(run)  # not counted
        for _ in tqdm(range(options.rounds), desc=name):
            for run, taken in zip(runs, times, strict=True):
                taken.append(seconds(run))
        theirs, ours = (round(statistics.median(taken), 4) for taken in times)
        ratio = round(theirs / ours, 2)
        what = f"{name}, {torch.get_num_threads()} threads"
        found[what] = {"ours": ours, "theirs": theirs, "ratio": ratio, "unit": "s"}
        print(f"{what}: ours {ours:.2f} s, theirs {theirs:.2f} s, ratio {ratio:.2f}")
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
