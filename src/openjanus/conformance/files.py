"""How a kit lies on disk: a manifest, a JSON file a vector, and its tensors beside it.

Nothing in it needs this package or PyTorch to be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from openjanus.conformance.vectors import KINDS, Answers, Inputs, Vector
from openjanus.rules import require
from openjanus.weights.shards import save_tensors

FORMAT_VERSION = 1
"""Of a kit. A newer one is refused."""

MANIFEST_FILE = "manifest.json"
VECTORS_FOLDER = "vectors"
_PARTS = ("inputs", "expected")


@dataclass(frozen=True, slots=True)
class Case:
    """A vector as it lies in a kit."""

    vector: Vector
    inputs: Inputs
    expected: Answers


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """Write a JSON object that people can read too."""
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_manifest(folder: Path, told: Mapping[str, Any]) -> None:
    """Write what a kit says of itself, its ``format_version`` first."""
    write_json({"format_version": FORMAT_VERSION, **told}, folder / MANIFEST_FILE)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a kit says of itself.

    Raises:
        FileNotFoundError: No kit.
        ValueError: A broken manifest, or a newer kit.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no kit in {folder} ({MANIFEST_FILE} is missing): write one with "
            "`openjanus conformance write`"
        )
    data = _read_json(path)
    version = data.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(
            f"{path}: format_version must be a whole number >= 1, got {version!r}: write the kit "
            "again"
        )
    require(
        version <= FORMAT_VERSION,
        f"{path} has format_version {version}, this openjanus reads up to {FORMAT_VERSION}: "
        "install a newer one",
    )
    require(
        isinstance(data.get("openjanus"), str),
        f"{path} does not say which openjanus wrote it: write the kit again",
    )
    names = data.get("vectors")
    require(
        isinstance(names, list) and bool(names) and all(isinstance(n, str) for n in names),
        f"{path}: vectors must be a list of names, got {names!r}: write the kit again",
    )
    return data


def write_case(folder: Path, case: Case) -> None:
    """Write a vector: ``NAME.json``, and ``NAME.safetensors`` where there are tensors."""
    place = folder / VECTORS_FOLDER
    place.mkdir(exist_ok=True)
    vector = case.vector
    plain: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for part, values in zip(_PARTS, (case.inputs, case.expected), strict=True):
        plain[part] = {key: v for key, v in values.items() if not isinstance(v, Tensor)}
        tensors |= {
            f"{part}.{key}": v.contiguous() for key, v in values.items() if isinstance(v, Tensor)
        }
    told = {
        "name": vector.name,
        "trap": vector.trap,
        "kind": vector.kind,
        "tolerance": vector.tolerance,
        **plain,
        "tensors": {key: _shape(tensor) for key, tensor in tensors.items()},
    }
    write_json(told, place / f"{vector.name}.json")
    if tensors:
        save_tensors(tensors, place / f"{vector.name}.safetensors")


def read_case(folder: Path, name: str) -> Case:
    """Read a vector.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is broken, or the two do not belong together.
    """
    path = folder / VECTORS_FOLDER / f"{name}.json"
    require(Path(name).name == name, f"a vector cannot be called {name!r}: write the kit again")
    data = _read_json(path)
    try:
        vector = Vector(
            name=data["name"],
            kind=data["kind"],
            trap=data["trap"],
            tolerance=float(data["tolerance"]),
        )
        values = {part: dict(data[part]) for part in _PARTS}
        listed = dict(data["tensors"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no vector ({error!r}): write the kit again") from error
    require(
        vector.name == name and vector.kind in KINDS,
        f"{path} holds {vector.name!r} of kind {vector.kind!r}: known kinds are "
        f"{', '.join(KINDS)}; write the kit again",
    )
    tensors = _read_tensors(path.with_suffix(".safetensors")) if listed else {}
    found = {key: _shape(tensor) for key, tensor in tensors.items()}
    require(
        found == listed,
        f"{path.with_suffix('.safetensors')} does not hold the tensors that {path.name} lists: "
        "write the kit again",
    )
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        values[part][name] = tensor
    return Case(vector, values["inputs"], values["expected"])


def _shape(tensor: Tensor) -> str:
    """For instance ``float32 (2, 3)``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: write the kit again")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): write the kit again") from error
    require(isinstance(data, dict), f"{path} must hold a JSON object: write the kit again")
    return data


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: write the kit again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is broken ({error}): write the kit again") from error
