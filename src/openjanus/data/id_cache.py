"""Codebook ids of a source's pictures, computed once.

A tokenizer costs more than a small decoder, and its ids never change; so each is kept the first
time that it is needed. A cache belongs to one tokenizer and one source: another's is refused. It
has an entry for each picture to draw; a document has as many as it draws.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

FORMAT_VERSION = 3
"""Since 3, ids count only beside the stamp of the pixels that they were made of."""
MAX_UINT16_CODEBOOK = 65_535
"""Largest codebook whose ids + 1 fit into 16 bits."""


def module_hash(module: nn.Module) -> str:
    """SHA-256 of a module's weights and their names."""
    return tensors_hash(module.state_dict())


def tensors_hash(named: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors and their names, as fp32."""
    digest = TensorsDigest()
    for name, tensor in sorted(named.items()):
        digest.update(name, tensor)
    return digest.hexdigest()


class TensorsDigest:
    """``tensors_hash``, tensor by tensor: for those that are not all there at once."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, name: str, tensor: Tensor) -> None:
        """Take in one; names must ascend."""
        self._digest.update(name.encode())
        values = tensor.detach().cpu().float().contiguous().numpy()
        self._digest.update(values.reshape(-1).view(np.uint8).data)  # as it lies: no copy

    def hexdigest(self) -> str:
        """Of all until now."""
        return self._digest.hexdigest()


def source_digest(name: str, options: Mapping[str, Any], *traits: str | None) -> str:
    """Names a source: the name of its cache.

    Args:
        name: As registered.
        options: What it is made with.
        traits: ``fingerprint_of`` it and the ``digest`` of its ``Entries``: edited files have
            another cache.
    """
    told: list[Any] = [name, dict(options), *(trait for trait in traits if trait is not None)]
    text = json.dumps(told, sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def fingerprint_of(source: object) -> str | None:
    """What names the files of a source as they are; None for a source that has no files."""
    fingerprint = getattr(source, "fingerprint", None)
    return None if fingerprint is None else fingerprint()


def content_fingerprint_of(source: object) -> str | None:
    """What names some items of a source by what they hold; None where nothing does."""
    fingerprint = getattr(source, "content_fingerprint", None)
    return None if fingerprint is None else fingerprint()


def picture_stamp(picture: np.ndarray) -> int:
    """Names a picture's pixels: 63 bits, never 0."""
    digest = hashlib.blake2b(str(picture.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(picture).data)
    return int.from_bytes(digest.digest(), "little") >> 1 | 1


class Entries:
    """Which entry of a cache belongs to which picture of which item.

    Args:
        source: One whose items draw several pictures says how many by ``num_drawn(index)``; else
            an item has one entry.
    """

    def __init__(self, source: Any) -> None:
        self._length = len(source)
        self._ends: np.ndarray | None = None
        if hasattr(source, "num_drawn"):
            items = tqdm(range(len(source)), desc="counting pictures", delay=1.0, leave=False)
            self._ends = np.cumsum([source.num_drawn(index) for index in items], dtype=np.int64)

    def __len__(self) -> int:
        if self._ends is None:
            return self._length
        return int(self._ends[-1]) if self._length > 0 else 0

    @property
    def digest(self) -> str | None:
        """Names how many pictures each item has; None where that is one."""
        return None if self._ends is None else hashlib.sha256(self._ends.tobytes()).hexdigest()

    def find(self, index: int, picture: int = 0) -> int | None:
        """The entry of an item's picture; None where there is none, and nothing can be kept."""
        if self._ends is None:
            return index if picture == 0 else None
        entry = (int(self._ends[index - 1]) if index > 0 else 0) + picture
        return entry if entry < self._ends[index] else None


class IdCache:
    """``ids.npy`` (entries, N) of ids + 1, 0 where unknown; ``cache.json`` says whose they are.

    ``stamps.npy`` (entries,) says of which pixels they are: a file may change under its name.
    The files are sparse: they take no more room than the ids that are known.

    Args:
        folder: Where they lie; made when missing.
        tokenizer_hash: ``module_hash`` of the tokenizer.
        source: ``source_digest`` of the source.
        num_items: Entries.
        num_image_tokens: Ids N a picture.
        codebook_size: Codebook entries C.

    Raises:
        ValueError: The folder holds a cache of another tokenizer, source or shape, or of a newer
            openjanus.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tokenizer_hash: str,
        source: str,
        num_items: int,
        num_image_tokens: int,
        codebook_size: int,
    ) -> None:
        wanted = {
            "format_version": FORMAT_VERSION,
            "tokenizer_hash": tokenizer_hash,
            "source": source,
            "num_items": num_items,
            "num_image_tokens": num_image_tokens,
            "codebook_size": codebook_size,
        }
        dtype = np.uint16 if codebook_size <= MAX_UINT16_CODEBOOK else np.uint32
        record = folder / "cache.json"
        found: dict[str, Any] = {}
        if record.is_file():
            found = json.loads(record.read_text(encoding="utf-8"))
            _check_record(found, wanted, folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not found:
            _new_array(folder / "ids.npy", dtype, (num_items, num_image_tokens))
            _new_array(folder / "stamps.npy", np.uint64, (num_items,))
        for version in range(found.get("format_version", FORMAT_VERSION), FORMAT_VERSION):
            MIGRATIONS[version](folder)
        self._ids = _open_array(folder / "ids.npy")
        self._stamps = _open_array(folder / "stamps.npy")
        if found.get("format_version") != FORMAT_VERSION:
            record.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, entry: int, stamp: int) -> np.ndarray | None:
        """(N,) ids of a picture, or None when they are not known yet, or are another's.

        Args:
            entry: Which.
            stamp: ``picture_stamp`` of the picture as it is now.
        """
        ids = self._ids[entry]
        # A row that a kill cut short holds an unknown id somewhere.
        if int(self._stamps[entry]) != stamp or (ids == 0).any():
            return None
        return ids.astype(np.int64) - 1

    def put(self, entry: int, ids: np.ndarray, stamp: int) -> None:
        """Keep (N,) ids, and what their picture was."""
        # Another picture's ids are forgotten before its stamp is: a kill leaves no wrong pair.
        self._ids[entry] = 0
        self._stamps[entry] = stamp
        self._ids[entry] = ids + 1

    def flush(self) -> None:
        """Write what is still in memory."""
        self._stamps.flush()
        self._ids.flush()


def _new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _open_array(path: Path) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="r+")


def _from_1(folder: Path) -> None:
    """Version 1 had no stamps: none of its ids has one."""
    _new_array(folder / "stamps.npy", np.uint64, (len(_open_array(folder / "ids.npy")),))


def _from_2(folder: Path) -> None:
    """Version 2 kept ids without stamps where it took a source to be unchangeable.

    What replaced a broken item was kept under the broken one's index, and what one run finds too
    long is whole in another. So ids that do not say of which pixels they are may be another
    picture's. Nothing is to be rewritten: since 3 a stamp is asked of every entry, so these are
    unknown, and made again when they are needed.
    """


MIGRATIONS: Mapping[int, Callable[[Path], None]] = {1: _from_1, 2: _from_2}
"""How a folder of a version becomes one of the next; each may be cut short and begun again."""


def _check_record(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    if found["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{folder}: format_version {found['format_version']} is newer than {FORMAT_VERSION}: "
            "install a newer openjanus (pip install -U openjanus)"
        )
    for key, value in wanted.items():
        if key != "format_version" and found[key] != value:
            raise ValueError(
                f"{folder} is a cache of another {key} ({found[key]}, wanted {value}): "
                "delete it, or give another id_cache folder"
            )
