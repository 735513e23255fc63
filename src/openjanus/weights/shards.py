"""Tensors on disk: safetensors and ``pytorch_model.bin``, whole or in shards with an index.

Files are mapped, not read: a tensor's pages come into memory when they are used. Who keeps a tensor
keeps its pages, without a copy; a change of it stays in memory and never reaches the file. Who
copies it lets them go, but not before the file is closed: so files are closed and opened again as
they are read, and what is resident is the model and little more.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SAFETENSORS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
FILES = (SAFETENSORS_FILE, PICKLE_FILE)
"""What weights are looked for as, the first that is there; each may have ``.index.json``."""

INDEX_SUFFIX = ".index.json"
MAX_SHARD_BYTES = 5_000_000_000
WINDOW_BYTES = 128 * 2**20
"""Mapped bytes after which a file is closed and opened again."""


@dataclass(frozen=True, slots=True)
class StoredTensors:
    """The tensors of a checkpoint: what they are called, their shapes, and where each lies."""

    source: Path
    """The file or the index that names them, for messages."""
    shapes: Mapping[str, tuple[int, ...]]
    files: Mapping[str, Path]

    def read(self, names: Iterable[str], take: Callable[[str, Tensor], None]) -> None:
        """Hand over tensors one by one, file by file.

        Args:
            names: Which, in any order.
            take: Gets each name with its tensor, to keep or to copy.

        Raises:
            ValueError: A file is broken.
        """
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.files[name], []).append(name)
        for path, wanted in by_file.items():
            done = 0
            while done < len(wanted):
                done += _read_window(path, wanted[done:], take)


def _read_window(path: Path, names: Sequence[str], take: Callable[[str, Tensor], None]) -> int:
    """Read the first tensors of a file until a window is full; how many were read."""
    mapped = 0
    with _opened(path) as file:
        for count, name in enumerate(names, start=1):
            with _broken(path):  # not around ``take``, whose faults are not the file's
                tensor = file.get(name)
            mapped += tensor.nbytes
            take(name, tensor)
            del tensor
            if mapped >= WINDOW_BYTES and file.is_mapped:
                return count
    return len(names)


class Assembly:
    """Hands tensors on whole, of which a checkpoint may hold parts, one below the other.

    Args:
        put: Gets each of our names with its tensor, as it lies in the file where it lies there in
            one piece: to copy of it what is wanted.
    """

    def __init__(self, put: Callable[[str, Tensor], None]) -> None:
        self._put = put
        self._waiting: dict[str, tuple[Tensor, set[int]]] = {}

    def take(
        self, key: str, shape: tuple[int, ...], tensor: Tensor, *, part: int, count: int
    ) -> None:
        """Take one of ``count`` parts of a tensor of ours.

        Args:
            key: Our name.
            shape: Of the whole.
            tensor: The part; parts of several are put together in fp32.
            part: Which, from 0.
            count: How many there are.
        """
        if count == 1:
            self._put(key, tensor.view(shape))
            return
        whole, there = self._waiting.setdefault(key, (torch.empty(shape), set()))
        whole.view(count, *tensor.shape)[part].copy_(tensor)
        there.add(part)
        if len(there) == count:
            del self._waiting[key]
            self._put(key, whole)


def open_tensors(folder: Path) -> StoredTensors:
    """Find a folder's weights and read their names and shapes.

    Raises:
        FileNotFoundError: No weights, or the index names a file that is not there.
        ValueError: A file is broken, or the index does not agree with its files.
    """
    for name in FILES:
        if (folder / name).is_file():
            shapes = _shapes(folder / name)
            return StoredTensors(folder / name, shapes, dict.fromkeys(shapes, folder / name))
        index = folder / (name + INDEX_SUFFIX)
        if index.is_file():
            return _open_index(index)
    shards = sorted(
        path.name for suffix in ("safetensors", "bin") for path in _shards(folder, suffix)
    )
    if shards:
        raise FileNotFoundError(
            f"{folder} has {shards[0]} but no index that says what lies in which shard: fetch "
            f"{SAFETENSORS_FILE}{INDEX_SUFFIX} (or {PICKLE_FILE}{INDEX_SUFFIX}) too"
        )
    raise FileNotFoundError(
        f"no weights in {folder}: looked for {' and '.join(FILES)}, whole or with {INDEX_SUFFIX}"
    )


def _shards(folder: Path, suffix: str) -> Iterator[Path]:
    return folder.glob(f"*-of-*.{suffix}")


def _open_index(index: Path) -> StoredTensors:
    try:
        data = json.loads(index.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{index} is not valid JSON ({error}): fetch it again") from error
    table = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{index} has no weight_map: it is not an index of shards; fetch it again")
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, Path] = {}
    for shard in sorted(set(map(str, table.values()))):
        path = index.parent / shard
        if Path(shard).name != shard:
            raise ValueError(f"{index} names {shard!r}: shards lie beside their index")
        if not path.is_file():
            raise FileNotFoundError(f"{index} names {shard}, which is not there: fetch it too")
        found = _shapes(path)
        listed = {name for name, owner in table.items() if owner == shard}
        if absent := sorted(listed - set(found)):
            raise ValueError(
                f"{index} says that {absent[0]} is in {shard}, and it is not: the index and the "
                "shards are of two checkpoints; fetch them together"
            )
        # What the index does not list is kept as well: strict loading then names it.
        for name in found:
            if name in files:
                raise ValueError(
                    f"{name} is in {files[name].name} and in {shard}: the shards are of two "
                    "checkpoints; fetch them together"
                )
        shapes |= found
        files |= dict.fromkeys(found, path)
    return StoredTensors(index, shapes, files)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with _opened(path) as file:
        return dict(file.shapes)


@dataclass(frozen=True, slots=True)
class _Opened:
    shapes: Mapping[str, tuple[int, ...]]
    get: Callable[[str], Tensor]
    is_mapped: bool
    """Whether closing the file gives back what has been read of it."""


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    """A file, mapped where that can be."""
    if path.suffix == ".bin":
        with _broken(path):
            state, is_mapped = _load_pickle(path)
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        # What is not mapped is let go of as it is read.
        yield _Opened(shapes, state.__getitem__ if is_mapped else state.pop, is_mapped)
        return
    with ExitStack() as stack:
        with _broken(path):
            file = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        yield _Opened(shapes, file.get_tensor, is_mapped=True)


@contextmanager
def _broken(path: Path) -> Iterator[None]:
    """Say in one line that a file is broken, whatever the libraries make of it."""
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, *_ODD_ERRORS) as error:
        kind = "PyTorch weights" if path.suffix == ".bin" else "a safetensors file"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} is broken or not {kind} ({reason.rstrip('.')}): fetch it again"
        ) from error


_ODD_ERRORS = (RuntimeError, EOFError, AttributeError, KeyError, TypeError, IndexError)
"""What unpicklers raise for damaged bytes."""


def _load_pickle(path: Path) -> tuple[dict[str, Tensor], bool]:
    """A state dict, nothing else, and whether it is mapped.

    Pickles may hold code, which ``weights_only`` refuses.
    """
    is_mapped = True
    try:
        state: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except RuntimeError as error:
        if "mmap" not in str(error):  # files from before torch 1.6 cannot be mapped
            raise
        is_mapped = False
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise ValueError(f"{path} holds no table of tensors: give the weights of a model")
    return dict(state), is_mapped


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file that whoever may read other new files there may read.

    The library makes it readable by its owner alone; then it would be of no use to others, in a
    shared folder as in an installed package.
    """
    path.touch()  # with the mode of any new file
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(mode)


def save_shards(
    tensors: Mapping[str, Tensor], folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write ``model.safetensors``, or shards of at most a size and their index.

    Args:
        tensors: In the order in which they are written; a tensor larger than a shard has one of
            its own.
        folder: There already.
        max_shard_bytes: > 0.

    Raises:
        ValueError: ``max_shard_bytes`` is not positive.
    """
    if max_shard_bytes <= 0:
        raise ValueError(f"max_shard_bytes must be > 0, got {max_shard_bytes}")
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.nbytes
    stem, _, suffix = SAFETENSORS_FILE.partition(".")
    files = [f"{stem}-{i + 1:05}-of-{len(shards):05}.{suffix}" for i in range(len(shards))]
    if len(shards) == 1:
        files = [SAFETENSORS_FILE]
    for file, names in zip(files, shards, strict=True):
        part = {name: tensors[name].detach().cpu().contiguous() for name in names}
        save_tensors(part, folder / file)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
            "weight_map": {n: f for f, names in zip(files, shards, strict=True) for n in names},
        }
        text = json.dumps(index, indent=2) + "\n"
        (folder / (SAFETENSORS_FILE + INDEX_SUFFIX)).write_text(text, encoding="utf-8")
