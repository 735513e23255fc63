"""What the judge finds in a picture: the peaks of its network's maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.worlds.emoji.judge_network import GRID, Maps

MAX_PEAKS: Final = 16
"""Things found in a picture at most."""
SAME_PLACE: Final = 0.4
"""Two finds whose boxes overlap (intersection over union) more than this are one thing: the
surest name counts. Things of this world overlap by a quarter at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peaks:
    """The things found in one picture, the surest first, raw scores above 0."""

    score: np.ndarray
    """(n,) raw, in [0, 1]."""
    concept: np.ndarray
    """(n,) indices into the judge's names."""
    colour: np.ndarray
    """(n,) indices into `COLOURS`, or `NATURAL`."""
    box: np.ndarray
    """(n, 4) x0, y0, x1, y1 in sides of the picture."""


def places() -> tuple[Tensor, Tensor]:
    """Middles of the grid's places in sides of the picture: x (1, g) and y (g, 1)."""
    middles = (torch.arange(GRID) + 0.5) / GRID
    return middles[None, :], middles[:, None]


def peaks_of(maps: Maps) -> list[Peaks]:
    """Read the things off the network's maps.

    A thing is where the centre map, times the likeliest concept's probability, is not below its
    eight neighbours; finds in the same place as a surer one are dropped.
    """
    probability, concept = maps.concept.softmax(1).max(1)  # (B, g, g)
    scores = maps.centre.sigmoid() * probability
    highest = F.max_pool2d(scores[:, None], 3, stride=1, padding=1)[:, 0]
    scores = torch.where(scores == highest, scores, 0).flatten(1)  # (B, g*g)
    score, index = scores.topk(MAX_PEAKS, dim=1)
    x, y = places()
    middle_x, middle_y = maps.box[:, 0] + x, maps.box[:, 1] + y
    half_width, half_height = maps.box[:, 2].relu() / 2, maps.box[:, 3].relu() / 2
    box = torch.stack(
        [
            middle_x - half_width,
            middle_y - half_height,
            middle_x + half_width,
            middle_y + half_height,
        ],
        dim=-1,
    ).clamp(0, 1)
    box = box.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4))  # (B, n, 4)
    concept = concept.flatten(1).gather(1, index)
    colour = maps.colour.argmax(1).flatten(1).gather(1, index)
    arrays = [tensor.numpy() for tensor in (score, concept, colour, box)]
    return [_distinct(*row) for row in zip(*arrays, strict=True)]


def _distinct(score: np.ndarray, concept: np.ndarray, colour: np.ndarray, box: np.ndarray) -> Peaks:
    """Peaks without those that lie in the place of a surer one."""
    kept: list[int] = []
    for i in range(len(score)):
        if score[i] > 0 and all(overlap(box[i], box[j]) <= SAME_PLACE for j in kept):
            kept.append(i)
    return Peaks(score=score[kept], concept=concept[kept], colour=colour[kept], box=box[kept])


def overlap(box_a: np.ndarray, box_b: np.ndarray) -> float:
    """Intersection over union of two boxes; 0 for boxes without area."""
    sides = np.minimum(box_a[2:], box_b[2:]) - np.maximum(box_a[:2], box_b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    areas = float(np.prod(box_a[2:] - box_a[:2]) + np.prod(box_b[2:] - box_b[:2]))
    return shared / (areas - shared) if areas > shared else 0.0
