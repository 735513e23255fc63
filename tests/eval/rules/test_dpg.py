from __future__ import annotations

import pytest

from openjanus.eval.rules.dpg import Question, is_yes, picture_score, question_scores


def question(number: int, *parents: int) -> Question:
    return Question(number=number, text="?", parents=parents, category="entity")


GRAPH = [question(1), question(2, 1), question(3, 2), question(4)]


def test_a_question_falls_with_its_parent():
    assert question_scores(GRAPH, {1: True, 2: True, 3: True, 4: False}) == {1: 1, 2: 1, 3: 1, 4: 0}
    assert question_scores(GRAPH, {1: True, 2: False, 3: True, 4: True}) == {1: 1, 2: 0, 3: 0, 4: 1}
    # And with a grandparent, where the parent stands above it.
    assert question_scores(GRAPH, {1: False, 2: True, 3: True, 4: True}) == {1: 0, 2: 0, 3: 0, 4: 1}
    assert picture_score(GRAPH, {1: False, 2: True, 3: True, 4: True}) == 0.25


def test_a_grandparent_below_does_not_reach_up():
    graph = [question(3, 2), question(2, 1), question(1)]
    assert question_scores(graph, {1: False, 2: True, 3: True}) == {3: 1, 2: 0, 1: 0}


def test_any_of_several_parents_is_enough():
    graph = [question(1), question(2), question(3, 1, 2)]
    assert question_scores(graph, {1: True, 2: False, 3: True})[3] == 0


@pytest.mark.parametrize(
    ("answer", "yes"),
    [("yes", True), ("Yes.", True), (" YES ", True), ("no", False), ("yes, it is", False)],
)
def test_only_yes_is_yes(answer, yes):
    assert is_yes(answer) is yes


def test_wrong_graphs():
    with pytest.raises(ValueError, match=r"every question needs an answer, \[3, 4\] have none"):
        question_scores(GRAPH, {1: True, 2: True})
    with pytest.raises(ValueError, match=r"question 1 depends on \[9\]"):
        question_scores([question(1, 9)], {1: True})
    for wrong in ([], [question(1), question(1)]):
        with pytest.raises(ValueError, match="numbers of their own"):
            question_scores(wrong, {1: True})
