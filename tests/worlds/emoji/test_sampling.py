from __future__ import annotations

from itertools import combinations, product
from typing import Literal

import numpy as np
import pytest

from openjanus.worlds.emoji.cells import (
    attribution_cell,
    cells_of,
    colour_cell,
    held_out_cells,
    is_held_out,
)
from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS, unmixed
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.layout import CONTRAST, GAP, JITTER, MARGIN, SIZES
from openjanus.worlds.emoji.sampling import TIDY_BACKGROUNDS, sample_scene, touches_held_out
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, TAGS, Scene, SceneObject, Tag, relations
from openjanus.worlds.emoji.sprites import TINTS, Sprites, looks_of

ROUNDING = 1e-9


def draw(tag: Tag, n: int, sprites: Sprites, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, tag, sprites) for _ in range(n)]


@pytest.mark.parametrize("tag", TAGS)
def test_scenes_are_a_function_of_the_seed(tag: Tag, sprites: Sprites) -> None:
    assert draw(tag, 20, sprites) == draw(tag, 20, sprites)
    assert draw(tag, 20, sprites) != draw(tag, 20, sprites, seed=1)


@pytest.mark.parametrize("tag", TAGS)
def test_things_are_large_inside_and_apart(tag: Tag, sprites: Sprites) -> None:
    for scene in draw(tag, 500, sprites):
        assert scene.tag == tag
        smallest, largest = SIZES[len(scene.objects)]
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            width, height = x1 - x0, y1 - y0
            assert smallest - ROUNDING <= max(width, height) <= largest + ROUNDING
            aspect = sprites.aspect(thing.concept, thing.vendor)
            assert width / height == pytest.approx(aspect)
            assert min(x0, y0) >= MARGIN - ROUNDING
            assert max(x1, y1) <= 1 - MARGIN + ROUNDING
        for a, b in combinations([thing.box for thing in scene.objects], 2):
            gap_x = max(a[0] - b[2], b[0] - a[2])
            gap_y = max(a[1] - b[3], b[1] - a[3])
            assert max(gap_x, gap_y) >= GAP - ROUNDING


@pytest.mark.parametrize("tag", TAGS)
def test_tidy_things_lie_on_the_grid_and_show_nothing_held_out(tag: Tag, sprites: Sprites) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = sample_scene(rng, tag, sprites, grid=12)
        assert scene.tag == tag
        assert scene.background in TIDY_BACKGROUNDS
        assert not touches_held_out(scene)
        for thing in scene.objects:
            x0, y0, x1, y1 = (12 * edge for edge in thing.box)
            assert (x0, y0) == pytest.approx((round(x0), round(y0)))
            longer = max(x1 - x0, y1 - y0)
            assert longer == pytest.approx(round(longer))
            assert round(longer) in ((6, 8, 10) if len(scene.objects) == 1 else (4, 5))
            assert (x1 - x0) / (y1 - y0) == pytest.approx(
                sprites.aspect(thing.concept, thing.vendor)
            )
            assert max(x1, y1) <= 12 + ROUNDING
        for a, b in combinations([thing.box for thing in scene.objects], 2):
            assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= -ROUNDING


def test_exams_keep_to_no_grid(sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="held_out keep to no grid"):
        sample_scene(np.random.default_rng(0), "colors", sprites, split="held_out", grid=12)


@pytest.mark.parametrize(
    ("tag", "things", "concepts", "tinted"),
    [
        ("single_object", {1}, {1}, {False}),
        ("two_object", {2}, {2}, {False}),
        ("counting", {2, 3, 4}, {1}, {False}),
        ("colors", {1}, {1}, {True}),
        ("position", {2}, {2}, {False}),
        ("color_attr", {2}, {2}, {True}),
        ("free", {1, 2, 3, 4}, {1, 2, 3, 4}, {False, True}),
    ],
)
def test_each_tag_shows_its_kind_of_scene(
    tag: Tag, things: set[int], concepts: set[int], tinted: set[bool], sprites: Sprites
) -> None:
    scenes = draw(tag, 500, sprites)
    assert {len(scene.objects) for scene in scenes} == things
    assert {len({x.concept for x in scene.objects}) for scene in scenes} == concepts
    assert {x.colour is not None for scene in scenes for x in scene.objects} == tinted
    for scene in scenes:
        looks = {(x.concept, x.vendor, x.colour) for x in scene.objects}
        assert len(looks) == len({x.concept for x in scene.objects})


def test_position_scenes_have_exactly_one_relation(sprites: Sprites) -> None:
    for scene in draw("position", 1000, sprites):
        a, b = scene.objects
        assert len(relations(a.box, b.box)) == 1


def test_color_attr_scenes_have_two_colours(sprites: Sprites) -> None:
    for scene in draw("color_attr", 300, sprites):
        assert len({x.colour for x in scene.objects}) == 2


