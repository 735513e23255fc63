"""Words for scenes: true captions in several phrasings, and GenEval's prompts for cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np

from openjanus.worlds.emoji.cells import Cell
from openjanus.worlds.emoji.concepts import indefinite_article
from openjanus.worlds.emoji.draws import pick
from openjanus.worlds.emoji.scenes import OPPOSITE, Scene, SceneObject, relations
from openjanus.worlds.emoji.vocabulary import COUNT_WORDS, concept_named

GENEVAL_SHARE: Final = 0.5
"""Share of captions in GenEval's own form."""

RELATION_SHARE: Final = 0.4
"""Share of the other captions that tell a relation where the scene has a clear one."""

FRAMES: Final = (
    "{}",
    "a picture of {}",
    "an image of {}",
    "a drawing of {}",
    "a picture with {}",
    "a picture showing {}",
    "{} on a plain background",
)
"""The last is for plain backgrounds alone."""

ROWS: Final = ("top", "middle", "bottom")
COLUMNS: Final = ("left", "middle", "right")

RELATION_WORDS: Final = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Things:
    """All things of one concept in a scene."""

    concept: str
    colour: str | None
    count: int

    @property
    def verb(self) -> str:
        """ "is" of one car, "are" of cars and of scissors."""
        return "are" if self.count > 1 or concept_named(self.concept).pair else "is"

    @property
    def noun(self) -> str:
        """What stands after "the": "car", "cars", "scissors"."""
        known = concept_named(self.concept)
        return known.plural if self.count > 1 else known.name


def things_of(scene: Scene) -> tuple[Things, ...]:
    """What a scene shows, concept by concept, in the order of its objects."""
    first: dict[str, SceneObject] = {}
    counts: dict[str, int] = {}
    for thing in scene.objects:
        first.setdefault(thing.concept, thing)
        counts[thing.concept] = counts.get(thing.concept, 0) + 1
    return tuple(
        Things(concept=concept, colour=first[concept].colour, count=count)
        for concept, count in counts.items()
    )


def phrase(concept: str, *, count: int = 1, colour: str | None = None) -> str:
    """Noun phrase of some things: "an apple", "a pair of red skis", "three green apples".

    Raises:
        ValueError: `count` is not 1 to 6.
    """
    if not 1 <= count < len(COUNT_WORDS):
        raise ValueError(f"a phrase counts from 1 to {len(COUNT_WORDS) - 1}, got {count}")
    known = concept_named(concept)
    noun = known.name if count == 1 else known.plural
    if colour is not None:
        noun = f"{colour} {noun}"
    if count > 1:
        return f"{COUNT_WORDS[count]} {'pairs of ' if known.pair else ''}{noun}"
    return f"a pair of {noun}" if known.pair else f"{indefinite_article(noun)} {noun}"


def enumerate_phrases(phrases: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def clear_relations(scene: Scene) -> list[tuple[SceneObject, str, SceneObject]]:
    """Every (a, relation, b) that can be told without doubt, both ways.

    The two must be the only ones of their concepts and stand in exactly one relation.
    """
    single = {things.concept for things in things_of(scene) if things.count == 1}
    found = []
    for a, b in combinations(scene.objects, 2):
        if a.concept not in single or b.concept not in single:
            continue
        held = relations(a.box, b.box)
        if len(held) == 1:
            relation = held.pop()
            found += [(a, relation, b), (b, OPPOSITE[relation], a)]
    return found


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene truly: half the time as GenEval would, else in other plain English."""
    if rng.random() < GENEVAL_SHARE:
        return geneval_caption(scene, rng)
    told = clear_relations(scene)
    if told and len(scene.objects) == 2:
        tells = scene.tag == "position" or rng.random() < RELATION_SHARE
        if tells:
            a, relation, b = pick(rng, told)
            words = pick(rng, RELATION_WORDS[relation])
            return _framed(f"{_one(a)} {words} {_one(b)}", scene, rng)
    return _framed(_everything(scene, rng), scene, rng)


def long_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption, and sentences that tell where everything lies: its first one is ``caption``'s."""
    sentences = [caption(scene, rng)]
    for thing in scene.objects:
        noun = phrase(thing.concept, colour=thing.colour)
        sentences.append(f"{_whereabouts(thing)} is {noun}")
    return " ".join(f"{sentence}." for sentence in sentences)


def _whereabouts(thing: SceneObject) -> str:
    """The third of the picture, by row and column, that a thing's middle lies in."""
    x0, y0, x1, y1 = thing.box
    row = ROWS[min(2, int(1.5 * (y0 + y1)))]
    column = COLUMNS[min(2, int(1.5 * (x0 + x1)))]
    if row == column:
        return "In the middle"
    if column == "middle":
        return f"At the {row}"
    return f"On the {column}" if row == "middle" else f"At the {row} {column}"


def geneval_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Caption in GenEval's own form; the order in which things are named is drawn."""
    if scene.tag == "position":
        told = clear_relations(scene)
        a, relation, b = pick(rng, told)
        return f"a photo of {_one(a)} {relation} {_one(b)}"
    return f"a photo of {_everything(scene, rng)}"


def prompt_for_cell(cell: Cell) -> str:
    """GenEval's prompt for a cell, such as "a photo of a dog right of a teddy bear"."""
    colours = cell.colours if cell.colours else (None,) * len(cell.concepts)
    phrases = [
        phrase(concept, count=cell.count, colour=colour)
        for concept, colour in zip(cell.concepts, colours, strict=True)
    ]
    joint = " and " if cell.relation is None else f" {cell.relation} "
    return f"a photo of {joint.join(phrases)}"


def metadata_for_cell(cell: Cell) -> dict[str, Any]:
    """A cell as one line of GenEval's metadata: tag, include, exclude (counting only), prompt.

    A relation stands, as GenEval has it, in the second entry of `include`, which is the thing
    placed; the first is its anchor.
    """
    include: list[dict[str, Any]] = [
        {"class": concept, "count": cell.count} for concept in cell.concepts
    ]
    for entry, colour in zip(include, cell.colours, strict=False):
        entry["color"] = colour
    if cell.relation is not None:
        include.reverse()
        include[1]["position"] = [cell.relation, 0]
    line: dict[str, Any] = {"tag": cell.tag, "include": include}
    if cell.tag == "counting":
        line["exclude"] = [{"class": cell.concepts[0], "count": cell.count + 1}]
    line["prompt"] = prompt_for_cell(cell)
    return line


def _one(thing: SceneObject) -> str:
    return phrase(thing.concept, colour=thing.colour)


def _everything(scene: Scene, rng: np.random.Generator) -> str:
    phrases = [
        phrase(things.concept, count=things.count, colour=things.colour)
        for things in things_of(scene)
    ]
    order = rng.permutation(len(phrases)) if len(phrases) > 1 else (0,)
    return enumerate_phrases([phrases[i] for i in order])


def _framed(words: str, scene: Scene, rng: np.random.Generator) -> str:
    return pick(rng, FRAMES if scene.ground is None else FRAMES[:-1]).format(words)
