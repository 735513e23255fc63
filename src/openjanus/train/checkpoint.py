"""Checkpoints: folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from openjanus.train.best import best_steps

FORMAT_VERSION = 2
_NAME = re.compile(r"step-(\d{8})")


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, ascending."""
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match.group(1)) for match in matches if match)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps lies."""
    return folder / f"step-{step:08d}"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write a checkpoint beside the older ones and drop the oldest.

    The folder is written under another name, synced, and renamed: a kill at any moment leaves
    either the whole new checkpoint or none of it.

    Args:
        folder: The run's folder.
        step: Optimizer steps done.
        state: Tensors, numbers, strings, and lists and dicts of them.
        keep: How many of the newest stay, beside those that ``best.json`` names.
    """
    target = checkpoint_path(folder, step)
    draft = folder / f"writing-{step:08d}"
    for leftover in folder.glob("writing-*"):
        shutil.rmtree(leftover)
    draft.mkdir(parents=True)
    torch.save(state, draft / "state.pt")
    meta = {"format_version": FORMAT_VERSION, "step": step}
    (draft / "checkpoint.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")
    for path in draft.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    spared = best_steps(folder)
    for old in checkpoint_steps(folder)[:-keep]:
        if old not in spared:
            shutil.rmtree(checkpoint_path(folder, old))
    return target


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        FileNotFoundError: No checkpoint there.
        ValueError: Written by a newer openjanus.
    """
    if not (path / "checkpoint.json").is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: give a folder named step-NNNNNNNN")
    meta = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
    if meta["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version {meta['format_version']} is newer than {FORMAT_VERSION}: "
            "install a newer openjanus (pip install -U openjanus)"
        )
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    for version in range(meta["format_version"], FORMAT_VERSION):
        _MIGRATIONS[version](state)
    return state


def _name_the_data(state: dict[str, Any]) -> None:
    """1 -> 2: where the data stands was the step alone."""
    if "seen" in state["task"]:
        state["task"]["data"] = {"step": state["step"]}


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], None]] = {1: _name_the_data}
"""What turns a state of each older version into one of the next."""


def newest_checkpoint(folder: Path) -> Path:
    """The newest complete checkpoint of a run.

    Raises:
        FileNotFoundError: There is none.
    """
    steps = checkpoint_steps(folder)
    if not steps:
        raise FileNotFoundError(
            f"no checkpoint in {folder}: start without --run.resume, or give the run's folder"
        )
    return checkpoint_path(folder, steps[-1])
