"""Dialogues in jsonl: LLaVA's and ShareGPT's, OpenAI's messages, and the fine-tuning tools'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from openjanus.data.files.base import Form, RecordSource, check_form
from openjanus.data.files.index import json_records
from openjanus.data.files.pictures import MAX_PIXELS
from openjanus.data.samples import IMAGE_MARK, Kind, Sample, Turn
from openjanus.rules import near

USER_MARK = "<image>"
"""How these files write the place of a picture."""

ROLES: dict[str, Literal["user", "assistant", "system"]] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "system": "system",
}
NOT_READ = ("videos", "audios", "tools", "video", "audio")
TARGET = "target_image"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """A record, understood; its pictures are not opened."""

    turns: tuple[Turn, ...]
    images: tuple[Any, ...]
    """What names each picture, in the order of the marks."""
    system: str | None
    target: Any
    """What names the picture to draw, or None."""

    @property
    def kind(self) -> Kind:
        """What the record teaches."""
        if self.target is not None:
            return "gen"
        return "und" if self.images else "text"


class ChatFile(RecordSource):
    """Dialogues, one a line, or as one JSON array.

    ``{"conversations": [{"from": "human", "value": ...}, ...], "image": ...}`` (LLaVA, ShareGPT),
    or ``{"messages": [{"role": "user", "content": ...}, ...], "images": [...]}`` with ``<image>``
    in the texts, or with OpenAI's parts. ``target_image`` beside one user turn is a picture to
    draw. Other keys of a record are left alone.

    Args:
        path: A ``.jsonl`` or ``.json`` file, a folder of them, or a pattern.
        face: Take the lines of one kind alone: ``und``, ``gen`` or ``text``.
        image_root: Folder of relative paths of pictures; that of the file when left out.
        form: How a drawing is asked for: ``chat`` by the template, ``plain`` by the words alone.
        max_pixels: Pictures with more are refused before they are decoded.
    """

    def __init__(
        self,
        *,
        path: str,
        face: Kind | None = None,
        image_root: str | None = None,
        form: Form = "chat",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        check_form(form)
        self.form: Form = form
        records = json_records(path, "dialogues")
        super().__init__(records, face=face, image_root=image_root, max_pixels=max_pixels)

    def kind_of(self, record: dict[str, Any]) -> Kind:
        """Told by the pictures that a record names."""
        return parse_chat(record).kind

    def make(self, index: int) -> Sample:
        """Read, understand, and open the pictures."""
        chat, beside = parse_chat(self.record(index)), self.records.path(index)
        target = None if chat.target is None else self.named_picture(chat.target, beside)
        return Sample(
            key=self.key(index),
            kind=chat.kind,
            turns=chat.turns,
            images=tuple(self.named_picture(image, beside) for image in chat.images),
            target=target,
            form=self.form if chat.kind == "gen" else "chat",
            system=chat.system,
        )


def parse_chat(record: Mapping[str, Any]) -> Chat:
    """Understand a record.

    Raises:
        ValueError: Neither form, an unknown role, or marks and pictures that differ in number.
    """
    for name in NOT_READ:
        if record.get(name):
            raise ValueError(f"{name!r} are not read: take the record out")
    given = _listed(record)
    system: str | None = None
    turns: list[Turn] = []
    places: list[Any] = []
    for number, (role, content) in enumerate(_messages(record)):
        text, pictures = _content(content, f"message {number}")
        if role == "system":
            if number > 0 or pictures:
                raise ValueError(f"message {number}: a system message is the first, text alone")
            system = text
            continue
        turns.append(Turn(role=role, text=text))
        places += pictures
    if not turns:
        raise ValueError("it holds no turn of a user or an assistant: add one")
    if record.get(TARGET) is not None:
        return _drawing(turns, [*places, *given], system, record[TARGET])
    turns, images = _fill(turns, places, given)
    return Chat(turns=tuple(turns), images=tuple(images), system=system, target=None)


def _listed(record: Mapping[str, Any]) -> list[Any]:
    """The pictures that stand beside the messages."""
    found: list[Any] = []
    for name in ("image", "images"):
        value = record.get(name)
        if value is None or value == "":
            continue
        found += value if isinstance(value, list) else [value]
    return found


def _messages(
    record: Mapping[str, Any],
) -> list[tuple[Literal["user", "assistant", "system"], Any]]:
    if ("conversations" in record) == ("messages" in record):
        raise ValueError(
            f"a dialogue has either 'messages' or 'conversations', got keys {sorted(record)}"
        )
    name = "messages" if "messages" in record else "conversations"
    if not isinstance(record[name], list) or not record[name]:
        raise ValueError(f"{name!r} must be a list with a message in it")
    result = []
    for number, message in enumerate(record[name]):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {number} must be an object, got {type(message).__name__}")
        # Both spellings are met under both names.
        keys = ("from", "value") if "from" in message else ("role", "content")
        for key in keys:
            if key not in message:
                raise ValueError(f"message {number} has no {key!r}, only {sorted(message)}")
        role = message[keys[0]]
        if not isinstance(role, str) or role not in ROLES:
            raise ValueError(
                f"message {number}: unknown role {role!r}; {near(str(role), list(ROLES))}"
            )
        result.append((ROLES[role], message[keys[1]]))
    return result


def _content(content: Any, where: str) -> tuple[str, list[Any]]:
    """A message's text with our marks, and what each is (None: the next of those listed)."""
    if isinstance(content, str):
        text = content.replace(USER_MARK, IMAGE_MARK)
        return text, [None] * text.count(IMAGE_MARK)
    if not isinstance(content, list):
        raise ValueError(f"{where}: content must be a text or a list of parts, got {content!r}")
    texts: list[str] = []
    places: list[Any] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text = part["text"].replace(USER_MARK, IMAGE_MARK)
            texts.append(text)
            places += [None] * text.count(IMAGE_MARK)
        elif kind in ("image", "image_url"):
            texts.append(IMAGE_MARK)
            places.append(next((part[k] for k in (kind, "path", "url") if part.get(k)), None))
        else:
            raise ValueError(
                f"{where}: a part must be of type text, image or image_url, got {str(part)[:80]!r}"
            )
    return "\n".join(texts), places


