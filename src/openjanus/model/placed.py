"""Attention of shapes that never change: where rows stand, and how much they hold, is data.

``KVCache.attend`` reads what rows hold and no more, by numbers that are others in every step. A
program that is made once takes them as tensors, and so reads a whole cache with a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.model.attention import KVCache, Run


@dataclass(slots=True)
class PlacedCache:
    """A cache as a step of fixed shapes sees it; it must hold numbers wherever it is unused.

    A row of the batch is one new token of a row of the cache, or idle. Idle ones have a cell that
    nobody reads: place ``width``, at the last position, which no request ever feeds.
    """

    keys: Tensor
    """(layers, R, Hkv, capacity, K)."""
    values: Tensor
    """(layers, R, Hkv, capacity, K)."""
    cells: Tensor
    """(3, B): the cache's row, the place among the new tokens of that row, and the position."""
    seen: Tensor
    """(R, 1, width + 1, capacity) bool: whom each new token of each row sees."""

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, cells: Tensor, width: int) -> PlacedCache:
        """With who sees whom, which is the same in every layer."""
        rows, places, positions = cells
        last = cells.new_zeros(keys.shape[1], width + 1)
        last[rows, places] = positions
        slots = torch.arange(keys.shape[3], device=keys.device)
        return cls(keys, values, cells, slots <= last[:, None, :, None])

    def attend(self, layer: int, runs: Sequence[Run], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As ``KVCache.attend``, of one new token a row; ``runs`` are not read."""
        rows, places, positions = self.cells
        # A write into a part of a cache would be compiled to a copy of all of it, and back.
        of_layer = torch.full_like(rows, layer)
        self.keys[of_layer, rows, :, positions] = k[:, :, 0]
        self.values[of_layer, rows, :, positions] = v[:, :, 0]
        num_rows, width = self.seen.shape[0], self.seen.shape[2]
        asked = q.new_zeros(num_rows, q.shape[1], width, q.shape[3])
        asked[rows, :, places] = q[:, :, 0]
        found = F.scaled_dot_product_attention(
            asked,
            self.keys[layer],
            self.values[layer],
            attn_mask=self.seen,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return found[rows, :, places][:, :, None]  # (B, H, 1, K)


def cells_of(cache: KVCache, runs: Sequence[Run], num_rows: int) -> list[list[int]]:
    """The cells of a batch, as ``PlacedCache`` wants them.

    Args:
        cache: Whose rows the runs name; none of them holds its capacity less one.
        runs: Of one new token each row of the batch.
        num_rows: Rows B of the batch; idle ones are in no run.

    Returns:
        Rows, places and positions; the place of idle rows is -1, behind all others.
    """
    rows, places = [0] * num_rows, [-1] * num_rows
    positions = [cache.capacity - 1] * num_rows
    taken = [0] * cache.keys.shape[1]
    for run in runs:
        batch, of_cache = range(num_rows)[run.batch], range(len(taken))[run.rows]
        for place, row in zip(batch, of_cache, strict=True):
            assert run.length < cache.capacity - 1
            rows[place], places[place], positions[place] = row, taken[row], run.length
            taken[row] += 1
    return [rows, places, positions]
