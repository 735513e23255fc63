"""Dialogues of several turns about one picture, in everyday words, every answer exact.

A turn may refer to what was spoken of before: "is there a dog?" yes, "and what colour is it?" red,
"and the car?" blue. Answers are those of the exams: yes or no, a number word, a colour, a side, a
thing's name; or, of the whole picture, all that it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from openjanus.worlds.emoji.absence import absent_things, doubtful_things
from openjanus.worlds.emoji.captions import (
    Things,
    clear_relations,
    enumerate_phrases,
    phrase,
    things_of,
)
from openjanus.worlds.emoji.cells import colour_cell, is_held_out
from openjanus.worlds.emoji.commands import typed
from openjanus.worlds.emoji.concepts import ALSO_SHOWN, COLOURS, CONCEPTS, NUMBER_WORDS
from openjanus.worlds.emoji.draws import pick
from openjanus.worlds.emoji.scenes import Scene, relations

WHOLE: Final = (
    "what's in this pic?",
    "what's in this picture?",
    "what is in the image?",
    "what's here?",
    "what do you see?",
    "what can you see here?",
    "describe it.",
    "describe this.",
    "describe the pic.",
    "tell me what's in it.",
    "tell me about this picture.",
    "so what is this a picture of?",
    "what am I looking at?",
    "say what you see.",
    "what's shown here?",
    "sum it up.",
)
EXISTS: Final = (
    "is there {} in it?",
    "is there {} here?",
    "do you see {}?",
    "can you see {} in this pic?",
    "can you spot {}?",
    "any chance there is {} in there?",
    "did they put {} in?",
    "does it have {}?",
    "I'm looking for {}, is it there?",
)
HOW_MANY: Final = (
    "how many {} can you see?",
    "how many {} do you see?",
    "how many {} are in this pic?",
    "how many {} are there in total?",
    "how many {} did they put in?",
    "count the {} for me.",
    "can you count the {}?",
    "what's the number of {}?",
)
COLOUR_OF: Final = (
    "what colour {is_} the {}?",
    "what's the colour of the {}?",
    "tell me the colour of the {}.",
    "which colour did they give the {}?",
    "the {}, what colour {is_} {it}?",
)
SIDE: Final = (
    "where {is_} the {}, seen from the {}?",
    "left, right, above or below: where {is_} the {} from the {}?",
    "where do I find the {} if I look from the {}?",
)
WHICH_SIDE: Final = (
    "which side of the {} {is_} the {} on?",
    "on which side of the {} {is_} the {}?",
)
WHAT_THERE: Final = (
    "what's {} the {}?",
    "what do you see {} the {}?",
    "which thing is {} the {}?",
)
WHAT_SIDE_OF_IT: Final = ("what's {} {them}?", "and what's {} {them}?", "what is {} {them}, then?")
NAME_IT: Final = (
    "what's this?",
    "what is that?",
    "what is it called?",
    "what do you call this?",
    "what's this thing?",
)
IN_ALL: Final = (
    "how many things altogether?",
    "how many things are there in all?",
    "so how many things is that in total?",
    "count everything.",
)
MORE: Final = (
    "are there more {} than {}?",
    "more {} than {}?",
    "do you see more {} than {}?",
)
ELSE: Final = ("anything else?", "what else?", "what else is there?", "is that all? what else?")
THEN_WHAT: Final = (
    "what is there then?",
    "so what's in it?",
    "then what do you see?",
    "what then?",
)

FOLLOW_SHARE: Final = 0.65
"""Share of turns after the first that refer to what was spoken of, where one can."""

TRIES: Final = 12
"""Draws for one turn, of which some have no clear answer or one that was given before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """One question with its one right answer."""

    question: str
    answer: str
    fact: tuple[str, ...]
    """What is asked, whatever the words: no dialogue asks it twice."""
    topic: str | None
    """The concept that "it" means afterwards, if any."""


Move = Callable[["Talk", np.random.Generator], "Exchange | None"]


