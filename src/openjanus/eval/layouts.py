"""Reading benchmarks' own files: what is missing is named, with what was expected instead."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHUNK = 2**20
"""Bytes that a hash reads at once."""
TEXT = "utf-8-sig"
"""Encoding of every file of a benchmark; a mark of byte order, which spreadsheets write, is none
of its text."""


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


def read_text(path: Path, expected: str) -> str:
    """A text file.

    Raises:
        WrongLayout: No such file, or no text.
    """
    with readable(path, expected):
        return need_file(path, expected).read_text(encoding=TEXT)


@contextmanager
def readable(path: Path, expected: str) -> Iterator[None]:
    """Say which file it is that is no text or no table, wherever in it that shows.

    Raises:
        WrongLayout: It is none.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise WrongLayout(path, f"is no UTF-8 text ({error})", expected) from error
    except csv.Error as error:
        raise WrongLayout(path, f"is no table ({error})", expected) from error


def read_json(path: Path, expected: str) -> Any:
    """A JSON file.

    Raises:
        WrongLayout: No such file, no JSON, or a mapping with a key twice, of which JSON would keep
            the last alone.
    """
    repeated: list[str] = []

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        # What is called last is the whole file: it alone has questions for keys.
        counts = Counter(key for key, _ in pairs) if len(made) < len(pairs) else {}
        repeated[:] = [key for key, count in counts.items() if count > 1]
        return made

    try:
        content = json.loads(read_text(path, expected), object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise WrongLayout(path, f"is not JSON ({error})", expected) from error
    if isinstance(content, dict) and repeated:
        raise WrongLayout(path, f"has {repeated[0]!r} twice", expected)
    return content


def read_json_lines(path: Path, expected: str) -> list[Any]:
    """A file with JSON on each line; empty lines are none.

    Raises:
        WrongLayout: No such file, or a line that is no JSON.
    """
    records = []
    with readable(path, expected), need_file(path, expected).open(encoding=TEXT) as lines:
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
    """Records that must all have some keys, and something behind each.

    Raises:
        WrongLayout: One has not, or has null there.
    """
    checked: list[Mapping[str, Any]] = []
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            raise WrongLayout(path, f"has no mapping as record {number}", expected)
        missing = [key for key in keys if record.get(key) is None]
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
