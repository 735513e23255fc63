"""What to ask a model of this world about its own drawings, in the words that it learnt."""

from __future__ import annotations

from collections.abc import Iterator

from openjanus.pipeline import Check
from openjanus.worlds.emoji.captions import Things, phrase
from openjanus.worlds.emoji.described import Description, read_description
from openjanus.worlds.emoji.questions import COLOUR, COUNTING, EXISTENCE, WHERE
from openjanus.worlds.emoji.vocabulary import COUNT_WORDS, WorldName, concept_named


def checks_for_prompt(prompt: str, name: WorldName = "v0") -> tuple[Check, ...]:
    """Take a prompt apart: is each thing there, how many of it, of which colour, and where.

    No question of the training is about a whole prompt, and none that may be answered by no about
    a colour or a count: so each part is asked for by itself, as it was in training.

    Args:
        prompt: What was to be drawn.
        name: The world whose things it names.

    Raises:
        ValueError: The prompt is of no known form, or names what this world does not have.
    """
    description = read_description(prompt, name)
    parts = [check for some in description.things for check in _checks_of(some)]
    return (*parts, *_relation_checks(description))


def _checks_of(some: Things) -> Iterator[Check]:
    there = EXISTENCE[0].format(phrase(some.concept))
    yield Check(question=there, right=("yes",), wrong=("no",))
    how_many = COUNTING[0].format(concept_named(some.concept).counted)
    yield Check(question=how_many, right=(COUNT_WORDS[some.count],), wrong=())
    if some.colour is not None:
        yield Check(question=COLOUR[0].format(some.verb, some.noun), right=(some.colour,), wrong=())


def _relation_checks(description: Description) -> Iterator[Check]:
    """Where the one thing is: training asks so only where there is one of each."""
    if description.relation is None or any(some.count > 1 for some in description.things):
        return
    first, second = description.things
    where = WHERE[0].format(first.verb, first.noun, second.concept)
    yield Check(question=where, right=(description.relation.removesuffix(" of"),), wrong=())
