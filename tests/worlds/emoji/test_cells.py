from __future__ import annotations

import hashlib

import numpy as np
import pytest

from openjanus.worlds.emoji.asked_scenes import scene_for_cell
from openjanus.worlds.emoji.cells import (
    attribution_cell,
    cells_of,
    evaluation_cells,
    held_out_cells,
    is_held_out,
    pair_cell,
)
from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS, TINTABLE
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, Scene, SceneObject, Tag
from openjanus.worlds.emoji.sprites import Sprites


def thing(concept: str, box: tuple[float, ...], colour: str | None = None) -> SceneObject:
    x0, y0, x1, y1 = box
    return SceneObject(concept=concept, vendor="first", colour=colour, box=(x0, y0, x1, y1))


def test_the_world_has_66_things_of_coco_in_ten_colours() -> None:
    assert len(CONCEPTS) == 66
    assert len({concept.code_point for concept in CONCEPTS.values()}) == 66
    assert len(COLOURS) == 10
    assert set(CONCEPTS) - set(TINTABLE) == {"person"}


@pytest.mark.parametrize(
    ("name", "held_out"),
    [
        ("colour/wine glass/green", True),
        ("colour/apple/red", False),
        ("pair/apple/elephant", True),
        ("pair/cat/dog", True),
        ("pair/car/dog", False),
        ("count/potted plant/2", True),
        ("count/dog/2", False),
        ("relation/airplane/right of/pizza", True),
        ("relation/car/left of/dog", False),
        ("attribution/orange traffic light/white skis", True),
        ("attribution/blue car/red apple", False),
    ],
)
def test_the_hash_rule_holds_out_the_same_cells_for_ever(name: str, held_out: bool) -> None:
    assert is_held_out(name) is held_out


def test_names_do_not_depend_on_order() -> None:
    assert pair_cell("dog", "cat") == pair_cell("cat", "dog") == "pair/cat/dog"
    name = "attribution/blue dog/red cat"
    assert attribution_cell("cat", "red", "dog", "blue") == name
    assert attribution_cell("dog", "blue", "cat", "red") == name


def test_a_scene_touches_all_that_is_true_of_it() -> None:
    scene = Scene(
        objects=(
            thing("cat", (0.1, 0.1, 0.3, 0.3), "red"),
            thing("cat", (0.1, 0.6, 0.3, 0.8), "red"),
            thing("dog", (0.7, 0.1, 0.9, 0.3), "blue"),
        ),
        background=(255, 255, 255),
        tag="free",
    )
    assert cells_of(scene) == {
        "count/cat/2",
        "colour/cat/red",
        "colour/dog/blue",
        "pair/cat/dog",
        "attribution/blue dog/red cat",
        "relation/cat/left of/dog",
        "relation/dog/right of/cat",
        "relation/cat/below/dog",
        "relation/dog/above/cat",
    }


def test_a_single_natural_thing_touches_no_cell() -> None:
    scene = Scene(
        objects=(thing("cat", (0.1, 0.1, 0.6, 0.6)),),
        background=(255, 255, 255),
        tag="single_object",
    )
    assert cells_of(scene) == frozenset()


@pytest.mark.parametrize(
    ("tag", "number"),
    [
        ("two_object", 275),
        ("counting", 24),
        ("colors", 85),
        ("position", 2148),
        ("color_attr", 23708),
    ],
)
def test_held_out_cells_are_all_there_in_order_of_their_hash(tag: Tag, number: int) -> None:
    cells = held_out_cells(tag)
    assert len({cell.name for cell in cells}) == len(cells) == number
    digests = [hashlib.sha256(cell.name.encode()).hexdigest() for cell in cells]
    assert digests == sorted(digests)
    assert all(int(digest, 16) % 8 == 0 for digest in digests)
    assert {cell.tag for cell in cells} == {tag}


def test_attribution_is_asked_of_two_different_colours() -> None:
    assert all(cell.colours[0] != cell.colours[1] for cell in held_out_cells("color_attr"))


def test_single_objects_are_judged_on_every_concept_and_none_is_held_out() -> None:
    assert held_out_cells("single_object") == ()
    assert [cell.concepts for cell in evaluation_cells("single_object")] == [
        (name,) for name in CONCEPTS
    ]
    assert evaluation_cells("counting") == held_out_cells("counting")


def test_free_scenes_have_no_cells_of_their_own() -> None:
    with pytest.raises(ValueError, match="'free' is none: ask for one"):
        held_out_cells("free")


@pytest.mark.parametrize("tag", GENEVAL_TAGS)
def test_every_cell_can_be_drawn(tag: Tag, sprites: Sprites) -> None:
    rng = np.random.default_rng(1)
    for cell in evaluation_cells(tag)[:1000]:
        scene = scene_for_cell(cell, rng, sprites)
        assert tag == "single_object" or cell.name in cells_of(scene)
        assert {x.concept for x in scene.objects} == set(cell.concepts)
        assert len(scene.objects) == cell.count * len(cell.concepts)
