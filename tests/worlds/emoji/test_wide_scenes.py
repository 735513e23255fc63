"""Scenes of the wide world: what is in them, where, how much of it is seen, and what never is."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from openjanus.worlds.emoji.asked_scenes import scene_for_cell
from openjanus.worlds.emoji.cells import (
    LOT,
    cells_of,
    evaluation_cells,
    held_out_cells,
    is_held_out,
)
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.grounds import GROUND_KINDS
from openjanus.worlds.emoji.sampling import sample_scene, touches_held_out
from openjanus.worlds.emoji.scenes import (
    GENEVAL_TAGS,
    TAGS,
    Scene,
    SceneObject,
    Tag,
    relations,
    render,
)
from openjanus.worlds.emoji.slots import largest_side
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import world
from openjanus.worlds.emoji.wide_layout import (
    MARGIN,
    MAX_HIDDEN,
    MAX_OVERLAP,
    WIDE_SIZES,
    visible_shares,
)

ROUNDING = 1e-9
WIDE = world("wide")
COMBINING = [tag for tag in GENEVAL_TAGS if tag != "single_object"]


def draw(tag: Tag, n: int, sprites: Sprites, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, tag, sprites) for _ in range(n)]


@pytest.mark.parametrize("tag", TAGS)
def test_scenes_are_a_function_of_the_seed(tag: Tag, wide_sprites: Sprites) -> None:
    scenes = draw(tag, 10, wide_sprites)
    assert scenes == draw(tag, 10, wide_sprites)
    assert scenes != draw(tag, 10, wide_sprites, seed=1)
    for scene in scenes:
        assert scene.world == "wide"
        np.testing.assert_array_equal(
            render(scene, 48, wide_sprites), render(scene, 48, wide_sprites)
        )


@pytest.mark.parametrize(
    ("tag", "things", "tinted"),
    [
        ("single_object", {1}, {False}),
        ("two_object", {2}, {False}),
        ("counting", {2, 3, 4, 5, 6}, {False}),
        ("colors", {1}, {True}),
        ("position", {2}, {False}),
        ("color_attr", {2}, {True}),
        ("free", {1, 2, 3, 4, 5, 6}, {False, True}),
    ],
)
def test_each_tag_shows_its_kind_of_scene(
    tag: Tag, things: set[int], tinted: set[bool], wide_sprites: Sprites
) -> None:
    scenes = draw(tag, 200, wide_sprites)
    assert {len(scene.objects) for scene in scenes} == things
    assert {x.colour is not None for scene in scenes for x in scene.objects} == tinted
    for scene in scenes:
        looks = {(x.concept, x.vendor, x.colour) for x in scene.objects}
        assert len(looks) == len({x.concept for x in scene.objects})
        assert all(x.vendor in wide_sprites.vendors_of(x.concept) for x in scene.objects)
        if tag == "position":
            assert len(relations(scene.objects[0].box, scene.objects[1].box)) == 1


def test_as_many_of_six_things_as_of_one(wide_sprites: Sprites) -> None:
    counts = Counter(len(scene.objects) for scene in draw("free", 600, wide_sprites))
    assert min(counts[n] for n in range(1, 7)) > 0.5 * 600 / 6


def test_things_have_many_sizes_inside_the_picture_and_hide_little(wide_sprites: Sprites) -> None:
    scenes = [s for tag in TAGS for s in draw(tag, 150, wide_sprites)]
    hiding = 0
    for scene in scenes:
        smallest, largest = WIDE_SIZES[len(scene.objects)]
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            assert smallest - ROUNDING <= max(x1 - x0, y1 - y0) <= largest + ROUNDING
            aspect = wide_sprites.aspect(thing.concept, thing.vendor)
            assert (x1 - x0) / (y1 - y0) == pytest.approx(aspect)
            assert min(x0, y0) >= MARGIN - ROUNDING
            assert max(x1, y1) <= 1 - MARGIN + ROUNDING
            assert thing.visible >= 1 - MAX_HIDDEN
        hiding += min(thing.visible for thing in scene.objects) < 1
        for a, b in combinations([thing.box for thing in scene.objects], 2):
            width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - width * height
            assert width * height <= MAX_OVERLAP * union + ROUNDING
    assert 0.1 < hiding / len(scenes) < 0.6
    sides = [max(x.box[2] - x.box[0], x.box[3] - x.box[1]) for s in scenes for x in s.objects]
    assert max(sides) / min(sides) > 5


def coverage(scene: Scene, thing: SceneObject, size: int, sprites: Sprites) -> np.ndarray:
    """(size, size) bool: where a thing alone lets less than half of its ground through."""
    on_black, on_white = (
        render(
            dataclasses.replace(scene, objects=(thing,), background=(v, v, v), ground=None),
            size,
            sprites,
        )[..., 0].astype(int)
        for v in (0, 255)
    )
    return on_white - on_black < 128


def test_the_visible_share_is_that_of_the_picture(wide_sprites: Sprites) -> None:
    size, compared = 256, 0
    for scene in draw("two_object", 60, wide_sprites):
        behind, front = scene.objects
        if behind.visible == 1:
            continue
        compared += 1
        shown, covered = (coverage(scene, thing, size, wide_sprites) for thing in (behind, front))
        share = 1 - (shown & covered).sum() / shown.sum()
        assert behind.visible == pytest.approx(share, abs=0.04)
        assert front.visible == 1
        assert visible_shares((front, behind), wide_sprites)[1] == 1
    assert compared >= 8


def test_grounds_are_plain_or_painted_in_two_colours(wide_sprites: Sprites) -> None:
    scenes = draw("single_object", 400, wide_sprites)
    kinds = Counter("plain" if s.ground is None else s.ground.kind for s in scenes)
    assert set(kinds) == {"plain", *GROUND_KINDS}
    assert 0.3 < kinds["plain"] / len(scenes) < 0.5
    for scene in scenes:
        if scene.ground is not None:
            first, second = scene.ground.colours
            assert first == scene.background
            assert np.linalg.norm(np.subtract(first, second)) > 20


def count_held_out(n: int, sprites: Sprites) -> int:
    rng = np.random.default_rng(7)
    return sum(touches_held_out(sample_scene(rng, TAGS[i % len(TAGS)], sprites)) for i in range(n))


def test_20_000_training_scenes_touch_no_held_out_cell(wide_sprites: Sprites) -> None:
    assert count_held_out(20_000, wide_sprites) == 0


@pytest.mark.long
def test_a_million_training_scenes_touch_no_held_out_cell(wide_sprites: Sprites) -> None:
    assert count_held_out(1_000_000, wide_sprites) == 0


def test_every_concept_is_trained_on(wide_sprites: Sprites) -> None:
    shown = {x.concept for s in draw("two_object", 4000, wide_sprites) for x in s.objects}
    assert shown == set(WIDE.concepts)


def test_both_worlds_hold_out_the_same_of_what_both_have() -> None:
    for tag in ("colors", "counting"):
        wide = {cell.name for cell in held_out_cells(tag, "wide")}
        assert {cell.name for cell in held_out_cells(tag)} <= wide


@pytest.mark.parametrize("tag", COMBINING)
def test_exams_are_of_held_out_cells_with_every_concept(tag: Tag) -> None:
    cells = held_out_cells(tag, "wide")
    assert len({cell.name for cell in cells}) == len(cells)
    assert all(cell.tag == tag and is_held_out(cell.name) for cell in cells)
    if tag in ("two_object", "position", "color_attr"):
        concepts = WIDE.tintable if tag == "color_attr" else WIDE.concepts
        assert len(cells) == LOT * len(concepts)
        assert {name for cell in cells for name in cell.concepts} == set(concepts)
    if tag == "counting":
        assert {cell.count for cell in cells} == {2, 3, 4, 5, 6}
    if tag == "color_attr":
        assert all(cell.colours[0] != cell.colours[1] for cell in cells)


@pytest.mark.parametrize("tag", GENEVAL_TAGS)
def test_cells_can_be_drawn(tag: Tag, wide_sprites: Sprites) -> None:
    rng = np.random.default_rng(1)
    for cell in evaluation_cells(tag, "wide")[:150]:
        scene = scene_for_cell(cell, rng, wide_sprites)
        assert scene.world == "wide"
        assert tag == "single_object" or cell.name in cells_of(scene)
        assert {x.concept for x in scene.objects} == set(cell.concepts)
        assert len(scene.objects) == cell.count * len(cell.concepts)


@pytest.mark.parametrize("two_sizes", [False, True])
def test_the_wide_world_keeps_to_no_grid_but_in_slots(
    two_sizes: bool, wide_sprites: Sprites
) -> None:
    with pytest.raises(ValueError, match="scenes of world wide keep to no grid but in slots"):
        sample_scene(np.random.default_rng(0), "free", wide_sprites, grid=12, two_sizes=two_sizes)


@pytest.mark.parametrize("tag", TAGS)
def test_scenes_of_the_wide_world_in_slots(tag: Tag, wide_sprites: Sprites) -> None:
    scenes = [
        sample_scene(
            np.random.default_rng(n), tag, wide_sprites, grid=12, two_sizes=True, slots=True
        )
        for n in range(100)
    ]
    assert {s.world for s in scenes} == {"wide"}
    assert len({x.concept for s in scenes for x in s.objects} - set(CONCEPTS)) > 20
    assert not any(map(touches_held_out, scenes))
    for scene in scenes:
        assert scene.ground is None
        assert 1 <= len(scene.objects) <= 4
        side = largest_side(len(scene.objects), 12) / 12
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            assert max(x1 - x0, y1 - y0) == pytest.approx(side)
            assert thing.visible == 1.0


def test_artwork_of_the_wide_world_may_lack_vendors_but_not_names(wide_sprites: Sprites) -> None:
    assert wide_sprites.vendors_of("person") == ("first",)
    assert wide_sprites.vendors_of("bicycle") == ("first", "second")
    some = wide_sprites.by_vendors(["second"])
    assert some.world.name == "wide"
    assert "person" not in some.concepts
    assert set(some.tintable) <= set(some.concepts)
    image = np.zeros((4, 4, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="the world wide has 510 concepts"):
        Sprites({("leviathan", "first"): image}, "wide")
