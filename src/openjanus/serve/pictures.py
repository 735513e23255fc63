"""Pictures that clients send: counted, measured and only then decoded."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image, UnidentifiedImageError

from openjanus.serve.errors import ApiError, refused
from openjanus.serve.options import ServeOptions
from openjanus.serve.schema import ImagePart, Message, TextPart

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What Pillow is let try; its other readers are many and little used."""

Fetch = Callable[[str], bytes]


def library_messages(
    messages: Sequence[Message], options: ServeOptions, fetch: Fetch | None
) -> list[dict[str, Any]]:
    """Messages as the library takes them, every picture as the bytes of a file.

    Args:
        messages: Of a request.
        options: The limits.
        fetch: Reads what an http address holds; None where that is off.

    Raises:
        ApiError: A picture is too much, or none at all; nothing has been decoded then.
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
    files: dict[int, bytes] = {}
    for number, part in enumerate(pictures):
        try:
            files[id(part)] = data = _read(part.image_url.url, options, fetch)
            _check(data, options)
        except ApiError as error:
            raise refused(f"picture {number}: {error.message}", param="messages") from error
    return [_library_message(message, files) for message in messages]


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """All words of messages."""
    for message in messages:
        if isinstance(message.content, str):
            yield message.content
        elif message.content is not None:
            yield from (part.text for part in message.content if isinstance(part, TextPart))


def _library_message(message: Message, files: dict[int, bytes]) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    if not isinstance(message.content, list):
        return {"role": role, "content": message.content or ""}
    parts = [
        {"type": "image", "image": files[id(part)]}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part.text}
        for part in message.content
    ]
    return {"role": role, "content": parts}


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


def _check(data: bytes, options: ServeOptions) -> None:
    """Look at the header, before the library decodes the rest."""
    most = options.max_image_pixels
    if len(data) > options.max_image_bytes:
        raise refused(f"its file has more than {options.max_image_bytes:,} bytes: send a smaller")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except UnidentifiedImageError as error:
        raise refused(f"not a picture of a known kind: send {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise refused(f"too many pixels, {most:,} are decoded: send a smaller one") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise refused(f"a broken picture ({error}): send a whole file") from error
    if width * height > most:
        raise refused(f"{width} x {height} pixels, {most:,} are decoded: send a smaller one")
