from __future__ import annotations

import pytest

from openjanus.eval.rules.vqav2 import CONTRACTIONS, accuracy, normalise


@pytest.mark.parametrize(
    ("answer", "same_as"),
    [
        ("Two", "2"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("The Dog", "dog"),
        ("an apple a day", "apple day"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("Im", "im"),
        ("somebody'd", "somebodyd"),
        ("y'allll", "y'all'll"),
        ("well", "well"),  # also a word of its own
        ("1.5", "1.5"),
        ("yes.", "yes"),
        (".5", ".5"),
        ("e.g", "eg"),
        ("100,978", "100978"),
        ("t-shirt", "t shirt"),
        ("red, blue", "red blue"),
        ("yes- t-shirt", "yes tshirt"),  # beside a blank once, gone everywhere
        ("yes -t-shirt", "yes tshirt"),
        ("girl's 2:50", "girl's 2:50"),
        ("a\nb\tc", "b c"),
        ("what?", "what"),
        ("$5", "$5"),
    ],
)
def test_answers_are_normalised(answer, same_as):
    assert normalise(answer) == same_as


def test_contractions_are_what_no_other_word_is():
    assert {"well", "were", "its", "shell", "hell", "wed", "id", "ill"} & set(CONTRACTIONS) == set()
    assert CONTRACTIONS["they'dve"] == "they'd've"


def test_three_of_the_other_nine_are_enough():
    def human(yes: int) -> list[str]:
        return ["yes"] * yes + ["no"] * (10 - yes)

    # Each of the yes-sayers sees one match fewer than the others do.
    assert accuracy("yes", human(0)) == 0
    assert accuracy("yes", human(1)) == pytest.approx((0 + 9 * 1 / 3) / 10)
    assert accuracy("yes", human(2)) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert accuracy("yes", human(3)) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert accuracy("yes", human(4)) == 1
    assert accuracy("Yes.", human(4)) == 1


def test_the_reply_is_normalised_where_all_agree_too():
    for reply in ("yes", "Yes", "Yes.", "the yes"):
        assert accuracy(reply, ["yes"] * 10) == 1
    assert accuracy("no", ["yes"] * 10) == 0
    with pytest.raises(ValueError, match="other annotators, got 1"):
        accuracy("2", ["2"])


def test_both_sides_may_be_normalised_alike():
    for human in (["two"] * 10, ["The Two."] * 9 + ["cat"], ["2"] * 10):
        assert accuracy("Two", human, both_sides=True) == 1
    assert accuracy("t-shirt", ["t-shirt"] * 10, both_sides=True) == 1
    assert accuracy("3", ["two"] * 10, both_sides=True) == 0


def test_of_the_annotators_answers_only_punctuation_is_normalised():
    # Nine say "two", which no reply can say any more: one annotator's "2" is left.
    assert accuracy("2", ["two"] * 9 + ["2"]) == pytest.approx(0.3)
    assert accuracy("two", ["two"] * 10) == 0
    assert accuracy("t shirt", ["t-shirt"] * 9 + ["cat"]) == 1
    assert accuracy("t-shirt", ["t-shirt"] * 10) == 0  # theirs is left as it is where all agree
