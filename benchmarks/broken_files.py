"""Files that are no pictures, to be sent to a server as if they were."""

from __future__ import annotations

import random
import struct
import zlib


def _png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checked = kind + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def broken_files() -> dict[str, bytes]:
    """Files that are no pictures, by name."""
    whole = _png(64, 64, (b"\0" + bytes(192)) * 64)
    rng = random.Random(5)
    files = {
        "nothing": b"",
        "garbage": rng.randbytes(4096),
        "words": b"not a picture at all" * 40,
        "bomb of 60,000 x 60,000": _png(60_000, 60_000, bytes(1000)),
        "bomb of 5,000 x 5,000": _png(5000, 5000, bytes(15_001 * 5000)),
        "a PNG with too few rows": _png(64, 64, bytes(1000)),
        "a TIFF": b"II*\0" + rng.randbytes(2000),
        "a GIF's head": b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + rng.randbytes(100),
        "a JPEG's head": b"\xff\xd8\xff\xe0" + rng.randbytes(3000),
        "a WEBP's head": b"RIFF\xff\xff\xff\x7fWEBPVP8 " + rng.randbytes(500),
    }
    for percent in range(0, 100, 10):
        files[f"cut at {percent} %"] = whole[: len(whole) * percent // 100]
    for number in range(10):
        head = bytearray(whole)
        head[rng.randrange(8, 33)] ^= 1 << rng.randrange(8)
        files[f"a bit of the head turned, {number}"] = bytes(head)
    return files
