"""Read a prompt of GenEval's form back into GenEval's metadata, so that any such can be judged."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Final

from openjanus.worlds.emoji.captions import Things
from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.scenes import RELATIONS
from openjanus.worlds.emoji.vocabulary import COUNT_WORDS, WorldName, world

OPENING: Final = "a photo of "
_FORMS: Final = (
    "write 'a photo of' a thing, a coloured thing, two or more things, or two single things "
    "joined by 'and' or one of 'left of', 'right of', 'above', 'below'"
)

_NUMBERS: Final = frozenset(
    ("zero", "no", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "twenty")
)
"""Words that are numbers, though none that every world counts to."""


def metadata_for_prompt(prompt: str, name: WorldName = "v0") -> dict[str, Any]:
    """What a prompt such as "a photo of a red apple" asks for, as a line of GenEval metadata.

    Args:
        prompt: In GenEval's form.
        name: The world whose things it names.

    Raises:
        ValueError: The prompt is not of GenEval's form, or names what this world does not have.
    """
    words = " ".join(prompt.strip().lower().removesuffix(".").split())
    words = words.removeprefix(OPENING)
    relation, parts = None, [words]
    for joint in (*RELATIONS, "and"):
        left, found, right = words.partition(f" {joint} ")
        if found:
            relation, parts = (None if joint == "and" else joint), [left, right]
            break
    phrases = [read_phrase(part, prompt, forms=_FORMS, name=name) for part in parts]
    include = [_entry(phrase) for phrase in phrases]
    coloured = [phrase.colour is not None for phrase in phrases]
    if len(phrases) == 1:
        count, colour = phrases[0].count, phrases[0].colour
        if count > 1 and colour is not None:
            raise ValueError(f"GenEval colours one thing, not {count}, in {prompt!r}: {_FORMS}")
        tag = "counting" if count > 1 else "single_object" if colour is None else "colors"
    elif any(phrase.count > 1 for phrase in phrases) or len({p.concept for p in phrases}) == 1:
        raise ValueError(f"GenEval pairs two single things of two kinds, got {prompt!r}: {_FORMS}")
    elif relation is not None:
        tag = "position"
        include.reverse()
        include[1]["position"] = [relation, 0]
    else:
        tag = "color_attr" if any(coloured) else "two_object"
    line: dict[str, Any] = {"tag": tag, "include": include}
    if tag == "counting":
        line["exclude"] = [{"class": phrases[0].concept, "count": phrases[0].count + 1}]
    line["prompt"] = prompt
    return line


def _entry(phrase: Things) -> dict[str, Any]:
    entry: dict[str, Any] = {"class": phrase.concept, "count": phrase.count}
    if phrase.colour is not None:
        entry["color"] = phrase.colour
    return entry


def read_phrase(words: str, prompt: str, *, forms: str, name: WorldName = "v0") -> Things:
    """Read "an apple", "a pair of red skis", "three cars" or "two green apples".

    Args:
        words: The phrase, in lower case.
        prompt: What it is part of, for messages.
        forms: What may be written, for messages.
        name: The world whose things it names.

    Raises:
        ValueError: No article or number, or something that this world does not have.
    """
    numbers = COUNT_WORDS[: world(name).max_count + 1]
    concepts = world(name).concepts.values()
    first, _, rest = words.partition(" ")
    if first in ("a", "an", "one"):
        count = 1
    elif first in numbers[2:]:
        count = numbers.index(first)
    elif first in (*_NUMBERS, *numbers) or first.isdecimal():
        raise ValueError(
            f"things are counted in words from one to {numbers[-1]}, got {first!r} of {prompt!r}: "
            "write one of these"
        )
    else:
        raise ValueError(f"{words!r} of {prompt!r} has no article or number: {forms}")
    for pair in ("pair of ", "pairs of "):
        rest = rest.removeprefix(pair)
    nouns = {x.name if count == 1 else x.plural: x.name for x in concepts}
    if rest in nouns:
        return Things(concept=nouns[rest], count=count, colour=None)
    colour, _, noun = rest.partition(" ")
    if not rest or (colour in COLOURS and not noun):
        raise ValueError(f"{words!r} of {prompt!r} names no thing: {forms}")
    if colour in COLOURS and noun in nouns:
        return Things(concept=nouns[noun], count=count, colour=colour)
    if noun in nouns:
        close = _closest(colour, COLOURS, f"they are {', '.join(COLOURS)}")
        raise ValueError(f"{colour!r} of {prompt!r} is no colour of this world: {close}")
    close = _closest(noun if colour in COLOURS else rest, list(nouns), "name another")
    raise ValueError(f"{rest!r} of {prompt!r} is not a thing of this world: {close}")


def _closest(word: str, known: Sequence[str], otherwise: str) -> str:
    """The tail of a message: near matches, or what else there is to say."""
    near = difflib.get_close_matches(word, known, n=3)
    return f"did you mean {', '.join(near)}?" if near else otherwise
