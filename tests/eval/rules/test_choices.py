from __future__ import annotations

import pytest

from openjanus.eval.rules.choices import (
    circular_correct,
    ranked_choice,
    read_letter,
    read_option,
    rotations,
)

OPTIONS = {"A": "a red car", "B": "a dog", "C": "Two cats"}


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. a red car", "B"),  # the letter comes before the text
        ("The answer is C: two of them", "C"),
        ("**C**", "C"),
        ("A or B", None),  # two letters, and no text
        ("it shows A or B, a dog", "B"),  # two letters, one text
        ("I see TWO CATS here", "C"),
        ("a red car and a dog", None),
        ("b", None),  # letters are capitals
        ("ABC", None),
        ("Z", "Z"),
        ("Cannot determine the answer, B perhaps", "Z"),
        ("", None),
    ],
)
def test_an_option_is_read_by_its_letter_then_by_its_text(answer, read):
    assert read_option(answer, OPTIONS) == read


def test_only_letters_of_options_count():
    assert read_option("D", OPTIONS) is None
    assert read_option("D", OPTIONS | {"D": "none"}) == "D"


def test_rotations_keep_the_answers_text():
    turned = rotations(OPTIONS, "B")
    assert [options["A"] for options, _ in turned] == ["a red car", "a dog", "Two cats"]
    assert [answer for _, answer in turned] == ["B", "A", "C"]
    assert {options[answer] for options, answer in turned} == {"a dog"}
    with pytest.raises(KeyError, match="one of A, B, C, got 'E'"):
        rotations(OPTIONS, "E")


def test_circular_wants_every_rotation_right():
    assert circular_correct([True, True])
    assert not circular_correct([True, False, True])
    with pytest.raises(ValueError, match="at least one rotation"):
        circular_correct([])


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("A", "A"),
        (" b) a dog", "B"),
        ("b", "B"),
        ("(C)", "C"),
        ("Cats", "C"),  # the first character, whatever follows
        ("car", None),  # but a small one is a letter only by itself
        ("D", None),
        ("the A", None),
        ("", None),
    ],
)
def test_seed_reads_the_first_character(answer, read):
    assert read_letter(answer, OPTIONS) == read


def test_ranking_takes_the_mean_over_tokens():
    # The sum prefers the short choice, the mean the long one.
    assert ranked_choice({"A": [-1.0], "B": [-0.9, -0.9, -0.9]}) == "B"
    assert ranked_choice({"A": [-1.0], "B": [-1.0]}) == "A"
    for wrong in ({}, {"A": [-1.0], "B": []}):
        with pytest.raises(ValueError, match="each with at least one token"):
            ranked_choice(wrong)
