"""Pictures that clients send: counted, measured and only then decoded."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image, UnidentifiedImageError

from openjanus.processor.image import BROKEN, open_image
from openjanus.serve.errors import ApiError, refused
from openjanus.serve.options import ServeOptions
from openjanus.serve.schema import ImagePart, Message, Part, TextPart

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What Pillow is let try; its other readers are many and little used."""

Fetch = Callable[[str], bytes]


def library_messages(
    messages: Sequence[Message], options: ServeOptions, fetch: Fetch | None
) -> list[dict[str, Any]]:
    """Messages as the library takes them, every picture opened and not yet decoded.

    Args:
        messages: Of a request.
        options: The limits.
        fetch: Reads what an http address holds; None where that is off.

    Raises:
        ApiError: A picture is too much, or none at all, or a system message comes late; nothing has
            been decoded then.
    """
    pictures = [
        part
        for message in messages
        if isinstance(message.content, list)
        for part in message.content
        if isinstance(part, ImagePart)
    ]
    if len(pictures) > options.max_images:
        raise refused(
            f"the messages hold {len(pictures)} pictures, the server takes {options.max_images}: "
            "send fewer",
            param="messages",
        )
    opened: dict[int, Image.Image] = {}
    num_pixels = 0
    for number, part in enumerate(pictures):
        try:
            opened[id(part)] = image = _open(_read(part.image_url.url, options, fetch), options)
            num_pixels += image.width * image.height
            if num_pixels > options.max_request_pixels:
                raise refused(
                    f"it and those before have {num_pixels:,} pixels, "
                    f"{options.max_request_pixels:,} of a request are decoded: send smaller ones"
                )
        except ApiError as error:
            raise refused(f"picture {number}: {error.message}", param="messages") from error
    return _as_library(messages, opened)


def decode_pictures(messages: Sequence[dict[str, Any]], between: Callable[[], None]) -> None:
    """Decode the pictures of the library's messages, in place.

    Args:
        messages: Made by ``library_messages``.
        between: Called before each picture; what it raises ends the work.

    Raises:
        ApiError: One is broken.
    """
    for number, part in enumerate(picture_parts(messages)):
        between()
        try:
            decoded = open_image(part["image"])
        except ValueError as error:
            raise refused(f"picture {number}: {error}", param="messages") from error
        # Without what else its file said: that has been heeded.
        part["image"] = Image.new("RGB", decoded.size)
        part["image"].paste(decoded)


def picture_parts(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All parts of the library's messages that are pictures."""
    contents = [message["content"] for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part for part in parts if part["type"] == "image"]


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """All words of messages."""
    for message in messages:
        if isinstance(message.content, str):
            yield message.content
        elif message.content is not None:
            yield from (part.text for part in message.content if isinstance(part, TextPart))


def _as_library(
    messages: Sequence[Message], opened: dict[int, Image.Image]
) -> list[dict[str, Any]]:
    """Roles and contents as the library knows them.

    The first system messages are one, joined by an empty line. An assistant's empty turns are left
    out: a reply may be empty, and is sent back as it was.
    """
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if message.role in ("system", "developer"):
            if turns:
                raise refused(
                    f"messages.{index}: a system message must come before all others: "
                    "put it first, or say it as the user",
                    param=f"messages.{index}",
                )
            system.append(_words(message, f"messages.{index}"))
            continue
        if message.role == "assistant" and not any(text.strip() for text in texts_of([message])):
            continue
        content: Any = message.content
        if isinstance(content, list):
            content = [
                {"type": "image", "image": opened[id(part)]}
                if isinstance(part, ImagePart)
                else {"type": "text", "text": part.text}
                for part in _pictures_first(content)
            ]
        turns.append({"role": message.role, "content": "" if content is None else content})
    if system:
        turns.insert(0, {"role": "system", "content": "\n\n".join(system)})
    return turns


def _pictures_first(parts: Sequence[Part]) -> Sequence[Part]:
    """Parts in the order in which the models were taught: pictures, and then what is asked of them.

    Clients of OpenAI send the words first. Where something is said behind a picture, its place is
    meant, and all stay where they are.
    """
    words = [part for part in parts if isinstance(part, TextPart)]
    if list(parts[: len(words)]) != words:
        return parts
    return [*parts[len(words) :], *words]


def _words(message: Message, where: str) -> str:
    """The text of a system message."""
    if isinstance(message.content, list):
        if any(isinstance(part, ImagePart) for part in message.content):
            raise refused(f"{where}: a system message must be text alone", param=where)
        return "\n".join(texts_of([message]))
    return message.content or ""


def _read(url: str, options: ServeOptions, fetch: Fetch | None) -> bytes:
    """The bytes that an address stands for."""
    scheme = url.partition(":")[0].lower()
    if scheme in ("http", "https"):
        if fetch is None:
            raise refused(
                f"{scheme} addresses are not fetched by this server: send the picture as "
                "data:image/png;base64,..."
            )
        return fetch(url)
    header, comma, data = url.partition(",")
    if scheme != "data" or not comma or not header.endswith(";base64"):
        raise refused("a picture's url must read data:image/png;base64,...")
    limit = options.max_image_bytes
    if len(data) * 3 // 4 > limit + 3:
        raise refused(f"its file has more than {limit:,} bytes: send a smaller one")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(f"broken base64 ({error}): encode the picture again") from error


def _open(data: bytes, options: ServeOptions) -> Image.Image:
    """A picture whose header has been read, and no more."""
    most = options.max_image_pixels
    if len(data) > options.max_image_bytes:
        raise refused(f"its file has more than {options.max_image_bytes:,} bytes: send a smaller")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise refused(f"not a picture of a known kind: send {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise refused(f"too many pixels, {most:,} are decoded: send a smaller one") from error
    except (*BROKEN, ValueError) as error:
        raise refused(f"a broken picture ({error}): send a whole file") from error
    if image.width * image.height > most:
        raise refused(
            f"{image.width} x {image.height} pixels, {most:,} are decoded: send a smaller one"
        )
    return image
