"""WebDataset's tar shards, read in any order: an index of byte offsets, no unpacking."""

from __future__ import annotations

import hashlib
import json
import tarfile
from array import array
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from openjanus.data.files.base import (
    QUESTION,
    CaptionForm,
    FileSource,
    Form,
    digest_of,
    word_of,
)
from openjanus.data.files.index import find_files, fingerprint_files
from openjanus.data.files.pictures import MAX_PIXELS, SUFFIXES
from openjanus.data.samples import Kind, Sample

ABSENT = -1
"""Offset of a member that a sample lacks."""

TWICE = -2
"""Offset of a member that a sample has more than once."""


class TarShards(FileSource):
    """Pictures with captions in tar shards: ``000.jpg`` beside ``000.txt`` or ``000.json``.

    Members of one name up to its first dot are a sample; what macOS adds to each as ``._NAME`` is
    passed over. Of a shard that is cut, what surely lies
    before the cut is read; one item stands for the sample at the cut and what followed, and says
    so.

    Args:
        path: A ``.tar`` file, a folder of them, or a pattern.
        face: ``und`` answers with the caption, ``gen`` draws it.
        form: ``chat``, or ``plain`` for stage I.
        question: ``und`` in form ``chat``: what is asked.
        caption_key: Where the caption stands in a ``.json``, which is read where no ``.txt`` is.
        max_pixels: Pictures with more are refused before they are decoded.
    """

    def __init__(
        self,
        *,
        path: str,
        face: Kind,
        form: Form = "chat",
        question: str = QUESTION,
        caption_key: str = "caption",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.caption_form = CaptionForm(face=face, form=form, question=question)
        super().__init__(max_pixels=max_pixels)
        self.caption_key = caption_key
        self.files = find_files(path, (".tar",))
        # (shard, then offset and size of picture, text and json), and names end to end.
        self._shards = array("I")
        self._spans = array("q")
        self._names = bytearray()
        self._name_ends = array("q")
        shards = tqdm(self.files.paths, desc="indexing shards", delay=1.0, leave=False)
        for number, shard in enumerate(shards):
            self._index(number, shard)

    def _index(self, number: int, shard: Path) -> None:
        name, found = None, {}
        cut = False
        try:
            size = shard.stat().st_size
            # "r:" refuses compression: a compressed shard has no offsets.
            with tarfile.open(shard, "r:", encoding="utf-8") as archive:
                for member in archive:
                    if not member.isfile() or PurePosixPath(member.name).name.startswith("._"):
                        continue
                    if member.offset_data + member.size > size:
                        cut = True
                        break
                    path = PurePosixPath(member.name)
                    stem, _, suffix = path.name.partition(".")
                    here = (path.parent / stem).as_posix()
                    if here != name:
                        self._add(number, name, found)
                        name, found = here, {}
                    role = _role(suffix.lower())
                    span = (member.offset_data, member.size)
                    found[role] = (TWICE, TWICE) if role in found else span
                else:
                    # A whole archive ends with empty blocks; the reader stops without them too.
                    cut = archive.offset + tarfile.BLOCKSIZE > size
        except tarfile.ReadError as error:
            if name is None:  # nothing was read: it is something else
                raise ValueError(
                    f"{shard} is no plain tar file ({error}): unpack a compressed one"
                ) from error
            cut = True
        if not cut:
            self._add(number, name, found)
        else:
            self._add(number, f"cut at {name}", {"cut": (0, 0)})

    def _add(self, shard: int, name: str | None, found: dict[str, tuple[int, int]]) -> None:
        if name is None:
            return
        self._shards.append(shard)
        for role in ("image", "txt", "json"):
            self._spans.extend(found.get(role, (ABSENT, ABSENT)))
        self._names += name.encode("utf-8", "surrogateescape")
        self._name_ends.append(len(self._names) if "cut" not in found else -len(self._names))

    def __len__(self) -> int:
        return len(self._shards)

    def key(self, index: int) -> str:
        """``shard.tar:sample``."""
        start = abs(self._name_ends[index - 1]) if index > 0 else 0
        name = self._names[start : abs(self._name_ends[index])].decode("utf-8", "backslashreplace")
        return f"{self.files.name(self._shards[index])}:{name}"

    def folder(self) -> Path:
        """That of the files."""
        return self.files.root

    def fingerprint(self) -> str:
        """Of the shards' names and sizes, and of where their members lie."""
        return digest_of(fingerprint_files(self.files), hashlib.sha256(self._spans).hexdigest())

    def make(self, index: int) -> Sample:
        """Read the members of a sample."""
        if self._name_ends[index] < 0:
            raise ValueError("the shard is cut here, what follows is lost: fetch it again")
        image, text, data = (self._read(index, place) for place in range(3))
        if image is None:
            raise ValueError(f"it has no picture, one of {', '.join(SUFFIXES)}: take it out")
        return self.caption_form.sample(
            self.key(index),
            self.named_picture(image, self.files.paths[self._shards[index]]),
            self._caption(text, data),
        )

    def _caption(self, text: bytes | None, data: bytes | None) -> str:
        try:
            if text is not None:
                return text.decode("utf-8-sig").strip()
            if data is None:
                raise ValueError("it has neither .txt nor .json: give it a caption")
            record: Any = json.loads(data.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ValueError(f"its caption is not UTF-8 ({error.reason}): convert it") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"its .json is not valid ({error.msg}): write it again") from error
        if not isinstance(record, dict):
            raise ValueError(f"its .json must be an object, got {type(record).__name__}")
        return word_of(record, self.caption_key)

    def _read(self, index: int, place: int) -> bytes | None:
        at = 6 * index + 2 * place
        offset, size = self._spans[at], self._spans[at + 1]
        if offset == ABSENT:
            return None
        if offset == TWICE:
            what = ("picture", ".txt", ".json")[place]
            raise ValueError(f"it has more than one {what}: give each sample a name of its own")
        with self.files.paths[self._shards[index]].open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _role(suffix: str) -> str:
    return "image" if f".{suffix}" in SUFFIXES else suffix
