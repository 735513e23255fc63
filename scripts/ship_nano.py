"""Put a trained nano into the package: weights in bf16, and beside them how they were made.

    python scripts/ship_nano.py RUNS src/openjanus/assets/nano-v0

RUNS holds the runs of `nano/all`, and those that were stopped on the way; for nano-v1 those of
`nano-v1/*`. The model card (README.md) is written by hand and left alone.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import yaml
from torch import nn

import openjanus
from openjanus.presets import preset
from openjanus.train.parts import load_door

STAGES = {
    "nano-v0": (
        "tokenizer",
        "vq",
        "encoder",
        "text",
        "stage1",
        "stage2",
        "stage3",
        "words",
        "stage3b",
        "stage3c",
        "encoder2",
        "stage3d",
        "match",
        "stage3e",
        "align",
    ),
    "nano-v1": (
        *("pixels", "draw", "align", "compose", "compose2", "mixed2", "talk2", "align3"),
        *("sure2", "tints"),
    ),
}
"""By version; the last gives the model, where `MEANS` says nothing else."""
MEANS = {"nano-v1": ("align3", "sure2", "tints")}
"""Runs whose weights' mean is what ships: each went on from the one before."""
PIXELS_SHARE = 0.6
"""Of `pixels` in nano-v1's pixel decoder, whose rest is nano-v0's: half way between the two, what
the nano draws is as sharp as with all of it, and other pictures are no worse than before."""
DETOURS = "detour*"
"""Runs that were stopped on the way and gone on from; the model card tells what they were."""
EVERY = {"vq": 5, "encoder": 5, "detour": 5, "stage3c": 2, "compose": 5, "mixed": 5}
"""Of these runs one line of metrics in so many is kept, and the last."""
MOST_BYTES = 32_000_000


def main(runs: Path, target: Path) -> None:
    """Write the model, and each run's configuration and metrics; all is read before that."""
    stages = STAGES[target.name]
    last = MEANS[target.name] if target.name in MEANS else stages[-1:]
    janus = openjanus.load(runs / last[-1] / "final", device="cpu", dtype=torch.float32)
    _take_mean(janus.model, [runs / stage / "final" for stage in last])
    if "pixels" in stages:  # trained beside the rest: ids mean what they meant
        _blend_pixels(janus.model.vq, runs / "pixels" / "final")
    janus.model.to(torch.bfloat16)
    # How a model draws is chosen when it is trained, and its runs may be older than that.
    own = preset(target.name).drawing
    janus.model.config = dataclasses.replace(janus.config, drawing=own)
    detours = sorted(path.name for path in runs.glob(DETOURS))
    records = {
        f"{stage}/{name}": text
        for stage in (*stages, *detours)
        for name, text in records_of(runs, stage)
    }
    size = sum(map(len, records.values()))
    size += sum(2 * weight.numel() for weight in janus.model.state_dict().values())
    print(f"{target}: about {size:,} bytes")
    if size > MOST_BYTES:
        raise SystemExit(f"a nano has at most {MOST_BYTES:,} bytes: thin the metrics")
    card = target / "README.md"
    words = card.read_text(encoding="utf-8") if card.is_file() else None
    janus.save(target)
    if words is not None:  # written by hand, where save writes one of its own
        card.write_text(words, encoding="utf-8")
    shutil.rmtree(target / "training", ignore_errors=True)
    for name, text in records.items():
        path = target / "training" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _take_mean(model: nn.Module, folders: Sequence[Path]) -> None:
    """Give a model the mean of several runs' weights; what all have alike stays to the bit."""
    sums = {name: torch.zeros_like(value).double() for name, value in model.state_dict().items()}
    for folder in folders:
        one = openjanus.load(folder, device="cpu", dtype=torch.float32).model
        for name, value in one.state_dict().items():
            sums[name] += value
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(sums[name] / len(folders))


def _blend_pixels(vq: nn.Module, trained: Path) -> None:
    """The mean of a tokenizer's weights and of those that its pixel decoder was trained to."""
    before = {name: value.clone() for name, value in vq.state_dict().items()}
    load_door(trained, vq, preset("nano-v1").gen_tokenizer)
    with torch.no_grad():
        for name, value in vq.state_dict().items():
            value.lerp_(before[name], 1 - PIXELS_SHARE)


def records_of(runs: Path, stage: str) -> Iterator[tuple[str, str]]:
    """A run's files by name."""
    config = yaml.safe_load((runs / stage / "config.yaml").read_text(encoding="utf-8"))
    config["run"]["dir"] = f"runs/{runs.name}/{stage}"
    yield "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    metrics = runs / stage / "metrics.jsonl"
    if metrics.is_file():
        yield "metrics.jsonl", thinned(metrics, EVERY.get(stage.rstrip("0123456789"), 1))


def thinned(path: Path, every: int) -> str:
    """Lines of metrics, one step in so many."""
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["step"] % every == 0 or line == lines[-1]]
    return "".join(f"{line}\n" for line in kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
