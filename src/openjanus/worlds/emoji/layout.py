"""Things on a ground: where they lie in a scene of either world, and what lies behind them.

The first world's places are found here, the wide world's in `wide_layout`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Final

import numpy as np

from openjanus.worlds.emoji.cells import is_held_out, relation_cell
from openjanus.worlds.emoji.draws import below
from openjanus.worlds.emoji.grounds import Ground, Rgb, draw_ground
from openjanus.worlds.emoji.scenes import OPPOSITE, Box, Scene, SceneObject, Tag, relations
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import WorldName
from openjanus.worlds.emoji.wide_layout import Group, lay_out_wide

MARGIN: Final = 0.02
"""Between a thing and the edge of the picture."""

GAP: Final = 0.04
"""At least so much, on one axis, lies between any two things."""

SIZES: Final = {1: (0.5, 0.85), 2: (0.33, 0.45), 3: (0.30, 0.42), 4: (0.30, 0.42)}
"""Range of a thing's longer side, by the number of things."""

BACKGROUNDS: Final[tuple[Rgb, ...]] = (
    (252, 252, 252),
    (226, 228, 232),
    (250, 238, 214),
    (206, 228, 246),
    (214, 240, 214),
    (250, 220, 226),
    (228, 218, 244),
    (196, 236, 232),
    (150, 156, 166),
    (120, 160, 196),
    (134, 176, 140),
    (196, 170, 136),
    (188, 142, 160),
    (92, 104, 124),
)
"""Pale and mid colours; a scene's background is one of them, jittered."""

JITTER: Final = 6
"""Largest change of a background's channel."""

CONTRAST: Final = 95.0
"""Least RGB distance of a background from the mean colour of each thing."""

LAYOUT_TRIES: Final = 8
"""Layouts tried for the same things before other things are drawn."""

PAINTED_SHARE: Final = 0.6
"""Share of the wide world's scenes whose ground is painted."""

SECOND_GROUND: Final = 40.0
"""Least RGB distance of the two colours of a painted ground."""


def lay_out(
    groups: list[Group], rng: np.random.Generator, sprites: Sprites, *, seen: bool = False
) -> tuple[SceneObject, ...] | None:
    """Give each thing a size and a place; the things of a group are about equally large.

    In the wide world there may be none; `seen` keeps to places without a held-out relation there,
    in the first world whoever calls looks himself.
    """
    if sprites.world.name == "wide":
        return lay_out_wide(groups, rng, sprites, _is_welcome if seen else _anywhere)
    total = sum(group.count for group in groups)
    smallest, largest = SIZES[total]
    owners: list[Group] = []
    sides: list[tuple[float, float]] = []
    for group in groups:
        longer = smallest + (largest - smallest) * rng.random()
        aspect = sprites.aspect(group.concept, group.vendor)
        for _ in range(group.count):
            owners.append(group)
            sides.append((longer * min(1.0, aspect), longer * min(1.0, 1 / aspect)))
    boxes = _place(sides, rng)
    return tuple(
        SceneObject(concept=group.concept, vendor=group.vendor, colour=group.colour, box=box)
        for group, box in zip(owners, boxes, strict=True)
    )


def relations_are_seen(objects: Iterable[SceneObject]) -> bool:
    """Whether no relation between things of different concepts is held out, either way."""
    return all(_relation_is_seen(a, b) for a, b in combinations(objects, 2))


def _relation_is_seen(a: SceneObject, b: SceneObject) -> bool:
    if a.concept == b.concept:
        return True
    for relation in relations(a.box, b.box):
        if is_held_out(relation_cell(a.concept, relation, b.concept)):
            return False
        if is_held_out(relation_cell(b.concept, OPPOSITE[relation], a.concept)):
            return False
    return True


def _is_welcome(thing: SceneObject, others: Sequence[SceneObject]) -> bool:
    return all(_relation_is_seen(thing, other) for other in others)


def _anywhere(thing: SceneObject, others: Sequence[SceneObject]) -> bool:
    return True


def _place(sides: list[tuple[float, float]], rng: np.random.Generator) -> list[Box]:
    """Places for one to four things that keep `MARGIN` and `GAP`.

    The picture is cut across into two bands, and a band with two things is cut again the other
    way; each cut and each thing lies anywhere that it can. A coin turns the whole by 90 degrees.

    Args:
        sides: (width, height) of each, within `SIZES`.
        rng: Source of everything random.

    Returns:
        Boxes in the order of `sides`.
    """
    order = list(range(len(sides)))
    for i in range(len(order) - 1, 0, -1):
        j = below(rng, i + 1)
        order[i], order[j] = order[j], order[i]
    turned = rng.random() < 0.5
    along, across = (1, 0) if turned else (0, 1)
    first = (len(order) + (rng.random() < 0.5)) // 2
    bands = [band for band in (order[:first], order[first:]) if band]
    boxes: list[Box] = [(0.0, 0.0, 0.0, 0.0)] * len(sides)
    heights = [max(sides[i][across] for i in band) for band in bands]
    for band, (top, bottom) in zip(bands, _cut(heights, rng), strict=True):
        spans = _cut([sides[i][along] for i in band], rng)
        for i, (left, right) in zip(band, spans, strict=True):
            width, height = sides[i][along], sides[i][across]
            x = left + (right - left - width) * rng.random()
            y = top + (bottom - top - height) * rng.random()
            if turned:
                boxes[i] = (y, x, y + height, x + width)
            else:
                boxes[i] = (x, y, x + width, y + height)
    return boxes


def _cut(sizes: list[float], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Cut [0, 1], less its margins, into a span for each of one or two sizes, a gap between."""
    low, high = MARGIN, 1 - MARGIN
    if len(sizes) == 1:
        return [(low, high)]
    cut = low + sizes[0] + (high - low - sizes[0] - GAP - sizes[1]) * rng.random()
    return [(low, cut), (cut + GAP, high)]


def scene_on(
    objects: tuple[SceneObject, ...],
    background: Rgb,
    tag: Tag,
    rng: np.random.Generator,
    sprites: Sprites,
    *,
    plain: bool = False,
) -> Scene:
    """A scene of these things; in the wide world most have a painted ground, but for plain ones."""
    name: WorldName = sprites.world.name
    ground: Ground | None = None
    if name == "wide" and not plain and rng.random() < PAINTED_SHARE:
        known = tuple(c for c in BACKGROUNDS if _distance(c, background) >= SECOND_GROUND)
        second = background_for(objects, rng, sprites, known)
        ground = draw_ground(rng, (background, second))
    return Scene(objects=objects, background=background, tag=tag, ground=ground, world=name)


def background_for(
    objects: tuple[SceneObject, ...],
    rng: np.random.Generator,
    sprites: Sprites,
    known: tuple[Rgb, ...] = BACKGROUNDS,
    *,
    jittered: bool = True,
    in_order: bool = False,
) -> Rgb:
    """One of the known colours that stands out from everything, or else the one that does best.

    It is the first such one `in_order`, and any of them otherwise.
    """
    means = {sprites.mean_colour(x.concept, x.vendor, x.colour) for x in objects}
    start = 0 if in_order else below(rng, len(known))
    best, best_contrast = known[start], -1.0
    for colour in known[start:] + known[:start]:
        contrast = min(_distance(colour, mean) for mean in means)
        if contrast > best_contrast:
            best, best_contrast = colour, contrast
            if contrast >= CONTRAST:
                break
    if not jittered:
        return best
    red, green, blue = (min(255, channel + below(rng, 2 * JITTER + 1) - JITTER) for channel in best)
    return red, green, blue


def _distance(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    return ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2) ** 0.5
