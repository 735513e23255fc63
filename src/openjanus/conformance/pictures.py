"""Pictures by a rule, so that a kit need not hold them, and files in modes that are not RGB."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

PATTERN_RULE = (
    "pixel (y, x) of picture i: R = (7x + 3y + i) mod 256, G = (x*x//5 + 11y) mod 256, "
    "B = (x*y//3 + 17i) mod 256"
)

_ORIENTATION = 0x0112
"""EXIF's tag of which side is up; 6 is a quarter turn."""


def pattern(index: int, width: int, height: int) -> np.ndarray:
    """The picture of ``PATTERN_RULE``: uint8 (height, width, 3)."""
    y, x = (axis.astype(np.int32) for axis in np.ogrid[0:height, 0:width])
    channels = (7 * x + 3 * y + index, x * x // 5 + 11 * y, x * y // 3 + 17 * index)
    return np.stack([channel % 256 for channel in channels], axis=-1).astype(np.uint8)


def mode_files(generator: torch.Generator) -> dict[str, Tensor]:
    """PNG files whose meaning nobody disputes: grey, a palette, lying on its side.

    Args:
        generator: Of the pixels.

    Returns:
        (bytes,) uint8 by name.
    """
    rgb = _noise(generator, 5, 6, 3)
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return {
        "grey": _png(Image.fromarray(_noise(generator, 5, 6))),
        "palette": _png(Image.fromarray(rgb).quantize(7)),
        "rotated": _png(Image.fromarray(rgb), exif=exif.tobytes()),
    }


def depth_files(generator: torch.Generator) -> dict[str, Tensor]:
    """PNG files that need a decision: alpha, 16 bits.

    Args:
        generator: Of the pixels.

    Returns:
        (bytes,) uint8 by name.
    """
    wide = _noise(generator, 5, 6).astype(np.uint16) * 257  # the same grey in 16 bits
    return {
        "alpha": _png(Image.fromarray(_noise(generator, 5, 6, 4))),
        "sixteen_bits": _png(Image.fromarray(wide)),
    }


def _noise(generator: torch.Generator, *shape: int) -> np.ndarray:
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator).numpy()


def _png(image: Image.Image, **options: bytes) -> Tensor:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return torch.tensor(list(buffer.getvalue()), dtype=torch.uint8)
