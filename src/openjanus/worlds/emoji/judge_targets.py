"""What the judge should say of a scene, how wrong it is, and how its pictures are roughened."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.judge_network import GRID, NATURAL, Maps
from openjanus.worlds.emoji.scenes import Scene, SceneObject
from openjanus.worlds.emoji.vocabulary import WorldName, world

SPREAD: Final = 0.15
"""Deviation of a thing's bump on the centre map, in its own width and height."""
LEAST_SPREAD: Final = 0.6 / GRID
NEAR_MIDDLE: Final = 0.3
"""Places where the bump is above this learn what the thing is and where its box lies."""
BOX_WEIGHT: Final = 10.0
LUMINANCE: Final = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """What the network should say of B pictures; -1 is "do not ask"."""

    centre: Tensor
    """(B, g, g) in [0, 1], 1 at the place that holds a thing's middle."""
    concept: Tensor
    """(B, g, g) indices or -1."""
    colour: Tensor
    """(B, g, g) indices or -1."""
    box: Tensor
    """(B, 4, g, g) as in `Maps`; 0 where concept is -1."""

    def without_colours(self, pictures: Tensor) -> Targets:
        """The same, the colours of some pictures (B,) bool not asked for."""
        colour = torch.where(pictures[:, None, None], -1, self.colour)
        return dataclasses.replace(self, colour=colour)


def targets_of(scenes: Sequence[Scene]) -> Targets:
    """What the network should say of scenes."""
    centre = np.zeros((len(scenes), GRID, GRID), dtype=np.float32)
    concept = np.full(centre.shape, -1, dtype=np.int64)
    colour = np.full(centre.shape, -1, dtype=np.int64)
    box = np.zeros((len(scenes), 4, GRID, GRID), dtype=np.float32)
    for i, scene in enumerate(scenes):
        index = _index(scene.world)
        for thing in scene.objects:
            bump, values, place = _bump(thing)
            near = (bump > NEAR_MIDDLE) & (bump >= centre[i])
            near[place] = True
            concept[i][near] = index[thing.concept]
            tint = thing.colour
            colour[i][near] = NATURAL if tint is None else COLOURS.index(tint)
            box[i][:, near] = values[:, near]
            centre[i] = np.maximum(centre[i], bump)
            centre[i][place] = 1
    return Targets(
        centre=torch.from_numpy(centre),
        concept=torch.from_numpy(concept),
        colour=torch.from_numpy(colour),
        box=torch.from_numpy(box),
    )


@cache
def _index(name: WorldName) -> dict[str, int]:
    """Places of a world's concepts among a judge's names."""
    return {concept: i for i, concept in enumerate(world(name).concepts)}


_PLACES: Final = (np.arange(GRID) + 0.5) / GRID


def _bump(thing: SceneObject) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """A thing's bump (g, g), its box as seen from each place (4, g, g), its middle's place."""
    x0, y0, x1, y1 = thing.box
    width, height = x1 - x0, y1 - y0
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    dx, dy = x - _PLACES[None, :], y - _PLACES[:, None]
    deviation_x = max(LEAST_SPREAD, SPREAD * width)
    deviation_y = max(LEAST_SPREAD, SPREAD * height)
    bump = np.exp(-((dx / deviation_x) ** 2 + (dy / deviation_y) ** 2) / 2).astype(np.float32)
    values = np.stack([np.broadcast_to(v, bump.shape) for v in (dx, dy, width, height)])
    return bump, values, (int(y * GRID), int(x * GRID))


def judge_loss(maps: Maps, targets: Targets) -> Tensor:
    """CenterNet's focal loss for middles, cross-entropy for names and colours, L1 for boxes."""
    is_middle = targets.centre == 1
    probability = maps.centre.sigmoid()
    yes = F.logsigmoid(maps.centre) * (1 - probability) ** 2
    no = F.logsigmoid(-maps.centre) * probability**2 * (1 - targets.centre) ** 4
    focal = -torch.where(is_middle, yes, no).sum() / is_middle.sum()
    concept = F.cross_entropy(maps.concept, targets.concept, ignore_index=-1)
    # A sum over those that are asked for, for a batch may ask for none.
    colour = F.cross_entropy(maps.colour, targets.colour, ignore_index=-1, reduction="sum")
    asked = (targets.colour >= 0).sum().clamp(min=1)
    error = (maps.box - targets.box).abs().sum(1)[targets.concept >= 0]
    return focal + concept + colour / asked + BOX_WEIGHT * error.mean()


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures slightly off: half of them blurred, half noisy, all a little brighter or darker.

    Args:
        pixels: (B, 3, S, S) in [-1, 1].
        generator: Source of everything random.
    """

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        shape = (len(pixels), channels, 1, 1)
        return low + (high - low) * torch.rand(shape, generator=generator)

    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pixels = torch.lerp(pixels, blurred, uniform(-1, 1).clamp(min=0))
    pixels = pixels * uniform(0.85, 1.15) + uniform(-0.1, 0.1) + uniform(-0.04, 0.04, 3)
    noise = torch.randn(pixels.shape, generator=generator)
    return (pixels + noise * uniform(-0.08, 0.08).clamp(min=0)).clamp(-1, 1)


def false_coloured(
    pixels: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Some pictures in false colours: their luminance read off a ramp of three random ones.

    Names must then be told by shape. Without this a thing in a colour that it never had in
    training is taken for something that had it. No false-coloured thing has one of the ten
    colours all over, so nothing held out is shown.

    Args:
        pixels: (B, 3, S, S) in [-1, 1].
        share: Of the pictures.
        generator: Source of everything random.

    Returns:
        (B, 3, S, S) pictures, and (B,) bool, which of them are in false colours.
    """
    chosen = torch.rand(len(pixels), generator=generator) < share
    ramp = torch.rand((len(pixels), 3, 3, 1, 1), generator=generator) * 2 - 1  # dark, middle, light
    weights = pixels.new_tensor(LUMINANCE)[:, None, None]
    luminance = (pixels * weights).sum(1, keepdim=True)  # (B, 1, S, S)
    middle = ramp[:, 1] * (1 - luminance.abs())
    false = middle + ramp[:, 0] * F.relu(-luminance) + ramp[:, 2] * F.relu(luminance)
    return torch.where(chosen[:, None, None, None], false, pixels), chosen