def test_every_concept_and_vendor_is_trained_on(sprites: Sprites) -> None:
    for tag in TAGS:
        shown = {(x.concept, x.vendor) for s in draw(tag, 6000, sprites) for x in s.objects}
        concepts = (
            set(CONCEPTS) if tag not in ("colors", "color_attr") else set(CONCEPTS) - {"person"}
        )
        assert {concept for concept, _ in shown} == concepts
        assert {vendor for _, vendor in shown} == set(sprites.vendors)


def test_backgrounds_stand_out(sprites: Sprites) -> None:
    contrasts = []
    for tag in TAGS:
        for scene in draw(tag, 300, sprites):
            assert all(0 <= channel <= 255 for channel in scene.background)
            means = [sprites.mean_colour(x.concept, x.vendor, x.colour) for x in scene.objects]
            contrasts.append(min(np.linalg.norm(np.subtract(scene.background, m)) for m in means))
    # Only where nothing contrasts with all things may it be less, and then not by much.
    assert np.mean(np.array(contrasts) < CONTRAST - 3**0.5 * JITTER) < 0.02
    assert min(contrasts) > CONTRAST / 2


def count_held_out(n: int, sprites: Sprites) -> int:
    """Of loose scenes, of tidy ones, of tidy ones in two sizes, and of those in slots, in turn."""
    rng, tags, found = np.random.default_rng(7), len(TAGS), 0
    ways = ((None, False, False), (12, False, False), (12, True, False), (12, True, True))
    for i in range(n):
        grid, two_sizes, slots = ways[i // tags % 4]
        scene = sample_scene(
            rng, TAGS[i % tags], sprites, grid=grid, two_sizes=two_sizes, slots=slots
        )
        found += touches_held_out(scene)
    return found


def test_50_000_training_scenes_touch_no_held_out_cell(sprites: Sprites) -> None:
    assert count_held_out(50_000, sprites) == 0


@pytest.mark.long
def test_a_million_training_scenes_touch_no_held_out_cell(sprites: Sprites) -> None:
    assert count_held_out(1_000_000, sprites) == 0


@pytest.mark.parametrize("tag", [tag for tag in GENEVAL_TAGS if tag != "single_object"])
def test_held_out_scenes_show_a_held_out_cell_of_their_tag(tag: Tag, sprites: Sprites) -> None:
    rng = np.random.default_rng(2)
    names = {cell.name for cell in held_out_cells(tag)}
    for _ in range(200):
        scene = sample_scene(rng, tag, sprites, split="held_out")
        assert scene.tag == tag
        assert cells_of(scene) & names


def test_a_held_out_pair_is_mostly_shown_in_seen_relations(sprites: Sprites) -> None:
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng, "two_object", sprites, split="held_out") for _ in range(200)]
    relation_cells = {cell.name for cell in held_out_cells("position")}
    assert sum(bool(cells_of(scene) & relation_cells) for scene in scenes) < 10


@pytest.mark.parametrize("tag", ["single_object", "free"])
def test_what_holds_nothing_out_cannot_be_drawn_held_out(tag: Tag, sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="held"):
        sample_scene(np.random.default_rng(0), tag, sprites, split="held_out")


@pytest.mark.parametrize("tag", GENEVAL_TAGS)
def test_two_sizes_on_two_grounds(tag: Tag, sprites: Sprites) -> None:
    rng = np.random.default_rng(3)
    grounds = set()
    for _ in range(40):
        scene = sample_scene(rng, tag, sprites, grid=12, two_sizes=True)
        grounds.add(scene.background)
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            places = 12 * max(x1 - x0, y1 - y0)
            assert places == pytest.approx(8 if len(scene.objects) == 1 else 5)
        assert not touches_held_out(scene)
    assert len(grounds) == 2
    with pytest.raises(ValueError, match="two_sizes are sizes on a grid"):
        SceneSource(sprites=sprites, two_sizes=True)
    with pytest.raises(ValueError, match="two_sizes are sizes on a grid"):
        sample_scene(np.random.default_rng(0), tag, sprites, two_sizes=True)


@pytest.mark.parametrize("tag", TAGS)
def test_things_in_slots_lie_in_few_places_and_apart(tag: Tag, sprites: Sprites) -> None:
    rng = np.random.default_rng(4)
    places: dict[tuple[str, str, str | None, int], set[tuple[float, ...]]] = {}
    for _ in range(400):
        scene = sample_scene(rng, tag, sprites, grid=12, two_sizes=True, slots=True)
        number = len(scene.objects)
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            assert 12 * max(x1 - x0, y1 - y0) == pytest.approx(8 if number == 1 else 5)
            assert min(x0, y0) >= 0
            assert max(x1, y1) <= 1 + 1e-9
            assert x0 * 12 == pytest.approx(round(x0 * 12))
            key = (thing.concept, thing.vendor, thing.colour, number)
            places.setdefault(key, set()).add(tuple(round(v, 9) for v in thing.box))
        for a, b in combinations(scene.objects, 2):
            gap_x = max(a.box[0], b.box[0]) - min(a.box[2], b.box[2])
            gap_y = max(a.box[1], b.box[1]) - min(a.box[3], b.box[3])
            assert max(gap_x, gap_y) >= 1 / 12 - 1e-9, "what touches is one island"
    assert max(map(len, places.values())) <= 6
    assert all(len(found) == 1 for key, found in places.items() if key[3] == 1)


