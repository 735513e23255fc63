from __future__ import annotations

import numpy as np
import pytest

from openjanus.pipeline import Check
from openjanus.worlds.emoji.asked_scenes import scene_for_cell
from openjanus.worlds.emoji.captions import prompt_for_cell
from openjanus.worlds.emoji.cells import evaluation_cells
from openjanus.worlds.emoji.checks import checks_for_prompt
from openjanus.worlds.emoji.questions import QUESTION_KINDS, ask
from openjanus.worlds.emoji.scenes import Tag
from openjanus.worlds.emoji.sprites import Sprites


def asked(prompt: str) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [(check.question, check.right, check.wrong) for check in checks_for_prompt(prompt)]


def test_each_part_of_a_prompt_is_asked_for() -> None:
    assert asked("a photo of a red car and two pairs of skis") == [
        ("Is there a car in the picture?", ("yes",), ("no",)),
        ("How many cars are there?", ("one",), ()),
        ("What colour is the car?", ("red",), ()),
        ("Is there a pair of skis in the picture?", ("yes",), ("no",)),
        ("How many pairs of skis are there?", ("two",), ()),
    ]
    assert asked("a cat left of a dog")[-1] == (
        "Where is the cat: left of, right of, above or below the dog?",
        ("left",),
        (),
    )
    assert len(asked("two cats left of a dog")) == 4  # training asks nobody where two things are


@pytest.mark.parametrize("tag", ["two_object", "counting", "colors", "position", "color_attr"])
def test_what_is_asked_is_what_training_asks(sprites: Sprites, tag: Tag) -> None:
    """Of a true scene, every check is a question of the training, with its answer."""
    cell = next(c for c in evaluation_cells(tag) if not {"bear", "person"} & {*c.concepts})
    rng = np.random.default_rng(0)
    checks = checks_for_prompt(prompt_for_cell(cell))
    wanted = {(check.question, check.right[0]) for check in checks}
    found: set[tuple[str, str]] = set()
    for _ in range(3000):
        scene = scene_for_cell(cell, rng, sprites)
        for kind in QUESTION_KINDS:
            question = ask(scene, rng, kind)
            if question is not None:
                found.add((question.text, question.answer))
        if wanted <= found:
            return
    raise AssertionError(f"never asked: {wanted - found}")


def test_a_world_has_its_own_questions() -> None:
    checks = checks_for_prompt("a photo of six penguins", "wide")
    assert [(check.question, check.right[0]) for check in checks] == [
        ("Is there a penguin in the picture?", "yes"),
        ("How many penguins are there?", "six"),
    ]


def test_a_prompt_of_another_world_is_refused() -> None:
    with pytest.raises(ValueError, match="not a thing of this world"):
        checks_for_prompt("a photo of a unicorn")


def test_checks_are_what_the_pipeline_takes() -> None:
    assert all(isinstance(check, Check) for check in checks_for_prompt("a cup"))
