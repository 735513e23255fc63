from __future__ import annotations

import pytest

from openjanus.eval.rules.mmmu import (
    Choice,
    choice_correct,
    numbers_in,
    open_correct,
    read_choice,
    read_open,
)

OPTIONS = {"A": "$6", "B": "the left atrium", "C": "a cell", "D": "none"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("A but rather (C)", "C"),  # brackets before bare letters
        ("(A) no, (D)", "D"),  # the last one
        ("(A) or (D), rather (A)", "A"),
        ("not B but C is right", "C"),
        ("so it is a cell indeed", "C"),  # six words
        ("It must be the left atrium of course", "B"),
        ("it is a cell, or none, I am not sure", "D"),
    ],
)
def test_an_option_is_read(answer, letter):
    assert read_choice(answer, OPTIONS, key="q") == Choice(letter=letter, parsed=True)


@pytest.mark.parametrize("answer", ["", "E", "it is the left atrium", "b", "ABC"])
def test_what_cannot_be_read_is_picked_blindly_and_said_so(answer):
    # Five words are too few for an option's text to count.
    choice = read_choice(answer, OPTIONS, key="q")
    assert not choice.parsed
    assert choice == read_choice("", OPTIONS, key="q")


def test_blind_picks_differ_between_questions_and_reach_every_option():
    picks = [read_choice("", OPTIONS, key=str(i)).letter for i in range(400)]
    assert all(60 < picks.count(letter) < 140 for letter in OPTIONS)
    with pytest.raises(ValueError, match="at least one option"):
        read_choice("A", {}, key="q")


def test_several_options_may_be_right():
    assert choice_correct("A", "A") and choice_correct("A", ["A", "C"])
    assert not choice_correct("B", ["A", "C"])


def test_numbers_are_found_and_pieces_of_them_too():
    assert numbers_in("-7 or .25 or 2.50") == ["-7", ".25", "2.50"]
    assert numbers_in("1,200") == ["1,200", "200"]
    assert numbers_in("3e-4") == ["3e-4", "-4"]
    assert numbers_in("x2 and 3rd") == ["2"]


@pytest.mark.parametrize(
    ("answer", "right", "correct"),
    [
        ("The total is 1,200.", "1200", True),
        ("so x = 5", "5", True),
        ("x = 5\nno idea", "5", True),  # the whole answer, for no line has a sign
        ("x is 4\ny = 5", "5", True),
        ("x = 4\ny is 5", "4", False),  # "=" counts on the last line alone
        ("3.144", "3.141", True),  # two decimals
        ("it is 3.1", "3.142", False),
        ("The answer is the mitral valve", "Mitral valve", True),
        ("The answer is the aortic valve", "mitral valve", False),
        ("the result is B2", "b", False),  # one character stands alone
        ("the result is b", "b", True),
        ("thus 7", ["6", "7"], True),
    ],
)
def test_free_answers(answer, right, correct):
    assert open_correct(read_open(answer), right) is correct
