"""What somebody waits for at a loaded nano: a picture, many of them, the first word of an answer.

    python benchmarks/nano.py [--model nano] [--rounds 8] [--threads 2] [--output FILE]

Times are medians over the rounds, each with prompts and seeds of its own, in seconds; `goal` is
what is wanted. Drawings are guided, by the model's own scale and by the papers' 5.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import openjanus

PROMPTS = (
    "a photo of a red dog",
    "a photo of two cats",
    "a photo of a blue car left of a clock",
    "a photo of three apples",
)
BATCH = 16
GOALS = {"picture": 1.5, "picture, guidance 5": 1.5, "a picture of 16": 0.25, "first word": 0.15}
"""Seconds at most."""


def seconds(call: Callable[..., object], *args: Any, **options: Any) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call(*args, **options)
    return time.perf_counter() - began


def measure(janus: openjanus.Janus, rounds: int) -> dict[str, dict[str, Any]]:
    """Medians over some rounds, by name; a first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in GOALS}
    shown = janus.draw(PROMPTS[0], seed=0).images[0]
    for seed in tqdm(range(rounds + 1), desc="rounds"):
        prompt = PROMPTS[seed % len(PROMPTS)]
        batch = [PROMPTS[i % len(PROMPTS)] for i in range(BATCH)]
        seeds = list(range(seed * BATCH, (seed + 1) * BATCH))
        answer = janus.chat_stream("What is it?", images=[shown])
        times = {
            "picture": seconds(janus.draw, prompt, seed=seed),
            "picture, guidance 5": seconds(janus.draw, prompt, seed=seed, guidance_scale=5.0),
            "a picture of 16": seconds(janus.draw_batch, batch, seed=seeds) / BATCH,
            "first word": seconds(next, answer),
        }
        for name, value in times.items():
            if seed > 0:
                found[name].append(value)
    return {
        name: {"ours": round(statistics.median(values), 4), "goal": GOALS[name], "unit": "s"}
        for name, values in found.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON with the same")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = measure(openjanus.load(args.model, device="cpu"), args.rounds)
    for name, row in result.items():
        print(f"{name:<20} {row['ours']:8.3f} s (goal {row['goal']} s)")
    if args.output is not None:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
