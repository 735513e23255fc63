"""What a run in several processes takes of the host's memory until its first step.

    python benchmarks/sharded_start.py [--processes N] [--layers N] [--only KIND ...] [--output F]

Each of N processes (gloo, on the CPU) starts a trainer of stage III of a decoder of the given
number of layers, 50 MB each in fp32, and watches its own memory (PSS: pages that processes share
count in equal parts), every 5 ms from before the weights are opened until the trainer is there.
What it had before counts nothing. `ours`: the model is shapes, is cut, and gets its weights a
tensor at a time. `theirs`: every process has the whole model and cuts it, as was done before. Both
as multiples of the weights in fp32, the largest of all processes; and the seconds that it took.

`fresh`: drawn by the seed. `authors`: the authors' layout, bf16. `own`: our folder, fp32, which
`theirs` maps from the file and shares. Bit for bit the same weights: a test's business.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from openjanus.train.config import JanusTrainConfig
from openjanus.train.parallel import open_world
from openjanus.train.run_config import RunConfig
from openjanus.train.source_config import SourceConfig, SourcesConfig
from openjanus.train.start import start_model, start_shapes
from openjanus.train.trainer import JanusTrainer
from openjanus.weights.formats import export_model
from openjanus.weights.own import save_model

WIDTH = 1024
KINDS = ("fresh", "authors", "own")
WAYS = ("ours", "theirs")
PERIOD_S = 0.005


def config_of(kind: str, folder: Path, layers: int) -> JanusTrainConfig:
    """A run that begins in one of the ways."""
    source = SourceConfig(type="toy", options={"kind": "text", "length": 64})
    decoder: dict[str, Any] = {}
    if kind == "fresh":
        heads = WIDTH // 64
        decoder = {
            "hidden_size": WIDTH,
            "intermediate_size": 11 * WIDTH // 4,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
        }
    return JanusTrainConfig(
        stage=3,
        init=["tiny"] if kind == "fresh" else [str(folder / kind)],
        decoder=decoder,
        run=RunConfig(dir=str(folder / "run")),
        sources=SourcesConfig(text=[source]),
        ratio=(0, 1, 0),
        bf16=False,
        id_cache=None,
        prefetch=False,
    )


class Watch:
    """The most memory that this process has until it is stopped, in bytes above the start."""

    def __init__(self) -> None:
        self._before = self._peak = _pss()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(PERIOD_S):
            self._peak = max(self._peak, _pss())

    def stop(self) -> int:
        """The peak."""
        self._over.set()
        self._thread.join()
        return max(self._peak, _pss()) - self._before


def _pss() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    raise ValueError("this kernel tells no PSS: Linux 4.14 or newer is needed")


def start_once(kind: str, way: str, folder: Path, layers: int) -> None:
    """One of the processes; the first prints what all found."""
    config = config_of(kind, folder, layers)
    with open_world("cpu", name=f"{kind}-{way}", timeout_s=300) as world:
        world.barrier()
        watch, began = Watch(), time.perf_counter()
        weights = None
        if way == "ours":
            model, processor, weights = start_shapes(config, tell=False)
        else:
            model, processor = start_model(config, tell=False)
        trainer = JanusTrainer(model, processor, config, world=world, weights=weights)
        world.barrier()
        seconds = time.perf_counter() - began
        whole = 4 * sum(parameter.numel() for parameter in trainer.model.parameters())
        told = world.gather((watch.stop() / whole, seconds))
        if world.is_main:
            shares, times = zip(*told, strict=True)
            print(json.dumps({"share": max(shares), "seconds": max(times), "bytes": whole}))


def run_processes(kind: str, way: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start them, and wait for what the first prints."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    own = {"WORLD_SIZE": str(options.processes), "MASTER_ADDR": "127.0.0.1"}
    own |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--layers", str(options.layers)]
    command += ["--start", kind, way, str(folder)]
    jobs = [
        subprocess.Popen(
            command,
            env=os.environ | own | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(options.processes)
    ]
    said = [job.communicate()[0] for job in jobs]
    if any(job.returncode for job in jobs):
        raise SystemExit(f"{kind}, {way}: a process failed")
    return json.loads(said[0])


def write_folders(folder: Path, layers: int) -> None:
    """The same weights as our folder and in the authors' layout."""
    model, processor = start_model(config_of("fresh", folder, layers), tell=False)
    save_model(folder / "own", model, processor.tokenizer)
    half = model.to(torch.bfloat16)
    export_model(folder / "authors", half, processor.tokenizer, layout="deepseek", any_size=True)


def main() -> None:
    """Print and write what is found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--only", nargs="*", choices=KINDS)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--start", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start is not None:
        kind, way, folder = options.start
        start_once(kind, way, Path(folder), options.layers)
        return
    if options.write is not None:
        write_folders(options.write, options.layers)
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        layers = str(options.layers)
        # In a process of its own, so that its memory is given back.
        command = [sys.executable, __file__, "--layers", layers, "--write", place]
        subprocess.run(command, check=True)
        for kind in KINDS if options.only is None else options.only:
            sides = {way: run_processes(kind, way, folder, options) for way in WAYS}
            size = sides["ours"]["bytes"] / 1e9
            for name, unit in (
                ("share", f"peak host memory a process, times the {size:.2f} GB of weights"),
                ("seconds", "seconds until the trainer is there"),
            ):
                ours, theirs = (sides[way][name] for way in WAYS)
                label = f"{kind}, {options.processes} processes, {name}"
                found[label] = {
                    "ours": round(ours, 3),
                    "theirs": round(theirs, 3),
                    "ratio": round(ours / theirs, 3),
                    "unit": unit,
                }
                print(label, found[label])
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
