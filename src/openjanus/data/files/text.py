"""Text alone: paragraphs, lines or whole files, and texts in jsonl."""

from __future__ import annotations

from typing import Literal, get_args

from openjanus.data.files.base import FileSource, IndexedSource, word_of
from openjanus.data.files.index import (
    Records,
    find_files,
    json_records,
    scan_lines,
    scan_paragraphs,
    scan_whole,
)
from openjanus.data.samples import Sample, Turn

Unit = Literal["paragraph", "line", "file"]

_SCANS = {"paragraph": scan_paragraphs, "line": scan_lines, "file": scan_whole}


class TextFiles(IndexedSource):
    """Text to write, from ``.txt`` and ``.md`` files.

    Args:
        path: A file, a folder of them, or a pattern.
        unit: What a sample is: a ``paragraph`` (up to a blank line), a ``line`` or a ``file``.
    """

    def __init__(self, *, path: str, unit: Unit = "paragraph") -> None:
        super().__init__()
        if unit not in get_args(Unit):
            raise ValueError(f"unit must be one of {list(_SCANS)}, got {unit!r}")
        self.records = Records(find_files(path, (".txt", ".md")), _SCANS[unit], unit=f"{unit}s")

    def text(self, index: int) -> str:
        """The words of an item."""
        # Written by any system, read the same.
        return self.records.read_text(index).replace("\r\n", "\n")

    def make(self, index: int) -> Sample:
        """Read the text."""
        turn = Turn(role="assistant", text=self.text(index))
        return Sample(key=self.key(index), kind="text", turns=(turn,), form="plain")


class TextLines(TextFiles):
    """Text to write, a field of each line of a jsonl file: ``{"text": "..."}``.

    Args:
        path: A ``.jsonl`` or ``.json`` file, a folder of them, or a pattern.
        text_key: Where the text stands.
    """

    def __init__(self, *, path: str, text_key: str = "text") -> None:
        FileSource.__init__(self)
        self.text_key = text_key
        self.records = json_records(path, "texts")

    def record(self, index: int) -> dict[str, object]:
        """The JSON object of an item."""
        return self.records.read_object(index)

    def text(self, index: int) -> str:
        """The words of an item."""
        return word_of(self.records.read_object(index), self.text_key)
