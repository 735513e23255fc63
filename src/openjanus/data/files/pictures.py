"""Pictures that records name: paths, data addresses, or the bytes themselves."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, UnidentifiedImageError

from openjanus.data.files.index import expand_home
from openjanus.processor.image import BROKEN, open_image

MAX_PIXELS = 2**26
"""Most pixels of a picture that is decoded, unless an option says otherwise: 8192 x 8192."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm")
"""Names of files that are taken for pictures where a folder or an archive is looked through."""


def read_picture(source: Any, *, root: Path, max_pixels: int) -> np.ndarray:
    """A picture as training sees it: upright, alpha over white.

    Args:
        source: A path, absolute or below ``root``; a ``file:`` or ``data:`` address; bytes; or a
            mapping with ``bytes``, ``path`` or ``url``, as data sets hold them.
        root: Folder of relative paths.
        max_pixels: A picture with more is refused before it is decoded.

    Returns:
        uint8 (H, W, 3).

    Raises:
        FileNotFoundError: No file at a path.
        ValueError: Not a picture, a broken one, one that is too large, a remote address, or a
            relative path that leaves ``root``.
    """
    file, name = _locate(source, root)
    try:
        with Image.open(file) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ValueError(
                    f"{name} has {width} x {height} pixels, at most {max_pixels}: shrink it or "
                    "raise max_pixels"
                )
            return np.asarray(open_image(image))
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a picture that Pillow can read: replace it") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large to be decoded ({error}): shrink it") from error
    except BROKEN as error:
        raise ValueError(f"{name} is a broken picture ({error}): replace it") from error
    except ValueError as error:
        if name in str(error):
            raise
        raise ValueError(f"{name}: {error}") from error


def _locate(source: Any, root: Path) -> tuple[Path | io.BytesIO, str]:
    """Where to read a picture, and its name for messages."""
    if isinstance(source, bytes):
        return io.BytesIO(source), "the picture"
    if isinstance(source, Mapping):
        for key in ("bytes", "path", "url", "image"):
            if source.get(key) is not None:
                return _locate(source[key], root)
        raise ValueError(f"a picture needs bytes, path or url, got keys {sorted(source)}")
    if not isinstance(source, str) or not source:
        raise ValueError(f"a picture must be a path or an address, got {source!r}")
    if source.startswith("data:"):
        return io.BytesIO(_data_bytes(source)), "the data address"
    if source.startswith("file://"):
        source = unquote(urlsplit(source).path)
    if "://" in source:
        raise ValueError(
            f"{source} is not fetched: download the picture and give its path, or use data:"
        )
    given = expand_home(source)
    if not given.is_absolute() and Path(os.path.normpath(given)).parts[:1] == ("..",):
        raise ValueError(f"{source} leads out of {root}: give the picture's whole path")
    path = root / given
    try:
        found = path.is_file()
    except OSError as error:  # a name that no file can have
        raise ValueError(f"{source[:80]!r} is no path ({error.strerror}): check it") from error
    if not found:
        raise FileNotFoundError(f"no picture at {path}: check the path or the option image_root")
    return path, source


def _data_bytes(address: str) -> bytes:
    header, comma, data = address.partition(",")
    if not comma or not header.endswith(";base64"):
        raise ValueError("a data address must read data:image/png;base64,...")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"a data address holds broken base64 ({error}): encode it again") from (
            error
        )
