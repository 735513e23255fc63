"""Parquet files with the bytes of pictures, as the hub's data sets are stored."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate, groupby
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from openjanus.data.files.base import (
    CAPTION_BEFORE,
    LOOKED_AT,
    QUESTION,
    CaptionForm,
    Change,
    ContainerSource,
    Form,
    digest_of,
    word_of,
)
from openjanus.data.files.index import find_files, fingerprint_files
from openjanus.data.files.pictures import MAX_PIXELS
from openjanus.data.samples import Kind, Sample

KEPT_GROUPS = 2
"""Row groups that stay in memory once read."""


class ParquetFile(ContainerSource):
    """Pictures with captions in parquet, a row each; a row group is read when a row of it is.

    Args:
        path: A ``.parquet`` file, a folder of them, or a pattern.
        face: ``und`` answers with the caption, ``gen`` draws it.
        image_root: Folder of relative paths of pictures, where rows hold paths.
        form: ``chat``, or ``plain`` for stage I.
        question: ``und`` in form ``chat``: what is asked.
        image_key: Column of the picture: bytes, a path, or a struct of both.
        caption_key: Column of the caption.
        max_pixels: Pictures with more are refused before they are decoded.

    Raises:
        ImportError: pyarrow, of the extra ``train``, is missing.
        ValueError: No parquet file, or one without the columns.
    """

    suffix = ".parquet"

    def __init__(
        self,
        *,
        path: str,
        face: Kind,
        image_root: str | None = None,
        form: Form = "chat",
        question: str = QUESTION,
        image_key: str = "image",
        caption_key: str = "caption",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        caption_form = CaptionForm(face=face, form=form, question=question)
        super().__init__(
            files=find_files(path, (self.suffix,)),
            caption_form=caption_form,
            keys={"image_key": image_key, "caption_key": caption_key},
            image_root=image_root,
            max_pixels=max_pixels,
        )
        self.image_key, self.caption_key = image_key, caption_key
        self._groups: list[tuple[int, int]] = []
        sizes: list[int] = []
        footers = hashlib.sha256()
        self._counts: list[int] = []
        for number, file in enumerate(self.files.paths):
            opened = _open(file)
            for key in (image_key, caption_key):
                if key not in opened.schema_arrow.names:
                    raise ValueError(
                        f"{file} has no column {key!r}, only {opened.schema_arrow.names}: name "
                        "it by image_key or caption_key"
                    )
            for group in range(opened.metadata.num_row_groups):
                self._groups.append((number, group))
                rows = opened.metadata.row_group(group)
                sizes.append(rows.num_rows)
                footers.update(_footer(rows, (image_key, caption_key)).encode())
            self._counts.append(opened.metadata.num_rows)
        self._footers = footers.hexdigest()
        self._starts = list(accumulate(sizes, initial=0))
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        # For a loader's process: neither locks nor what was read go along.
        return {**self.__dict__, "_kept": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._lock = Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    def _place(self, index: int) -> tuple[int, int]:
        """The row group of an item, and its row there."""
        group = bisect_right(self._starts, index) - 1
        return group, index - self._starts[group]

    def key(self, index: int) -> str:
        """``file.parquet:row``, rows of a file counted from 0."""
        group, _ = self._place(index)
        file = self._groups[group][0]
        first = bisect_left(self._groups, (file, 0))
        return f"{self.files.name(file)}:{index - self._starts[first]}"

    def fingerprint(self) -> str:
        """Of the files' names and sizes, and of their row groups."""
        return digest_of(fingerprint_files(self.files), str(self._starts))

    def content_fingerprint(self) -> str | None:
        """Of pictures in the rows the footers tell, as looking at them is a row group an item."""
        if self.image_root is not None:
            return super().content_fingerprint()
        number = min(LOOKED_AT, len(self))
        places = [self._place(place * len(self) // number) for place in range(number)]
        held: list[str] = []
        for group in sorted({group for group, _ in places}):
            file, at = self._groups[group]
            path = self.files.paths[file]
            try:
                table = _read_group(_open(path), at, path, columns=[self.caption_key])
            except ValueError:
                held.append("broken")
                continue
            words = table.column(self.caption_key)
            held += [repr(words[row].as_py()) for one, row in places if one == group]
        return digest_of(self._footers, *held)

    def make(self, index: int) -> Sample:
        """Read the row group of an item, unless it is at hand, and open its picture."""
        group, row = self._place(index)
        caption = {self.caption_key: self._table(group).column(self.caption_key)[row].as_py()}
        picture = self._picture(index)
        return self.caption_form.sample(
            self.key(index), picture, word_of(caption, self.caption_key)
        )

    def _picture(self, index: int) -> np.ndarray:
        group, row = self._place(index)
        named = self._table(group).column(self.image_key)[row].as_py()
        return self.named_picture(named, self.files.paths[self._groups[group][0]])

    def open_pictures(self, index: int) -> tuple[np.ndarray, ...]:
        """Open the picture of a row, whose column of captions can hold one."""
        group, _ = self._place(index)
        kind = self._table(group).schema.field(self.caption_key).type
        if not _holds_text(kind):
            raise ValueError(
                f"{self.caption_key!r} must be a column of texts, got {kind}: name another by "
                "caption_key"
            )
        return (self._picture(index),)

    def count_in(self, number: int) -> int:
        """Rows of a file."""
        return self._counts[number]

    def rewrite(
        self, number: int, changes: Sequence[Change], target: Path, *, with_captions: bool
    ) -> None:
        """Write the rows that are kept, group by group, in the file's own schema.

        With new captions there is one column more, ``caption_before``; a column of captions that
        are all missing becomes one of texts.
        """
        import pyarrow
        import pyarrow.parquet

        opened, at = _open(self.files.paths[number]), 0
        schema = opened.schema_arrow
        if with_captions:
            field = schema.field(self.caption_key)
            if pyarrow.types.is_null(field.type):
                field = field.with_type(pyarrow.string())
                schema = schema.set(schema.get_field_index(self.caption_key), field)
            before = pyarrow.field(CAPTION_BEFORE, field.type)
            place = schema.get_field_index(CAPTION_BEFORE)
            schema = schema.append(before) if place < 0 else schema.set(place, before)
        with pyarrow.parquet.ParquetWriter(target, schema) as writer:
            for group in range(opened.num_row_groups):
                rows = changes[at : at + opened.metadata.row_group(group).num_rows]
                at += len(rows)
                if not any(row.is_kept for row in rows):
                    continue
                table = _read_group(opened, group, self.files.paths[number], columns=None)
                table = _kept_of(table, [row.is_kept for row in rows])
                if with_captions:
                    columns = dict(zip(table.column_names, table.columns, strict=True))
                    columns[CAPTION_BEFORE] = columns[self.caption_key]
                    kind = schema.field(self.caption_key).type
                    if pyarrow.types.is_null(table.schema.field(self.caption_key).type):
                        columns[CAPTION_BEFORE] = pyarrow.nulls(len(table), kind)
                    told = [row.caption for row in rows if row.is_kept]
                    columns[self.caption_key] = pyarrow.array(
                        told, type=schema.field(self.caption_key).type
                    )
                    table = pyarrow.Table.from_arrays(
                        [columns[name] for name in schema.names], schema=schema
                    )
                writer.write_table(table)

    def _table(self, group: int) -> Any:
        with self._lock:
            if group not in self._kept:
                number, place = self._groups[group]
                columns = [self.image_key, self.caption_key]
                file = self.files.paths[number]
                self._kept[group] = _read_group(_open(file), place, file, columns=columns)
                while len(self._kept) > KEPT_GROUPS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            return self._kept[group]


def _holds_text(kind: Any) -> bool:
    """Whether a type of pyarrow is one of texts, or of what is all missing."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    return any(
        ask(kind)
        for ask in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    )


def _kept_of(table: Any, is_kept: Sequence[bool]) -> Any:
    """The rows that are kept, by runs: ``Table.filter`` cannot do it for columns of views."""
    import pyarrow

    runs, at = [], 0
    for wanted, rows in groupby(is_kept):
        number = len(list(rows))
        if wanted:
            runs.append(table.slice(at, number))
        at += number
    return pyarrow.concat_tables(runs)


def _footer(rows: Any, names: Sequence[str]) -> str:
    """What a row group's footer says of some columns: sizes, and the least and largest value."""
    told = []
    for place in range(rows.num_columns):
        column = rows.column(place)
        if not any(column.path_in_schema.split(".")[0] == name.split(".")[0] for name in names):
            continue
        told += [column.path_in_schema, column.num_values, column.data_page_offset]
        told += [column.total_compressed_size, column.total_uncompressed_size]
        found = column.statistics
        if found is not None and found.has_min_max:
            told += [found.min, found.max]
    return repr(told)


def _read_group(opened: Any, group: int, path: Path, *, columns: list[str] | None) -> Any:
    try:
        return opened.read_row_group(group, columns=columns)
    except OSError as error:
        raise ValueError(f"{path} is broken in it ({error}): fetch it again") from error


def _open(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "reading parquet needs pyarrow: pip install 'openjanus[train]'"
        ) from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is a broken parquet file ({error}): fetch it again") from error
