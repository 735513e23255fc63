"""What is surely not in a picture, and what may be or not: of whom to ask, and whom not."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from itertools import permutations
from typing import Final, Literal

from openjanus.worlds.emoji.cells import count_cell, is_held_out, pair_cell, relation_cell
from openjanus.worlds.emoji.scenes import RELATIONS
from openjanus.worlds.emoji.vocabulary import WorldName, world

Negatives = Literal["random", "popular", "adversarial"]
"""POPE's three ways to choose a thing that is not there: any; one of those most frequent in
training; one of the same COCO supercategory as something that is there."""

NUM_POPULAR: Final = 15
"""A quarter of them, where that is fewer."""


@cache
def popular_concepts(name: WorldName = "v0") -> tuple[str, ...]:
    """An estimate of the concepts most frequent in training scenes.

    All are drawn alike and scenes with held-out cells are thrown away, so those of which few
    cells are held out come up more often. They are only about 7 % more frequent than the mean
    (counted over 140,000 scenes of every tag; the 15 truly most frequent, 8 %): in this world
    popular negatives are hardly harder than random ones.
    """
    names = world(name).concepts
    # Beside five hundred concepts a relation weighs nothing, and there are a million of them.
    ways = () if name == "wide" else RELATIONS
    lost = dict.fromkeys(names, 0)
    for a, b in permutations(names, 2):
        lost[a] += len(names) * is_held_out(pair_cell(a, b))
        lost[a] += sum(is_held_out(relation_cell(a, way, b)) for way in ways)
    for concept in names:
        counts = range(2, world(name).max_count + 1)
        lost[concept] += len(names) * sum(is_held_out(count_cell(concept, n)) for n in counts)
    most = min(NUM_POPULAR, len(names) // 4)
    return tuple(sorted(names, key=lambda concept: lost[concept])[:most])


def absent_things(
    present: Collection[str],
    negatives: Negatives = "random",
    name: WorldName = "v0",
    *,
    among: Collection[str] | None = None,
    unseen_pairs: bool = False,
) -> list[str]:
    """Concepts that are surely not in a picture, in the world's order.

    Args:
        present: Those that are.
        negatives: Which to take.
        name: The world of the picture.
        among: Of random ones, those that are looked at; None is all.
        unseen_pairs: Whether to take those whose pair with something present is held out.
    """
    known = world(name).concepts
    match negatives:
        case "random":
            absent = set(known if among is None else among)
        case "popular":
            absent = set(popular_concepts(name))
        case "adversarial":
            groups = {known[concept].group for concept in present}
            absent = {concept for concept in known if known[concept].group in groups}
    absent -= {*present} | doubtful_things(present, name)
    if not unseen_pairs:
        absent = {a for a in absent if not any(is_held_out(pair_cell(a, b)) for b in present)}
    return [concept for concept in known if concept in absent]  # a set has another each run


def doubtful_things(present: Collection[str], name: WorldName = "v0") -> set[str]:
    """Concepts that the pictures of others show too."""
    also = world(name).also_shown
    return {other for concept in present for other in also.get(concept, ())}
