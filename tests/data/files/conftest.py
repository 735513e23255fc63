"""Tiny files of each format."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

RED, BLUE = (200, 30, 30), (30, 30, 200)


def encode_picture(
    colour: tuple[int, ...] = RED, size=(6, 4), kind: str = "PNG", **options
) -> bytes:
    buffer = io.BytesIO()
    mode = "RGBA" if len(colour) == 4 else "RGB"
    Image.new(mode, size, colour).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def picture_bytes() -> Callable[..., bytes]:
    """``picture_bytes(colour, size=(6, 4), kind="PNG")``: a plain picture as a file."""
    return encode_picture


@pytest.fixture
def write_lines(tmp_path) -> Callable[..., Path]:
    """``write_lines("a.jsonl", [{...}, ...])``."""

    def write(name: str, records: Sequence[Any], end: str = "\n") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
        path.write_bytes("".join(line + end for line in lines).encode())
        return path

    return write


@pytest.fixture
def pictures(tmp_path) -> Path:
    """The folder of ``red.png`` and ``blue.png``, 6 x 4."""
    (tmp_path / "red.png").write_bytes(encode_picture(RED))
    (tmp_path / "blue.png").write_bytes(encode_picture(BLUE))
    return tmp_path
