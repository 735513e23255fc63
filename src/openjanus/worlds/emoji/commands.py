"""Short commands to draw a scene, as people type them: "draw me 2 cats", "a cat please".

Everything that a scene shows is told, with its counts and tints, in one of many wordings.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from openjanus.worlds.emoji.captions import (
    RELATION_SHARE,
    RELATION_WORDS,
    Things,
    clear_relations,
    enumerate_phrases,
    phrase,
    things_of,
)
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.draws import pick
from openjanus.worlds.emoji.scenes import Scene, SceneObject

COMMANDS: Final = (
    "{}",
    "{} please",
    "{}, please",
    "draw {}",
    "draw me {}",
    "draw {} for me",
    "draw a picture of {}",
    "please draw {}",
    "please draw me {}",
    "can you draw {}?",
    "can you draw me {}?",
    "could you draw {}, please?",
    "could you make a picture of {}?",
    "would you draw {} for me?",
    "make {}",
    "make me {}",
    "make a picture of {}",
    "make an image with {}",
    "paint {}",
    "paint me {}",
    "sketch {}",
    "create an image of {}",
    "create a picture with {}",
    "generate {}",
    "generate an image of {}",
    "show me {}",
    "let me see {}",
    "let's see {}",
    "give me {}",
    "give me a picture of {}",
    "I want {}",
    "I want a picture of {}",
    "I would like {}",
    "I'd like a picture of {}",
    "I'd love to see {}",
    "I need a picture with {}",
    "how about {}?",
    "now {}",
    "next, {}",
    "picture of {}",
    "picture of {} please",
    "pic of {}",
    "a pic with {}",
    "image of {}",
    "an image with {}",
    "a drawing of {}, please",
    "my kid wants {}",
)

ONE_BESIDE: Final = {
    "left of": ("on the left", "to the left", "on the left side"),
    "right of": ("on the right", "to the right", "on the right side"),
    "above": ("at the top", "above", "higher up"),
    "below": ("at the bottom", "below", "lower down"),
}
"""Where one of two things is, where the other is known."""

ITS_SIDE: Final = {
    "left of": ("on {} left", "to {} left"),
    "right of": ("on {} right", "to {} right"),
    "above": ("above {them}", "over {them}"),
    "below": ("below {them}", "under {them}"),
}

JOINTS: Final = (" and ", " and ", " with ", " plus ", " & ", ", ")
DIGIT_SHARE: Final = 0.35
BARE_SHARE: Final = 0.3
"""Share of the typed things whose capitals, or last mark, are left out."""


def command(scene: Scene, rng: np.random.Generator) -> str:
    """Ask for a scene in everyday words; all of it is told, relations of position scenes too."""
    return typed(pick(rng, COMMANDS).format(wanted(scene, rng)), rng)


def wanted(scene: Scene, rng: np.random.Generator) -> str:
    """What a scene shows, as somebody would ask for it: no full sentence."""
    told = clear_relations(scene)
    tells = scene.tag == "position" or rng.random() < RELATION_SHARE
    if tells and told and len(scene.objects) == 2:
        return _related(*pick(rng, told), rng)
    phrases = [noun_phrase(things, rng) for things in things_of(scene)]
    phrases = [phrases[i] for i in rng.permutation(len(phrases))]
    if len(phrases) == 2:
        return pick(rng, JOINTS).join(phrases)
    return enumerate_phrases(phrases)


def noun_phrase(things: Things, rng: np.random.Generator) -> str:
    """Some things in one of many forms: "2 red cars", "a car in red", "a couple of dogs"."""
    known = CONCEPTS[things.concept]
    colour, after = things.colour, ""
    if colour is not None and rng.random() < 0.25:
        after = pick(rng, (" in {}", " that is {}", " coloured {}")).format(colour)
        if things.count > 1 or known.pair:
            after = after.replace("that is", "that are")
        colour = None
    words = phrase(things.concept, count=things.count, colour=colour)
    if things.count > 1 and rng.random() < DIGIT_SHARE:
        words = f"{things.count} {words.partition(' ')[2]}"
    elif things.count == 2 and not known.pair and rng.random() < 0.1:
        words = f"a couple of {words.partition(' ')[2]}"
    elif things.count == 1 and not known.pair and rng.random() < 0.15:
        words = f"{pick(rng, ('one', 'just one', 'a single'))} {words.partition(' ')[2]}"
    return f"{words}{after}"


def typed(text: str, rng: np.random.Generator) -> str:
    """A sentence as it is typed: with its capital and last mark, or without either or both."""
    if rng.random() < BARE_SHARE:
        text = text.rstrip("?.!")
    if rng.random() < BARE_SHARE:
        return text.lower()
    return text[0].upper() + text[1:]


def _related(a: SceneObject, relation: str, b: SceneObject, rng: np.random.Generator) -> str:
    """Two things and where the first is: in plain words, or said after both are named."""
    first, second = _one(a, rng), _one(b, rng)
    draw = rng.random()
    if draw < 0.5:
        return f"{first} {pick(rng, RELATION_WORDS[relation])} {second}"
    if draw < 0.75:
        where = pick(rng, ONE_BESIDE[relation])
        pair = f"{first} and {second}" if rng.random() < 0.5 else f"{second} and {first}"
        return f"{pair}, the {a.concept} {where}"
    plural = CONCEPTS[b.concept].pair
    side = pick(rng, ITS_SIDE[relation]).format(
        "their" if plural else "its", them="them" if plural else "it"
    )
    return f"{second} with {first} {side}"


def _one(thing: SceneObject, rng: np.random.Generator) -> str:
    return noun_phrase(Things(concept=thing.concept, colour=thing.colour, count=1), rng)
