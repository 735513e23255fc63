"""MMMU's rules (Yue et al., 2024): how free answers become options or numbers.

Written from the benchmark's description and the behaviour of its parser.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Value = str | float

_STRIPPED: Final = (",", ".", "!", "?", ";", ":", "'")
_LONG: Final = 5
"""An answer of more words than these may name an option by its text."""

_EXPONENT: Final = r"[eE][+-]?\d+"
_NUMBERS: Final = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # thousands apart
    re.compile(rf"-?\d+(?:\.\d+)?{_EXPONENT}"),
    re.compile(rf"-?(?:\d*\.\d+|\d+\b)(?!{_EXPONENT})(?![,\d])"),
)
"""Each is looked for on its own, so that pieces of "1,200" and "3e-4" are found again as plain
numbers: so does the official parser."""

_SIGNS: Final = (
    *("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "),
)
"""Words after which an answer tells its result; on its last line "=" is one too."""
_NOTHING: Final = frozenset({":", ",", ".", "!", "?", ";", "'"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which option an answer was read as."""

    letter: str
    parsed: bool
    """False where nothing could be read, and the letter is picked blindly."""


def read_choice(answer: str, options: Mapping[str, str], *, key: str) -> Choice:
    """The option that an answer names: "(A)", else " A ", else an option's text.

    Of several the one that stands last. Where there is none the official parser picks at random,
    so that a model is credited with chance; ours picks by the question's key, always the same.

    Args:
        answer: What the model said.
        options: Text by letter.
        key: Names the question.

    Raises:
        ValueError: No options.
    """
    if not options:
        raise ValueError("a choice needs at least one option, got none")
    said = answer
    for mark in _STRIPPED:
        said = said.strip(mark)
    said = f" {said} "  # a letter at either end is a word too
    for before, after in (("(", ")"), (" ", " ")):
        places = {letter: said.rfind(f"{before}{letter}{after}") for letter in options}
        if max(places.values()) >= 0:
            return Choice(letter=max(places, key=places.__getitem__), parsed=True)
    if len(said.split()) > _LONG:
        lowered = said.lower()
        places = {letter: lowered.rfind(text.lower()) for letter, text in options.items()}
        if max(places.values()) >= 0:
            return Choice(letter=max(places, key=places.__getitem__), parsed=True)
    blind = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % len(options)
    return Choice(letter=list(options)[blind], parsed=False)


def choice_correct(letter: str, answer: str | Sequence[str]) -> bool:
    """Whether a letter is the right one, or one of the right ones."""
    return letter == answer if isinstance(answer, str) else letter in answer


def alike(text: str) -> list[Value]:
    """How a text is compared: a number to two decimals, else lower case.

    A single character stands with a blank before it or after it, lest it is found in any word.
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def numbers_in(text: str) -> list[str]:
    """Numbers with commas, in scientific notation, and plain ones."""
    return [found for pattern in _NUMBERS for found in pattern.findall(text)]


def read_open(answer: str) -> list[Value]:
    """Everything that a free answer may be taken to say.

    Of each line what follows a sign of a result, the shortest; the whole answer where no line
    has one; and all numbers in these.
    """
    lowered = answer.strip().strip(".").lower()
    lines = lowered.split("\n")
    told = []
    for index, line in enumerate(lines):
        signs = (*_SIGNS, "=") if index == len(lines) - 1 else _SIGNS
        shortest = ""
        for sign in signs:
            if sign in line:
                tail = line.rsplit(sign, 1)[-1].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in _NOTHING:
            told.append(shortest)
    if not told:
        told = [lowered]
    told += [number for text in list(told) for number in numbers_in(text)]
    return list(dict.fromkeys(value for text in told for value in alike(text)))


def open_correct(said: Sequence[Value], answer: str | Sequence[str]) -> bool:
    """Whether one of the readings has the right answer in it, or is the right number.

    Args:
        said: What `read_open` gave.
        answer: The right answer, or all that are right.
    """
    right = [
        value for one in ([answer] if isinstance(answer, str) else answer) for value in alike(one)
    ]
    words = [value for value in right if isinstance(value, str)]
    return any(
        any(word in value for word in words) if isinstance(value, str) else value in right
        for value in said
    )
