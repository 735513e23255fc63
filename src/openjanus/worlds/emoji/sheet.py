"""A look at what is trained on: a grid of pictures with words under them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LINE_HEIGHT: Final = 12
"""Pixels a line of words, in Pillow's own font."""

LINES: Final = 3
"""Lines of words under a picture; what does not fit is cut off."""


def contact_sheet(
    pictures: Sequence[np.ndarray], words: Sequence[str], *, columns: int = 8, scale: int = 1
) -> Image.Image:
    """Lay pictures out in a grid, row by row, each with its words under it.

    Args:
        pictures: (H, W, 3) uint8 each, all of one size.
        words: What to write under each.
        columns: Pictures a row.
        scale: Whole-number enlargement, by nearest neighbour, so that pixels stay visible.

    Raises:
        ValueError: No pictures, pictures of unlike sizes, or not as many words as pictures.
    """
    if not pictures or len({picture.shape for picture in pictures}) != 1:
        raise ValueError(
            "a contact sheet needs at least one picture and all of one size, got "
            f"{sorted({picture.shape for picture in pictures})}"
        )
    if len(words) != len(pictures):
        raise ValueError(
            f"every picture needs its words, got {len(pictures)} pictures and {len(words)} words"
        )
    height, width = (side * scale for side in pictures[0].shape[:2])
    cell_width, cell_height = width + 8, height + LINES * LINE_HEIGHT + 8
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=10)
    letters = max(8, int(width / pen.textlength("e", font=font)))
    for i, (picture, line) in enumerate(zip(pictures, words, strict=True)):
        x, y = i % columns * cell_width + 4, i // columns * cell_height + 4
        image = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(image, (x, y))
        for j, text in enumerate(textwrap.wrap(line, letters)[:LINES]):
            pen.text((x, y + height + j * LINE_HEIGHT), text, fill="black", font=font)
    return sheet
