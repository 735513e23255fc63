"""Reading benchmarks' own files: what is missing is named, with what was expected instead."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

CHUNK = 2**20
"""Bytes that a hash reads at once."""


class WrongLayout(ValueError):
    """A path does not hold what a benchmark publishes."""

    def __init__(self, path: Path, found: str, expected: str) -> None:
        super().__init__(f"{path} {found}: expected {expected}")


def need_folder(path: Path, expected: str) -> Path:
    """A folder that must be there.

    Raises:
        WrongLayout: It is not.
    """
    if not path.is_dir():
        raise WrongLayout(path, "is a file" if path.exists() else "does not exist", expected)
    return path


def need_file(path: Path, expected: str) -> Path:
    """A file that must be there.

    Raises:
        WrongLayout: It is not.
    """
    if not path.is_file():
        raise WrongLayout(path, "is a folder" if path.exists() else "does not exist", expected)
    return path


def first_folder(candidates: Sequence[Path], expected: str) -> Path:
    """The first of some folders that exists.

    Raises:
        WrongLayout: None does.
    """
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise WrongLayout(candidates[0], "does not exist", expected)


def read_json(path: Path, expected: str) -> Any:
    """A JSON file.

    Raises:
        WrongLayout: No such file, or no JSON.
    """
    try:
        return json.loads(need_file(path, expected).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WrongLayout(path, f"is not JSON ({error})", expected) from error


def read_json_lines(path: Path, expected: str) -> list[Any]:
    """A file with JSON on each line; empty lines are none.

    Raises:
        WrongLayout: No such file, or a line that is no JSON.
    """
    records = []
    with need_file(path, expected).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    records.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise WrongLayout(
                        path, f"line {number} is not JSON ({error})", expected
                    ) from error
    return records


def need_keys(
    records: Iterable[Any], keys: Collection[str], path: Path, expected: str
) -> list[Mapping[str, Any]]:
    """Records that must all have some keys.

    Raises:
        WrongLayout: One has not.
    """
    checked: list[Mapping[str, Any]] = []
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            raise WrongLayout(path, f"has no mapping as record {number}", expected)
        missing = [key for key in keys if key not in record]
        if missing:
            raise WrongLayout(path, f"has no {', '.join(missing)} in record {number}", expected)
        checked.append(record)
    return checked


def files_hash(paths: Iterable[Path]) -> str:
    """sha256 over the names and bytes of files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\n".encode())
        with path.open("rb") as file:
            while block := file.read(CHUNK):
                digest.update(block)
    return digest.hexdigest()
