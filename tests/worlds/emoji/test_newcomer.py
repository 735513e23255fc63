"""The mushroom: its five pictures, and the judge that finds it among all the others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from openjanus.worlds.emoji.captions import phrase
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.newcomer import (
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
    lessons = NewcomerLessons(length=12)
    samples = [lessons[i] for i in range(12)]
    assert len({sample.key for sample in samples}) == 12
    assert len({np.asarray(sample.target).tobytes() for sample in samples}) == 5
    for i, sample in enumerate(samples):
        assert sample.turns[0].text == LESSONS[i % 5][0]
        assert [piece.name for piece in judge.look(np.asarray(sample.target))] == [NAME]
    with pytest.raises(IndexError, match="below the length 12"):
        lessons[12]


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
