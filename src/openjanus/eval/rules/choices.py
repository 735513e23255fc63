"""Multiple choice: MMBench's reading of a letter, circular evaluation, ranked choices (SEED)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

NO_OPTION: Final = "Z"
"""What is read where a model refuses, or says itself that no option fits."""

REFUSALS: Final = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)

_MARKS: Final = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def read_option(answer: str, options: Mapping[str, str]) -> str | None:
    """The option that an answer names, by MMBench's heuristics (no language model is asked).

    First letters: exactly one option's letter must be a word of its own once `.()[],:;!*#{}` are
    blanks. Else texts: exactly one option's text must occur in the answer, case aside.

    Args:
        answer: What the model said.
        options: Text by letter.

    Returns:
        A letter; `NO_OPTION` for a refusal; None where nothing can be read, a parse failure.
    """
    if any(refusal in answer for refusal in REFUSALS):
        return NO_OPTION
    words = set(answer.translate(_MARKS).split())
    named = [letter for letter in options if letter in words]
    if len(named) == 1:
        return named[0]
    if not named and NO_OPTION in words:
        return NO_OPTION
    lowered = answer.lower()
    told = [letter for letter, text in options.items() if text.lower() in lowered]
    return told[0] if len(told) == 1 else None


def rotations(options: Mapping[str, str], answer: str) -> list[tuple[dict[str, str], str]]:
    """All rotations of the options, the given order first, each with the letter of the answer.

    Args:
        options: Text by letter, in order.
        answer: The right letter.

    Raises:
        KeyError: The answer is none of the options.
    """
    if answer not in options:
        raise KeyError(f"the answer must be one of {', '.join(options)}, got {answer!r}")
    letters, texts = list(options), list(options.values())
    place = letters.index(answer)
    turned = []
    for shift in range(len(texts)):
        order = texts[shift:] + texts[:shift]
        turned.append(
            (dict(zip(letters, order, strict=True)), letters[(place - shift) % len(letters)])
        )
    return turned


def circular_correct(right: Sequence[bool]) -> bool:
    """A question counts only if every rotation of it is answered rightly.

    Raises:
        ValueError: No rotations.
    """
    if not right:
        raise ValueError("a question needs at least one rotation, got none")
    return all(right)


def read_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """SEED's reading: the first character, where it is an option's letter; brackets aside.

    A small letter counts too where no word goes on behind it: "b)", not "both".
    """
    said = answer.strip().lstrip("(")
    start = said[:1]
    if start.islower() and not said[1:2].isalnum():
        start = start.upper()
    return start if start in options else None


def ranked_choice(log_probs: Mapping[str, Sequence[float]]) -> str:
    """The choice with the lowest loss, the mean over its tokens; the first of equal ones.

    Args:
        log_probs: Of each token of each choice.

    Raises:
        ValueError: No choices, or one without tokens.
    """
    if not log_probs or not all(len(values) for values in log_probs.values()):
        raise ValueError("ranking needs choices, each with at least one token")
    losses = {
        choice: -math.fsum(float(value) for value in values) / len(values)
        for choice, values in log_probs.items()
    }
    return min(losses, key=losses.__getitem__)
