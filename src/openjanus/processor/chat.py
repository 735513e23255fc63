"""Dialogues: what callers send, and the text that a model's template makes of them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from openjanus.config import ProcessorConfig
from openjanus.processor.image import ImageLike, open_image
from openjanus.processor.templates import TEMPLATES
from openjanus.rules import near

IMAGE_MARK = "<image_placeholder>"
"""Where a picture stands in a turn's text."""

Role = Literal["user", "assistant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one side says."""

    role: Role
    text: str
    """Words; each ``<image_placeholder>`` stands for the next picture."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dialogue:
    """Messages, understood: turns with a mark for each picture, and the pictures in that order."""

    turns: tuple[Turn, ...]
    images: tuple[Image.Image, ...] = ()
    """RGB, upright."""
    system: str | None = None
    """The caller's system prompt; None leaves the model's own."""


def render(turns: Sequence[Turn], *, config: ProcessorConfig, system: str) -> str:
    """Write a dialogue in the model's template.

    Args:
        turns: Ends with an assistant turn, which is empty where the model speaks next.
        config: Template, role names and special tokens.
        system: System prompt; empty for none (drawing has none).

    Raises:
        ValueError: No last assistant turn, an empty turn elsewhere, a picture in an answer, or a
            special token written out in a text.
    """
    return render_with_spans(turns, config=config, system=system)[0]


def render_with_spans(
    turns: Sequence[Turn], *, config: ProcessorConfig, system: str, answers_draw: bool = False
) -> tuple[str, list[tuple[int, int]]]:
    """``render``, and where the answers are.

    Args:
        turns: As in ``render``.
        config: As in ``render``.
        system: As in ``render``.
        answers_draw: Whether answers may hold marks, of pictures that are drawn there.

    Returns:
        The text, and for each answer its (start, end) characters: from the space before its
        content, which tokenizers join to the first word, to the end of its end-of-sentence token.
    """
    if not turns or turns[-1].role != "assistant":
        raise ValueError(
            "a dialogue must end with an assistant turn: add an empty one where the model answers"
        )
    system = _checked(system, config, "the system prompt")
    template = TEMPLATES[config.template]
    text = f"{system}{template.after_system}" if system else ""
    spans: list[tuple[int, int]] = []
    for index, turn in enumerate(turns):
        content = _checked(turn.text, config, f"turn {index} ({turn.role})")
        is_answer = turn.role == "assistant"
        if is_answer and IMAGE_MARK in content and not answers_draw:
            raise ValueError(
                f"turn {index} (assistant) holds a picture: these models take pictures from the "
                "user alone"
            )
        if not content and not (is_answer and index == len(turns) - 1):
            raise ValueError(
                f"turn {index} ({turn.role}) is empty: write something or leave it out"
            )
        text += f"{config.assistant_role if is_answer else config.user_role}:"
        if not content:
            break
        start = len(text)
        text += template.before_answer if is_answer else template.before_user
        text += content.replace(IMAGE_MARK, config.image_token)
        text += config.eos_token if is_answer else template.after_user
        if is_answer:
            spans.append((start, len(text)))
    return text, spans


def reserved_tokens(config: ProcessorConfig) -> list[str]:
    """What no text may hold; ``IMAGE_MARK`` alone stands for a picture."""
    reserved = [config.bos_token, config.eos_token, config.pad_token]
    reserved += [config.boi_token, config.eoi_token]
    # Plain words as roles (Janus-1.3B) are no special tokens, and people do write them.
    reserved += [r for r in (config.user_role, config.assistant_role) if not r.isalpha()]
    if config.image_token != IMAGE_MARK:
        reserved.append(config.image_token)
    return reserved


def _checked(text: str, config: ProcessorConfig, where: str) -> str:
    """``text`` stripped. A special token spelt out in it would become a real one: a forged turn."""
    for token in reserved_tokens(config):
        if token in text:
            raise ValueError(f"{where} holds the special token {token!r}: take it out of the text")
    return text.strip()


def parse_messages(
    messages: str | Sequence[Mapping[str, Any]],
    images: Sequence[ImageLike] = (),
    *,
    allow_files: bool = True,
) -> Dialogue:
    """Understand messages in OpenAI's shape.

    Args:
        messages: One question, or mappings with ``role`` (system, user, assistant) and
            ``content``: a string, or a list of parts ``{"type": "text", "text": ...}``,
            ``{"type": "image", "image": ...}`` (PIL image, path or bytes) and
            ``{"type": "image_url", "image_url": {"url": ...}}`` (``data:`` in base64, or a path).
            Parts are joined by line breaks.
        images: Pictures for the ``<image_placeholder>`` marks in the texts, in order; without
            marks they are put before the first user text.
        allow_files: Whether paths may be opened; a server says no.

    Returns:
        The dialogue. The caller's data are left as they were.

    Raises:
        ValueError: An unknown role, key or part, a mark without a picture or the other way round,
            an address to fetch, or something that is not a picture.
        FileNotFoundError: No picture at a path.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if isinstance(messages, Mapping) or not messages:
        raise ValueError("messages must be a string or a list with a message in it")
    system: str | None = None
    turns: list[Turn] = []
    places: list[Image.Image | None] = []  # None: a mark that one of ``images`` is to fill
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role, content = _role_and_content(message, where)
        text, pictures = _parse_content(content, where, allow_files)
        if role == "system":
            if index != 0 or pictures:
                raise ValueError(f"{where}: a system message must be the first and text alone")
            system = text
            continue
        if role == "assistant" and pictures:
            raise ValueError(f"{where}: pictures belong into user messages")
        turns.append(Turn(role="assistant" if role == "assistant" else "user", text=text))
        places += pictures
    if not any(turn.role == "user" for turn in turns):
        raise ValueError("messages hold no user message: add one")
    given = [_open(image, f"images[{i}]", allow_files) for i, image in enumerate(images)]
    turns, pictures = _fill(turns, places, given)
    return Dialogue(turns=tuple(turns), images=tuple(pictures), system=system)


def _fill(
    turns: list[Turn], places: list[Image.Image | None], given: list[Image.Image]
) -> tuple[list[Turn], list[Image.Image]]:
    """Put given pictures at their marks, or before the first user text where there are none."""
    open_places = sum(place is None for place in places)
    if open_places == 0 and given:
        first = next(index for index, turn in enumerate(turns) if turn.role == "user")
        marks = f"{IMAGE_MARK}\n" * len(given)
        turns = list(turns)
        turns[first] = Turn(role="user", text=marks + turns[first].text)
        return turns, given + [place for place in places if place is not None]
    if open_places != len(given):
        raise ValueError(
            f"{open_places} {IMAGE_MARK} marks in the texts for {len(given)} images: "
            "give one image for each mark"
        )
    queue = iter(given)
    return turns, [next(queue) if place is None else place for place in places]


def _role_and_content(message: Mapping[str, Any], where: str) -> tuple[str, Any]:
    _check_keys(message, ("role", "content"), where)
    role, roles = message["role"], ["system", *get_args(Role)]
    if role not in roles:
        raise ValueError(f"{where}: unknown role {role!r}; {near(str(role), roles)}")
    return role, message["content"]


def _check_keys(
    data: Mapping[str, Any], required: Sequence[str], where: str, optional: Sequence[str] = ()
) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be a mapping, got {type(data).__name__}")
    known = [*required, *optional]
    for key in data:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; {near(str(key), known)}")
    for key in required:
        if key not in data:
            raise ValueError(f"{where}: missing key {key!r}")


def _parse_content(
    content: Any, where: str, allow_files: bool
) -> tuple[str, list[Image.Image | None]]:
    """A message's text with its marks, and what stands at each of them."""
    if isinstance(content, str):
        return content, [None] * content.count(IMAGE_MARK)
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise ValueError(
            f"{where}: content must be a string or a list of parts, got {type(content).__name__}"
        )
    texts: list[str] = []
    places: list[Image.Image | None] = []
    for index, part in enumerate(content):
        here = f"{where}.content[{index}]"
        if not isinstance(part, Mapping) or "type" not in part:
            raise ValueError(
                f"{here} must be a mapping with a type, such as {{'type': 'text', ..}}"
            )
        kind = part["type"]
        if kind not in ("text", "image", "image_url"):
            known = ["text", "image", "image_url"]
            raise ValueError(f"{here}: unknown part type {kind!r}; {near(str(kind), known)}")
        _check_keys(part, ("type", kind), here)
        value = part[kind]
        if kind == "text":
            if not isinstance(value, str):
                raise ValueError(f"{here}: text must be a string, got {type(value).__name__}")
            texts.append(value)
            places += [None] * value.count(IMAGE_MARK)
            continue
        source = _url_source(value, here) if kind == "image_url" else value
        texts.append(IMAGE_MARK)
        places.append(_open(source, here, allow_files))
    return "\n".join(texts), places


def _url_source(value: Any, where: str) -> str | bytes:
    """What an ``image_url`` names: the bytes of a data address, or a path."""
    _check_keys(value, ("url",), f"{where}.image_url", optional=("detail",))
    if value.get("detail", "auto") != "auto":
        raise ValueError(
            f"{where}: detail must be 'auto', got {value['detail']!r}: "
            "the encoder has a single resolution"
        )
    url = value["url"]
    if not isinstance(url, str):
        raise ValueError(f"{where}: url must be a string, got {type(url).__name__}")
    if url.startswith("data:"):
        header, comma, data = url.partition(",")
        if not comma or not header.endswith(";base64"):
            raise ValueError(f"{where}: a data address must read data:image/png;base64,...")
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{where}: broken base64 ({error}): encode the picture again") from (
                error
            )
    if "://" in url:
        raise ValueError(
            f"{where}: {url.partition('://')[0]} addresses are not fetched: download the picture "
            "and send it as data:image/png;base64,..."
        )
    return url


def _open(source: Any, where: str, allow_files: bool) -> Image.Image:
    if isinstance(source, str | Path) and not allow_files:
        raise ValueError(f"{where}: paths are not opened here: send data:image/png;base64,...")
    try:
        return open_image(source)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