class Talk:
    """What may be asked of one scene now.

    Args:
        scene: What is spoken about.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.shown = {things.concept: things for things in things_of(scene)}
        self.sure = [name for name in self.shown if name not in doubtful_things(self.shown)]
        self.told = clear_relations(scene)
        self.said: list[Exchange] = []

    @property
    def topic(self) -> Things | None:
        """What "it" or "they" means."""
        topic = self.said[-1].topic if self.said else None
        return None if topic is None else self.shown[topic]

    def add(self, rng: np.random.Generator) -> bool:
        """Say one thing more; whether there was any."""
        facts = {exchange.fact for exchange in self.said}
        for _ in range(TRIES):
            follows = bool(self.said) and rng.random() < FOLLOW_SHARE
            made = pick(rng, FOLLOWING if follows else FRESH)(self, rng)
            if made is not None and made.fact not in facts:
                self.said.append(made)
                return True
        return False


def dialogue(scene: Scene, rng: np.random.Generator, turns: int) -> list[tuple[str, str]]:
    """Questions and answers in turn about a scene; fewer than asked for where it has no more."""
    talk = Talk(scene)
    while len(talk.said) < turns and talk.add(rng):
        pass
    if not talk.said:
        talk.said.append(_whole(talk, rng))
    return [(typed(exchange.question, rng), exchange.answer) for exchange in talk.said]


def plainly(scene: Scene, rng: np.random.Generator) -> str:
    """All that a scene shows, and where in a scene of two, without any frame."""
    told = clear_relations(scene)
    if len(scene.objects) == 2 and told and (scene.tag == "position" or rng.random() < 0.4):
        a, relation, b = pick(rng, told)
        first, second = (phrase(x.concept, colour=x.colour) for x in (a, b))
        return f"{first} {relation} {second}"
    return _all_of(things_of(scene))


def _all_of(shown: Sequence[Things]) -> str:
    return enumerate_phrases([phrase(x.concept, count=x.count, colour=x.colour) for x in shown])


def _it(things: Things) -> str:
    return "it" if things.verb == "is" else "they"


def _them(things: Things) -> str:
    return "it" if things.verb == "is" else "them"


def _whole(talk: Talk, rng: np.random.Generator) -> Exchange:
    topic = next(iter(talk.shown)) if len(talk.shown) == 1 else None
    question, answer = pick(rng, WHOLE), plainly(talk.scene, rng)
    return Exchange(question=question, answer=answer, fact=("whole",), topic=topic)


def _exists(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    there = rng.random() < 0.5
    names = talk.sure if there else absent_things(talk.shown)
    if not names:
        return None
    name = pick(rng, names)
    question = pick(rng, EXISTS).format(phrase(name))
    answer, topic = ("yes", name) if there else ("no", None)
    return Exchange(question=question, answer=answer, fact=("exists", name), topic=topic)


def _counts(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    if not talk.sure:
        return None
    things = talk.shown[pick(rng, talk.sure)]
    if things.count == 1 and rng.random() < 0.6:
        return None  # nearly every scene could ask it
    return _count_of(things, pick(rng, HOW_MANY).format(CONCEPTS[things.concept].counted))


def _count_of(things: Things, question: str) -> Exchange:
    answer, fact = NUMBER_WORDS[things.count], ("count", things.concept)
    return Exchange(question=question, answer=answer, fact=fact, topic=things.concept)


def _colours(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    tinted = [things for things in talk.shown.values() if things.colour is not None]
    if not tinted:
        return None
    things = pick(rng, tinted)
    words = pick(rng, COLOUR_OF).format(things.noun, is_=things.verb, it=_it(things))
    return _colour_of(things, words)


def _colour_of(things: Things, question: str) -> Exchange:
    assert things.colour is not None
    fact = ("colour", things.concept)
    return Exchange(question=question, answer=things.colour, fact=fact, topic=things.concept)


def _sides(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    if not talk.told:
        return None
    a, relation, b = pick(rng, talk.told)
    is_ = talk.shown[a.concept].verb
    if relation in ("left of", "right of") and rng.random() < 0.6:
        words = pick(rng, WHICH_SIDE).format(b.concept, a.concept, is_=is_)
    else:
        words = pick(rng, SIDE).format(a.concept, b.concept, is_=is_)
    return _side_of(words, relation, a.concept, b.concept)


def _side_of(question: str, relation: str, a: str, b: str) -> Exchange:
    answer, fact = relation.removesuffix(" of"), ("side", a, b)
    return Exchange(question=question, answer=answer, fact=fact, topic=a)


def _what_there(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    found = _alone_there(talk)
    if not found:
        return None
    a, relation, b = pick(rng, found)
    words = pick(rng, WHAT_THERE).format(relation, b)
    return Exchange(question=words, answer=a, fact=("there", relation, b), topic=a)


def _alone_there(talk: Talk) -> list[tuple[str, str, str]]:
    """(a, relation, b) where a is all that stands there, seen from b."""
    return [
        (a.concept, relation, b.concept)
        for a, relation, b in talk.told
        if [x for x in talk.scene.objects if x is not b and relation in relations(x.box, b.box)]
        == [a]
    ]


def _names(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    if len(talk.scene.objects) != 1:
        return None
    (name,) = talk.shown
    return Exchange(question=pick(rng, NAME_IT), answer=name, fact=("name",), topic=name)


def _total(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    if any(name in ALSO_SHOWN for name in talk.shown) or len(talk.scene.objects) == 1:
        return None
    answer = NUMBER_WORDS[len(talk.scene.objects)]
    return Exchange(question=pick(rng, IN_ALL), answer=answer, fact=("total",), topic=None)


def _more(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    if len(talk.sure) < 2:
        return None
    order = rng.permutation(len(talk.sure))
    a, b = (talk.shown[talk.sure[i]] for i in order[:2])
    answer = "yes" if a.count > b.count else "no"
    words = pick(rng, MORE).format(CONCEPTS[a.concept].counted, CONCEPTS[b.concept].counted)
    return Exchange(question=words, answer=answer, fact=("more", a.concept, b.concept), topic=None)


def _its_colour(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    topic = talk.topic
    if topic is None or topic.colour is None:
        return None
    is_, it = topic.verb, _it(topic)
    frames = (
        f"what colour {is_} {it}?",
        f"and what colour {is_} {it}?",
        f"and {'its' if it == 'it' else 'their'} colour?",
        "which colour?",
        f"what's the colour of {_them(topic)}?",
    )
    return _colour_of(topic, pick(rng, frames))


def _its_colour_checked(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    topic = talk.topic
    if topic is None or topic.colour is None:
        return None
    colour = topic.colour
    if rng.random() < 0.5:  # to say no of what is held out would teach that there is none
        others = [c for c in COLOURS if not is_held_out(colour_cell(topic.concept, c))]
        colour = pick(rng, [c for c in others if c != topic.colour])
    start = topic.verb
    frames = (f"{start} {_it(topic)} {colour}?", f"and {start} {_it(topic)} {colour}?")
    answer = "yes" if colour == topic.colour else "no"
    fact = ("checked", topic.concept, colour)
    return Exchange(question=pick(rng, frames), answer=answer, fact=fact, topic=topic.concept)


def _its_count(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    topic = talk.topic
    if topic is None or topic.concept not in talk.sure:
        return None
    if topic.count == 1 and rng.random() < 0.6:
        return None
    frames = ("how many?", "how many of them?", "and how many are there?", "how many exactly?")
    return _count_of(topic, pick(rng, frames))


def _its_side(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    topic = talk.topic
    told = [] if topic is None else [x for x in talk.told if x[0].concept == topic.concept]
    if topic is None or not told:
        return None
    a, relation, b = pick(rng, told)
    is_, it = topic.verb, _it(topic)
    frames = [f"where {is_} {it}, seen from the {b.concept}?", f"and from the {b.concept}?"]
    if relation in ("left of", "right of"):
        frames += [
            f"{is_} {it} left or right of the {b.concept}?",
            f"and which side of the {b.concept} {is_} {it} on?",
        ]
    else:
        frames += [f"{is_} {it} above or below the {b.concept}?"]
    if talk.said[-1].fact[0] != "side":
        frames.remove(f"and from the {b.concept}?")
    return _side_of(pick(rng, frames), relation, a.concept, b.concept)


def _beside_it(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    topic = talk.topic
    found = [] if topic is None else [x for x in _alone_there(talk) if x[2] == topic.concept]
    if topic is None or not found:
        return None
    a, relation, b = pick(rng, found)
    words = pick(rng, WHAT_SIDE_OF_IT).format(relation, them=_them(topic))
    return Exchange(question=words, answer=a, fact=("there", relation, b), topic=a)


def _and_the_other(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    """The same question about another thing: "and the car?", "and cars?"."""
    last = talk.said[-1]
    others = [things for name, things in talk.shown.items() if name != last.topic]
    if last.fact[0] == "colour":
        others = [things for things in others if things.colour is not None]
        if others:
            things = pick(rng, others)
            frames = (f"and the {things.noun}?", f"what about the {things.noun}?")
            return _colour_of(things, pick(rng, frames))
    elif last.fact[0] == "count":
        others = [things for things in others if things.concept in talk.sure]
        if others:
            things = pick(rng, others)
            many = CONCEPTS[things.concept].counted
            return _count_of(things, pick(rng, (f"and {many}?", f"how about {many}?")))
    return None


def _others(talk: Talk, rng: np.random.Generator) -> Exchange | None:
    """What there is besides the one thing spoken of."""
    last = talk.said[-1]
    if last.fact[0] == "exists" and last.answer == "no":
        answer = plainly(talk.scene, rng)
        return Exchange(question=pick(rng, THEN_WHAT), answer=answer, fact=("whole",), topic=None)
    if last.topic is None or len({x.topic for x in talk.said}) > 1 or last.fact == ("whole",):
        return None
    others = [things for name, things in talk.shown.items() if name != last.topic]
    if not others and last.topic in ALSO_SHOWN:
        return None  # a bowl with its spoon
    answer = _all_of(others) if others else "no"
    question = pick(rng, ELSE) if others else "anything else?"
    topic = others[0].concept if len(others) == 1 else None
    return Exchange(question=question, answer=answer, fact=("else",), topic=topic)


FRESH: Final[tuple[Move, ...]] = (
    *(_whole, _exists, _exists, _counts, _counts, _colours, _colours),
    *(_sides, _sides, _what_there, _names, _total, _more),
)
FOLLOWING: Final[tuple[Move, ...]] = (
    *(_its_colour, _its_colour, _its_colour_checked, _its_count, _its_side, _its_side),
    *(_beside_it, _and_the_other, _and_the_other, _others),
)
