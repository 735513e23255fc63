"""Counter-based Gumbel noise: image i's randomness is a function of (seed, i, position) alone.

Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
2011). No generator holds a state, so neither batch neighbours nor the order of requests can
change a sample.
"""

from __future__ import annotations

import secrets

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_ROUNDS = 20
_BLOCK_ELEMENTS = 2**18
_NEW_SEED_BITS = 32  # short enough to be typed again

MAX_SEED = 2**64 - 1
"""Largest seed: the key is 64 bits."""
MAX_STREAM = 2**32 - 1
"""Largest stream (image index)."""


def threefry_2x32(key: tuple[int, int], first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Threefry-2x32-20 of many counters under one key.

    Args:
        key: Two 32-bit words.
        first: int64 counter words in [0, 2**32), any shape.
        second: The other counter words, broadcastable with ``first``.

    Returns:
        Two int64 tensors of words in [0, 2**32).
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    first, second = torch.broadcast_tensors(first, second)
    x = (first + keys[0]).bitwise_and_(_MASK)  # new memory: what follows works in place
    y = (second + keys[1]).bitwise_and_(_MASK)
    for step in range(_ROUNDS // 4):
        for rotation in _ROTATIONS[step % 2]:
            x.add_(y).bitwise_and_(_MASK)
            low = y >> (32 - rotation)
            y.bitwise_left_shift_(rotation).bitwise_or_(low).bitwise_and_(_MASK).bitwise_xor_(x)
        x.add_(keys[(step + 1) % 3]).bitwise_and_(_MASK)
        y.add_(keys[(step + 2) % 3] + step + 1).bitwise_and_(_MASK)
    return x, y


def gumbel_noise(
    seed: int, stream: int, positions: Tensor, size: int, device: torch.device | str
) -> Tensor:
    """Standard Gumbel noise for some positions of one stream.

    The key of a stream is the hash of its index under the seed; lane j of a position is word
    j % 2 of the hash of (position, j // 2) under that key.

    Args:
        seed: In [0, 2**64).
        stream: Image index in [0, 2**32).
        positions: (P,) integers in [0, 2**32).
        size: Lanes a position, one for each id that could be sampled.
        device: Where the noise goes. It is made on the CPU, in fp64, which some accelerators lack
            and whose logarithms no two of them round alike.

    Returns:
        (P, size) fp32, finite.
    """
    index = torch.tensor([stream], dtype=torch.int64, device="cpu")
    words = threefry_2x32((seed & _MASK, seed >> 32), index, torch.zeros_like(index))
    key = (int(words[0]), int(words[1]))
    pairs = torch.arange((size + 1) // 2, dtype=torch.int64, device="cpu")
    rows = positions.to(device="cpu", dtype=torch.int64)[:, None]  # (P, 1)
    bits = torch.stack(threefry_2x32(key, rows, pairs), dim=-1)  # (P, pairs, 2)
    # The midpoint of one of 2**32 cells is never 0 or 1; fp64, because fp32 would round to 1.
    uniform = (bits.flatten(1)[:, :size].double() + 0.5) * 2.0**-32
    return uniform.log_().neg_().log_().neg_().float().to(device)


def block_length(size: int) -> int:
    """Positions whose noise is made at once: many for a small codebook, few for a vocabulary."""
    return max(1, min(64, _BLOCK_ELEMENTS // size))


def seed_or_new(seed: int | None) -> int:
    """``seed``, or where it is None one drawn from the system."""
    return secrets.randbits(_NEW_SEED_BITS) if seed is None else seed
