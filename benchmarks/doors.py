"""How much sooner than transformers' Janus the two doors of a 1B are passed, on a CPU.

    python benchmarks/doors.py [--rounds N] [--threads N] [--dtype NAME] [--only vq|und]
        [--profile] [--output FILE]

Both have the same random weights of Janus-Pro-1B's image tokenizer, or of its SigLIP and aligner,
without the rest of the model: 3 GB are enough. They take turns, and medians are compared. `ours`
and `theirs` are seconds that the processor has worked, which other work on the machine hardly
changes; seconds on the wall stand beside them. `two steps` is our decoder as it is trained, every
picture doubled before it is convolved. How far each is from fp32 is printed as well.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm
from transformers import JanusConfig as TheirConfig
from transformers.models.janus.modeling_janus import (
    JanusVisionAlignerMLP,
    JanusVisionModel,
    JanusVQVAE,
)

from openjanus.model.doors import build_door
from openjanus.model.janus import Aligner
from openjanus.model.vq import Upsample
from openjanus.presets import preset
from openjanus.processor.text import byte_tokenizer
from openjanus.weights.formats import to_stored
from openjanus.weights.transformers import TABLE, config_to_dict

CONFIG = preset("janus-pro-1b")
Run = Callable[[], Tensor]


class TwoSteps(nn.Module):
    """``Upsample`` as it is in training."""

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        self.conv = upsample.conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, c, 2h, 2w)."""
        return self.conv(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))


@torch.no_grad()
def fill(module: nn.Module, dtype: torch.dtype) -> None:
    """Weights that keep signals near 1 and leave no bias or gain at its neutral value.

    They are what a dtype can hold, so that the weights themselves are the same in fp32.
    """
    generator = torch.Generator().manual_seed(0)
    for name, value in module.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            noise = noise if "embedding" in name else noise * value[0].numel() ** -0.5
        else:
            noise = noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)
        value.copy_(noise.to(dtype))


def give(part: nn.Module, ours: str, module: nn.Module, theirs: str) -> None:
    """The weights of our part to their module, by the table of names."""
    state = {ours + name: value for name, value in part.state_dict().items()}
    named = {name.removeprefix(theirs): value for name, value in to_stored(state, TABLE)}
    module.load_state_dict(named)


def their_config(dtype: torch.dtype) -> Any:
    """Of the whole model."""
    return TheirConfig(**config_to_dict(CONFIG, byte_tokenizer(CONFIG.processor), dtype))


def vq_runs(dtype: torch.dtype) -> tuple[dict[str, Run], Tensor]:
    """Who decodes a picture, and what comes out in fp32."""
    vq: Any = build_door(CONFIG.gen_tokenizer)
    fill(vq, dtype)
    ids = torch.randint(16384, (1, 576), generator=torch.Generator().manual_seed(0))
    exact = vq.decode_ids(ids)
    vq = vq.to(dtype).eval()
    their: Any = JanusVQVAE(their_config(dtype).vq_config)
    give(vq, "vq.", their, "model.vqmodel.")
    their = their.to(dtype).eval()
    before: Any = copy.deepcopy(vq)
    for level in before.decoder.conv_blocks:
        if level.upsample is not None:
            level.upsample = TwoSteps(level.upsample)
    runs: dict[str, Run] = {
        "ours": lambda: vq.decode_ids(ids),
        "theirs": lambda: their.decode(ids).clamp(-1, 1),
        "two steps": lambda: before.decode_ids(ids),
    }
    return runs, exact


def und_runs(dtype: torch.dtype) -> tuple[dict[str, Run], Tensor]:
    """Who encodes a picture, and what comes out in fp32."""
    config = their_config(dtype).vision_config
    aligner_size = CONFIG.language.hidden_size
    encoder: Any = build_door(CONFIG.und_encoder)
    aligner: Any = Aligner(encoder.output_size, aligner_size)
    fill(encoder, dtype)
    fill(aligner, dtype)
    size = CONFIG.und_image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, size, size, generator=generator) * 2 - 1
    narrow = pixels.to(dtype)
    exact = aligner(encoder(narrow.float()))
    encoder, aligner = encoder.to(dtype).eval(), aligner.to(dtype).eval()
    their_encoder: Any = JanusVisionModel(config)
    their_aligner: Any = JanusVisionAlignerMLP(config)
    give(encoder, "und_encoder.", their_encoder, "model.vision_model.")
    give(aligner, "und_aligner.", their_aligner, "model.aligner.")
    their_encoder, their_aligner = their_encoder.to(dtype).eval(), their_aligner.to(dtype).eval()
    runs: dict[str, Run] = {
        "ours": lambda: aligner(encoder(narrow)),
        "theirs": lambda: their_aligner(their_encoder(narrow).last_hidden_state),
    }
    return runs, exact


def race(name: str, runs: Mapping[str, Run], rounds: int) -> dict[str, tuple[float, float]]:
    """Medians of processor and wall seconds of each; the first round is not counted."""
    times: dict[str, list[tuple[float, float]]] = {who: [] for who in runs}
    for number in tqdm(range(rounds + 1), desc=name, leave=False):
        for who, run in list(runs.items())[:: 1 if number % 2 else -1]:
            worked, began = time.process_time(), time.perf_counter()
            run()
            if number > 0:
                times[who].append((time.process_time() - worked, time.perf_counter() - began))
    return {
        who: (statistics.median(w for w, _ in taken), statistics.median(b for _, b in taken))
        for who, taken in times.items()
    }


def measure(
    name: str, runs: Mapping[str, Run], exact: Tensor, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Print and return what one door takes, and how far from fp32 it is."""
    found: dict[str, dict[str, Any]] = {}
    for who, run in runs.items():
        out = run().float()
        cosine = torch.cosine_similarity(out.flatten(), exact.flatten(), dim=0)
        distance = (out - exact).abs().mean() / 2 * 255
        said = f"{distance:.3f}/255 from fp32 in the mean" if name == "VQ decode" else ""
        print(f"{name}, {who}: cosine with fp32 {cosine:.5f} {said}", flush=True)
    times = race(name, runs, options.rounds)
    theirs = times["theirs"][0]
    for who, (worked, wall) in times.items():
        print(
            f"{name}, {who}: {worked:.3f} s of the processor, {wall:.3f} s on the wall, "
            f"{theirs / worked:.2f}x",
            flush=True,
        )
        if who != "theirs":
            key = name if who == "ours" else f"{name}, {who}"
            values = {"ours": round(worked, 4), "theirs": round(theirs, 4)}
            found[key] = {**values, "ratio": round(theirs / worked, 3), "unit": "processor s"}
    if options.profile:
        for who, run in runs.items():
            with profile(activities=[ProfilerActivity.CPU]) as trace:
                run()
            print(f"{name}, {who}")
            print(trace.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
    return found


def main() -> None:
    """Print what is found for each door."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--only", choices=("vq", "und"))
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    found: dict[str, dict[str, Any]] = {}
    doors = {"vq": ("VQ decode", vq_runs), "und": ("SigLIP and aligner", und_runs)}
    with torch.inference_mode():
        for key, (name, make) in doors.items():
            if options.only in (None, key):
                found |= measure(name, *make(dtype), options)
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
