from __future__ import annotations

import pytest

from openjanus.eval.rules.mme import (
    COGNITION,
    PERCEPTION,
    picture_points,
    read_answer,
    task_score,
    totals,
)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes", True),
        (" yes, it is", True),
        ("No.", False),
        ("NO", False),
        ("not at all", False),  # the prefix has "no" in it
        ("It is no", None),  # beyond the fourth character
        ("Nye", None),
        ("", None),
    ],
)
def test_yes_or_no_stands_in_the_first_four_characters(answer, read):
    assert read_answer(answer) is read


def test_points_are_accuracy_and_both_right():
    answers = [[True, True], [True, False], [False, True], [False, False]]
    assert [picture_points(right) for right in answers] == [200, 50, 50, 0]
    # Three pictures: 4 of 6 right, one picture wholly: 66.7 + 33.3.
    assert task_score([200, 50, 50]) == pytest.approx(100 * 4 / 6 + 100 / 3)
    with pytest.raises(ValueError, match="two questions a picture, got 3"):
        picture_points([True, True, False])
    with pytest.raises(ValueError, match="needs a picture, got none"):
        task_score([])


def test_perception_has_ten_tasks_and_cognition_four():
    assert (len(PERCEPTION), len(COGNITION)) == (10, 4)
    scores = dict.fromkeys(PERCEPTION, 100.0) | dict.fromkeys(COGNITION, 50.0)
    assert totals(scores) == {"perception": 1000.0, "cognition": 200.0}
    del scores["OCR"]
    assert totals(scores) == {"cognition": 200.0}
