"""What all sources of files share: options, faces, names of samples and of their errors."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from tqdm import tqdm

from openjanus.data.files.index import Files, Records, expand_home
from openjanus.data.files.pictures import MAX_PIXELS, read_picture
from openjanus.data.id_cache import picture_stamp
from openjanus.data.indices import checked_index
from openjanus.data.samples import IMAGE_MARK, KINDS, Kind, Sample, Turn

Form = Literal["chat", "plain"]

QUESTION = "Describe the image in detail."
"""What is asked about a picture that comes with a caption alone (Janus, stage II)."""

CAPTION_BEFORE = "caption_before"
"""Where the caption is kept that a new one took the place of."""

LOOKED_AT = 16
"""Items by which a source is known again where its files are of the same names and sizes."""


class FileSource(ABC):
    """Samples from files.

    A subclass says how many there are, what they are called, and how one is made.

    Args:
        image_root: Folder of relative paths of pictures; that of the file when left out.
        max_pixels: Pictures with more are refused before they are decoded.

    Raises:
        ValueError: An option against a rule.
    """

    def __init__(self, *, image_root: str | None = None, max_pixels: int = MAX_PIXELS) -> None:
        if max_pixels < 1:
            raise ValueError(f"max_pixels must be >= 1, got {max_pixels}")
        self.max_pixels = max_pixels
        self.image_root = None if image_root is None else expand_home(image_root)
        if self.image_root is not None and not self.image_root.is_dir():
            raise FileNotFoundError(f"no folder at {image_root}: check the option image_root")

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def key(self, index: int) -> str:
        """The name of an item, for ever: its file, and where in it."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Names the files as they are now: another one after an edit."""

    def content_fingerprint(self) -> str | None:
        """Names some items by what they hold, pictures that lie apart from the files as well.

        They are spread evenly over the source; one that is broken is so by name. None where
        reading them would take long.
        """
        digest = hashlib.sha256()
        number = min(LOOKED_AT, len(self))
        for place in range(number):
            try:
                sample = self[place * len(self) // number]
                held = (sample.turns, [picture_stamp(picture) for picture in sample.pictures])
            except ValueError:
                held = "broken"
            digest.update(f"{held}\x1e".encode())
        return digest.hexdigest()

    def folder(self) -> Path | None:
        """Where the files lie that keys name; None where a key says it by itself."""
        return None

    @abstractmethod
    def make(self, index: int) -> Sample:
        """Item ``index``, from 0; a message need not name it."""

    def require_records(self) -> None:
        """Refuse a format that has none, before anything is written.

        Raises:
            ValueError: As ``record``.
        """
        if type(self).record is FileSource.record and len(self) > 0:
            self.record(0)

    def record(self, index: int) -> dict[str, Any]:
        """An item as a line of a jsonl file.

        Raises:
            ValueError: The format has none.
        """
        raise ValueError(
            f"{self.key(index)}: samples of this format are no lines of a jsonl file: write them "
            "out as files and an image-caption jsonl first"
        )

    def __getitem__(self, index: int, /) -> Sample:
        """Item ``index``.

        Raises:
            IndexError: Past the end.
            ValueError: A broken item; the message names it.
        """
        index = checked_index(index, len(self))
        try:
            return self.make(index)
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(self._named(index, error)) from error

    def pictures(self, index: int) -> tuple[np.ndarray, ...]:
        """The pictures of an item, for which it needs no caption.

        Raises:
            ValueError: A broken item; the message names it.
        """
        try:
            return self.open_pictures(index)
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(self._named(index, error)) from error

    def open_pictures(self, index: int) -> tuple[np.ndarray, ...]:
        """As ``pictures``; a message need not name the item."""
        return self.make(index).pictures

    def _named(self, index: int, error: Exception) -> str:
        key = self.key(index)
        message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        message = " ".join(message.split())  # one line, whatever a library says
        return message if message.startswith((key, f"sample {key}")) else f"{key}: {message}"

    def named_picture(self, source: Any, beside: Path) -> np.ndarray:
        """A picture that an item names; ``beside`` is the file that names it."""
        root = beside.parent if self.image_root is None else self.image_root
        return read_picture(source, root=root, max_pixels=self.max_pixels)


class IndexedSource(FileSource):
    """A source whose items are byte ranges of files, ``self.records``."""

    records: Records

    def __len__(self) -> int:
        return len(self.records)

    def key(self, index: int) -> str:
        """``file:line``, the first of an item's lines."""
        return self.records.key(index)

    def folder(self) -> Path:
        """That of the records' files."""
        return self.records.files.root

    def fingerprint(self) -> str:
        """Of the files' names and sizes, and of where the records lie."""
        return self.records.fingerprint()


class RecordSource(IndexedSource):
    """A source whose items are JSON objects of files.

    Args:
        records: Where they lie.
        face: Keep the items of one kind alone; each is read once to know its kind. None keeps all.
        image_root: As ``FileSource``.
        max_pixels: As ``FileSource``.
    """

    def __init__(
        self,
        records: Records,
        *,
        face: Kind | None = None,
        image_root: str | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(image_root=image_root, max_pixels=max_pixels)
        self.records = records
        self.face: Kind | None = face
        if face is not None:
            check_face(face)
            self._keep_face(face)

    def _keep_face(self, face: Kind) -> None:
        chosen = []
        for index in tqdm(range(len(self.records)), desc=f"finding {face}", delay=1.0, leave=False):
            try:
                kind = self.kind_of(self.records.read_object(index))
            except ValueError:
                kind = face  # what cannot be read stays, so that it is named when its turn comes
            if kind == face:
                chosen.append(index)
        self.records.keep(chosen)

    @abstractmethod
    def kind_of(self, record: dict[str, Any]) -> Kind:
        """What a record teaches; pictures are not opened."""

    def record(self, index: int) -> dict[str, Any]:
        """The JSON object of an item."""
        return self.records.read_object(index)


def check_face(face: str) -> None:
    """Refuse what is no kind of sample."""
    if face not in KINDS:
        raise ValueError(f"face must be one of {list(KINDS)}, got {face!r}: change the option")


def check_form(form: str) -> None:
    """Refuse what is no form of a sample."""
    if form not in get_args(Form):
        raise ValueError(f"form must be chat or plain, got {form!r}: change the option")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionForm:
    """What is made of a picture and its words.

    Raises:
        ValueError: An option against a rule.
    """

    face: Kind
    """``und`` answers with the caption, ``gen`` draws it."""
    form: Form
    """``chat``, or ``plain`` for stage I."""
    question: str
    """``und`` in form ``chat``: what is asked."""

    def __post_init__(self) -> None:
        if self.face not in ("und", "gen"):
            raise ValueError(
                f"face must be und (answer with the caption) or gen (draw it), got {self.face!r}: "
                "change the option"
            )
        check_form(self.form)
        if not self.question.strip():
            raise ValueError("question is empty: say what is asked about a picture")

    def sample(self, key: str, picture: np.ndarray, caption: str) -> Sample:
        """A picture and its words as a sample.

        Raises:
            ValueError: No words.
        """
        if not caption.strip():
            raise ValueError("the caption is empty: write one or leave the picture out")
        if self.face == "gen":
            role: Literal["user", "assistant"] = "user" if self.form == "chat" else "assistant"
            turns = (Turn(role=role, text=caption),)
            return Sample(key=key, kind="gen", turns=turns, target=picture, form=self.form)
        if self.form == "plain":
            turns = (Turn(role="assistant", text=f"{IMAGE_MARK}{caption}"),)
        else:
            turns = (
                Turn(role="user", text=f"{IMAGE_MARK}\n{self.question}"),
                Turn(role="assistant", text=caption),
            )
        return Sample(key=key, kind="und", turns=turns, images=(picture,), form=self.form)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What becomes of an item where its file is written anew."""

    is_kept: bool
    caption: str | None = None
    """In place of its own, if any, which stays beside it; None leaves the item byte for byte."""


class ContainerSource(FileSource):
    """Pictures with captions whose files hold both: some of them are files of the same kind.

    Args:
        files: What the items lie in, file after file.
        caption_form: What is made of each.
        keys: Options that say where picture and caption stand; ``caption_key`` is one of them.
        image_root: As ``FileSource``.
        max_pixels: As ``FileSource``.
    """

    suffix: ClassVar[str]
    """Of its files."""

    def __init__(
        self,
        *,
        files: Files,
        caption_form: CaptionForm,
        keys: dict[str, str],
        image_root: str | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(image_root=image_root, max_pixels=max_pixels)
        self.files = files
        self.caption_form = caption_form
        self.keys = keys

    def folder(self) -> Path:
        """That of the files."""
        return self.files.root

    def options(self) -> dict[str, Any]:
        """All that decides, beside the files, what an item is: as plain data."""
        root = None if self.image_root is None else str(self.image_root)
        others = {"image_root": root, "max_pixels": self.max_pixels}
        return asdict(self.caption_form) | self.keys | others

    @abstractmethod
    def count_in(self, number: int) -> int:
        """Items of a file."""

    @abstractmethod
    def rewrite(
        self, number: int, changes: Sequence[Change], target: Path, *, with_captions: bool
    ) -> None:
        """Write a file anew.

        Args:
            number: Which of ``files``.
            changes: For each of its items, in order.
            target: Where to; what is there is lost.
            with_captions: Whether all that is kept has a new caption.

        Raises:
            ValueError: The file is broken.
        """


def value_of(record: dict[str, Any], key: str) -> Any:
    """A value of a record.

    Raises:
        ValueError: It is missing.
    """
    if key not in record:
        raise ValueError(f"no {key!r} in it, only {sorted(record)}: name the key by an option")
    return record[key]


def word_of(record: dict[str, Any], key: str) -> str:
    """A text of a record.

    Raises:
        ValueError: It is missing or no text.
    """
    value = value_of(record, key)
    if not isinstance(value, str):
        raise ValueError(f"{key!r} must be a text, got {type(value).__name__}: write one line each")
    return value


def digest_of(*parts: str) -> str:
    """SHA-256 of texts."""
    return hashlib.sha256("\x1e".join(parts).encode()).hexdigest()
