"""Cells: the combinations of the world, an eighth of which no training data ever shows.

Names are lower case and stable, since their hashes decide:

- `colour/{concept}/{colour}`: a tinted thing;
- `relation/{a}/{left of|right of|above|below}/{b}`: a is there, seen from b;
- `pair/{a}/{b}`: both in one scene, in alphabetical order;
- `count/{concept}/{n}`: exactly n of it, n from 2 to 4;
- `attribution/{colour a} {a}/{colour b} {b}`: two tinted things of different concepts, the two
  phrases in alphabetical order.

A scene touches every cell that is true of it, whether its caption mentions it or not. The parts of
a held-out attribution (its pair, its two colour cells, the relation of its two things) may or may
not be held out themselves: their own hashes decide.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations, permutations
from typing import Final

from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS, TINTABLE
from openjanus.worlds.emoji.scenes import OPPOSITE, RELATIONS, Scene, Tag, relations

HELD_OUT_MODULUS: Final = 8
"""One cell in so many is held out."""

MAX_COUNT: Final = 4


@lru_cache(maxsize=1 << 16)
def is_held_out(name: str) -> bool:
    """Whether a cell is held out: its name's sha256, as a number, is divisible by 8."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_MODULUS == 0


def colour_cell(concept: str, colour: str) -> str:
    """Name of the cell of a tinted thing."""
    return f"colour/{concept}/{colour}"


def relation_cell(a: str, relation: str, b: str) -> str:
    """Name of the cell of "a {relation} b"."""
    return f"relation/{a}/{relation}/{b}"


def pair_cell(a: str, b: str) -> str:
    """Name of the cell of two concepts in one scene, in whatever order they are given."""
    return f"pair/{a}/{b}" if a < b else f"pair/{b}/{a}"


def count_cell(concept: str, count: int) -> str:
    """Name of the cell of exactly `count` of a concept, 2 to 4."""
    return f"count/{concept}/{count}"


def attribution_cell(a: str, colour_a: str, b: str, colour_b: str) -> str:
    """Name of the cell of two tinted things, in whatever order they are given."""
    first, second = f"{colour_a} {a}", f"{colour_b} {b}"
    if second < first:
        first, second = second, first
    return f"attribution/{first}/{second}"


def cells_of(scene: Scene) -> frozenset[str]:
    """Every cell that a scene touches."""
    counts = Counter(thing.concept for thing in scene.objects)
    names = {count_cell(concept, n) for concept, n in counts.items() if n > 1}
    for thing in scene.objects:
        if thing.colour is not None:
            names.add(colour_cell(thing.concept, thing.colour))
    for a, b in combinations(scene.objects, 2):
        if a.concept == b.concept:
            continue
        names.add(pair_cell(a.concept, b.concept))
        for relation in relations(a.box, b.box):
            names.add(relation_cell(a.concept, relation, b.concept))
            names.add(relation_cell(b.concept, OPPOSITE[relation], a.concept))
        if a.colour is not None and b.colour is not None:
            names.add(attribution_cell(a.concept, a.colour, b.concept, b.colour))
    return frozenset(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One combination as GenEval would ask for it."""

    tag: Tag
    name: str
    """The cell's name; for `single_object`, which combines nothing, `concept/{concept}`."""
    concepts: tuple[str, ...]
    """In the order of the prompt: of a position cell, the thing placed and then its anchor."""
    colours: tuple[str, ...] = ()
    """One a concept, for `colors` and `color_attr`."""
    relation: str | None = None
    """Of the first concept seen from the second, for `position`."""
    count: int = 1
    """Of each concept; 2 to 4 for `counting`."""


@cache
def held_out_cells(tag: Tag) -> tuple[Cell, ...]:
    """Every held-out cell of one of GenEval's tags, in order of the sha256 of its name.

    `color_attr` has only cells of two different colours, as GenEval has. `single_object` combines
    nothing, so nothing of it can be held out: it has none (see `evaluation_cells`).

    Raises:
        ValueError: `free`, which is no tag of GenEval.
    """
    if tag == "free":
        raise ValueError("held-out cells belong to a tag of GenEval, 'free' is none: ask for one")
    if tag == "single_object":
        return ()
    found = [cell for cell in _cells(tag) if is_held_out(cell.name)]
    return tuple(sorted(found, key=lambda cell: hashlib.sha256(cell.name.encode()).digest()))


def evaluation_cells(tag: Tag) -> tuple[Cell, ...]:
    """What drawing is judged on: the held-out cells, and for `single_object` every concept."""
    return _cells(tag) if tag == "single_object" else held_out_cells(tag)


def _cells(tag: Tag) -> tuple[Cell, ...]:
    """Every cell of a tag, held out or not."""
    match tag:
        case "single_object":
            return tuple(
                Cell(tag=tag, name=f"concept/{name}", concepts=(name,)) for name in CONCEPTS
            )
        case "two_object":
            return tuple(
                Cell(tag=tag, name=pair_cell(a, b), concepts=(a, b))
                for a, b in combinations(sorted(CONCEPTS), 2)
            )
        case "counting":
            return tuple(
                Cell(tag=tag, name=count_cell(name, n), concepts=(name,), count=n)
                for name in CONCEPTS
                for n in range(2, MAX_COUNT + 1)
            )
        case "colors":
            return tuple(
                Cell(tag=tag, name=colour_cell(name, colour), concepts=(name,), colours=(colour,))
                for name in TINTABLE
                for colour in COLOURS
            )
        case "position":
            return tuple(
                Cell(tag=tag, name=relation_cell(a, way, b), concepts=(a, b), relation=way)
                for a, b in permutations(CONCEPTS, 2)
                for way in RELATIONS
            )
        case "color_attr":
            return tuple(
                Cell(
                    tag=tag,
                    name=attribution_cell(a, colour_a, b, colour_b),
                    concepts=(a, b),
                    colours=(colour_a, colour_b),
                )
                for a, b in combinations(TINTABLE, 2)
                for colour_a, colour_b in permutations(COLOURS, 2)
            )
        case "free":
            return ()
