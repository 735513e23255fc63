"""Pictures with captions in jsonl, and folders of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from openjanus.data.files.base import (
    QUESTION,
    CaptionForm,
    FileSource,
    Form,
    RecordSource,
    digest_of,
    value_of,
    word_of,
)
from openjanus.data.files.index import expand_home, find_files, fingerprint_files, json_records
from openjanus.data.files.pictures import MAX_PIXELS, SUFFIXES
from openjanus.data.samples import Kind, Sample


class CaptionFile(RecordSource):
    """``{"image": "cat.jpg", "caption": "a cat"}``, one a line or as one JSON array.

    Args:
        path: A ``.jsonl`` or ``.json`` file, a folder of them, or a pattern.
        face: ``und`` answers with the caption, ``gen`` draws it.
        image_root: Folder of relative paths of pictures; that of the file when left out.
        form: ``chat``, or ``plain`` for stage I.
        question: ``und`` in form ``chat``: what is asked.
        image_key: Where the picture stands.
        caption_key: Where the caption stands.
        max_pixels: Pictures with more are refused before they are decoded.
    """

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
        self.caption_form = CaptionForm(face=face, form=form, question=question)
        self.image_key, self.caption_key = image_key, caption_key
        records = json_records(path, "captions")
        super().__init__(records, image_root=image_root, max_pixels=max_pixels)

    def kind_of(self, record: dict[str, Any]) -> Kind:
        """The option ``face``."""
        return self.caption_form.face

    def make(self, index: int) -> Sample:
        """Read the line and open its picture."""
        record = self.record(index)
        caption = word_of(record, self.caption_key)
        return self.caption_form.sample(self.key(index), self._picture(index, record), caption)

    def open_pictures(self, index: int) -> tuple[np.ndarray, ...]:
        """Open the picture of the line."""
        return (self._picture(index, self.record(index)),)

    def _picture(self, index: int, record: dict[str, Any]) -> np.ndarray:
        return self.named_picture(value_of(record, self.image_key), self.records.path(index))


class ImageFolder(FileSource):
    """A folder of classes, ``<class>/<picture>``: the papers' ``<category_name><image>``.

    Args:
        path: The folder.
        face: ``gen`` draws the name of the class, ``und`` answers with it.
        form: ``plain``, stage I's, or ``chat``.
        question: ``und`` in form ``chat``: what is asked.
        names: A JSON file of what to call each class, by folder; else the folder's name, with
            spaces for underscores.
        max_pixels: Pictures with more are refused before they are decoded.
    """

    def __init__(
        self,
        *,
        path: str,
        face: Kind = "gen",
        form: Form = "plain",
        question: str = "What is this?",
        names: str | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.caption_form = CaptionForm(face=face, form=form, question=question)
        super().__init__(max_pixels=max_pixels)
        root = expand_home(path)
        if not root.is_dir():
            raise FileNotFoundError(f"no folder at {path}: check the option path")
        self.files = find_files(path, SUFFIXES)
        loose = next((p for p in self.files.paths if p.parent == root), None)
        if loose is not None:
            raise ValueError(f"{loose} lies in no folder of a class: move it into one")
        self.names = None if names is None else _read_names(names)
        if self.names is not None:
            known = {p.relative_to(root).parts[0] for p in self.files.paths}
            lacking = sorted(known - set(self.names))
            if lacking:
                raise ValueError(f"{names} has no name for the class {lacking[0]!r}: add it")

    def __len__(self) -> int:
        return len(self.files.paths)

    def key(self, index: int) -> str:
        """``class/picture``."""
        return self.files.name(index)

    def folder(self) -> Path:
        """That of the files."""
        return self.files.root

    def fingerprint(self) -> str:
        """Of the names and sizes of the pictures."""
        return digest_of(fingerprint_files(self.files), json.dumps(self.names))

    def name_of(self, index: int) -> str:
        """What an item's class is called."""
        folder = self.files.paths[index].relative_to(self.files.root).parts[0]
        return folder.replace("_", " ") if self.names is None else self.names[folder]

    def record(self, index: int) -> dict[str, Any]:
        """A line of an image-caption jsonl."""
        path = self.files.paths[index].resolve()
        return {"image": str(path), "caption": self.name_of(index)}

    def make(self, index: int) -> Sample:
        """Open the picture."""
        path = self.files.paths[index].absolute()
        return self.caption_form.sample(
            self.key(index), self.named_picture(str(path), path), self.name_of(index)
        )


def _read_names(path: str) -> dict[str, str]:
    try:
        data = json.loads(expand_home(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): write it again") from error
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data.values()):
        raise ValueError(f'{path} must hold {{"folder": "name", ...}}: write it so')
    return data
