"""What a result says of its making: hashes of the weights and of the prompts, template, dtype."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openjanus.config import ProcessorConfig
from openjanus.config_file import processor_to_dict


def weights_hash(model: nn.Module) -> str:
    """sha256 over every tensor of a model: name, dtype, shape and bytes, in order of the names.

    Equal for equal weights, wherever they lie and however they were loaded.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def prompts_hash(prompts: Iterable[str]) -> str:
    """sha256 over prompts in order, one a line."""
    return hashlib.sha256("".join(f"{prompt}\n" for prompt in prompts).encode()).hexdigest()


def template_hash(processor: ProcessorConfig) -> str:
    """sha256 of how the checkpoint words a dialogue and a drawing request."""
    fields = processor_to_dict(processor)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, data: dict[str, Any] | list[Any]) -> None:
    """Write a file whole or not at all."""
    _write_whole(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a record a line, all of them or none, and the folder for them if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, "".join(f"{json.dumps(record)}\n" for record in records))


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
