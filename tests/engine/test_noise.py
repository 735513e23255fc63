from __future__ import annotations

import math

import pytest
import torch

from openjanus.engine.noise import (
    MAX_SEED,
    block_length,
    gumbel_noise,
    seed_or_new,
    threefry_2x32,
)

MASK = 0xFFFFFFFF


def plain_threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """The cipher as its paper writes it: one round after the other, on Python integers."""
    rotations = (13, 15, 26, 6, 17, 29, 16, 24)
    schedule = (*key, 0x1BD11BDA ^ key[0] ^ key[1])
    x, y = (counter[0] + key[0]) & MASK, (counter[1] + key[1]) & MASK
    for number in range(20):
        x = (x + y) & MASK
        turn = rotations[number % 8]
        y = ((y << turn) & MASK | y >> (32 - turn)) ^ x
        if number % 4 == 3:
            injection = number // 4 + 1
            x = (x + schedule[injection % 3]) & MASK
            y = (y + schedule[(injection + 1) % 3] + injection) & MASK
    return x, y


KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((MASK, MASK), (MASK, MASK), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN)
def test_known_answers(
    key: tuple[int, int], counter: tuple[int, int], expected: tuple[int, int]
) -> None:
    words = threefry_2x32(key, torch.tensor([counter[0]]), torch.tensor([counter[1]]))
    assert (int(words[0]), int(words[1])) == expected
    assert plain_threefry(key, counter) == expected


def test_noise_is_the_gumbel_transform_of_the_plain_cipher() -> None:
    seed, stream = 0x0123456789ABCDEF, 3
    key = plain_threefry((seed & MASK, seed >> 32), (stream, 0))
    noise = gumbel_noise(seed, stream, torch.tensor([0, 7]), 5, "cpu")
    for row, position in enumerate((0, 7)):
        for lane in range(5):
            bits = plain_threefry(key, (position, lane // 2))[lane % 2]
            expected = -math.log(-math.log((bits + 0.5) / 2**32))
            assert float(noise[row, lane]) == pytest.approx(expected, rel=1e-6)


def test_noise_depends_on_seed_stream_position_and_lane_alone() -> None:
    positions = torch.arange(6)
    noise = gumbel_noise(1, 2, positions, 9, "cpu")
    torch.testing.assert_close(noise[4:5], gumbel_noise(1, 2, torch.tensor([4]), 9, "cpu"))
    torch.testing.assert_close(noise[:, :4], gumbel_noise(1, 2, positions, 4, "cpu"))
    for other in (gumbel_noise(2, 2, positions, 9, "cpu"), gumbel_noise(1, 3, positions, 9, "cpu")):
        assert not torch.isclose(noise, other).any()
    high_bits = gumbel_noise(1 + 2**40, 2, positions, 9, "cpu")
    assert not torch.isclose(noise, high_bits).any()


def test_noise_has_the_moments_of_a_gumbel() -> None:
    noise = gumbel_noise(MAX_SEED, 0, torch.arange(100), 1000, "cpu")
    assert noise.dtype == torch.float32
    assert bool(noise.isfinite().all())
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)


@pytest.mark.parametrize(("size", "expected"), [(64, 64), (16384, 16), (102400, 2), (2**20, 1)])
def test_block_length(size: int, expected: int) -> None:
    assert block_length(size) == expected


def test_zero_is_a_seed() -> None:
    assert seed_or_new(0) == 0
    assert len({seed_or_new(None) for _ in range(4)}) > 1
