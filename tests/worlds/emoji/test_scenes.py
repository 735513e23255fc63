from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.scenes import OPPOSITE, Box, Scene, SceneObject, relations, render
from openjanus.worlds.emoji.sprites import TINTS, Sprites, tint


@pytest.mark.parametrize(
    ("box_a", "box_b", "expected"),
    [
        ((0.0, 0.4, 0.2, 0.6), (0.8, 0.4, 1.0, 0.6), {"left of"}),
        ((0.8, 0.4, 1.0, 0.6), (0.0, 0.4, 0.2, 0.6), {"right of"}),
        ((0.4, 0.0, 0.6, 0.2), (0.4, 0.8, 0.6, 1.0), {"above"}),
        ((0.4, 0.8, 0.6, 1.0), (0.4, 0.0, 0.6, 0.2), {"below"}),
        # 45 degrees, far apart: (0.8 - 0.04) / 1.13 = 0.67 on both axes.
        ((0.0, 0.0, 0.2, 0.2), (0.8, 0.8, 1.0, 1.0), {"left of", "above"}),
        # 45 degrees, close: (0.25 - 0.08) / 0.354 = 0.48 on both.
        ((0.1, 0.1, 0.5, 0.5), (0.35, 0.35, 0.75, 0.75), set()),
        # Nothing is left of the offset.
        ((0.1, 0.1, 0.5, 0.5), (0.15, 0.12, 0.55, 0.52), set()),
        ((0.2, 0.2, 0.4, 0.4), (0.2, 0.2, 0.4, 0.4), set()),
        # An overlap is no hindrance: 0.3 - 0.08 = 0.22 of 0.3.
        ((0.1, 0.1, 0.5, 0.5), (0.4, 0.1, 0.8, 0.5), {"left of"}),
    ],
)
def test_relation_rule(box_a: Box, box_b: Box, expected: set[str]) -> None:
    assert relations(box_a, box_b) == expected
    assert relations(box_b, box_a) == {OPPOSITE[relation] for relation in expected}


def test_half_the_distance_is_not_more_than_half() -> None:
    # Points of no size, 60 degrees off: dx is exactly half the distance, dy is not.
    assert relations((0.0, 0.0, 0.0, 0.0), (3.0, 4.0, 3.0, 4.0)) == {"left of", "above"}
    assert relations((0.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 1.0)) == {"above"}
    assert relations((0.0, 0.0, 1.0, 0.0), (0.5, 0.0, 0.5, 0.0)) == set()
    # Reduced by 0.1 (4 + 1), an offset of 1 is exactly half of itself: not enough.
    assert relations((0.0, 0.0, 4.0, 0.0), (2.5, 0.0, 3.5, 0.0)) == set()


def scene_of(colour: str | None = None, box: Box = (0.25, 0.25, 0.75, 0.75)) -> Scene:
    thing = SceneObject(concept="car", vendor="first", colour=colour, box=box)
    return Scene(objects=(thing,), background=(200, 100, 50), tag="single_object")


@pytest.mark.parametrize("size", [48, 96, 128])
def test_a_thing_is_drawn_in_its_box_on_the_background(size: int, sprites: Sprites) -> None:
    picture = render(scene_of(), size, sprites)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    changed = np.argwhere((picture != (200, 100, 50)).any(axis=-1))
    low, high = changed.min(axis=0), changed.max(axis=0)
    assert (low >= size // 4).all()
    assert (high < 3 * size // 4).all()
    assert (low <= size // 4 + 1).all()
    assert (high >= 3 * size // 4 - 2).all()


def test_the_middle_of_a_thing_has_its_own_colour(sprites: Sprites) -> None:
    picture = render(scene_of(), 96, sprites)
    sprite = sprites.rgba("car", "first")
    middle = sprite[sprite.shape[0] // 2, sprite.shape[1] // 2, :3]
    np.testing.assert_allclose(picture[48, 48], middle, atol=4)


def test_a_box_at_the_edge_is_clipped_not_wrapped(sprites: Sprites) -> None:
    picture = render(scene_of(box=(0.496, 0.496, 1.0, 1.0)), 97, sprites)
    assert (picture[:40, :40] == (200, 100, 50)).all()


def test_mean_colours_of_tints_are_told_apart(sprites: Sprites) -> None:
    bodies = {colour: np.array(ramp[1]) for colour, ramp in TINTS.items()}
    for concept in ("car", "dog", "zebra"):
        for vendor in sprites.vendors:
            for colour in COLOURS:
                mean = np.array(sprites.mean_colour(concept, vendor, colour))
                nearest = min(bodies, key=lambda name: float(np.linalg.norm(bodies[name] - mean)))
                assert nearest == colour


def test_tints_keep_shape_and_shading(sprites: Sprites) -> None:
    image = sprites.rgba("car", "first")
    blue = tint(image, "blue")
    np.testing.assert_array_equal(blue[..., 3], image[..., 3])
    seen = image[..., 3] > 0
    before = image[seen][:, :3].astype(float) @ (0.299, 0.587, 0.114)
    after = blue[seen][:, :3].astype(float) @ (0.299, 0.587, 0.114)
    assert np.corrcoef(before, after)[0, 1] > 0.9


def test_a_mixed_tint_lies_half_way(sprites: Sprites) -> None:
    image = sprites.rgba("car", "first")
    half = (tint(image, "blue").astype(float) + tint(image, "green")) / 2
    assert np.abs(sprites.rgba("car", "first", "blue-green") - half).max() <= 1  # of rounding
    np.testing.assert_array_equal(tint(image, "green-blue"), tint(image, "blue-green"))


def test_sprites_refuse_what_they_cannot_draw(sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="anything but a person"):
        sprites.rgba("person", "first", "red")
    with pytest.raises(ValueError, match="a tint must be one of red"):
        sprites.rgba("car", "first", "mauve")
    with pytest.raises(ValueError, match="or two of them as in blue-green"):
        sprites.rgba("car", "first", "blue-mauve")
    with pytest.raises(KeyError):
        sprites.rgba("unicorn", "first")
    image = np.zeros((4, 4, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="every concept must come from every vendor"):
        Sprites({("car", "a"): image, ("car", "b"): image, ("dog", "a"): image})
    with pytest.raises(ValueError, match=r"must be \(H, W, 4\) uint8"):
        Sprites({("car", "a"): image[..., :3]})


def test_loading_from_nothing_says_how_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data fetch emoji"):
        Sprites.load(tmp_path)


def test_newer_sprites_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sprites.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(ValueError, match=r"format_version 99.*upgrade openjanus"):
        Sprites.load(tmp_path)
