"""VQAv2's rules (Goyal et al., 2017): normalised answers against ten annotators' answers.

Written from the public description of the evaluation, with what its program (`vqaEval.py` of the
authors' repository) does where the description is silent: each such place says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'
"""Everything but the apostrophe, the colon and the full stop."""

NUMBERS: Final = {
    "none": "0",
    **{
        word: str(number)
        for number, word in enumerate(
            ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
        )
    },
}
ARTICLES: Final = frozenset({"a", "an", "the"})

_NEGATED: Final = (
    *("ai", "are", "ca", "could", "did", "does", "do", "had", "has", "have", "is", "might"),
    *("must", "need", "ought", "sha", "should", "was", "were", "wo", "would"),
)
_WOULD_HAVE: Final = (
    *("he", "it", "she", "somebody", "someone", "something"),
    *("there", "they", "we", "who", "you"),
)


def _contractions() -> dict[str, str]:
    """Words whose apostrophe was left out -> the words; only those that no other word is.

    "im" and "ive" are not among them: the program lists them with a capital, which it has lowered
    before it looks.
    """
    whole = [f"{stem}n't" for stem in _NEGATED]
    whole += ["could've", "might've", "must've", "should've", "would've", "not've", "what've"]
    whole += ["he's", "how's", "someone's", "somebody's", "that's", "there's", "what's", "when's"]
    whole += ["where's", "who's", "why's", "it'll", "he'd", "it'd", "how'd"]
    whole += ["how'll", "ma'am", "o'clock", "somebody'll", "someone'd", "someone'll"]
    whole += ["something'd", "something'll", "there'd", "there're", "they'd", "they'll"]
    whole += ["they're", "they've", "'twas", "we've", "what'll", "what're", "where'd", "where've"]
    whole += ["who'd", "who'll", "who've", "why'll", "why're", "y'all", "you'd", "you'll"]
    whole += ["you're", "you've"]
    found = {word.replace("'", ""): word for word in whole}
    # Of two apostrophes either may be missing.
    for stem in _WOULD_HAVE:
        found |= {f"{stem}d've": f"{stem}'d've", f"{stem}'dve": f"{stem}'d've"}
    for stem in ("could", "had", "might", "should", "would"):
        found |= {f"{stem}n'tve": f"{stem}n't've", f"{stem}nt've": f"{stem}n't've"}
    found |= dict.fromkeys(("yall'll", "y'allll"), "y'all'll")
    found |= dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've")
    found |= dict.fromkeys(("'ow'sat", "'ows'at", "ow's'at"), "'ow's'at")
    # A slip of the program's: the other way round.
    found["somebody'd"] = "somebodyd"
    return found


CONTRACTIONS: Final = _contractions()

_COMMA_IN_NUMBER: Final = re.compile(r"\d,\d")
_LOOSE_STOP: Final = re.compile(r"\.(?!\d)")
"""A full stop that no digit follows. (The program means to spare one after a digit too, and does
not.)"""
MAX_STOPS: Final = 32
"""So many full stops are removed at most: the program's own slip, kept."""


def strip_punctuation(answer: str) -> str:
    """Blanks for punctuation, none for that beside a blank or in numbers; no loose full stops.

    A mark that stands beside a blank anywhere is removed everywhere, and a comma between digits
    has every mark removed: so does the program.
    """
    in_number = _COMMA_IN_NUMBER.search(answer) is not None
    made = answer
    for mark in PUNCTUATION:
        beside_blank = f"{mark} " in answer or f" {mark}" in answer
        made = made.replace(mark, "" if beside_blank or in_number else " ")
    return _LOOSE_STOP.sub("", made, count=MAX_STOPS)


def spell_alike(answer: str) -> str:
    """Lower case, digits for number words up to ten, no articles, apostrophes where missing."""
    words = (NUMBERS.get(word, word) for word in answer.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalise(answer: str) -> str:
    """An answer as it is compared."""
    return spell_alike(strip_punctuation(_one_line(answer)))


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def accuracy(answer: str, human: Sequence[str], *, both_sides: bool = False) -> float:
    """Mean over the annotators of min(1, matches among the others / 3); 0 to 1.

    So does the authors' program: the reply is always normalised; of the annotators' answers only
    the punctuation is, and that only where they differ. Copies of it normalise both sides alike.

    Args:
        answer: The model's.
        human: The annotators', ten of them.
        both_sides: Normalise the annotators' answers as the reply is.

    Raises:
        ValueError: Fewer than two annotators.
    """
    if len(human) < 2:
        raise ValueError(f"VQAv2 compares with the other annotators, got {len(human)} of them")
    told, said = [_one_line(one) for one in human], normalise(answer)
    if both_sides:
        told = [normalise(one) for one in told]
    elif len(set(told)) > 1:
        told = [strip_punctuation(one) for one in told]
    agreeing = sum(one == said for one in told)
    return sum(min(1.0, (agreeing - (one == said)) / 3) for one in told) / len(told)
