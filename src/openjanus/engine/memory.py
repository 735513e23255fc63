"""How much memory an engine may take for what its requests hold."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from openjanus.engine.sampler import noise_bytes
from openjanus.engine.scheduler import Mode
from openjanus.model.janus import JanusModel

SHARE = 0.5
"""Of the memory that is free when an engine is made: prompts and pictures need some too."""

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int | None:
    """Memory that a device has left for this process; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if device.type != "cpu":
        return None
    known = [one for one in (_free_on_machine(), _free_in_group()) if one is not None]
    return min(known, default=None)


def _free_on_machine() -> int | None:
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return 1024 * int(value.split()[0])
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= getattr(os, "sysconf_names", {}).keys():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_in_group() -> int | None:
    """What a container has left of its limit."""
    limit, taken = _GROUP / "memory.max", _GROUP / "memory.current"
    if not (limit.is_file() and taken.is_file()):
        return None
    most = limit.read_text(encoding="ascii").strip()
    return None if most == "max" else max(0, int(most) - int(taken.read_text(encoding="ascii")))


def row_bytes(model: JanusModel, capacity: int) -> int:
    """Bytes of the keys and values of one row of so many tokens."""
    config = model.config.language
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_size
    return numbers * capacity * model.language_model.model.embed_tokens.weight.element_size()


def page_bytes(
    model: JanusModel, mode: Mode, capacity: int, *, num_rows: int, look_ahead: int
) -> int:
    """Bytes of a page: keys, values, noise, and what entrances that read ids themselves hold."""
    config = model.config
    total = num_rows * row_bytes(model, capacity)
    if mode == "text":
        return total + noise_bytes(num_rows, config.text_vocab_size)
    slots = num_rows // 2
    if mode == "compose":
        total += noise_bytes(slots, config.text_vocab_size)
    total += noise_bytes(slots, config.codebook_size, look_ahead if mode == "image" else 1)
    entrance = model.allocate_gen_cache(1)
    return total + (
        0 if entrance is None else slots * (entrance.keys.nbytes + entrance.values.nbytes)
    )
