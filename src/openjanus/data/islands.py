"""Codebook ids that do not depend on what lies far away.

A tokenizer's encoder sees the whole picture (its attention and its norms do), so the same thing in
another corner, or beside another thing, has other ids, and even plain ground has dozens. They
decode alike, but a decoder must learn them all. Here each thing on plain ground is encoded alone,
in the middle of an otherwise empty picture, and its ids are put where it lies; ground has one id.
A picture without plain ground is one island: its ids are the ordinary ones.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from openjanus.processor.image import uint8_to_pixel_values

RIM: Final = 1
"""Places of ground about an island that keep the ids that they have beside it: outlines are drawn
there too. Without it reconstructions lose their edges; two change nothing more."""

MEMORY: Final = 65_536
"""Islands whose ids are remembered: about 90 MB at 144 ids."""

VERSION: Final = 1
"""Grows with every change that gives a picture other ids."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Island:
    """What lies together on plain ground, moved to the middle of an empty picture."""

    picture: np.ndarray
    """uint8 (S, S, 3)."""
    places: np.ndarray
    """(g, g) bool: the places of the whole picture that take this island's ids."""
    shift: tuple[int, int]
    """Rows and columns of places that it was moved by."""


def find_islands(picture: np.ndarray, grid: int) -> tuple[np.ndarray | None, list[Island]]:
    """Part a picture into plain ground and what lies on it.

    Ground are the places that are wholly of the commonest colour that fills a place; an island is
    a group of other places that touch, corners included.

    Args:
        picture: uint8 (S, S, 3); S a multiple of ``grid``.
        grid: Places a side, g.

    Returns:
        The ground's colour, (3,) uint8, and the islands; None and one island, the picture as it
        is, where no place is plain.
    """
    size = picture.shape[0] // grid
    tiles = picture.reshape(grid, size, grid, size, 3).swapaxes(1, 2)  # (g, g, size, size, 3)
    first = tiles[:, :, 0, 0]  # (g, g, 3)
    plain = (tiles == first[:, :, None, None]).all((2, 3, 4))
    if not plain.any():
        everywhere = np.ones((grid, grid), dtype=bool)
        return None, [Island(picture=picture, places=everywhere, shift=(0, 0))]
    colours, counts = np.unique(first[plain], axis=0, return_counts=True)
    ground = colours[counts.argmax()]
    land = ~(plain & (first == ground).all(-1))
    labels = _label(land)
    islands = []
    for number in range(1, labels.max() + 1):
        own = labels == number
        rows, columns = np.nonzero(own)
        shift = (_to_middle(rows, grid), _to_middle(columns, grid))
        alone = np.empty_like(tiles)
        alone[:] = ground
        alone[rows + shift[0], columns + shift[1]] = tiles[rows, columns]
        islands.append(
            Island(
                picture=alone.swapaxes(1, 2).reshape(picture.shape),
                places=_with_rim(own, shift) & ((labels == 0) | own),
                shift=shift,
            )
        )
    return ground, islands


def _to_middle(lines: np.ndarray, grid: int) -> int:
    first, length = int(lines.min()), int(lines.max() - lines.min()) + 1
    return (grid - length) // 2 - first


def _label(land: np.ndarray) -> np.ndarray:
    """Number the groups of touching places, from 1 in raster order; 0 where there is none."""
    labels = np.zeros(land.shape, dtype=np.int64)
    for start in zip(*np.nonzero(land), strict=True):
        if labels[start]:
            continue
        number, ahead = labels.max() + 1, [start]
        labels[start] = number
        while ahead:
            row, column = ahead.pop()
            near = np.s_[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            new = np.argwhere(land[near] & (labels[near] == 0))
            labels[near][land[near]] = number
            ahead += [(near[0].start + r, near[1].start + c) for r, c in new]
    return labels


def _with_rim(own: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """An island's places and those about it, as far as they exist when it lies in the middle."""
    grid = len(own)
    near = np.zeros_like(own)
    for row, column in np.argwhere(own):
        near[max(row - RIM, 0) : row + RIM + 1, max(column - RIM, 0) : column + RIM + 1] = True
    rows, columns = np.indices(own.shape)
    rows, columns = rows + shift[0], columns + shift[1]
    return near & (rows >= 0) & (rows < grid) & (columns >= 0) & (columns < grid)


class IslandIds:
    """Pictures to ids, island by island; what was encoded once is remembered.

    Args:
        encode: (G, 3, S, S) in [-1, 1] -> (G, N) ids: the tokenizer.
        grid: Places a side, g; N = g * g.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], grid: int) -> None:
        self._encode = encode
        self._grid = grid
        self._known: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """(G, 3, S, S) in [-1, 1] -> (G, N) ids.

        Pixels that are no whole steps of 1/255 are rounded to them.
        """
        pixels = pixel_values.float().cpu().permute(0, 2, 3, 1)  # (G, S, S, 3)
        pictures = ((pixels + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        parted = [find_islands(picture, self._grid) for picture in pictures]
        self._remember([self._needed(ground, islands, pictures[0]) for ground, islands in parted])
        ids = [self._joined(ground, islands, pictures[0]) for ground, islands in parted]
        while len(self._known) > MEMORY:
            self._known.popitem(last=False)
        return torch.from_numpy(np.stack(ids)).to(pixel_values.device)

    def _needed(
        self, ground: np.ndarray | None, islands: list[Island], like: np.ndarray
    ) -> list[np.ndarray]:
        plain = [] if ground is None else [_plain(ground, like)]
        return plain + [island.picture for island in islands]

    def _remember(self, groups: list[list[np.ndarray]]) -> None:
        pictures = {_key(p): p for group in groups for p in group}
        for key in pictures.keys() & self._known.keys():
            self._known.move_to_end(key)
        new = [key for key in pictures if key not in self._known]
        if new:
            stack = np.stack([pictures[key] for key in new])
            found = self._encode(uint8_to_pixel_values(stack)).cpu().numpy()
            self._known.update(zip(new, found, strict=True))

    def _joined(
        self, ground: np.ndarray | None, islands: list[Island], like: np.ndarray
    ) -> np.ndarray:
        grid = self._grid
        joined = np.zeros((grid, grid), dtype=np.int64)
        if ground is not None:
            middle = grid // 2
            joined[:] = self._ids(_plain(ground, like))[middle, middle]
        for island in islands:
            rows, columns = np.nonzero(island.places)
            ids = self._ids(island.picture)
            joined[rows, columns] = ids[rows + island.shift[0], columns + island.shift[1]]
        return joined.ravel()

    def _ids(self, picture: np.ndarray) -> np.ndarray:
        return self._known[_key(picture)].reshape(self._grid, self._grid)


def _key(picture: np.ndarray) -> bytes:
    """Sixteen bytes for a picture that has thousands."""
    return hashlib.blake2b(picture.tobytes(), digest_size=16).digest()


def _plain(ground: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(ground, like.shape))
