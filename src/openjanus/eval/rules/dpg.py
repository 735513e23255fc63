"""DPG-Bench's rules (Hu et al., 2024): a graph of yes-or-no questions about each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

NO_PARENT: Final = 0
"""What the benchmark's file writes where a question depends on none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question about the pictures of a prompt."""

    number: int
    """From 1, within its prompt."""
    text: str
    parents: tuple[int, ...]
    """Questions that must be answered with yes for this one to make sense."""
    category: str
    """global, entity, attribute, relation or other."""


def is_yes(answer: str) -> bool:
    """Yes and nothing else, case and a full stop aside; whatever else is said is a no."""
    return _word(answer) == "yes"


def is_read(answer: str) -> bool:
    """Whether an answer says yes or no, and nothing else."""
    return _word(answer) in ("yes", "no")


def _word(answer: str) -> str:
    return answer.strip().lower().removesuffix(".")


def check_graph(questions: Sequence[Question]) -> None:
    """Check the questions of a prompt.

    Raises:
        ValueError: No question, a number twice, or a parent that is none of them.
    """
    numbers = [question.number for question in questions]
    if not numbers or len(set(numbers)) != len(numbers):
        raise ValueError(f"a prompt needs questions with numbers of their own, got {numbers}")
    for question in questions:
        unknown = [n for n in question.parents if n not in numbers]
        if unknown:
            raise ValueError(
                f"question {question.number} depends on {unknown}, which are not there"
            )


def question_scores(questions: Sequence[Question], yes: Mapping[int, bool]) -> dict[int, float]:
    """1 for yes, 0 for no, and 0 where a parent has 0.

    In the order of the file, as the benchmark's program does it: a question whose parent was
    zeroed above it falls with it.

    Args:
        questions: Of one prompt.
        yes: Answers by number.

    Raises:
        ValueError: As `check_graph`, or a question without an answer.
    """
    check_graph(questions)
    missing = [question.number for question in questions if question.number not in yes]
    if missing:
        raise ValueError(f"every question needs an answer, {missing} have none")
    scores = {question.number: float(yes[question.number]) for question in questions}
    for question in questions:
        if any(scores[parent] == 0 for parent in question.parents):
            scores[question.number] = 0.0
    return scores


def picture_score(questions: Sequence[Question], yes: Mapping[int, bool]) -> float:
    """Mean of `question_scores`, 0 to 1."""
    return mean_score(question_scores(questions, yes))


def mean_score(scores: Mapping[int, float]) -> float:
    """A picture's score from its questions', 0 to 1."""
    return sum(scores.values()) / len(scores)
