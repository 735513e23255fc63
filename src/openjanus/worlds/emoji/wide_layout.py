"""Places for the things of the wide world: one to six, of many sizes, some in front of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from openjanus.worlds.emoji.draws import below, pick
from openjanus.worlds.emoji.scenes import Box, SceneObject
from openjanus.worlds.emoji.sprites import LATTICE, Sprites

MARGIN: Final = 0.02
"""Between a thing and the edge of the picture."""

GAP: Final = 0.03
"""Between things where none is in front of another, on one axis at least."""

WIDE_SIZES: Final = {
    1: (0.22, 0.92),
    2: (0.18, 0.62),
    3: (0.16, 0.52),
    4: (0.15, 0.46),
    5: (0.14, 0.40),
    6: (0.14, 0.36),
}
"""Range of a thing's longer side, by the number of things; its logarithm is even."""

ALIKE: Final = 1.2
"""Things of one concept differ in size by so much from their own at most."""

CROWDED_SHARE: Final = 0.5
"""Share of the scenes of several things in which they may hide parts of each other."""

LEANING_SHARE: Final = 0.6
"""Share of the places tried there that lean on another thing on purpose."""

DEPTHS: Final = (0.1, 0.45)
"""How far such a thing reaches into the other, in the smaller of their sides."""

MAX_HIDDEN: Final = 0.3
"""Largest share of a thing's area that others hide."""

MAX_OVERLAP: Final = 0.25
"""Largest intersection over union of two boxes: a judge must be able to tell them apart."""

PLACE_TRIES: Final = 24
"""Places tried for a thing before the layout is given up."""


ONE_MORE_SHARE: Final = 0.6
"""In free scenes, how often the next concept is shown once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Some things of one concept, before they have places."""

    concept: str
    vendor: str
    colour: str | None
    count: int = 1


Welcome = Callable[[SceneObject, Sequence[SceneObject]], bool]
"""Whether a thing may stand where it does, beside those that are there."""


def wide_counts(rng: np.random.Generator) -> tuple[int, ...]:
    """Things a concept in a free scene: one to six in all, each as likely."""
    left, counts = 1 + below(rng, 6), []
    while left:
        counts.append(1 if rng.random() < ONE_MORE_SHARE else 1 + below(rng, left))
        left -= counts[-1]
    return tuple(counts)


def lay_out_wide(
    groups: Sequence[Group], rng: np.random.Generator, sprites: Sprites, welcome: Welcome
) -> tuple[SceneObject, ...] | None:
    """Give each thing a size and a place, the last in front; None where they find none.

    Args:
        groups: What is shown; things of one concept come one after another.
        rng: Source of everything random.
        sprites: The artwork: shapes and outlines.
        welcome: Asked of each place in turn.
    """
    total = sum(group.count for group in groups)
    smallest, largest = WIDE_SIZES[total]
    crowded = total > 1 and rng.random() < CROWDED_SHARE
    placed: list[SceneObject] = []
    for group in groups:
        typical = smallest * (largest / smallest) ** rng.random()
        aspect = sprites.aspect(group.concept, group.vendor)
        for _ in range(group.count):
            longer = typical * ALIKE ** (2 * rng.random() - 1)
            longer = min(max(longer, smallest), largest)
            side = (longer * min(1.0, aspect), longer * min(1.0, 1 / aspect))
            thing = _placed(group, side, placed, rng, crowded=crowded, welcome=welcome)
            if thing is None:
                return None
            placed.append(thing)
    if not crowded:
        return tuple(placed)
    shares = visible_shares(placed, sprites)
    if min(shares) < 1 - MAX_HIDDEN:
        return None
    return tuple(replace(thing, visible=share) for thing, share in zip(placed, shares, strict=True))


def _placed(
    group: Group,
    side: tuple[float, float],
    placed: Sequence[SceneObject],
    rng: np.random.Generator,
    *,
    crowded: bool,
    welcome: Welcome,
) -> SceneObject | None:
    """A thing where it neither leaves the picture, nor hides what it must not, nor is unwelcome."""
    width, height = side
    for _ in range(PLACE_TRIES):
        if crowded and placed and rng.random() < LEANING_SHARE:
            x, y = _leaning(side, pick(rng, placed).box, rng)
            if min(x, y) < MARGIN or max(x + width, y + height) > 1 - MARGIN:
                continue
        else:
            x = MARGIN + (1 - 2 * MARGIN - width) * rng.random()
            y = MARGIN + (1 - 2 * MARGIN - height) * rng.random()
        box = (x, y, x + width, y + height)
        if crowded:
            fits = all(_overlap(box, other.box) <= MAX_OVERLAP for other in placed)
        else:
            fits = all(_are_apart(box, other.box) for other in placed)
        if not fits:
            continue
        thing = SceneObject(
            concept=group.concept, vendor=group.vendor, colour=group.colour, box=box
        )
        if welcome(thing, placed):
            return thing
    return None


def _leaning(
    side: tuple[float, float], other: Box, rng: np.random.Generator
) -> tuple[float, float]:
    """Left and top of a thing that reaches a little into another's box, from any side."""
    axis = below(rng, 2)
    low, high = DEPTHS
    depth = (low + (high - low) * rng.random()) * min(side[axis], other[axis + 2] - other[axis])
    before = rng.random() < 0.5
    near = other[axis] - side[axis] + depth if before else other[axis + 2] - depth
    across = 1 - axis
    far = (other[across] + other[across + 2]) / 2 - side[across] / 2
    far += (rng.random() - 0.5) * (other[across + 2] - other[across])
    return (near, far) if axis == 0 else (far, near)


def _are_apart(a: Box, b: Box) -> bool:
    return max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= GAP


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (areas - shared)


_MIDDLES: Final = (np.arange(LATTICE) + 0.5) / LATTICE


def visible_shares(objects: Sequence[SceneObject], sprites: Sprites) -> list[float]:
    """Share of each thing's area that no later thing hides, at the points of its outline."""
    shares = []
    for i, thing in enumerate(objects):
        in_front = [x for x in objects[i + 1 :] if _overlap(thing.box, x.box) > 0]
        if not in_front:
            shares.append(1.0)
            continue
        own = sprites.outline(thing.concept, thing.vendor)
        seen = own
        x0, y0, x1, y1 = thing.box
        for other in in_front:
            left, top, right, bottom = other.box
            columns = np.floor((x0 + _MIDDLES * (x1 - x0) - left) / (right - left) * LATTICE)
            rows = np.floor((y0 + _MIDDLES * (y1 - y0) - top) / (bottom - top) * LATTICE)
            in_columns = (columns >= 0) & (columns < LATTICE)
            in_rows = (rows >= 0) & (rows < LATTICE)
            front = sprites.outline(other.concept, other.vendor)
            hidden = np.zeros_like(own)
            hidden[np.ix_(in_rows, in_columns)] = front[
                np.ix_(rows[in_rows].astype(int), columns[in_columns].astype(int))
            ]
            seen = seen & ~hidden
        area = np.count_nonzero(own)
        shares.append(np.count_nonzero(seen) / area if area else 1.0)
    return shares
