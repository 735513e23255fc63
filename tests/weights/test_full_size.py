"""Checkpoints of the released sizes, random, loaded for real: memory, a picture, an answer.

A 7B takes 15 GB of disk, as much memory and some ten minutes; its folder is gone afterwards.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

log = logging.getLogger(__name__)  # seen with --log-cli-level=INFO
pytestmark = pytest.mark.long

WRITER = Path(__file__).parents[2] / "benchmarks" / "full_size.py"
ALLOWED = 1.15
"""Peak of memory with every weight read, in weights at the dtype that is loaded."""
PARAMETERS = {"pro-1b": 2_076_636_811, "pro-7b": 7_407_773_323}
BYTES = {"bfloat16": 2, "float32": 4}

PROBE = """
import json
import sys

import torch

import openjanus
import openjanus.pipeline.load
from openjanus.model.quantized import count_weights


def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024


folder, dtype, speak, *quantize = sys.argv[1:]
torch.set_num_threads(2)
before = resident("VmRSS")
janus = openjanus.load(folder, device="cpu", dtype=dtype, quantize=(quantize or [None])[0])
loading = resident("VmHWM") - before
parameters = [*janus.model.parameters(), *janus.model.buffers()]
for parameter in parameters:  # mapped pages come in when they are used: all of them, now
    parameter.detach().flatten()[::512].sum()
found = {
    "loading": loading,
    "peak": resident("VmHWM") - before,
    "weights": sum(p.nbytes for p in parameters),
    "parameters": count_weights(janus.model),
    "dtypes": sorted({str(p.dtype) for p in parameters}),
}
if speak == "yes":
    drawing = janus.draw("a photo of a red apple", seed=0)
    reply = janus.chat("What is this?", images=drawing.images, max_new_tokens=8)
    found |= {
        "ids": drawing.image_ids[0].tolist(),
        "guidance_scale": drawing.options.guidance_scale,
        "size": drawing.images[0].size,
        "reply": list(reply.token_ids),
    }
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint on the disk."""

    folder: Path
    size: str


@pytest.fixture(scope="module")
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Written]:
    size, layout, weights = request.param
    place = tmp_path_factory.mktemp("full_size")
    needed, free = 2 * PARAMETERS[size] * 1.05, shutil.disk_usage(place).free
    if free < needed:
        pytest.skip(f"a {size} takes {needed / 1e9:.0f} GB of disk, {free / 1e9:.0f} GB are free")
    options = ["--size", size, "--layout", layout, "--weights", weights]
    try:
        folder = place / size
        subprocess.run([sys.executable, str(WRITER), str(folder), *options], check=True)
        yield Written(folder, size)
    finally:
        shutil.rmtree(place)


def load(
    checkpoint: Written, dtype: str, *, speak: bool, quantize: str | None = None
) -> dict[str, Any]:
    """Load in a fresh process, and say what it took; nothing else has any part in its memory."""
    needed = 1.3 * BYTES[dtype] * PARAMETERS[checkpoint.size]
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        pytest.skip("memory is measured by Linux's /proc, which is not here")
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    if free < needed:
        pytest.skip(
            f"a {checkpoint.size} in {dtype} takes {needed / 1e9:.0f} GB of memory, "
            f"{free / 1e9:.0f} GB are free"
        )
    command = [sys.executable, "-c", PROBE, str(checkpoint.folder), dtype, "yes" if speak else "no"]
    command += [] if quantize is None else [quantize]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    loading, peak, weights = found["loading"], found["peak"], found["weights"]
    log.info(
        "loading %.2f GB, peak %.2f GB = %.3f x weights",
        loading / 1e9,
        peak / 1e9,
        peak / weights,
    )
    return found


def assert_loaded(found: dict[str, Any], checkpoint: Written, dtype: str) -> None:
    assert found["parameters"] == PARAMETERS[checkpoint.size]
    assert found["dtypes"] == [f"torch.{dtype}"]
    assert found["peak"] <= ALLOWED * found["weights"]


def assert_spoken(found: dict[str, Any]) -> None:
    assert len(found["ids"]) == 576
    assert len(set(found["ids"])) > 100  # noise is no constant
    assert found["guidance_scale"] == 5
    assert found["size"] == [384, 384]
    assert 1 <= len(found["reply"]) <= 8


@pytest.mark.parametrize(
    ("checkpoint", "dtype", "speak"),
    [
        (("pro-1b", "deepseek", "safetensors"), "bfloat16", True),
        (("pro-1b", "deepseek", "safetensors"), "float32", False),
        (("pro-1b", "deepseek", "bin"), "bfloat16", False),
        (("pro-1b", "deepseek", "bin"), "float32", False),
        (("pro-1b", "transformers", "safetensors"), "bfloat16", True),
        (("pro-7b", "deepseek", "safetensors"), "bfloat16", True),
        (("pro-7b", "deepseek", "bin"), "bfloat16", False),
        (("pro-7b", "transformers", "safetensors"), "bfloat16", False),
    ],
    indirect=["checkpoint"],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_released_size_loads_in_little_more_than_its_own_memory(
    checkpoint: Written, dtype: str, speak: bool
) -> None:
    found = load(checkpoint, dtype, speak=speak)
    assert_loaded(found, checkpoint, dtype)
    if speak:
        assert_spoken(found)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("checkpoint", [("pro-1b", "deepseek", "safetensors")], indirect=True)
def test_a_quantized_model_loads_in_little_more_than_its_own_memory(
    checkpoint: Written, kind: str
) -> None:
    found = load(checkpoint, "bfloat16", speak=False, quantize=kind)
    assert found["parameters"] == PARAMETERS[checkpoint.size]
    assert found["weights"] < 0.75 * BYTES["bfloat16"] * found["parameters"]
    assert found["peak"] <= ALLOWED * found["weights"]
