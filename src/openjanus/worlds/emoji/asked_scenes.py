"""Draw just what is asked for: a cell of an exam, or things that somebody names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Final

import numpy as np

from openjanus.worlds.emoji.captions import Things
from openjanus.worlds.emoji.cells import Cell
from openjanus.worlds.emoji.draws import pick
from openjanus.worlds.emoji.layout import (
    LAYOUT_TRIES,
    background_for,
    lay_out,
    relations_are_seen,
    scene_on,
)
from openjanus.worlds.emoji.scenes import Scene, Tag, relations
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.wide_layout import Group

RELATED_TRIES: Final = 1000
"""Layouts tried for things in a relation that was asked for."""


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
        objects = lay_out(groups, rng, sprites)
        if objects is None:
            continue
        if cell.relation is not None:
            if relations(objects[0].box, objects[1].box) != {cell.relation}:
                continue
        elif tries < LAYOUT_TRIES and not relations_are_seen(objects):
            tries += 1
            continue
        return scene_on(objects, background_for(objects, rng, sprites), cell.tag, rng, sprites)


def scene_of_things(
    things: Sequence[Things],
    relation: str | None,
    rng: np.random.Generator,
    sprites: Sprites,
    *,
    tag: Tag,
) -> Scene | None:
    """Draw a scene of just these things, whatever is held out.

    Args:
        things: Of different concepts, as many in all as the world's scenes show.
        relation: Of all the first things seen from all the second, the only others; or None.
        rng: Source of everything random.
        sprites: The artwork.
        tag: What the scene is called.

    Returns:
        The scene, or None where `RELATED_TRIES` layouts do not show them so.
    """
    groups = [
        Group(
            concept=some.concept,
            vendor=pick(rng, sprites.vendors_of(some.concept)),
            colour=some.colour,
            count=some.count,
        )
        for some in things
    ]
    for _ in range(RELATED_TRIES):
        objects = lay_out(groups, rng, sprites)
        if objects is None:
            continue
        first, second = objects[: groups[0].count], objects[groups[0].count :]
        held = [relations(a.box, b.box) for a, b in product(first, second)]
        # Of two things it is the only relation; corners of four cannot but hold another as well.
        exact = len(held) == 1
        if relation is None or all({relation} == r if exact else relation in r for r in held):
            return scene_on(objects, background_for(objects, rng, sprites), tag, rng, sprites)
    return None
