from __future__ import annotations

import numpy as np
import pytest

from openjanus.worlds.emoji.grounds import GROUND_KINDS, Ground, GroundKind, draw_ground, paint

SKY, EARTH = (200, 220, 250), (120, 160, 90)


def ground(kind: GroundKind, *, angle: float = 0.0, key: int = 3) -> Ground:
    return Ground(kind=kind, colours=(SKY, EARTH), angle=angle, place=0.5, period=0.25, key=key)


@pytest.mark.parametrize("kind", GROUND_KINDS)
def test_a_ground_is_the_same_picture_at_any_size(kind: GroundKind) -> None:
    large = paint(ground(kind, angle=0.7), 128)
    assert large.shape == (128, 128, 3)
    assert large.dtype == np.uint8
    np.testing.assert_array_equal(large, paint(ground(kind, angle=0.7), 128))
    small = paint(ground(kind, angle=0.7), 64).astype(float)
    halved = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small).mean() < 3
    low, high = np.minimum(SKY, EARTH), np.maximum(SKY, EARTH)
    assert (large >= low).all()
    assert (large <= high).all()
    assert large.reshape(-1, 3).std(axis=0).max() > 5  # not plain


def test_a_horizon_has_the_sky_above() -> None:
    picture = paint(ground("horizon"), 64)
    assert (picture[:31] == SKY).all()
    assert (picture[33:] == EARTH).all()


def test_a_gradient_goes_from_one_colour_to_the_other() -> None:
    row = paint(ground("gradient"), 64)[5].astype(int)
    assert np.abs(row[0] - SKY).max() <= 2
    assert np.abs(row[-1] - EARTH).max() <= 2
    assert (np.diff(row[:, 0]) <= 0).all()


def test_stripes_come_back_after_a_period() -> None:
    row = paint(ground("stripes"), 64)[0]
    np.testing.assert_array_equal(row[:16], row[16:32])
    changes = int((np.abs(np.diff(row[:, 0].astype(int))) > 20).sum())
    assert changes >= 6


def test_noise_follows_its_key() -> None:
    assert (paint(ground("noise", key=1), 32) != paint(ground("noise", key=2), 32)).any()


def test_every_kind_is_drawn() -> None:
    rng = np.random.default_rng(0)
    assert {draw_ground(rng, (SKY, EARTH)).kind for _ in range(60)} == set(GROUND_KINDS)
