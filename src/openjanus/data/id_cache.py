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

FORMAT_VERSION = 1
MAX_UINT16_CODEBOOK = 65_535
"""Largest codebook whose ids + 1 fit into 16 bits."""


def module_hash(module: nn.Module) -> str:
    """SHA-256 of a module's weights and their names."""
    return tensors_hash(module.state_dict())


def tensors_hash(named: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors and their names, as fp32."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def source_digest(name: str, options: Mapping[str, Any]) -> str:
    """Names a source and its options: the name of its cache."""
    text = json.dumps([name, dict(options)], sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class IdCache:
    """``ids.npy`` (items, N) of ids + 1, 0 where unknown; ``cache.json`` says whose they are.

    The file is sparse: it takes no more room than the ids that are known.

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
        record, path = folder / "cache.json", folder / "ids.npy"
        if record.is_file():
            _check_record(json.loads(record.read_text(encoding="utf-8")), wanted, folder)
            self._ids = np.lib.format.open_memmap(path, mode="r+")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shape = (num_items, num_image_tokens)
            self._ids = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            record.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, index: int) -> np.ndarray | None:
        """(N,) ids of an item, or None when they are not known yet."""
        ids = self._ids[index]
        # A row that a kill cut short holds an unknown id somewhere.
        return None if (ids == 0).any() else ids.astype(np.int64) - 1

    def put(self, indices: Sequence[int], ids: np.ndarray) -> None:
        """Keep (len(indices), N) ids."""
        self._ids[list(indices)] = ids + 1

    def flush(self) -> None:
        """Write what is still in memory."""
        self._ids.flush()


def _check_record(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    if found["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{folder}: format_version {found['format_version']} is newer than {FORMAT_VERSION}: "
            "install a newer openjanus (pip install -U openjanus)"
        )
    for key, value in wanted.items():
        if found[key] != value:
            raise ValueError(
                f"{folder} is a cache of another {key} ({found[key]}, wanted {value}): "
                "delete it, or give another id_cache folder"
            )
