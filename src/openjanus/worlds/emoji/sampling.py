"""Draw scenes at random: for training, none that touches a held-out cell; for exams, some that do.

Sampling asks of the sprites only their shapes and mean colours and draws no pixel, so a million
scenes take a minute or two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Final, Literal

import numpy as np

from openjanus.worlds.emoji.cells import (
    Cell,
    attribution_cell,
    cells_of,
    colour_cell,
    count_cell,
    held_out_cells,
    is_held_out,
    pair_cell,
    relation_cell,
)
from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.draws import below, pick
from openjanus.worlds.emoji.grounds import Ground, Rgb, draw_ground
from openjanus.worlds.emoji.scenes import OPPOSITE, Box, Scene, SceneObject, Tag, relations
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import WorldName
from openjanus.worlds.emoji.wide_layout import Group, lay_out_wide, wide_counts

Split = Literal["train", "held_out"]

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

TIDY_BACKGROUNDS: Final[tuple[Rgb, ...]] = (
    (252, 252, 252),
    (250, 238, 214),
    (206, 228, 246),
    (214, 240, 214),
    (92, 104, 124),
)
"""Grounds of tidy scenes, without jitter."""

TOUCH: Final = 1e-9
"""Rounding that is no overlap."""

CONTRAST: Final = 95.0
"""Least RGB distance of a background from the mean colour of each thing."""

FREE_COUNTS: Final = (
    (1,),
    (1,),
    (2,),
    (3,),
    (4,),
    (1, 1),
    (1, 1),
    (1, 1),
    (1, 2),
    (2, 1),
    (1, 3),
    (3, 1),
    (2, 2),
    (1, 1, 1),
    (1, 1, 2),
    (1, 1, 1, 1),
)
"""Things a concept, in scenes of the tag `free`; each line has the same chance to be tried, and
scenes of many concepts, which touch many cells, are rejected more often."""

LAYOUT_TRIES: Final = 8
"""Layouts tried for the same things before other things are drawn."""


PAINTED_SHARE: Final = 0.6
"""Share of the wide world's scenes whose ground is painted."""

SECOND_GROUND: Final = 40.0
"""Least RGB distance of the two colours of a painted ground."""

GROUP_TRIES: Final = 12
"""Draws of one concept beside others before all are drawn anew, in the wide world."""


def sample_scene(
    rng: np.random.Generator,
    tag: Tag,
    sprites: Sprites,
    *,
    split: Split = "train",
    grid: int | None = None,
    two_sizes: bool = False,
) -> Scene:
    """Draw a scene of one kind.

    Args:
        rng: Source of everything random.
        tag: The kind of scene.
        sprites: The artwork: its world, names, shapes, outlines and mean colours.
        split: "train" gives only scenes that touch no held-out cell; "held_out" gives a scene for
            a held-out cell of the tag, each with the same chance.
        grid: Places a side of a grid on which things begin, whole numbers of which they are
            large; on one of a few grounds. None is free of it. Only for "train" of world v0.
        two_sizes: On a grid: lone things are two thirds of the picture large and others five
            twelfths, on the first or the last of those grounds. The fewer looks a thing has, the
            sooner they are learnt.

    Raises:
        ValueError: A grid for "held_out", two sizes without a grid, or "held_out" for a tag that
            has no held-out cell.
    """
    _check_grid(grid, split, sprites, two_sizes=two_sizes)
    if split == "held_out":
        cells = held_out_cells(tag, sprites.world.name)
        if not cells:
            raise ValueError(f"tag {tag!r} combines nothing, so nothing is held out: draw 'train'")
        return scene_for_cell(cells[below(rng, len(cells))], rng, sprites)
    while True:
        groups = _draw_groups(rng, tag, sprites)
        if groups is None:
            continue
        for _ in range(LAYOUT_TRIES):
            objects = _lay_out(groups, rng, sprites, seen=True)
            if objects is None:
                continue
            if grid is not None:
                objects = _tidied(objects, grid, two_sizes=two_sizes)
                if objects is None:
                    continue
            if tag == "position" and len(relations(objects[0].box, objects[1].box)) != 1:
                continue
            if _relations_are_seen(objects):
                known = _grounds(grid, two_sizes=two_sizes)
                background = _background(objects, rng, sprites, known, jittered=grid is None)
                return _scene(objects, background, tag, rng, sprites)


def _check_grid(grid: int | None, split: Split, sprites: Sprites, *, two_sizes: bool) -> None:
    if grid is None:
        if two_sizes:
            raise ValueError("two_sizes are sizes on a grid: give a grid, for instance 12")
    elif sprites.world.name != "v0":
        raise ValueError(f"scenes of world {sprites.world.name} keep to no grid: leave it out")
    elif split == "held_out":
        raise ValueError("scenes of split held_out keep to no grid: leave it out")


def scene_for_cell(cell: Cell, rng: np.random.Generator, sprites: Sprites) -> Scene:
    """Draw a scene that shows just what a cell's prompt asks for.

    Other cells that it touches may be held out too; where the layout decides, layouts that touch
    none are preferred.
    """
    colours = cell.colours if cell.colours else (None,) * len(cell.concepts)
    groups = [
        Group(
            concept=concept,
            vendor=pick(rng, sprites.vendors_of(concept)),
            colour=colour,
            count=cell.count,
        )
        for concept, colour in zip(cell.concepts, colours, strict=True)
    ]
    tries = 0
    while True:
        objects = _lay_out(groups, rng, sprites)
        if objects is None:
            continue
        if cell.relation is not None:
            if relations(objects[0].box, objects[1].box) != {cell.relation}:
                continue
        elif tries < LAYOUT_TRIES and not _relations_are_seen(objects):
            tries += 1
            continue
        return _scene(objects, _background(objects, rng, sprites), cell.tag, rng, sprites)


