"""Fixed places for the things of a scene: the fewest looks that one to four things can have.

A model that draws for a living learns arrangements; one that draws to show that it can compose
learns things, and each place that a thing may lie at is a place to learn it at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from openjanus.worlds.emoji.draws import below, pick
from openjanus.worlds.emoji.scenes import SceneObject

Slot = tuple[int, int]
"""Column and row: 0 first, 1 middle, 2 last."""

ARRANGEMENTS: Final[dict[int, tuple[tuple[Slot, ...], ...]]] = {
    1: (((1, 1),),),
    2: (((0, 1), (2, 1)), ((1, 0), (1, 2))),
    3: (((0, 0), (2, 0), (1, 2)), ((1, 0), (0, 2), (2, 2))),
    4: (((0, 0), (2, 0), (0, 2), (2, 2)),),
}
"""By the number of things: beside or above each other, a triangle, a square."""

MOST: Final = max(ARRANGEMENTS)
"""Things that a scene of slots may have."""

DIGITS: Final = 9
ROUNDING: Final = 1e-6


def largest_side(number: int, grid: int) -> int:
    """Places that the longer side of each of so many things takes: 2/3 or 5/12 of the grid."""
    return round(grid * (2 / 3 if number == 1 else 5 / 12))


def place_in_slots(
    objects: Sequence[SceneObject], grid: int, rng: np.random.Generator
) -> tuple[SceneObject, ...]:
    """Things in the slots of a random arrangement, in random order.

    Each lies in the middle of its slot, as far as it can begin on a place of the grid.

    Args:
        objects: One to four, of any size.
        grid: Places a side of the picture.
        rng: Source of everything random.

    Returns:
        The same things, resized and moved, in the order given.
    """
    side = largest_side(len(objects), grid)
    slots = list(pick(rng, ARRANGEMENTS[len(objects)]))
    for i in range(len(slots) - 1, 0, -1):
        j = below(rng, i + 1)
        slots[i], slots[j] = slots[j], slots[i]
    centres = (side / 2, grid / 2, grid - side / 2)
    placed = []
    for thing, (column, row) in zip(objects, slots, strict=True):
        x0, y0, x1, y1 = thing.box
        scale = side / grid / max(x1 - x0, y1 - y0)
        # Without the last digits, which differ from draw to draw: a thing has one size here.
        width, height = round((x1 - x0) * scale, DIGITS), round((y1 - y0) * scale, DIGITS)
        left = _nearest(centres[column] - width * grid / 2) / grid
        top = _nearest(centres[row] - height * grid / 2) / grid
        # Whatever hid a part of it before lies elsewhere now.
        box = (left, top, left + width, top + height)
        placed.append(replace(thing, box=box, visible=1.0))
    return tuple(placed)


def _nearest(place: float) -> int:
    """The nearest whole place; of two as near, the first, whatever rounding made of the half."""
    return math.ceil(place - 0.5 - ROUNDING)
