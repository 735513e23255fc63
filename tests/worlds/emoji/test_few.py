"""The world of few things: a part of the first, with its cells, its artwork and its judge."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from openjanus.worlds.emoji.absence import popular_concepts
from openjanus.worlds.emoji.cells import cells_of, evaluation_cells, held_out_cells, is_held_out
from openjanus.worlds.emoji.faces_task import FacesTask, four_choices
from openjanus.worlds.emoji.questions import QUESTION_KINDS, QuestionKind, exam
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS
from openjanus.worlds.emoji.source import EmojiScenes
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import world


@pytest.fixture(scope="module")
def few_sprites(sprites: Sprites) -> Sprites:
    return sprites.in_world("few")


def test_its_cells_are_those_of_the_first_world() -> None:
    few = set(world("few").concepts)
    assert few < set(world("v0").concepts)
    for tag in GENEVAL_TAGS:
        of_v0 = [cell for cell in evaluation_cells(tag, "v0") if set(cell.concepts) <= few]
        assert list(evaluation_cells(tag, "few")) == of_v0
    held_out = Counter(cell.count for cell in held_out_cells("counting", "few"))
    assert all(held_out[number] >= 2 for number in (2, 3, 4))


def test_training_shows_these_things_alone_and_nothing_held_out(few_sprites: Sprites) -> None:
    source = EmojiScenes(
        kind="gen", world="few", sprites=few_sprites, grid=12, two_sizes=True, slots=True
    )
    seen = Counter()
    for i in range(600):
        scene = source.scene(i)
        seen.update(thing.concept for thing in scene.objects)
        assert not [name for name in cells_of(scene) if is_held_out(name)]
    assert set(seen) == set(world("few").concepts)
    assert source[0].key.startswith("emoji-few-")


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_exams_have_every_answer_as_often(kind: QuestionKind, few_sprites: Sprites) -> None:
    asked = exam(kind, 120, 0, few_sprites)
    answers = Counter(question.answer for _, question in asked)
    for scene, _ in asked:
        assert {thing.concept for thing in scene.objects} <= set(world("few").concepts)
    if kind == "counting":
        assert set(answers.values()) == {30}
    if kind == "naming":
        assert set(answers) == set(world("few").concepts)


def test_popular_are_a_quarter(few_sprites: Sprites) -> None:
    assert len(popular_concepts("few")) == 3
    assert len(popular_concepts("v0")) == 15


def test_wrong_names_are_of_the_world(few_sprites: Sprites) -> None:
    names = tuple(world("few").concepts)
    for i, (scene, question) in enumerate(islice(exam("naming", 20, 0, few_sprites), 20)):
        options = four_choices(scene, question.answer, [1, i], names)
        assert question.answer in options.values()
        assert set(options.values()) <= set(names)
        assert len(set(options.values())) == 4


def test_only_a_part_of_a_world_can_be_shown(few_sprites: Sprites, sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="world v0 is no part of world few"):
        few_sprites.in_world("v0")
    with pytest.raises(ValueError, match="world wide is no part of world v0"):
        sprites.in_world("wide")
    with pytest.raises(ValueError, match="no judge of the wide world ships"):
        FacesTask(world="wide")
