from __future__ import annotations

import pytest

from openjanus.eval.answers import (
    exact_match,
    majority_score,
    normalise,
    read_yes_no,
    yes_no_scores,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("  Red. ", "red"), ("red", "red"), ("a.b.", "a.b"), ("Stop sign .", "stop sign"), ("", "")],
)
def test_normalise(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


def test_exact_match_is_of_the_whole_answer() -> None:
    assert exact_match("Two.", "two")
    assert not exact_match("two dogs", "two")
    assert not exact_match("", "two")


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes", True),
        ("No", False),
        ("no, there is none", False),
        ("There is not", False),
        ("NO", True),  # POPE knows three spellings only
        ("Yes. There is no cat.", True),  # only the first sentence counts
        ("nothing", True),
        ("", True),
    ],
)
def test_yes_and_no_are_read_as_pope_reads_them(answer: str, yes: bool) -> None:
    assert read_yes_no(answer) is yes


def test_yes_no_scores() -> None:
    scores = yes_no_scores([True, True, True, False], [True, True, False, True])
    assert scores.accuracy == 0.5
    assert scores.precision == pytest.approx(2 / 3)
    assert scores.recall == pytest.approx(2 / 3)
    assert scores.f1 == pytest.approx(2 / 3)
    assert scores.yes_rate == 0.75


def test_nobody_says_yes() -> None:
    scores = yes_no_scores([False, False], [True, False])
    assert (scores.precision, scores.recall, scores.f1) == (0, 0, 0)


def test_yes_no_scores_need_an_answer_to_each_question() -> None:
    with pytest.raises(ValueError, match="got 1 answers to 2 questions"):
        yes_no_scores([True], [True, False])


def test_majority() -> None:
    assert majority_score(["red", "Red.", "blue", "green"]) == 0.5
    with pytest.raises(ValueError, match="got none"):
        majority_score([])
