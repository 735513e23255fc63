from __future__ import annotations

from openjanus.data.samples import IMAGE_MARK, Turn
from openjanus.worlds.emoji.turns import asked_about_picture, told_or_asked


def test_the_picture_comes_before_the_first_question_alone() -> None:
    turns = asked_about_picture([("What?", "a dog"), ("Where?", "left")])
    assert [turn.text for turn in turns] == [f"{IMAGE_MARK}\nWhat?", "a dog", "Where?", "left"]
    assert [turn.role for turn in turns] == ["user", "assistant"] * 2


def test_a_plain_text_has_one_turn() -> None:
    assert told_or_asked("a dog") == (Turn(role="assistant", text="a dog"),)
    question, answer = told_or_asked(("Hello", "Hi"))
    assert (question, answer) == (
        Turn(role="user", text="Hello"),
        Turn(role="assistant", text="Hi"),
    )
