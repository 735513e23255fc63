from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from openjanus.worlds.emoji.captions import Things, phrase, prompt_for_cell, things_of
from openjanus.worlds.emoji.cells import evaluation_cells
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.described import Description, described_scene, read_description
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, RELATIONS, relations
from openjanus.worlds.emoji.sprites import Sprites


def some(concept: str, count: int = 1, colour: str | None = None) -> Things:
    return Things(concept=concept, count=count, colour=colour)


@pytest.mark.parametrize(
    ("words", "things", "relation"),
    [
        ("a red car left of two dogs", (some("car", 1, "red"), some("dog", 2)), "left of"),
        ("A picture of two red cars.", (some("car", 2, "red"),), None),
        ("a dog is to the left of a cat", (some("dog"), some("cat")), "left of"),
        ("a pair of skis under an apple", (some("skis"), some("apple")), "below"),
        ("a cup, a hot dog and two cats", (some("cup"), some("hot dog"), some("cat", 2)), None),
    ],
)
def test_words_are_read(words: str, things: tuple[Things, ...], relation: str | None) -> None:
    assert read_description(words) == Description(things=things, relation=relation)


@pytest.mark.parametrize("tag", GENEVAL_TAGS)
def test_every_prompt_is_a_description_of_its_tag(tag: str) -> None:
    for cell in evaluation_cells(tag)[:300]:  # type: ignore[arg-type]
        read = read_description(prompt_for_cell(cell))
        assert read.tag == tag
        assert read.relation == cell.relation
        assert tuple(x.concept for x in read.things) == cell.concepts
        assert tuple(x.colour for x in read.things if x.colour) == cell.colours


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("a dgo", "did you mean dog"),
        ("a unicorn and a dog", "'unicorn' .* name another$"),
        ("a grey car", "no colour of this world"),
        ("nine dogs", "counted in words from one to four, got 'nine'"),
        ("0 dogs", "counted in words from one to four, got '0'"),
        ("2 dogs", "counted in words from one to four, got '2'"),
        ("zero dogs and a cat", "counted in words from one to four, got 'zero'"),
        ("a red", "names no thing: write things such as"),
        ("two", "names no thing: write things such as"),
        ("a", "names no thing: write things such as"),
        ("dogs", "has no article or number"),
        ("", "has no article or number"),
        ("a dog and a red dog", "'dog' stands twice"),
        ("a red person", "takes no colour"),
        ("three dogs and two cats", "one to four things, .* are 5"),
        ("a car left of three dogs", "at most two things to two"),
    ],
)
def test_what_no_scene_shows_is_refused(words: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_description(words)


@pytest.mark.parametrize("counts", [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("relation", RELATIONS)
def test_a_scene_shows_its_description(
    sprites: Sprites, counts: tuple[int, int], relation: str
) -> None:
    for seed, (a, b) in enumerate(list(permutations(CONCEPTS, 2))[::500]):
        things = (some(a, counts[0]), some(b, counts[1]))
        description = Description(things=things, relation=relation)
        scene = described_scene(description, np.random.default_rng(seed), sprites)
        assert things_of(scene) == things
        first = [x for x in scene.objects if x.concept == a]
        second = [x for x in scene.objects if x.concept == b]
        held = [relations(x.box, y.box) for x in first for y in second]
        assert all(relation in one for one in held)
        assert counts != (1, 1) or held == [{relation}]


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_wide_world_shows_what_is_described(relation: str, wide_sprites: Sprites) -> None:
    way = relation if relation in ("above", "below") else f"to the {relation}"
    description = read_description(f"a red penguin {way} two pairs of goggles", "wide")
    assert description.things == (some("penguin", 1, "red"), some("goggles", 2))
    for seed in range(20):
        scene = described_scene(description, np.random.default_rng(seed), wide_sprites)
        assert scene.world == "wide"
        assert things_of(scene) == description.things
        (first, *second) = scene.objects
        assert all(relation in relations(first.box, x.box) for x in second)


def test_a_world_has_its_own_words_and_counts(wide_sprites: Sprites) -> None:
    six = read_description("four penguins, a car and a dog", "wide")
    scene = described_scene(six, np.random.default_rng(0), wide_sprites)
    assert things_of(scene) == six.things
    assert read_description("six dogs", "wide").things == (some("dog", 6),)
    with pytest.raises(ValueError, match="one to six things, 'six dogs and a car' are 7"):
        read_description("six dogs and a car", "wide")
    for words in ("five dogs", "a penguin"):
        with pytest.raises(ValueError, match=r"from one to four|not a thing of this world"):
            read_description(words)


def test_a_scene_is_a_function_of_its_words_and_seed(sprites: Sprites) -> None:
    words = " and ".join(phrase(name, colour="red") for name in ("car", "cow"))
    description = read_description(words)
    scenes = [described_scene(description, np.random.default_rng(s), sprites) for s in (3, 3, 4)]
    assert scenes[0] == scenes[1] != scenes[2]
    assert scenes[0].tag == "free"  # GenEval's color_attr has two different colours


def test_a_relation_that_no_layout_shows_is_said(
    sprites: Sprites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openjanus.worlds.emoji.asked_scenes.relations", lambda a, b: set())
    description = read_description("a dog left of a cat")
    with pytest.raises(ValueError, match="try another seed"):
        described_scene(description, np.random.default_rng(0), sprites)
