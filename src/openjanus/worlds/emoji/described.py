"""Scenes that somebody asks for in words: "a red car left of two dogs", read and drawn truly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from openjanus.worlds.emoji.asked_scenes import scene_of_things
from openjanus.worlds.emoji.captions import FRAMES, RELATION_WORDS, Things
from openjanus.worlds.emoji.prompts import OPENING, read_phrase
from openjanus.worlds.emoji.scenes import Scene, Tag
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import COUNT_WORDS, WorldName, world

_FORMS: Final = (
    "write things such as 'a dog', 'a red car' or 'two apples', joined by commas and "
    "'and', or two kinds joined by 'left of', 'right of', 'above' or 'below'"
)
_OPENINGS: Final = (OPENING, *(frame.removesuffix("{}") for frame in FRAMES if frame[-2:] == "{}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What a scene is to show."""

    things: tuple[Things, ...]
    """Of different concepts."""
    relation: str | None
    """Of all the first things seen from all the second."""

    @property
    def tag(self) -> Tag:
        """The kind of scene that it is: one of GenEval's, or `free`."""
        counts = [some.count for some in self.things]
        tinted = [some.colour is not None for some in self.things]
        match len(counts), max(counts), sum(tinted):
            case 1, 1, 0:
                return "single_object"
            case 1, 1, 1:
                return "colors"
            case 1, _, 0:
                return "counting"
            case 2, 1, 0:
                return "two_object" if self.relation is None else "position"
            case 2, 1, 2 if self.relation is None and len({x.colour for x in self.things}) == 2:
                return "color_attr"
            case _:
                return "free"


def read_description(words: str, name: WorldName = "v0") -> Description:
    """Read what a scene is to show.

    Args:
        words: Such as "a red car left of two dogs".
        name: The world whose things they name.

    Raises:
        ValueError: The words are not of a form that is known, name what this world does not have,
            or ask for what no scene can show.
    """
    told = " ".join(words.strip().lower().removesuffix(".").split())
    for opening in sorted(_OPENINGS, key=len, reverse=True):
        if opening and told.startswith(opening):
            told = told.removeprefix(opening)
            break
    relation, left, right = _split(told)
    parts = [left, right] if relation is not None else told.replace(" and ", ", ").split(", ")
    things = tuple(read_phrase(part, words, forms=_FORMS, name=name) for part in parts)
    concepts = [some.concept for some in things]
    for concept in concepts:
        if concepts.count(concept) > 1:
            raise ValueError(
                f"all things of one kind look alike in a scene, {concept!r} stands twice in "
                f"{words!r}: count them, or name two kinds"
            )
    for some in things:
        if some.colour is not None and some.concept not in world(name).tintable:
            raise ValueError(f"a {some.concept} takes no colour, as in {words!r}: leave it out")
    total = sum(some.count for some in things)
    most = world(name).max_count
    if total > most:
        raise ValueError(
            f"a scene shows one to {COUNT_WORDS[most]} things, {words!r} are {total}: ask for fewer"
        )
    if relation is not None and max(some.count for some in things) > 2:
        raise ValueError(
            f"a relation joins at most two things to two, got {words!r}: ask for fewer, or join "
            "them by 'and'"
        )
    return Description(things=things, relation=relation)


def _split(told: str) -> tuple[str | None, str, str]:
    """The relation told, as `RELATIONS` has it, and the words on its two sides."""
    ways = [(way, relation) for relation, ways in RELATION_WORDS.items() for way in ways]
    for way, relation in sorted(ways, key=lambda pair: len(pair[0]), reverse=True):
        left, found, right = told.partition(f" {way} ")
        if found:
            return relation, left.removesuffix(" is").removesuffix(" are"), right
    return None, told, ""


def described_scene(description: Description, rng: np.random.Generator, sprites: Sprites) -> Scene:
    """Draw a scene that shows just what is described, held out or not.

    Args:
        description: What it shows.
        rng: Of the artwork's vendors, the places, the sizes and the background.
        sprites: The artwork.

    Raises:
        ValueError: No layout was found that shows them so.
    """
    things, relation = description.things, description.relation
    scene = scene_of_things(things, relation, rng, sprites, tag=description.tag)
    if scene is None:
        told = "together" if relation is None else f"{relation} each other"
        raise ValueError(f"no layout shows these things {told}: try another seed")
    return scene