def test_slots_are_for_two_sizes(sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="slots are places for things of two sizes"):
        SceneSource(sprites=sprites, grid=12, slots=True)
    with pytest.raises(ValueError, match="slots are places for things of two sizes"):
        sample_scene(np.random.default_rng(0), "free", sprites, grid=12, slots=True)


@pytest.mark.parametrize("tag", ["colors", "color_attr", "free"])
def test_mixed_colours_hold_no_colour_that_is_held_out(tag: Tag, sprites: Sprites) -> None:
    rng, seen = np.random.default_rng(5), set[str]()
    for _ in range(1500):
        scene = sample_scene(rng, tag, sprites, mixed=0.6)
        assert not touches_held_out(scene)
        for thing in scene.objects:
            parts = unmixed(thing.colour)
            assert set(parts) <= set(COLOURS)
            assert len(set(parts)) == len(parts) <= 2
            assert not any(is_held_out(colour_cell(thing.concept, part)) for part in parts)
            assert not any(
                is_held_out(colour_cell(thing.concept, look)) for look in looks_of(thing.colour)
            )
            seen.update([thing.colour] if len(parts) == 2 and thing.colour else [])
    assert len(seen) > 80, "most of two, in either order"


def test_what_is_mixed_touches_the_cells_of_all_that_it_looks_like(sprites: Sprites) -> None:
    vendor = sprites.vendors[0]
    dog, car = (
        SceneObject(concept=concept, vendor=vendor, colour=colour, box=box)
        for concept, colour, box in (
            ("dog", "yellow-red", (0.0, 0.0, 0.4, 0.4)),
            ("car", "blue-green", (0.6, 0.0, 1.0, 0.4)),
        )
    )
    alone = Scene(objects=(dog,), background=(0, 0, 0), tag="colors")
    looks = ("yellow", "red", "orange")  # which is half-way
    assert cells_of(alone) == {colour_cell("dog", colour) for colour in looks}
    both = cells_of(Scene(objects=(dog, car), background=(0, 0, 0), tag="color_attr"))
    for one, other in product(looks, ("blue", "green")):
        assert attribution_cell("dog", one, "car", other) in both


def test_mixed_colours_look_like_nothing_that_is_nearer_than_their_own() -> None:
    bodies = {name: np.array(ramp[1], dtype=float) for name, ramp in TINTS.items()}
    for a, b in combinations(COLOURS, 2):
        gaps = {
            name: float(np.linalg.norm(body - (bodies[a] + bodies[b]) / 2))
            for name, body in bodies.items()
        }
        assert min(gaps, key=gaps.__getitem__) in looks_of(f"{a}-{b}")
        assert set(looks_of(f"{a}-{b}")) == set(looks_of(f"{b}-{a}")) >= {a, b}
    assert looks_of("red") == ("red",)
    assert looks_of(None) == ()


def test_no_share_of_mixed_colours_is_the_scenes_as_ever(sprites: Sprites) -> None:
    rng = np.random.default_rng(0)
    assert draw("colors", 5, sprites) == [
        sample_scene(rng, "colors", sprites, mixed=0.0) for _ in range(5)
    ]


@pytest.mark.parametrize(("mixed", "split"), [(-0.1, "train"), (1.5, "train"), (0.5, "held_out")])
def test_a_share_of_mixed_colours_that_is_none(
    mixed: float, split: Literal["train", "held_out"], sprites: Sprites
) -> None:
    with pytest.raises(ValueError, match="mixed"):
        SceneSource(sprites=sprites, mixed=mixed, split=split)


def test_one_ground_is_white_but_for_what_is_pale(sprites: Sprites) -> None:
    white, other = TIDY_BACKGROUNDS[0], TIDY_BACKGROUNDS[-1]
    rng, shown = np.random.default_rng(8), dict[tuple[int, int, int], int]()
    for _ in range(500):
        scene = sample_scene(rng, "colors", sprites, grid=12, two_sizes=True, one_ground=True)
        thing = scene.objects[0]
        mean = sprites.mean_colour(thing.concept, thing.vendor, thing.colour)
        stands_out = float(np.linalg.norm(np.subtract(white, mean))) >= CONTRAST
        assert scene.background == (white if stands_out else other)
        shown[scene.background] = shown.get(scene.background, 0) + 1
    assert shown[white] > 5 * shown[other] > 0


def test_one_ground_is_for_two_sizes(sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="one_ground is one of the grounds of two sizes"):
        SceneSource(sprites=sprites, grid=12, one_ground=True)
