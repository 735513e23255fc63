"""What it costs to show a picture as it grows, and how near what is shown is to the finished one.

    python benchmarks/streaming.py [--prompts N] [--states K ...] [--model MODEL] [--dtype D]
        [--layers L] [--threads N] [--seed S] [--output FILE]

Each prompt is drawn with K unfinished states and with none, by turns. `ours` and `theirs` are
median processor seconds a drawing, with and without; `ratio` is the median over the prompts of the
quotients, so 1.05 is 5 % more. `decodings` is what the states decode, in whole pictures, which
follows from K alone and is nothing where a previewer draws them; `decoding` is the share of one in
a drawing without states. `off` is how far the rows shown are from the finished picture's, grey
levels of 255 in the mean over all states, and `seam` over the eighth of a picture's height around
the last state's seams; of random weights neither says anything.

`--layers L` takes random weights of Janus-Pro-1B with L decoder layers in place of 24, in bfloat16:
its image tokenizer at full size for a little memory. `whole` is then an estimate of the ratio at 24
layers: steps that take longer by the weights that they read, and states that cost what they did.
Looking ahead guesses the ids of random weights more often than a trained model's, so a drawing
takes less time here than it would, and the states a larger share of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from best_of import requests
from tqdm import tqdm

import openjanus
from openjanus.pipeline import Janus, PartialDrawing
from openjanus.pipeline.preview import plan_bands
from openjanus.presets import preset
from openjanus.processor.text import byte_tokenizer

PRESET = "janus-pro-1b"


def load(asked: argparse.Namespace) -> Janus:
    """The model asked for."""
    if asked.layers is None:
        return openjanus.load(asked.model, device="cpu", dtype=asked.dtype)
    config = preset(PRESET)
    language = dataclasses.replace(config.language, num_hidden_layers=asked.layers)
    config = dataclasses.replace(config, language=language)
    model = openjanus.build(config, dtype=torch.bfloat16).to_empty(device="cpu")
    model.init_weights(torch.Generator().manual_seed(0))
    janus = Janus(model, byte_tokenizer(config.processor))
    janus.pack()
    return janus


def more_read(janus: Janus) -> float:
    """How many times the weights of a drawing's step the whole architecture has."""
    model = janus.model
    layers, heads = (
        sum(weight.nbytes for part in parts for weight in part.parameters())
        for parts in (model.language_model.model.layers, [model.gen_head, model.gen_aligner])
    )
    number = preset(PRESET).language.num_hidden_layers
    whole = layers * number / len(model.language_model.model.layers)
    return (whole + heads) / (layers + heads)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and what came of it."""
    began = time.process_time()
    result = run()
    return time.process_time() - began, result


def distances(shown: list[PartialDrawing]) -> tuple[float, float | None]:
    """Grey levels between states and the finished picture: all their rows, and at the seams."""
    *states, last = shown
    whole = np.asarray(last.image).astype(float)
    height, total = len(whole), len(last.image_ids)
    ends = [height * len(state.image_ids) // total for state in states]
    off = [
        np.abs(np.asarray(state.image)[:end] - whole[:end]).mean()
        for state, end in zip(states, ends, strict=True)
    ]
    newest = np.asarray(states[-1].image).astype(float)
    near = height // 16
    seams = [
        np.abs(newest[end - near : end + near] - whole[end - near : end + near]).mean()
        for end in ends[:-1]
    ]
    return float(np.mean(off)), float(np.mean(seams)) if seams else None


def measure(janus: Janus, prompts: list[str], asked: argparse.Namespace) -> dict[str, Any]:
    """The figures of every number of states."""
    numbers = [0, *asked.states]
    seconds: dict[int, list[float]] = {number: [] for number in numbers}
    far: dict[int, list[tuple[float, float | None]]] = {number: [] for number in asked.states}
    decodings = []
    janus.draw(prompts[0], seed=asked.seed)  # gets ready
    for index, prompt in enumerate(tqdm(prompts)):
        turn = index % len(numbers)
        finals, image_ids = {}, torch.empty(0)
        for number in numbers[turn:] + numbers[:turn]:
            taken, shown = timed(
                lambda number=number, prompt=prompt, seed=asked.seed + index: list(
                    janus.draw_stream(prompt, seed=seed, partial_images=number)
                )
            )
            seconds[number].append(taken)
            finals[number], image_ids = np.asarray(shown[-1].image), shown[-1].image_ids
            if number > 0:
                far[number].append(distances(shown))
        assert all(np.array_equal(finals[0], other) for other in finals.values())
        decodings.append(timed(lambda ids=image_ids: janus.decode_image(ids))[0])
    plain, decoding = statistics.median(seconds[0]), statistics.median(decodings)
    side = round(janus.config.num_gen_image_tokens**0.5)
    found = {}
    for number in asked.states:
        pairs = zip(seconds[number], seconds[0], strict=True)
        extra = statistics.median(seconds[number]) - plain
        seams = [seam for _, seam in far[number] if seam is not None]
        one: dict[str, Any] = {
            "ours": round(statistics.median(seconds[number]), 4),
            "theirs": round(plain, 4),
            "ratio": round(statistics.median(a / b for a, b in pairs), 4),
            "unit": "processor s a drawing",
            "decodings": 0.0
            if janus.previewer is not None
            else round(sum(b.num_rows for b in plan_bands(side, number)) / side, 3),
            "decoding": round(decoding / plain, 4),
        }
        if asked.layers is None:
            one["off"] = round(statistics.fmean(off for off, _ in far[number]), 2)
            one["seam"] = round(statistics.fmean(seams), 2) if seams else None
        else:
            whole = (plain - decoding) * more_read(janus) + decoding
            one["whole"] = round(1 + extra / whole, 4)
        found[f"{number} states"] = one
    return found


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description="What unfinished states of a drawing cost.")
    parser.add_argument("--prompts", type=int, default=12, help="a multiple of six")
    parser.add_argument("--states", type=int, nargs="+", default=[1, 2, 3], metavar="K")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--layers", type=int, help=f"random weights of {PRESET}, so many layers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    prompts = [line["prompt"] for line in requests(max(asked.prompts, 6))][: asked.prompts]
    found = measure(load(asked), prompts, asked)
    for name, one in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in one.items()))
    if asked.output is not None:
        asked.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
