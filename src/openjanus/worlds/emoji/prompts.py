"""Read a prompt of GenEval's form back into GenEval's metadata, so that any such can be judged."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Final

from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.scenes import RELATIONS
from openjanus.worlds.emoji.vocabulary import COUNT_WORDS, WorldName, world

OPENING: Final = "a photo of "
_FORMS: Final = (
    "write 'a photo of' a thing, a coloured thing, two or more things, or two single things "
    "joined by 'and' or one of 'left of', 'right of', 'above', 'below'"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Phrase:
    concept: str
    count: int
    colour: str | None


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
    phrases = [_parse(part, prompt, name) for part in parts]
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


def _entry(phrase: _Phrase) -> dict[str, Any]:
    entry: dict[str, Any] = {"class": phrase.concept, "count": phrase.count}
    if phrase.colour is not None:
        entry["color"] = phrase.colour
    return entry


def _parse(words: str, prompt: str, name: WorldName) -> _Phrase:
    """Read "an apple", "a pair of red skis" or "three cars"."""
    numbers = COUNT_WORDS[: world(name).max_count + 1]
    concepts = world(name).concepts.values()
    first, _, rest = words.partition(" ")
    if first in ("a", "an", "one"):
        count = 1
    elif first in numbers[2:]:
        count = numbers.index(first)
    else:
        raise ValueError(f"{words!r} of {prompt!r} has no article or number: {_FORMS}")
    for pair in ("pair of ", "pairs of "):
        rest = rest.removeprefix(pair)
    nouns = {x.name if count == 1 else x.plural: x.name for x in concepts}
    if rest in nouns:
        return _Phrase(concept=nouns[rest], count=count, colour=None)
    colour, _, noun = rest.partition(" ")
    if colour in COLOURS and noun in nouns:
        return _Phrase(concept=nouns[noun], count=count, colour=colour)
    near = difflib.get_close_matches(noun if colour in COLOURS else rest, nouns, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "see openjanus.worlds.emoji.concepts"
    raise ValueError(f"{rest!r} of {prompt!r} is not a thing of this world: {hint}")
