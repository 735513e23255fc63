"""Which files a source is made of, and where each of their records lies."""

from __future__ import annotations

import glob
import hashlib
import json
import mmap
import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tqdm import tqdm

BOM = b"\xef\xbb\xbf"
_JSON_WORD = re.compile(rb"[^\s,]+")
_JSON_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """The files of a source, in a fixed order."""

    root: Path
    """Their folder: names in keys are relative to it."""
    paths: tuple[Path, ...]
    pattern: tuple[str, ...]
    """What was asked for below the root, part by part; ``**`` is any number of folders."""

    def name(self, number: int) -> str:
        """How a file is called in keys and messages."""
        return printable(self.paths[number].relative_to(self.root).as_posix())

    def takes(self, path: Path) -> bool:
        """Whether a file of the right kind would be one of these, were it at a path."""
        root, whole = self.root.resolve(), path.resolve()
        return whole.is_relative_to(root) and _matches(whole.relative_to(root).parts, self.pattern)


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def printable(name: str) -> str:
    """A name as text: bytes of it that are no UTF-8 are spelt out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def expand_home(path: str) -> Path:
    """A path with ``~`` made whole.

    Raises:
        ValueError: It begins with a user that there is not.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path} begins with a user unknown here: write the whole path") from error


def find_files(path: str, suffixes: Sequence[str]) -> Files:
    """The files that a source's ``path`` means.

    Args:
        path: A file; a folder, of which all files with the suffixes are taken, subfolders and
            linked folders included, without those whose name begins with a dot; or a pattern with
            ``*``, ``?`` or ``**``.
        suffixes: For instance ``(".jsonl", ".json")``.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: A file of another kind, or no path.
    """
    if not path:
        raise ValueError("path is empty: name a file, a folder or a pattern")
    given = expand_home(path)
    known = " or ".join(suffixes)
    if given.is_file():
        if given.suffix.lower() not in suffixes:
            raise ValueError(f"{path} is no {known} file: give another, or another source type")
        return Files(root=given.parent, paths=(given,), pattern=(glob.escape(given.name),))
    if given.is_dir():
        root, found, pattern = given, list(_files_below(given)), ("**", "*")
    elif glob.has_magic(path):
        fixed = next(i for i, part in enumerate(given.parts) if glob.has_magic(part))
        root = Path(*given.parts[:fixed])
        pattern = given.parts[fixed:]
        found = list(root.glob("/".join(pattern)))
    else:
        raise FileNotFoundError(f"no file or folder at {path}: check the option path")
    paths = sorted(item for item in found if item.is_file() and item.suffix.lower() in suffixes)
    if not paths:
        raise FileNotFoundError(f"no {known} files at {path}: check the option path")
    return Files(root=root, paths=tuple(paths), pattern=pattern)


def _files_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """What lies in a folder; a link to a folder ``above`` it is not followed round for ever."""
    above |= {os.path.realpath(folder)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                yield folder / entry.name
            elif not entry.is_symlink() or os.path.realpath(entry.path) not in above:
                yield from _files_below(folder / entry.name, above)


class Records:
    """Byte ranges of the records of files: 24 bytes a record.

    Args:
        files: What they lie in.
        scan: Yields (start, end, line number from 1) of each record of a file.
        unit: What is counted, for the progress bar.
    """

    def __init__(
        self,
        files: Files,
        scan: Callable[[Path], Iterator[tuple[int, int, int]]],
        *,
        unit: str = "records",
    ) -> None:
        self.files = files
        self._starts, self._sizes, self._lines = array("q"), array("q"), array("I")
        self._file_of = array("I")
        total = sum(path.stat().st_size for path in files.paths)
        with _bar(total, f"indexing {unit}") as bar:
            for number, path in enumerate(files.paths):
                at = 0
                for start, end, line in scan(path):
                    self._starts.append(start)
                    self._sizes.append(end - start)
                    self._lines.append(line)
                    self._file_of.append(number)
                    bar.update(end - at)
                    at = end

    def __len__(self) -> int:
        return len(self._starts)

    def key(self, index: int) -> str:
        """``file:line`` of a record: what a user can find."""
        return f"{self.files.name(self._file_of[index])}:{self._lines[index]}"

    def path(self, index: int) -> Path:
        """The file that holds a record."""
        return self.files.paths[self._file_of[index]]

    def read(self, index: int) -> bytes:
        """A record as it is written.

        Raises:
            ValueError: The file is shorter than when it was indexed.
        """
        # Opened anew each time: threads and loader processes share nothing.
        with self.path(index).open("rb") as file:
            file.seek(self._starts[index])
            data = file.read(self._sizes[index])
        if len(data) != self._sizes[index]:
            raise ValueError(f"{self.key(index)}: the file was cut while in use: start again")
        return data

    def read_text(self, index: int) -> str:
        """A record as text.

        Raises:
            ValueError: Not UTF-8.
        """
        try:
            return self.read(index).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.key(index)} is not UTF-8 ({error.reason} at byte {error.start}): "
                "convert the file"
            ) from error

    def read_object(self, index: int) -> dict[str, Any]:
        """A record as a JSON object.

        Raises:
            ValueError: Not UTF-8, not JSON, or not an object.
        """
        text = self.read_text(index)
        if "\0" in text:
            raise ValueError(
                f"{self.key(index)} holds zero bytes, as UTF-16 does: convert the file to UTF-8"
            )
        try:
            data = json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.key(index)} is not valid JSON ({error.msg} at character {error.pos}): "
                "write one object a line"
            ) from error
        except (ValueError, RecursionError) as error:  # a key twice, a huge number, too deep
            raise ValueError(
                f"{self.key(index)} is not read ({error}): write a plain object a line"
            ) from error
        if not isinstance(data, dict):
            raise ValueError(
                f"{self.key(index)} must be a JSON object, got {type(data).__name__}: "
                "write one object a line"
            )
        return data

    def keep(self, chosen: Sequence[int]) -> None:
        """Forget all records but some."""
        for name in ("_starts", "_sizes", "_lines", "_file_of"):
            old = getattr(self, name)
            setattr(self, name, array(old.typecode, (old[index] for index in chosen)))

    def fingerprint(self) -> str:
        """Names the records: changes when a file's size, or where a record lies, does."""
        digest = hashlib.sha256(fingerprint_files(self.files).encode())
        for values in (self._starts, self._sizes, self._file_of):
            digest.update(values.tobytes())
        return digest.hexdigest()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands in it twice")
    return data


