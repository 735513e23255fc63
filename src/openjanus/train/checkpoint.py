"""Checkpoints: folders that appear whole or not at all, and are read only if they still are.

``state.pt`` holds what every process has alike; ``shards/`` (torch.distributed.checkpoint) the
tensors of which each process has a part, by name, so that another number of processes may read
them; ``checkpoint.json`` the SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from openjanus.train.best import best_steps
from openjanus.train.parallel import ALONE, World
from openjanus.train.sharding import copy_part

FORMAT_VERSION = 3
RECORD = "checkpoint.json"
STATE = "state.pt"
SHARDS = "shards"
"""Folder of what is written in parts; and its key in the state of a task."""
_NAME = re.compile(r"step-(\d{8})")
_DRAFTS = ("writing-*", "dropping-*")


@dataclass(frozen=True, slots=True)
class Shards:
    """Tensors by name, of which each process has a part or, of plain ones, all."""

    tensors: Mapping[str, Tensor]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Whole shapes, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def dtypes(self) -> dict[str, torch.dtype]:
        """What they are saved in, by name."""
        return {name: tensor.dtype for name, tensor in self.tensors.items()}

    def read_into(self, wanted: Mapping[str, Tensor]) -> None:
        """Fill tensors in place, each by its name; parts of whole ones where they are parts."""
        for name, tensor in wanted.items():
            value = self.tensors[name].detach()
            if isinstance(value, DTensor):
                tensor.copy_(value)
            else:
                copy_part(tensor, value)


@dataclass(frozen=True, slots=True)
class SavedShards:
    """`Shards` in a checkpoint."""

    folder: Path
    world: World

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Whole shapes, by name."""
        return {name: tuple(item.size) for name, item in self._known().items()}

    def dtypes(self) -> dict[str, torch.dtype]:
        """What they were saved in, by name."""
        return {name: item.properties.dtype for name, item in self._known().items()}

    def _known(self) -> dict[str, TensorStorageMetadata]:
        known = dcp.FileSystemReader(self.folder).read_metadata().state_dict_metadata
        return {
            name: item for name, item in known.items() if isinstance(item, TensorStorageMetadata)
        }

    def read_into(self, wanted: Mapping[str, Tensor]) -> None:
        """Fill tensors in place, each by its name; all processes must call this."""
        with _quiet():
            dcp.load(
                dict(wanted),
                storage_reader=dcp.FileSystemReader(self.folder),
                process_group=self.world.group,
                no_dist=self.world.size == 1,
            )


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, ascending."""
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match.group(1)) for match in matches if match)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps lies."""
    return folder / f"step-{step:08d}"


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], *, keep: int, world: World = ALONE
) -> Path:
    """Write a checkpoint beside the older ones and drop the oldest; all processes must call this.

    The folder is written under another name, synced, and renamed: a kill at any moment leaves
    either the whole new checkpoint or none of it.

    Args:
        folder: The run's folder; several processes must all see it.
        step: Optimizer steps done.
        state: Tensors, numbers, strings, and lists and dicts of them, the same in all processes;
            ``state["task"]["shards"]`` may be `Shards`.
        keep: How many of the newest stay, beside those that ``best.json`` names.
        world: All processes.
    """
    target = checkpoint_path(folder, step)
    draft = folder / f"writing-{step:08d}"
    task = state.get("task", {})
    shards = task.get(SHARDS)

    def begin() -> None:
        for leftover in [path for names in _DRAFTS for path in folder.glob(names)]:
            shutil.rmtree(leftover)
        draft.mkdir(parents=True)

    def finish() -> None:
        plain = {k: v for k, v in task.items() if k != SHARDS}
        torch.save(state | {"task": plain} if task else state, draft / STATE)
        files = [path for path in sorted(draft.rglob("*")) if path.is_file()]
        hashes = {path.relative_to(draft).as_posix(): _hash(path) for path in files}
        meta = {"format_version": FORMAT_VERSION, "step": step, "sha256": hashes}
        (draft / RECORD).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        for path in (*files, draft / RECORD, draft / SHARDS, draft):
            _sync(path)
        if target.exists():
            _drop(target)
        draft.rename(target)
        _sync(folder)
        spared = best_steps(folder)
        for old in checkpoint_steps(folder)[:-keep]:
            if old not in spared:
                _drop(checkpoint_path(folder, old))

    world.on_main(begin)
    if isinstance(shards, Shards):
        with _quiet():
            dcp.save(
                dict(shards.tensors),
                storage_writer=dcp.FileSystemWriter(draft / SHARDS),
                process_group=world.group,
                no_dist=world.size == 1,
            )
    world.on_main(finish)
    return target


