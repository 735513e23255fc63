"""Draw scenes at random: for training, none that touches a held-out cell; for exams, some that do.

Sampling asks of the sprites only their shapes and mean colours and draws no pixel, so a million
scenes take a minute or two.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from typing import Final, Literal

import numpy as np

from openjanus.worlds.emoji.asked_scenes import scene_for_cell
from openjanus.worlds.emoji.cells import (
    attribution_cell,
    cells_of,
    colour_cell,
    count_cell,
    held_out_cells,
    is_held_out,
    pair_cell,
)
from openjanus.worlds.emoji.concepts import COLOURS, unmixed
from openjanus.worlds.emoji.draws import below, pick
from openjanus.worlds.emoji.grounds import Rgb
from openjanus.worlds.emoji.layout import (
    BACKGROUNDS,
    LAYOUT_TRIES,
    background_for,
    lay_out,
    relations_are_seen,
    scene_on,
)
from openjanus.worlds.emoji.scenes import Scene, SceneObject, Tag, relations
from openjanus.worlds.emoji.slots import MOST, largest_side, place_in_slots
from openjanus.worlds.emoji.sprites import Sprites, looks_of
from openjanus.worlds.emoji.vocabulary import WorldName
from openjanus.worlds.emoji.wide_layout import Group, wide_counts

Split = Literal["train", "held_out"]

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
    slots: bool = False,
    mixed: float = 0.0,
    one_ground: bool = False,
) -> Scene:
    """Draw a scene of one kind.

    Args:
        rng: Source of everything random.
        tag: The kind of scene.
        sprites: The artwork: its world, names, shapes, outlines and mean colours.
        split: "train" gives only scenes that touch no held-out cell; "held_out" gives a scene for
            a held-out cell of the tag, each with the same chance.
        grid: Places a side of a grid on which things begin, whole numbers of which they are
            large; on one of a few grounds. None is free of it. Only for "train"; in the wide
            world only with slots.
        two_sizes: On a grid: lone things are two thirds of the picture large and others five
            twelfths, on the first or the last of those grounds. The fewer looks a thing has, the
            sooner they are learnt.
        slots: With two sizes: things lie in fixed places too, see `slots.ARRANGEMENTS`; at most
            four, whatever the world.
        mixed: Share of the tinted things whose colour lies between two of the ten, "blue-green":
            as many colours as nobody learns by heart. Only for "train".
        one_ground: With two sizes: the ground is white wherever all things stand out from it, and
            the other one elsewhere. Every ground is a look of its own of each thing.

    Raises:
        ValueError: A grid for "held_out", two sizes without a grid, slots or one ground without
            two sizes, "held_out" for a tag that has no held-out cell, or `mixed` not from 0 to 1
            or for "held_out".
    """
    name = sprites.world.name
    check_tidiness(grid, split, name, two_sizes=two_sizes, slots=slots, one_ground=one_ground)
    check_mixed(mixed, split)
    if split == "held_out":
        cells = held_out_cells(tag, sprites.world.name)
        if not cells:
            raise ValueError(f"tag {tag!r} combines nothing, so nothing is held out: draw 'train'")
        return scene_for_cell(cells[below(rng, len(cells))], rng, sprites)
    while True:
        most = MOST if slots else sprites.world.max_count
        groups = _draw_groups(rng, tag, sprites, most=most, mixed=mixed)
        if groups is None:
            continue
        for _ in range(LAYOUT_TRIES):
            objects = lay_out(groups, rng, sprites, seen=True)
            if objects is None:
                continue
            if slots and grid is not None:
                objects = place_in_slots(objects, grid, rng)
            elif grid is not None:
                objects = _tidied(objects, grid, two_sizes=two_sizes)
                if objects is None:
                    continue
            if tag == "position" and len(relations(objects[0].box, objects[1].box)) != 1:
                continue
            if relations_are_seen(objects):
                known = _grounds(grid, two_sizes=two_sizes)
                background = background_for(
                    objects, rng, sprites, known, jittered=grid is None, in_order=one_ground
                )
                plain = grid is not None
                return scene_on(objects, background, tag, rng, sprites, plain=plain)


def check_tidiness(
    grid: int | None,
    split: Split,
    world: WorldName,
    *,
    two_sizes: bool,
    slots: bool,
    one_ground: bool = False,
) -> None:
    """Refuse options of `sample_scene` that lack what they narrow, or are not for its scenes.

    Raises:
        ValueError: Two sizes without a grid, slots or one ground without two sizes, or a grid for
            the wide world or for "held_out".
    """
    if two_sizes and grid is None:
        raise ValueError("two_sizes are sizes on a grid: give a grid, for instance 12")
    if slots and not two_sizes:
        raise ValueError("slots are places for things of two sizes: set two_sizes too")
    if one_ground and not two_sizes:
        raise ValueError("one_ground is one of the grounds of two sizes: set two_sizes too")
    if grid is not None and world != "v0" and not slots:
        raise ValueError(
            f"scenes of world {world} keep to no grid but in slots, got {grid}: set slots and "
            "two_sizes too, or leave it out"
        )
    if grid is not None and split == "held_out":
        raise ValueError(f"scenes of split held_out keep to no grid, got {grid}: leave it out")


def check_mixed(mixed: float, split: Split) -> None:
    """Refuse a share of mixed colours that is none, or where none is judged.

    Raises:
        ValueError: Not from 0 to 1, or above 0 for "held_out".
    """
    if not 0 <= mixed <= 1:
        raise ValueError(f"mixed is a share of the tinted things from 0 to 1, got {mixed}")
    if mixed > 0 and split == "held_out":
        raise ValueError(f"held-out scenes mix no colours, got mixed {mixed}: leave it out")


def touches_held_out(scene: Scene) -> bool:
    """Whether any cell of a scene is held out."""
    return any(map(is_held_out, cells_of(scene)))


def _draw_groups(
    rng: np.random.Generator, tag: Tag, sprites: Sprites, *, most: int, mixed: float
) -> list[Group] | None:
    """Draw what a training scene shows, or None where the draw touches a held-out cell."""
    match tag:
        case "single_object":
            counts, tinted = (1,), False
        case "two_object" | "position":
            counts, tinted = (1, 1), False
        case "counting":
            counts, tinted = (2 + below(rng, most - 1),), False
        case "colors":
            counts, tinted = (1,), True
        case "color_attr":
            counts, tinted = (1, 1), True
        case "free":
            few = most <= MOST
            counts, tinted = pick(rng, FREE_COUNTS) if few else wide_counts(rng), None
    # Of many concepts, one that clashes is drawn again alone: of six, few draws would do at once.
    tries = GROUP_TRIES if sprites.world.name == "wide" else 1
    groups: list[Group] = []
    for count in counts:
        for _ in range(tries):
            group = _draw_group(rng, count, tinted, sprites, mixed)
            if _group_is_seen(group, groups):
                groups.append(group)
                break
        else:
            return None
    if tag == "color_attr" and set(unmixed(groups[0].colour)) & set(unmixed(groups[1].colour)):
        return None
    return groups


def _draw_group(
    rng: np.random.Generator, count: int, tinted: bool | None, sprites: Sprites, mixed: float
) -> Group:
    """Some things of any concept; None tints half of them."""
    has_colour = rng.random() < 0.5 if tinted is None else tinted
    concept = pick(rng, sprites.tintable if has_colour else sprites.concepts)
    colour = pick(rng, COLOURS) if has_colour else None
    if colour is not None and mixed > 0 and rng.random() < mixed:
        colour = "-".join((colour, pick(rng, [other for other in COLOURS if other != colour])))
    vendor = pick(rng, sprites.vendors_of(concept))
    return Group(concept=concept, vendor=vendor, colour=colour, count=count)


def _group_is_seen(group: Group, others: list[Group]) -> bool:
    """Whether a group, beside others, is a concept of its own and touches no held-out cell."""
    concept, colour = group.concept, group.colour
    if group.count > 1 and is_held_out(count_cell(concept, group.count)):
        return False
    if any(is_held_out(colour_cell(concept, one)) for one in looks_of(colour)):
        return False
    for other in others:
        if other.concept == concept or is_held_out(pair_cell(concept, other.concept)):
            return False
        for one, another in product(looks_of(colour), looks_of(other.colour)):
            if is_held_out(attribution_cell(concept, one, other.concept, another)):
                return False
    return True


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
            places = largest_side(len(objects), grid)
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


def _grounds(grid: int | None, *, two_sizes: bool) -> tuple[Rgb, ...]:
    if grid is None:
        return BACKGROUNDS
    return (TIDY_BACKGROUNDS[0], TIDY_BACKGROUNDS[-1]) if two_sizes else TIDY_BACKGROUNDS
