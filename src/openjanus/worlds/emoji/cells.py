"""Cells: the combinations of the world, an eighth of which no training data ever shows.

Names are lower case and stable, since their hashes decide:

- `colour/{concept}/{colour}`: a tinted thing;
- `relation/{a}/{left of|right of|above|below}/{b}`: a is there, seen from b;
- `pair/{a}/{b}`: both in one scene, in alphabetical order;
- `count/{concept}/{n}`: exactly n of it, n from 2 to 4, in the wide world to 6;
- `attribution/{colour a} {a}/{colour b} {b}`: two tinted things of different concepts, the two
  phrases in alphabetical order.

A scene touches every cell that is true of it, whether its caption mentions it or not. The parts of
a held-out attribution (its pair, its two colour cells, the relation of its two things) may or may
not be held out themselves: their own hashes decide.

The wide world has the same rule and, for what both worlds have, the same names. It has millions of
cells; where a tag combines two of its concepts, exams are of a lot drawn from its held-out cells
(`held_out_cells`), while training sees none of all that are held out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations, permutations, product
from typing import Final

import numpy as np

from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.draws import pick
from openjanus.worlds.emoji.scenes import OPPOSITE, RELATIONS, TAGS, Scene, Tag, relations
from openjanus.worlds.emoji.sprites import looks_of
from openjanus.worlds.emoji.vocabulary import World, WorldName, world

HELD_OUT_MODULUS: Final = 8
"""One cell in so many is held out."""

MAX_COUNT: Final = 4
"""Of the first world; the wide one's is `World.max_count`."""

LOT: Final = 4
"""Held-out cells drawn for each concept of the wide world, in tags of two concepts."""

LOT_STREAM: Final = 7010


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
    """Name of the cell of exactly `count` of a concept, 2 or more."""
    return f"count/{concept}/{count}"


def attribution_cell(a: str, colour_a: str, b: str, colour_b: str) -> str:
    """Name of the cell of two tinted things, in whatever order they are given."""
    first, second = f"{colour_a} {a}", f"{colour_b} {b}"
    if second < first:
        first, second = second, first
    return f"attribution/{first}/{second}"


def cells_of(scene: Scene) -> frozenset[str]:
    """Every cell that a scene touches; a mixed colour touches those of all that it looks like."""
    counts = Counter(thing.concept for thing in scene.objects)
    names = {count_cell(concept, n) for concept, n in counts.items() if n > 1}
    for thing in scene.objects:
        names.update(colour_cell(thing.concept, colour) for colour in looks_of(thing.colour))
    for a, b in combinations(scene.objects, 2):
        if a.concept == b.concept:
            continue
        names.add(pair_cell(a.concept, b.concept))
        for relation in relations(a.box, b.box):
            names.add(relation_cell(a.concept, relation, b.concept))
            names.add(relation_cell(b.concept, OPPOSITE[relation], a.concept))
        for one, other in product(looks_of(a.colour), looks_of(b.colour)):
            names.add(attribution_cell(a.concept, one, b.concept, other))
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
    """Of each concept; 2 or more for `counting`."""


@cache
def held_out_cells(tag: Tag, name: WorldName = "v0") -> tuple[Cell, ...]:
    """Every held-out cell of one of GenEval's tags, in order of the sha256 of its name.

    Of the wide world's tags of two concepts, `LOT` cells that begin with each concept: the same
    lot for ever.

    `color_attr` has only cells of two different colours, as GenEval has. `single_object` combines
    nothing, so nothing of it can be held out: it has none (see `evaluation_cells`).

    Raises:
        ValueError: `free`, which is no tag of GenEval.
    """
    if tag == "free":
        raise ValueError("held-out cells belong to a tag of GenEval, 'free' is none: ask for one")
    if tag == "single_object":
        return ()
    if name == "wide" and tag in ("two_object", "position", "color_attr"):
        found = _drawn_cells(tag, world(name))
    else:
        found = [cell for cell in _cells(tag, world(name)) if is_held_out(cell.name)]
    return tuple(sorted(found, key=lambda cell: hashlib.sha256(cell.name.encode()).digest()))


def evaluation_cells(tag: Tag, name: WorldName = "v0") -> tuple[Cell, ...]:
    """What drawing is judged on: the held-out cells, and for `single_object` every concept."""
    return _cells(tag, world(name)) if tag == "single_object" else held_out_cells(tag, name)


def _drawn_cells(tag: Tag, known: World) -> list[Cell]:
    """Some held-out cells of two concepts, as many that begin with each concept."""
    rng = np.random.default_rng([LOT_STREAM, TAGS.index(tag)])
    names = known.tintable if tag == "color_attr" else tuple(known.concepts)
    found: dict[str, Cell] = {}
    for a in names:
        wanted = len(found) + LOT
        while len(found) < wanted:
            cell = _drawn_cell(tag, a, pick(rng, names), rng)
            if cell is not None and is_held_out(cell.name):
                found.setdefault(cell.name, cell)
    return list(found.values())


def _drawn_cell(tag: Tag, a: str, b: str, rng: np.random.Generator) -> Cell | None:
    """A cell of two concepts of a tag, or None where they are one or their colours are."""
    if a == b:
        return None
    if tag == "two_object":
        return _pair(min(a, b), max(a, b))
    if tag == "position":
        return _position(a, pick(rng, RELATIONS), b)
    colours = pick(rng, COLOURS), pick(rng, COLOURS)
    return None if colours[0] == colours[1] else _attribution(a, colours[0], b, colours[1])


def _cells(tag: Tag, known: World) -> tuple[Cell, ...]:
    """Every cell of a tag, held out or not."""
    names, tintable = known.concepts, known.tintable
    match tag:
        case "single_object":
            return tuple(Cell(tag=tag, name=f"concept/{name}", concepts=(name,)) for name in names)
        case "two_object":
            return tuple(_pair(a, b) for a, b in combinations(sorted(names), 2))
        case "counting":
            return tuple(
                Cell(tag=tag, name=count_cell(name, n), concepts=(name,), count=n)
                for name in names
                for n in range(2, known.max_count + 1)
            )
        case "colors":
            return tuple(
                Cell(tag=tag, name=colour_cell(name, colour), concepts=(name,), colours=(colour,))
                for name in tintable
                for colour in COLOURS
            )
        case "position":
            return tuple(
                _position(a, way, b) for a, b in permutations(names, 2) for way in RELATIONS
            )
        case "color_attr":
            return tuple(
                _attribution(a, colour_a, b, colour_b)
                for a, b in combinations(tintable, 2)
                for colour_a, colour_b in permutations(COLOURS, 2)
            )
        case "free":
            return ()


def _pair(a: str, b: str) -> Cell:
    return Cell(tag="two_object", name=pair_cell(a, b), concepts=(a, b))


def _position(a: str, relation: str, b: str) -> Cell:
    name = relation_cell(a, relation, b)
    return Cell(tag="position", name=name, concepts=(a, b), relation=relation)


def _attribution(a: str, colour_a: str, b: str, colour_b: str) -> Cell:
    return Cell(
        tag="color_attr",
        name=attribution_cell(a, colour_a, b, colour_b),
        concepts=(a, b),
        colours=(colour_a, colour_b),
    )
