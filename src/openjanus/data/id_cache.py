"""Codebook ids of a source's pictures, computed once.

A tokenizer costs more than a small decoder, and its ids never change; so each is kept the first
time that it is needed. A cache belongs to one tokenizer and one source: another's is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

FORMAT_VERSION = 2
"""Version 1 had no ``stamps.npy``: its rows count for sources that no file can change."""
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


def source_digest(name: str, options: Mapping[str, Any], fingerprint: str | None = None) -> str:
    """Names a source: the name of its cache.

    Args:
        name: As registered.
        options: What it is made with.
        fingerprint: ``fingerprint_of`` it: edited files have another cache.
    """
    told: list[Any] = [name, dict(options)]
    if fingerprint is not None:
        told.append(fingerprint)
    text = json.dumps(told, sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def fingerprint_of(source: object) -> str | None:
    """What names the files of a source as they are; None for a source that has no files."""
    fingerprint = getattr(source, "fingerprint", None)
    return None if fingerprint is None else fingerprint()


def picture_stamp(picture: np.ndarray) -> int:
    """Names a picture's pixels: 63 bits, never 0."""
    digest = hashlib.blake2b(str(picture.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(picture).data)
    return int.from_bytes(digest.digest(), "little") >> 1 | 1


class IdCache:
    """``ids.npy`` (items, N) of ids + 1, 0 where unknown; ``cache.json`` says whose they are.

    ``stamps.npy`` (items,) says of which pixels they are, where a file may change under its name.
    The files are sparse: they take no more room than the ids that are known.

    Args:
        folder: Where they lie; made when missing.
        tokenizer_hash: ``module_hash`` of the tokenizer.
        source: ``source_digest`` of the source.
        num_items: Length of the source.
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
        shape = (num_items, num_image_tokens)
        version = found.get("format_version", 0)
        self._ids = _array(folder / "ids.npy", dtype, shape, new=version == 0)
        self._stamps = _array(folder / "stamps.npy", np.uint64, (num_items,), new=version < 2)
        if version < FORMAT_VERSION:
            record.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, index: int, stamp: int | None = None) -> np.ndarray | None:
        """(N,) ids of an item, or None when they are not known yet, or are another picture's.

        Args:
            index: Which item.
            stamp: ``picture_stamp`` of its picture as it is now; None where it cannot change.
        """
        ids = self._ids[index]
        if stamp is not None and int(self._stamps[index]) != stamp:
            return None
        # A row that a kill cut short holds an unknown id somewhere.
        return None if (ids == 0).any() else ids.astype(np.int64) - 1

    def put(
        self, indices: Sequence[int], ids: np.ndarray, stamps: Sequence[int | None] | None = None
    ) -> None:
        """Keep (len(indices), N) ids, and what their pictures were."""
        given = [None] * len(indices) if stamps is None else stamps
        places = list(indices)
        # Another picture's ids are forgotten before its stamp is: a kill leaves no wrong pair.
        self._ids[places] = 0
        self._stamps[places] = [0 if stamp is None else stamp for stamp in given]
        self._ids[places] = ids + 1

    def flush(self) -> None:
        """Write what is still in memory."""
        self._stamps.flush()
        self._ids.flush()


def _array(path: Path, dtype: Any, shape: tuple[int, ...], *, new: bool) -> np.memmap:
    if new:
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    return np.lib.format.open_memmap(path, mode="r+")


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
