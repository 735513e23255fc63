"""How free answers are read: normalisation, exact match, yes or no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def normalise(answer: str) -> str:
    """Strip, lower, and drop one trailing full stop (GQA's rule)."""
    return answer.strip().lower().removesuffix(".").rstrip()


def exact_match(answer: str, expected: str) -> bool:
    """Whether two answers are the same after `normalise`."""
    return normalise(answer) == normalise(expected)


def read_yes_no(answer: str) -> bool:
    """POPE's reading: no if "No", "not" or "no" is a word before the first full stop, else yes."""
    words = answer.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return not any(word in ("No", "not", "no") for word in words)


@dataclass(frozen=True, kw_only=True, slots=True)
class YesNoScores:
    """POPE's figures, 0 to 1; "yes" is the positive answer."""

    accuracy: float
    precision: float
    """0 where nobody says yes."""
    recall: float
    """0 where yes is never right."""
    f1: float
    yes_rate: float
    """Share of answers that are yes."""


def yes_no_scores(said: Sequence[bool], right: Sequence[bool]) -> YesNoScores:
    """Compare yes-or-no answers with the right ones.

    Raises:
        ValueError: No answers, or not as many as right ones.
    """
    if len(said) != len(right) or not said:
        raise ValueError(
            f"every question needs one answer, got {len(said)} answers to {len(right)} questions"
        )
    hits = sum(a and b for a, b in zip(said, right, strict=True))
    agreed = sum(a == b for a, b in zip(said, right, strict=True))
    precision = hits / sum(said) if any(said) else 0.0
    recall = hits / sum(right) if any(right) else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return YesNoScores(
        accuracy=agreed / len(said),
        precision=precision,
        recall=recall,
        f1=f1,
        yes_rate=sum(said) / len(said),
    )


def majority_score(expected: Sequence[str]) -> float:
    """Accuracy of always giving the most frequent right answer.

    Raises:
        ValueError: No questions.
    """
    if not expected:
        raise ValueError("a majority needs at least one question, got none")
    answers = [normalise(answer) for answer in expected]
    return max(answers.count(answer) for answer in set(answers)) / len(answers)
