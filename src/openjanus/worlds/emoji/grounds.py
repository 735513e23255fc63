"""Painted grounds of the wide world: gradients, horizons, stripes and soft noise, of any size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from PIL import Image

from openjanus.worlds.emoji.draws import below, pick

Rgb = tuple[int, int, int]

GroundKind = Literal["gradient", "horizon", "stripes", "noise"]
GROUND_KINDS: Final[tuple[GroundKind, ...]] = get_args(GroundKind)

CLOUDS: Final = 7
"""Points a side of the lattice between which soft noise is interpolated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """A ground of two colours, known exactly at any size."""

    kind: GroundKind
    colours: tuple[Rgb, Rgb]
    """Of a horizon, sky and ground."""
    angle: float
    """Of gradients and stripes, in radians."""
    place: float
    """Height of a horizon, from 0 at the top; or where stripes begin."""
    period: float
    """Of stripes, in sides of the picture."""
    key: int
    """Of the noise."""


def draw_ground(rng: np.random.Generator, colours: tuple[Rgb, Rgb]) -> Ground:
    """Draw a painted ground in two colours, every kind alike."""
    kind = pick(rng, GROUND_KINDS)
    return Ground(
        kind=kind,
        colours=colours,
        angle=2 * math.pi * rng.random(),
        place=0.35 + 0.4 * rng.random(),
        period=0.12 + 0.25 * rng.random(),
        key=below(rng, 1 << 31),
    )


def paint(ground: Ground, size: int) -> np.ndarray:
    """Paint a ground, (size, size, 3) uint8."""
    share = _share_of_second(ground, size)[..., None]
    first, second = (np.asarray(colour, dtype=np.float64) for colour in ground.colours)
    return np.round(first + (second - first) * share).astype(np.uint8)


def _share_of_second(ground: Ground, size: int) -> np.ndarray:
    """(size, size) in [0, 1]: how much of the second colour is in each pixel."""
    middles = (np.arange(size) + 0.5) / size
    cosine, sine = math.cos(ground.angle), math.sin(ground.angle)
    match ground.kind:
        case "gradient":
            along = (middles - 0.5) * cosine + ((middles - 0.5) * sine)[:, None]
            return np.clip(along / (abs(cosine) + abs(sine)) + 0.5, 0, 1)
        case "horizon":
            rows = np.clip((middles - ground.place) * size + 0.5, 0, 1)
            return np.broadcast_to(rows[:, None], (size, size))
        case "stripes":
            along = middles * cosine + (middles * sine)[:, None]
            phase = np.mod(along / ground.period + ground.place, 1.0)
            edge = (0.25 - np.abs(phase - 0.5)) * ground.period * size  # pixels inside a stripe
            return np.clip(edge + 0.5, 0, 1)
        case "noise":
            lattice = np.random.default_rng(ground.key).random((CLOUDS, CLOUDS), dtype=np.float32)
            clouds = Image.fromarray(lattice).resize((size, size), Image.Resampling.BICUBIC)
            return np.clip(np.asarray(clouds, dtype=np.float64), 0, 1)
