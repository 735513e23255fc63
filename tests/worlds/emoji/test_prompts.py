from __future__ import annotations

import itertools

import pytest

from openjanus.eval.geneval import TAGS, check_metadata, relations
from openjanus.worlds.emoji import scenes
from openjanus.worlds.emoji.captions import metadata_for_cell, prompt_for_cell
from openjanus.worlds.emoji.cells import evaluation_cells
from openjanus.worlds.emoji.prompts import metadata_for_prompt


@pytest.mark.parametrize("tag", TAGS)
def test_every_prompt_reads_back_as_its_metadata(tag: scenes.Tag) -> None:
    for cell in evaluation_cells(tag)[:1500]:
        line = metadata_for_cell(cell)
        check_metadata(line)
        assert metadata_for_prompt(prompt_for_cell(cell)) == line


def test_prompts_need_not_be_spelt_out() -> None:
    line = metadata_for_prompt("  An Orange orange. ")
    assert line["include"] == [{"class": "orange", "count": 1, "color": "orange"}]
    line = metadata_for_prompt("three pairs of skis")
    assert line["include"] == [{"class": "skis", "count": 3}]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a photo of a dgo", "did you mean dog"),
        ("a photo of cats", "has no article or number"),
        ("a photo of seven cats", "from one to four, got 'seven' of 'a photo of seven cats'"),
        ("a photo of a red", "'a red' of 'a photo of a red' names no thing: write"),
        ("a photo of two", "'two' of 'a photo of two' names no thing: write"),
        ("a photo of two cat", "did you mean cats"),
        ("a photo of a teal car", "'teal' of .* is no colour of this world: they are red, "),
        ("a photo of a yelow car", "did you mean yellow"),
        ("a photo of a red quiz", "not a thing of this world: name another$"),
        ("a photo of two red cars", "GenEval colours one thing"),
        ("a photo of two cars and a dog", "GenEval pairs two single things"),
        ("a photo of a dog left of a dog", "GenEval pairs two single things"),
        ("", "has no article or number"),
    ],
)
def test_other_prompts_are_refused(prompt: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metadata_for_prompt(prompt)


def test_the_world_and_the_rules_agree_on_relations() -> None:
    corners = [0.05, 0.2, 0.35, 0.5, 0.6]
    middle = (0.4, 0.35, 0.65, 0.7)
    for x, y in itertools.product(corners, corners):
        for width, height in ((0.1, 0.3), (0.3, 0.15)):
            box = (x, y, x + width, y + height)
            assert relations(box, middle) == scenes.relations(box, middle)
