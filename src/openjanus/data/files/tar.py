"""WebDataset's tar shards, read in any order: an index of byte offsets, no unpacking."""

from __future__ import annotations

import hashlib
import json
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from openjanus.data.files.base import (
    CAPTION_BEFORE,
    QUESTION,
    CaptionForm,
    Change,
    ContainerSource,
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


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a shard."""

    info: tarfile.TarInfo
    suffix: str
    """What follows the first dot of its name, in lower case."""
    end: int
    """Where the next one's header begins."""


class TarShards(ContainerSource):
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

    suffix = ".tar"

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
        caption_form = CaptionForm(face=face, form=form, question=question)
        super().__init__(
            files=find_files(path, (self.suffix,)),
            caption_form=caption_form,
            keys={"caption_key": caption_key},
            max_pixels=max_pixels,
        )
        self.caption_key = caption_key
        # (shard, then offset and size of picture, text and json), and names end to end.
        self._shards = array("I")
        self._counts: list[int] = []
        self._spans = array("q")
        self._names = bytearray()
        self._name_ends = array("q")
        shards = tqdm(self.files.paths, desc="indexing shards", delay=1.0, leave=False)
        for number, shard in enumerate(shards):
            self._index(number, shard)

    def _index(self, number: int, shard: Path) -> None:
        first = len(self._shards)
        for name, members in read_samples(shard):
            self._shards.append(number)
            found: dict[str, tuple[int, int]] = {}
            for member in members or ():
                role = _role(member.suffix)
                span = (member.info.offset_data, member.info.size)
                found[role] = (TWICE, TWICE) if role in found else span
            for role in ("image", "txt", "json"):
                self._spans.extend(found.get(role, (ABSENT, ABSENT)))
            self._names += name.encode("utf-8", "surrogateescape")
            self._name_ends.append(len(self._names) * (-1 if members is None else 1))
        self._counts.append(len(self._shards) - first)

    def __len__(self) -> int:
        return len(self._shards)

    def key(self, index: int) -> str:
        """``shard.tar:sample``."""
        start = abs(self._name_ends[index - 1]) if index > 0 else 0
        name = self._names[start : abs(self._name_ends[index])].decode("utf-8", "backslashreplace")
        return f"{self.files.name(self._shards[index])}:{name}"

    def fingerprint(self) -> str:
        """Of the shards' names and sizes, and of where their members lie."""
        return digest_of(fingerprint_files(self.files), hashlib.sha256(self._spans).hexdigest())

    def count_in(self, number: int) -> int:
        """Samples of a shard, with what stands for a cut."""
        return self._counts[number]

    def rewrite(
        self, number: int, changes: Sequence[Change], target: Path, *, with_captions: bool
    ) -> None:
        """Copy the members of the samples that are kept, with their headers.

        A new caption takes the place of ``NAME.txt``, which becomes ``NAME.caption_before.txt``;
        or, where there is none, of the key in ``NAME.json``, beside which it is kept. A sample
        with neither gets a ``NAME.txt``.
        """
        path = self.files.paths[number]
        with path.open("rb") as file, target.open("wb") as output:
            for (_, members), change in zip(read_samples(path), changes, strict=True):
                if not change.is_kept:
                    continue
                assert members is not None  # what stands for a cut is broken
                for block in self._blocks(file, members, change.caption):
                    output.write(block)
            output.write(bytes(2 * tarfile.BLOCKSIZE))
            output.write(bytes(-output.tell() % tarfile.RECORDSIZE))

    def _blocks(
        self, file: BinaryIO, members: Sequence[Member], caption: str | None
    ) -> Iterator[bytes]:
        """A sample as parts of a shard, its caption replaced where there is a new one."""
        told = next(
            (one for role in ("txt", "json") for one in members if one.suffix == role), None
        )
        before = f"{CAPTION_BEFORE}.txt"
        for member in members:
            info = member.info
            if caption is None or (
                member is not told and (told is None or member.suffix != before)
            ):
                yield _read_from(file, info.offset, member.end - info.offset)
                if caption is not None and told is None and _role(member.suffix) == "image":
                    name = info.name[: -len(member.suffix)] + "txt"
                    yield _packed(info, name, caption.encode("utf-8", "replace"))
            elif member.suffix == "txt":
                data = _read_from(file, info.offset_data, info.size)
                yield _packed(info, info.name, caption.encode("utf-8", "replace"))
                yield _packed(info, info.name[: -len("txt")] + before, data)
            elif member.suffix == "json":
                record = json.loads(_read_from(file, info.offset_data, info.size))
                if record.get(self.caption_key) is not None:
                    record[CAPTION_BEFORE] = record[self.caption_key]
                record[self.caption_key] = caption
                text = json.dumps(record, ensure_ascii=False)
                yield _packed(info, info.name, text.encode("utf-8", "backslashreplace"))

    def make(self, index: int) -> Sample:
        """Read the members of a sample."""
        picture, text, data = self._open(index)
        return self.caption_form.sample(self.key(index), picture, self._caption(text, data))

    def open_pictures(self, index: int) -> tuple[np.ndarray, ...]:
        """Open the picture of a sample; a ``.json`` that is to hold the words must be whole."""
        picture, text, data = self._open(index)
        if text is None and data is not None:
            _record_of(data)
        return (picture,)

    def _open(self, index: int) -> tuple[np.ndarray, bytes | None, bytes | None]:
        """Picture, text and json of a sample."""
        if self._name_ends[index] < 0:
            raise ValueError("the shard is cut here, what follows is lost: fetch it again")
        image, text, data = (self._read(index, place) for place in range(3))
        if image is None:
            raise ValueError(f"it has no picture, one of {', '.join(SUFFIXES)}: take it out")
        return self.named_picture(image, self.files.paths[self._shards[index]]), text, data

    def _caption(self, text: bytes | None, data: bytes | None) -> str:
        if text is not None:
            return _decoded(text).strip()
        if data is None:
            raise ValueError("it has neither .txt nor .json: give it a caption")
        return word_of(_record_of(data), self.caption_key)

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


def read_samples(shard: Path) -> Iterator[tuple[str, list[Member] | None]]:
    """Name and members of each sample of a shard; None stands for those past a cut.

    Raises:
        ValueError: No tar file, or a compressed one.
    """
    name, members, cut = None, [], False
    try:
        size = shard.stat().st_size
        # "r:" refuses compression: a compressed shard has no offsets.
        with tarfile.open(shard, "r:", encoding="utf-8") as archive:
            for info in archive:
                if not info.isfile() or PurePosixPath(info.name).name.startswith("._"):
                    continue
                if info.offset_data + info.size > size:
                    cut = True
                    break
                path = PurePosixPath(info.name)
                stem, _, suffix = path.name.partition(".")
                here = (path.parent / stem).as_posix()
                if here != name:
                    if name is not None:
                        yield name, members
                    name, members = here, []
                members.append(Member(info, suffix.lower(), archive.offset))
            else:
                # A whole archive ends with empty blocks; the reader stops without them too.
                cut = archive.offset + tarfile.BLOCKSIZE > size
    except tarfile.ReadError as error:
        if name is None:  # nothing was read: it is something else
            raise ValueError(
                f"{shard} is no plain tar file ({error}): unpack a compressed one"
            ) from error
        cut = True
    if cut:
        yield f"cut at {name}", None
    elif name is not None:
        yield name, members


def _role(suffix: str) -> str:
    return "image" if f".{suffix}" in SUFFIXES else suffix


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"its caption is not UTF-8 ({error.reason}): convert it") from error


def _record_of(data: bytes) -> dict[str, Any]:
    """What a ``.json`` holds."""
    try:
        record: Any = json.loads(_decoded(data))
    except json.JSONDecodeError as error:
        raise ValueError(f"its .json is not valid ({error.msg}): write it again") from error
    if not isinstance(record, dict):
        raise ValueError(f"its .json must be an object, got {type(record).__name__}")
    return record


def _read_from(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"{file.name} was cut while in use: start again")
    return data


def _packed(like: tarfile.TarInfo, name: str, data: bytes) -> bytes:
    """A member with the owner, the time and the rights of another."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), int(like.mtime), like.mode
    info.uid, info.gid, info.uname, info.gname = like.uid, like.gid, like.uname, like.gname
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return header + data + bytes(-len(data) % tarfile.BLOCKSIZE)