def _bar(total: int, text: str) -> tqdm:
    # Shown after a second: what is quick needs no bar.
    return tqdm(total=total, desc=text, unit="B", unit_scale=True, delay=1.0, leave=False)


def scan_lines(path: Path) -> Iterator[tuple[int, int, int]]:
    """Lines that are not blank, without their ends (LF or CRLF) and without a byte-order mark."""
    with path.open("rb") as file:
        at = 0
        for number, line in enumerate(file, start=1):
            skipped = len(BOM) if number == 1 and line.startswith(BOM) else 0
            body = line[skipped:].rstrip()
            if body:
                yield at + skipped, at + skipped + len(body), number
            at += len(line)


def scan_paragraphs(path: Path) -> Iterator[tuple[int, int, int]]:
    """Stretches of lines between blank ones; each is named by its first line."""
    begun, stop, first, last = 0, 0, 0, 0
    for start, end, number in scan_lines(path):
        if last == 0 or number != last + 1:
            if last > 0:
                yield begun, stop, first
            begun, first = start, number
        stop, last = end, number
    if last > 0:
        yield begun, stop, first


def scan_whole(path: Path) -> Iterator[tuple[int, int, int]]:
    """A file as one record, unless it is blank."""
    begun, stop, first = 0, 0, 0
    for start, end, number in scan_lines(path):
        if first == 0:
            begun, first = start, number
        stop = end
    if first > 0:
        yield begun, stop, first


def scan_json(path: Path) -> Iterator[tuple[int, int, int]]:
    """Objects of a file: one a line, or the elements of one JSON array (LLaVA's files).

    Raises:
        ValueError: A ``.json`` file that is no array of objects.
    """
    if path.suffix.lower() == ".json":
        return _scan_array(path)
    return scan_lines(path)


def json_records(path: str, unit: str) -> Records:
    """The objects of ``.jsonl`` and ``.json`` files: how all sources of JSON are opened.

    Args:
        path: As ``find_files``.
        unit: As ``Records``.
    """
    return Records(find_files(path, (".jsonl", ".json")), scan_json, unit=unit)


def _scan_array(path: Path) -> Iterator[tuple[int, int, int]]:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: it must hold a JSON array of objects")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        depth, start, line, counted, free = 0, 0, 1, 0, 0
        for match in _JSON_TOKEN.finditer(data):
            token = match[0]
            if depth == 0 and token != b"[":
                break
            if depth == 1:  # what is no object is an item too, to be named when its turn comes
                spans = [word.span() for word in _JSON_WORD.finditer(data, free, match.start())]
                for first, end in [*spans, match.span()] if token[:1] == b'"' else spans:
                    line += data[counted:first].count(b"\n")
                    counted = first
                    yield first, end, line
            if token in (b"[", b"{"):
                if depth == 1:
                    start = match.start()
                    line += data[counted:start].count(b"\n")
                    counted = start
                depth += 1
            elif token in (b"]", b"}"):
                depth -= 1
                if depth == 1:
                    yield start, match.end(), line
                if depth == 0:
                    return
            if depth == 1:
                free = match.end()
        raise ValueError(
            f"{path} is no whole JSON array of objects: write [{{...}}, ...], or one object a "
            "line in a .jsonl file"
        )


def fingerprint_files(files: Files) -> str:
    """SHA-256 of the names and sizes of files."""
    digest = hashlib.sha256()
    for number, path in enumerate(files.paths):
        digest.update(f"{files.name(number)}\x1f{path.stat().st_size}\x1e".encode())
    return digest.hexdigest()
