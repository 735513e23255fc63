"""What a model runs on: names, how fast memory is read, how much of it is taken."""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import openjanus

try:
    import resource
except ImportError:  # Windows has none
    resource = None

BANDWIDTH_ROUNDS = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Names that a row of a table needs."""

    processor: str
    accelerator: str | None
    """Where the model is; None is the processor itself."""
    instructions: str
    """The widest that torch uses of the processor, and bf16's where it knows of them."""
    num_threads: int
    system: str
    python: str
    torch: str
    openjanus: str


def describe_machine(device: torch.device) -> Machine:
    """What this process runs on, with the model on a device."""
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    bf16 = [name for name in ("avx512_bf16", "amx_bf16") if abilities.get(name)]
    accelerator = None if device.type == "cpu" else device.type
    if device.type == "cuda":
        accelerator = torch.cuda.get_device_name(device)
    return Machine(
        processor=str(abilities.get("cpu_name", platform.processor() or platform.machine())),
        accelerator=accelerator,
        instructions=" ".join([torch.backends.cpu.get_cpu_capability(), *bf16]),
        num_threads=torch.get_num_threads(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        openjanus=openjanus.__version__,
    )


def wait_for(device: torch.device) -> None:
    """Let what was begun on an accelerator end, so that a clock may be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def read_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes that are read in a second: the best of some sums over a block past every cache.

    The best, for whatever else runs can only make it slower.
    """
    block = torch.ones(max(num_bytes // 4, 1), device=device)
    times = []
    for _ in range(BANDWIDTH_ROUNDS):
        wait_for(device)
        began = time.perf_counter()
        block.sum()
        wait_for(device)
        times.append(time.perf_counter() - began)
    return block.nbytes / min(times)


def peak_bytes(device: torch.device) -> int | None:
    """The most memory that this process has had since it began; on CUDA, that torch has had there.

    None where the system does not say (Windows, MPS).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if device.type != "cpu" or not (status.is_file() or resource is not None):
        return None
    if status.is_file():
        # On Linux ru_maxrss begins with what the process had that started this one.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    assert resource is not None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