def touches_held_out(scene: Scene) -> bool:
    """Whether any cell of a scene is held out."""
    return any(map(is_held_out, cells_of(scene)))


def _draw_groups(rng: np.random.Generator, tag: Tag, sprites: Sprites) -> list[Group] | None:
    """Draw what a training scene shows, or None where the draw touches a held-out cell."""
    match tag:
        case "single_object":
            counts, tinted = (1,), False
        case "two_object" | "position":
            counts, tinted = (1, 1), False
        case "counting":
            counts, tinted = (2 + below(rng, sprites.world.max_count - 1),), False
        case "colors":
            counts, tinted = (1,), True
        case "color_attr":
            counts, tinted = (1, 1), True
        case "free":
            wide = sprites.world.name == "wide"
            counts, tinted = wide_counts(rng) if wide else pick(rng, FREE_COUNTS), None
    # Of many concepts, one that clashes is drawn again alone: of six, few draws would do at once.
    tries = GROUP_TRIES if sprites.world.name == "wide" else 1
    groups: list[Group] = []
    for count in counts:
        for _ in range(tries):
            group = _draw_group(rng, count, tinted, sprites)
            if _group_is_seen(group, groups):
                groups.append(group)
                break
        else:
            return None
    if tag == "color_attr" and groups[0].colour == groups[1].colour:
        return None
    return groups


def _draw_group(
    rng: np.random.Generator, count: int, tinted: bool | None, sprites: Sprites
) -> Group:
    """Some things of any concept; None tints half of them."""
    has_colour = rng.random() < 0.5 if tinted is None else tinted
    concept = pick(rng, sprites.tintable if has_colour else sprites.concepts)
    colour = pick(rng, COLOURS) if has_colour else None
    vendor = pick(rng, sprites.vendors_of(concept))
    return Group(concept=concept, vendor=vendor, colour=colour, count=count)


def _group_is_seen(group: Group, others: list[Group]) -> bool:
    """Whether a group, beside others, is a concept of its own and touches no held-out cell."""
    concept, colour = group.concept, group.colour
    if group.count > 1 and is_held_out(count_cell(concept, group.count)):
        return False
    if colour is not None and is_held_out(colour_cell(concept, colour)):
        return False
    for other in others:
        if other.concept == concept or is_held_out(pair_cell(concept, other.concept)):
            return False
        if colour is None or other.colour is None:
            continue
        if is_held_out(attribution_cell(concept, colour, other.concept, other.colour)):
            return False
    return True


def _relations_are_seen(objects: Iterable[SceneObject]) -> bool:
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


def _lay_out(
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


def _anywhere(thing: SceneObject, others: Sequence[SceneObject]) -> bool:
    return True


def _scene(
    objects: tuple[SceneObject, ...],
    background: Rgb,
    tag: Tag,
    rng: np.random.Generator,
    sprites: Sprites,
) -> Scene:
    """A scene of these things; in the wide world most have a painted ground."""
    name: WorldName = sprites.world.name
    ground: Ground | None = None
    if name == "wide" and rng.random() < PAINTED_SHARE:
        known = tuple(c for c in BACKGROUNDS if _distance(c, background) >= SECOND_GROUND)
        second = _background(objects, rng, sprites, known)
        ground = draw_ground(rng, (background, second))
    return Scene(objects=objects, background=background, tag=tag, ground=ground, world=name)


def _tidied(
    objects: tuple[SceneObject, ...], grid: int, *, two_sizes: bool
) -> tuple[SceneObject, ...] | None:
    """Things moved onto a grid, a whole number of its places large; None where they would meet.

    A lone thing is an even number of places large: fewer sizes are learnt sooner.
    """
    step = 2 if len(objects) == 1 else 1
    moved = []
    for thing in objects:
        x0, y0, x1, y1 = thing.box
        longer = max(x1 - x0, y1 - y0)
        places = step * max(1, round(longer * grid / step))
        if two_sizes:
            places = round(grid * (2 / 3 if len(objects) == 1 else 5 / 12))
        scale = places / grid / longer
        width, height = (x1 - x0) * scale, (y1 - y0) * scale
        left, top = (round(v * grid) / grid for v in (x0, y0))
        if left + width > 1 or top + height > 1:
            return None
        moved.append(replace(thing, box=(left, top, left + width, top + height)))
    gap = 1 / grid if two_sizes else 0.0  # things that touch would be one to an island's eye
    apart = all(
        max(a.box[0], b.box[0]) - min(a.box[2], b.box[2]) >= gap - TOUCH
        or max(a.box[1], b.box[1]) - min(a.box[3], b.box[3]) >= gap - TOUCH
        for a, b in combinations(moved, 2)
    )
    return tuple(moved) if apart else None


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


def _grounds(grid: int | None, *, two_sizes: bool) -> tuple[Rgb, ...]:
    if grid is None:
        return BACKGROUNDS
    return (TIDY_BACKGROUNDS[0], TIDY_BACKGROUNDS[-1]) if two_sizes else TIDY_BACKGROUNDS


def _background(
    objects: tuple[SceneObject, ...],
    rng: np.random.Generator,
    sprites: Sprites,
    known: tuple[Rgb, ...] = BACKGROUNDS,
    *,
    jittered: bool = True,
) -> Rgb:
    """One of the known colours that stands out from everything, or else the one that does best."""
    means = {sprites.mean_colour(x.concept, x.vendor, x.colour) for x in objects}
    start = below(rng, len(known))
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
