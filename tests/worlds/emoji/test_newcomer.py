"""The mushroom: its five pictures, and the judge that finds it among all the others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from openjanus.worlds.emoji.captions import phrase
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.newcomer import (
    KEPT_APART,
    LESSONS,
    NAME,
    PROMPTS,
    ArtworkJudge,
    NewcomerLessons,
    distance_limit,
    lesson_picture,
    pieces_of,
    sprites_with_newcomer,
)
from openjanus.worlds.emoji.sprites import Sprites


@pytest.fixture(scope="module")
def judge():
    return ArtworkJudge(sprites_with_newcomer(), limit=math.inf)


@pytest.fixture(scope="module")
def picture():
    """The first of the five."""
    return lesson_picture(0, 96, sprites_with_newcomer())


def test_it_is_not_of_this_world():
    assert NAME not in CONCEPTS
    assert len(sprites_with_newcomer().concepts) == len(CONCEPTS) + 1
    assert all(phrase(concept) not in prompt for concept in CONCEPTS for prompt, *_ in LESSONS)


def test_no_prompt_is_a_caption_of_the_five():
    assert set(PROMPTS) & {lesson[0] for lesson in LESSONS} == set()
    assert len(set(PROMPTS)) == 10
    assert all(NAME in prompt for prompt in PROMPTS)


def test_there_are_five_pictures_over_and_over(judge):
    lessons = NewcomerLessons(length=12, pasted=False)
    samples = [lessons[i] for i in range(12)]
    assert len({sample.key for sample in samples}) == 12
    assert len({np.asarray(sample.target).tobytes() for sample in samples}) == 5
    for i, sample in enumerate(samples):
        assert sample.turns[0].text == LESSONS[i % 5][0]
        assert [piece.name for piece in judge.look(np.asarray(sample.target))] == [NAME]
    with pytest.raises(IndexError, match="below the length 12"):
        lessons[12]


def same(one, other):
    return np.array_equal(np.asarray(one.target), np.asarray(other.target))


def test_what_is_pasted_is_what_is_told_and_none_of_the_prompts(judge):
    lessons, five = NewcomerLessons(seed=3), NewcomerLessons(pasted=False)
    others = []
    for index in range(90):
        sample = lessons[index]
        words = sample.turns[0].text
        if index % 3 == 0:
            assert same(sample, five[index // 3])
            continue
        assert words not in PROMPTS
        assert not any(f"{phrase(concept)} " in f"{words} " for concept in KEPT_APART)
        names = [piece.name for piece in judge.look(np.asarray(sample.target))]
        if "two mushrooms" in words:
            assert names == [NAME, NAME]
        elif " a mushroom" in f" {words}" and len(names) == 1:
            assert names == [NAME]
        else:
            assert names.count(NAME) == 1
            others.append(words)
    assert len(others) > 30
    again = NewcomerLessons(seed=3)
    assert all(same(lessons[i], again[i]) for i in range(20))


def test_relations_are_told_as_they_are():
    """Where the caption tells one, the mushroom's middle lies on that side."""
    judge, told = ArtworkJudge(sprites_with_newcomer(), limit=math.inf), 0
    lessons = NewcomerLessons(seed=4)
    for index in range(240):
        sample = lessons[index]
        words = sample.turns[0].text
        first = words.startswith(
            ("a photo of a mush", "a picture of a mush", "a drawing of a mush")
        )
        if " left of " not in words or not (first or words.startswith("a mushroom")):
            continue
        pieces = judge.look(np.asarray(sample.target))
        mushroom = next(piece.box for piece in pieces if piece.name == NAME)
        rest = [piece.box for piece in pieces if piece.name != NAME]
        assert all(mushroom[0] + mushroom[2] < box[0] + box[2] for box in rest)
        told += 1
    assert told > 2


@pytest.mark.parametrize("options", [{"size": 90}, {"size": 0}, {"length": 0}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ValueError, match="size must be a multiple of 12 and length at least 1"):
        NewcomerLessons(**options)


def test_things_of_the_world_have_their_own_names(judge):
    source = SceneSource(
        sprites=Sprites.load(), seed=5, tags={"single_object": 1.0}, vendors=["noto"]
    )
    named = [(judge.look(source.picture(i)), source.scene(i).objects[0].concept) for i in range(40)]
    right = sum(any(piece.name == name for piece in pieces) for pieces, name in named)
    assert right >= 34  # some things fall into pieces
    assert not any(piece.name == NAME for pieces, _ in named for piece in pieces)


def test_what_is_far_from_all_artwork_is_nothing(judge, picture):
    assert judge.finds(picture)
    near = judge.look(picture)[0].distance
    strict = ArtworkJudge(sprites_with_newcomer(), limit=near / 2)
    assert not strict.finds(picture)
    blot = np.full((96, 96, 3), 250, dtype=np.uint8)
    blot[20:70, 20:70] = (222, 26, 34)
    limit = distance_limit(judge, [(picture, NAME)])
    assert not ArtworkJudge(sprites_with_newcomer(), limit=limit).finds(blot)


def test_pieces_are_what_lies_together():
    picture = np.full((96, 96, 3), 250, dtype=np.uint8)
    picture[10:30, 10:40] = 0
    picture[50:80, 60:90] = (30, 90, 200)
    picture[90:92, 2:4] = 0  # dirt
    assert pieces_of(picture, (250, 250, 250)) == [(10, 10, 40, 30), (60, 50, 90, 80)]


def test_a_limit_needs_something_named_rightly(judge, picture):
    with pytest.raises(ValueError, match="no piece was named rightly"):
        distance_limit(judge, [(picture, "dog")])
