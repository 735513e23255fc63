"""What a scene is, GenEval's spatial relation, and drawing a scene as pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from PIL import Image

from openjanus.worlds.emoji.grounds import Ground, Rgb, paint
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import WorldName

Tag = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr", "free"]
"""GenEval's six tags, and `free`: one to four things, repeated or not, tinted or not (in the wide
world, one to six)."""

TAGS: Final[tuple[Tag, ...]] = get_args(Tag)
GENEVAL_TAGS: Final[tuple[Tag, ...]] = TAGS[:-1]

RELATIONS: Final = ("left of", "right of", "above", "below")

OPPOSITE: Final = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in [0, 1]; y grows downwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One thing of a scene."""

    concept: str
    vendor: str
    colour: str | None
    """Its tint; None leaves the natural colours, of which nothing is ever said."""
    box: Box
    visible: float = 1.0
    """Share of its area that nothing hides, found at the points of its outline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A scene, known exactly. Things of one concept share their vendor and colour."""

    objects: tuple[SceneObject, ...]
    """Later ones in front."""
    background: Rgb
    """0 to 255."""
    tag: Tag
    ground: Ground | None = None
    """What is painted in place of a plain background."""
    world: WorldName = "v0"


def relations(box_a: Box, box_b: Box) -> set[str]:
    """Where a is, seen from b, by GenEval's rule: none, one or two of `RELATIONS`.

    The offset of the centres is reduced on each axis by a tenth of both sizes, not below 0, and
    divided by its own length before that; above one half it counts.
    """
    reduced_x, offset_x = _offset(box_a[0], box_a[2], box_b[0], box_b[2])
    reduced_y, offset_y = _offset(box_a[1], box_a[3], box_b[1], box_b[3])
    if reduced_x == 0 and reduced_y == 0:
        return set()
    half = 0.5 * math.hypot(offset_x, offset_y)
    found = set()
    if reduced_x > half:
        found.add("right of" if offset_x > 0 else "left of")
    if reduced_y > half:
        found.add("below" if offset_y > 0 else "above")
    return found


def _offset(a0: float, a1: float, b0: float, b1: float) -> tuple[float, float]:
    """(reduced distance, signed distance) of two centres on one axis."""
    offset = (a0 + a1 - b0 - b1) / 2
    return max(0.0, abs(offset) - 0.1 * (a1 - a0 + b1 - b0)), offset


def render(scene: Scene, size: int, sprites: Sprites) -> np.ndarray:
    """Draw a scene, antialiased, each thing's box rounded to whole pixels.

    Args:
        scene: What to draw.
        size: Side of the picture in pixels.
        sprites: The artwork.

    Returns:
        (size, size, 3) uint8.
    """
    if scene.ground is None:
        canvas = np.empty((size, size, 3), dtype=np.uint8)
        canvas[:] = scene.background
    else:
        canvas = paint(scene.ground, size)
    for thing in scene.objects:
        x0, y0, x1, y1 = thing.box
        left, top = round(x0 * size), round(y0 * size)
        width, height = max(1, round((x1 - x0) * size)), max(1, round((y1 - y0) * size))
        sprite = sprites.drawn(thing.concept, thing.vendor, thing.colour)
        pixels = np.asarray(sprite.resize((width, height), Image.Resampling.HAMMING))
        region = canvas[top : top + height, left : left + width]
        # Rounding may push a box one pixel over the edge.
        pixels = pixels[: region.shape[0], : region.shape[1]]
        behind = region * (255 - pixels[..., 3:]).astype(np.uint16)
        region[:] = pixels[..., :3] + ((behind + 127) // 255).astype(np.uint8)
    return canvas
