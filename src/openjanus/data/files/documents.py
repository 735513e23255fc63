"""Documents in which words and pictures take turns, some to be understood and some drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from openjanus.data.files.base import RecordSource
from openjanus.data.files.index import json_records
from openjanus.data.files.pictures import MAX_PIXELS
from openjanus.data.samples import DRAW_MARK, IMAGE_MARK, Kind, Sample, Turn
from openjanus.rules import near

ListedAs = Literal["understood", "drawn"]
PARTS = ("text", "image", "target_image")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A record, understood; its pictures are not opened."""

    text: str
    images: tuple[Any, ...]
    targets: tuple[Any, ...]

    prompt: str | None = None
    """What is asked, where the document is an answer."""

    @property
    def kind(self) -> Kind:
        """``gen`` where anything is drawn."""
        if self.targets:
            return "gen"
        return "und" if self.images else "text"


class DocumentFile(RecordSource):
    """Interleaved documents, one a line or as one JSON array.

    ``{"parts": [{"type": "text", "text": ...}, {"type": "image", "image": ...},
    {"type": "target_image", "target_image": ...}, ...]}``; or parallel lists, ``{"texts": ["...",
    null], "images": [null, "a.jpg"]}``, whose pictures all have the role of the option
    ``listed_as``. Every word and every drawn picture is learnt. With ``{"prompt": "..."}`` beside
    either, the document is the answer to it: a chat, whose pictures are all drawn.

    Args:
        path: A ``.jsonl`` or ``.json`` file, a folder of them, or a pattern.
        face: Take the documents of one kind alone: ``gen`` where anything is drawn, ``und`` where
            pictures are understood alone, ``text`` without any.
        image_root: Folder of relative paths of pictures; that of the file when left out.
        listed_as: What pictures of parallel lists are for: ``understood`` or ``drawn``.
        max_pixels: Pictures with more are refused before they are decoded.
    """

    def __init__(
        self,
        *,
        path: str,
        face: Kind | None = None,
        image_root: str | None = None,
        listed_as: ListedAs = "understood",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if listed_as not in get_args(ListedAs):
            raise ValueError(f"listed_as must be understood or drawn, got {listed_as!r}")
        self.listed_as: ListedAs = listed_as
        records = json_records(path, "documents")
        super().__init__(records, face=face, image_root=image_root, max_pixels=max_pixels)

    def kind_of(self, record: dict[str, Any]) -> Kind:
        """Told by the pictures that a record names."""
        return parse_document(record, self.listed_as).kind

    def num_drawn(self, index: int) -> int:
        """Pictures that a document draws; 0 for a broken one."""
        try:
            return len(parse_document(self.record(index), self.listed_as).targets)
        except ValueError:
            return 0

    def make(self, index: int) -> Sample:
        """Read the document and open its pictures."""
        document = parse_document(self.record(index), self.listed_as)
        beside = self.records.path(index)
        turns = [Turn(role="assistant", text=document.text)]
        if document.prompt is not None:
            turns.insert(0, Turn(role="user", text=document.prompt))
        return Sample(
            key=self.key(index),
            kind=document.kind,
            turns=tuple(turns),
            images=tuple(self.named_picture(image, beside) for image in document.images),
            targets=tuple(self.named_picture(target, beside) for target in document.targets),
            form="plain" if document.prompt is None else "chat",
        )


def parse_document(record: Mapping[str, Any], listed_as: ListedAs = "understood") -> Document:
    """Understand a record.

    Raises:
        ValueError: Neither form, an unknown part, or marks written out in a text.
    """
    parts = record["parts"] if "parts" in record else _from_lists(record, listed_as)
    if not isinstance(parts, list) or not parts:
        raise ValueError("'parts' must be a list with a part in it")
    text = ""
    images: list[Any] = []
    targets: list[Any] = []
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in PARTS:
            raise ValueError(
                f"part {number}: unknown type {kind!r}; {near(str(kind), list(PARTS))}"
            )
        if kind not in part:
            raise ValueError(f"part {number} has no {kind!r}, only {sorted(part)}")
        value = part[kind]
        if kind == "text":
            if not isinstance(value, str):
                raise ValueError(f"part {number}: text must be a text, got {value!r}")
            for mark in (IMAGE_MARK, DRAW_MARK):
                if mark in value:
                    raise ValueError(f"part {number} spells {mark}: make the picture a part")
            text += value
        elif kind == "image":
            text += IMAGE_MARK
            images.append(value)
        else:
            text += DRAW_MARK
            targets.append(value)
    prompt = _prompt(record)
    if prompt is not None and images:
        raise ValueError(
            "a document that answers a prompt draws its pictures: make each a target_image"
        )
    return Document(text=text, images=tuple(images), targets=tuple(targets), prompt=prompt)


def _prompt(record: Mapping[str, Any]) -> str | None:
    """What a document answers, if anything."""
    prompt = record.get("prompt")
    if prompt is None:
        return None
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"'prompt' must be words, got {prompt!r}: leave it out where none is")
    for mark in (IMAGE_MARK, DRAW_MARK):
        if mark in prompt:
            raise ValueError(f"'prompt' spells {mark}: prompts are words alone")
    return prompt


def _from_lists(record: Mapping[str, Any], listed_as: ListedAs) -> list[dict[str, Any]]:
    texts, images = record.get("texts"), record.get("images")
    if not isinstance(texts, list) or not isinstance(images, list):
        raise ValueError(
            f"a document has 'parts', or lists 'texts' and 'images', got {sorted(record)}"
        )
    if len(texts) != len(images):
        raise ValueError(f"{len(texts)} texts beside {len(images)} images: null fills the gaps")
    kind = "image" if listed_as == "understood" else "target_image"
    parts: list[dict[str, Any]] = []
    for number, (text, image) in enumerate(zip(texts, images, strict=True)):
        if (text is None) == (image is None):
            raise ValueError(f"place {number} must be either a text or a picture: null the other")
        one = {"type": "text", "text": text} if image is None else {"type": kind, kind: image}
        parts.append(one)
    return parts