def _fill(turns: list[Turn], places: list[Any], given: list[Any]) -> tuple[list[Turn], list[Any]]:
    """Put listed pictures at their marks, or before the first user text where there are none."""
    vacant = sum(place is None for place in places)
    if vacant == 0 and given and not places:
        first = next((n for n, turn in enumerate(turns) if turn.role == "user"), None)
        if first is None:
            raise ValueError("pictures need a user message to stand in: add one")
        text = f"{IMAGE_MARK}\n" * len(given) + turns[first].text
        return [*turns[:first], Turn(role="user", text=text), *turns[first + 1 :]], given
    if vacant != len(given):
        raise ValueError(
            f"{vacant} {USER_MARK} in the texts for {len(given)} pictures: write one mark for each"
        )
    queue = iter(given)
    return turns, [next(queue) if place is None else place for place in places]


def _drawing(turns: list[Turn], images: list[Any], system: str | None, target: Any) -> Chat:
    """A caption, and a picture to draw; an answer that only stands for the picture is dropped."""
    marks = (USER_MARK, IMAGE_MARK)
    if len(turns) == 2 and turns[1].role == "assistant" and turns[1].text.strip() in ("", *marks):
        images = images[: len(images) - turns[1].text.count(IMAGE_MARK)]
        turns = turns[:1]
    if [turn.role for turn in turns] != ["user"]:
        raise ValueError(
            f"{TARGET} stands beside one user message, what to draw, got "
            f"{[turn.role for turn in turns]}: leave the others out"
        )
    if images:
        raise ValueError(
            f"a drawing takes no pictures beside {TARGET}: these models cannot edit or combine them"
        )
    if system:
        raise ValueError("a drawing has no system prompt: leave the system message out")
    return Chat(turns=tuple(turns), images=(), system=None, target=target)