@contextmanager
def _quiet() -> Iterator[None]:
    """One process without groups is meant, and need not be told."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if not path.exists():
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _drop(path: Path) -> None:
    """Remove a checkpoint: first its name, so that a kill leaves no half of it under that."""
    gone = path.with_name(f"dropping-{path.name}")
    path.rename(gone)
    shutil.rmtree(gone)


def keep_checkpoint(path: Path, name: str) -> Path:
    """Keep a checkpoint under a name of its own, beyond how many of the newest stay.

    Its files are the same on disk, where the file system can do that; none is ever changed.

    Args:
        path: The checkpoint.
        name: For instance ``best``; what had it before is replaced.
    """
    target = path.with_name(name)
    draft = path.with_name(f"writing-{name}")
    for old in (draft, target.with_name(f"dropping-{name}")):
        if old.exists():
            shutil.rmtree(old)
    shutil.copytree(path, draft, copy_function=_link)
    if target.exists():
        _drop(target)
    draft.rename(target)
    return target


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def load_checkpoint(path: Path, *, world: World = ALONE) -> dict[str, Any]:
    """Read a checkpoint; all processes must call this.

    Args:
        path: Its folder.
        world: All processes; the first checks the files.

    Returns:
        What was saved; `Shards` come as `SavedShards`.

    Raises:
        FileNotFoundError: No checkpoint there.
        ValueError: Written by a newer openjanus, or damaged since it was written.
    """
    if not (path / RECORD).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: give a folder named step-NNNNNNNN")
    try:
        meta = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(_damaged(path / RECORD, "damaged (no JSON)")) from error
    if meta["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version {meta['format_version']} is newer than {FORMAT_VERSION}: "
            "install a newer openjanus (pip install -U openjanus)"
        )
    world.on_main(lambda: _check_files(path, meta.get("sha256", {})))
    state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    for version in range(meta["format_version"], FORMAT_VERSION):
        _MIGRATIONS[version](state)
    if (path / SHARDS).is_dir():
        state["task"][SHARDS] = SavedShards(path / SHARDS, world)
    return state


def _check_files(path: Path, hashes: Mapping[str, str]) -> None:
    for name, known in hashes.items():
        file = path / name
        if not file.is_file():
            raise ValueError(_damaged(file, "missing"))
        if _hash(file) != known:
            raise ValueError(_damaged(file, "damaged (its SHA-256 is not what was written)"))


def _damaged(file: Path, what: str) -> str:
    folder = next(path for path in file.parents if (path / RECORD).exists())
    older = [path.name for path in sorted(folder.parent.glob("step-*")) if path < folder]
    then = f"go on from {older[-1]}" if older else "start the run anew"
    return f"{file} is {what}: bring it back from a copy, or delete {folder} and {then}"


def _name_the_data(state: dict[str, Any]) -> None:
    """1 -> 2: where the data stands was the step alone."""
    if "seen" in state["task"]:
        state["task"]["data"] = {"step": state["step"]}


def _name_the_shards(state: dict[str, Any]) -> None:
    """2 -> 3: a Janus was saved whole, frozen parts too, with optimizers that knew no names.

    What belongs to which parameter only the trainer can tell: it finds these under ``whole``.
    """
    task = state["task"]
    if "seen" in task:
        task["whole"] = {name: task.pop(name) for name in ("model", "optimizers")}


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], None]] = {
    1: _name_the_data,
    2: _name_the_shards,
}
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
