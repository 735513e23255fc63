from __future__ import annotations

import re

import numpy as np
import pytest

from openjanus.worlds.emoji.captions import (
    caption,
    geneval_caption,
    long_caption,
    metadata_for_cell,
    phrase,
    prompt_for_cell,
    things_of,
)
from openjanus.worlds.emoji.cells import Cell, evaluation_cells
from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS, NUMBER_WORDS
from openjanus.worlds.emoji.sampling import sample_scene
from openjanus.worlds.emoji.scenes import (
    GENEVAL_TAGS,
    RELATIONS,
    TAGS,
    Scene,
    SceneObject,
    Tag,
    relations,
)
from openjanus.worlds.emoji.sprites import Sprites

NOUNS = {c.plural: c.name for c in CONCEPTS.values()} | {c.name: c.name for c in CONCEPTS.values()}


def parse_phrase(text: str) -> tuple[str, str | None, int]:
    """Read "three red apples" back as ("apple", "red", 3)."""
    first, _, rest = text.partition(" ")
    count = 1 if first in ("a", "an") else NUMBER_WORDS.index(first)
    rest = re.sub(r"^pairs? of ", "", rest)
    colour, _, noun = rest.partition(" ")
    if colour in COLOURS and noun in NOUNS:
        return NOUNS[noun], colour, count
    return NOUNS[rest], None, count


@pytest.mark.parametrize(
    ("concept", "count", "colour", "expected"),
    [
        ("apple", 1, None, "an apple"),
        ("apple", 1, "red", "a red apple"),
        ("car", 1, "orange", "an orange car"),
        ("orange", 1, "orange", "an orange orange"),
        ("person", 2, None, "two people"),
        ("bus", 3, None, "three buses"),
        ("sheep", 4, "black", "four black sheep"),
        ("knife", 2, None, "two knives"),
        ("computer mouse", 2, None, "two computer mice"),
        ("wine glass", 1, None, "a wine glass"),
        ("skis", 1, None, "a pair of skis"),
        ("skis", 1, "red", "a pair of red skis"),
        ("scissors", 3, None, "three pairs of scissors"),
    ],
)
def test_phrases_are_english(concept: str, count: int, colour: str | None, expected: str) -> None:
    assert phrase(concept, count=count, colour=colour) == expected


def test_phrases_count_to_six() -> None:
    for count in (0, 7):
        with pytest.raises(ValueError, match=f"from 1 to 6, got {count}"):
            phrase("car", count=count)


@pytest.mark.parametrize("tag", TAGS)
def test_geneval_captions_read_back_as_the_scene(tag: Tag, sprites: Sprites) -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        scene = sample_scene(rng, tag, sprites)
        text = geneval_caption(scene, rng)
        assert text.startswith("a photo of ")
        parts = re.split(rf", | and | ({'|'.join(RELATIONS)}) ", text[len("a photo of ") :])
        told = [parse_phrase(part) for part in parts[::2]]
        expected = [(x.concept, x.colour, x.count) for x in things_of(scene)]
        assert sorted(told, key=str) == sorted(expected, key=str)
        if tag == "position":
            boxes = {x.concept: x.box for x in scene.objects}
            assert parts[1] in relations(boxes[told[0][0]], boxes[told[1][0]])


@pytest.mark.parametrize("tag", TAGS)
def test_every_caption_tells_everything_and_no_false_relation(tag: Tag, sprites: Sprites) -> None:
    rng = np.random.default_rng(1)
    canonical = {
        "to the left of": "left of",
        "on the left of": "left of",
        "to the right of": "right of",
        "on the right of": "right of",
        "over": "above",
        "under": "below",
    } | {relation: relation for relation in RELATIONS}
    phrasings = set()
    told = 0
    for _ in range(600):
        scene = sample_scene(rng, tag, sprites)
        text = caption(scene, rng)
        phrases = [phrase(x.concept, count=x.count, colour=x.colour) for x in things_of(scene)]
        for words in phrases:
            assert words in text
        skeleton = text
        for words in sorted(phrases, key=len, reverse=True):
            skeleton = skeleton.replace(words, "*", 1)
        phrasings.add(skeleton)
        found = re.search(rf"\* ({'|'.join(canonical)}) \*", skeleton)
        if found:
            told += 1
            boxes = {x.concept: x.box for x in scene.objects}
            first, second = sorted(
                things_of(scene), key=lambda x: text.index(phrase(x.concept, colour=x.colour))
            )
            held = relations(boxes[first.concept], boxes[second.concept])
            assert held == {canonical[found[1]]}
    assert len(phrasings) >= 7
    assert (told == 600) == (tag == "position")


def test_half_the_captions_are_genevals(sprites: Sprites) -> None:
    rng = np.random.default_rng(2)
    texts = [caption(sample_scene(rng, "colors", sprites), rng) for _ in range(2000)]
    assert 0.45 < np.mean([text.startswith("a photo of ") for text in texts]) < 0.55


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (
            Cell(tag="counting", name="", concepts=("bus",), count=3),
            {
                "tag": "counting",
                "include": [{"class": "bus", "count": 3}],
                "exclude": [{"class": "bus", "count": 4}],
                "prompt": "a photo of three buses",
            },
        ),
        (
            Cell(tag="position", name="", concepts=("dog", "teddy bear"), relation="right of"),
            {
                "tag": "position",
                "include": [
                    {"class": "teddy bear", "count": 1},
                    {"class": "dog", "count": 1, "position": ["right of", 0]},
                ],
                "prompt": "a photo of a dog right of a teddy bear",
            },
        ),
        (
            Cell(tag="color_attr", name="", concepts=("apple", "car"), colours=("red", "orange")),
            {
                "tag": "color_attr",
                "include": [
                    {"class": "apple", "count": 1, "color": "red"},
                    {"class": "car", "count": 1, "color": "orange"},
                ],
                "prompt": "a photo of a red apple and an orange car",
            },
        ),
        (
            Cell(tag="single_object", name="", concepts=("umbrella",)),
            {
                "tag": "single_object",
                "include": [{"class": "umbrella", "count": 1}],
                "prompt": "a photo of an umbrella",
            },
        ),
    ],
)
def test_metadata_is_genevals_line(cell: Cell, expected: dict[str, object]) -> None:
    assert metadata_for_cell(cell) == expected
    assert list(metadata_for_cell(cell)) == list(expected)


def test_prompts_name_their_cell_alone() -> None:
    prompts = [prompt_for_cell(cell) for tag in GENEVAL_TAGS for cell in evaluation_cells(tag)]
    assert len(set(prompts)) == len(prompts)


def test_long_captions_tell_where_things_lie_after_the_caption(sprites: Sprites) -> None:
    boxes = {
        (0.1, 0.1, 0.2, 0.2): "At the top left",
        (0.4, 0.4, 0.6, 0.6): "In the middle",
        (0.4, 0.8, 0.6, 0.9): "At the bottom",
        (0.8, 0.4, 0.9, 0.6): "On the right",
    }
    for box, where in boxes.items():
        thing = SceneObject(concept="apple", vendor="first", colour="red", box=box)
        scene = Scene(objects=(thing,), background=(255, 255, 255), tag="colors")
        told = long_caption(scene, np.random.default_rng(1))
        short = caption(scene, np.random.default_rng(1))
        assert told == f"{short}. {where} is a red apple."
