"""What the understanding encoder is trained on: pictures, their regions, and what is true of each.

A picture with one caption is a picture of one region, the whole of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from openjanus.data.samples import IMAGE_MARK, Region, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionBatch:
    """Regions of some pictures, and what is true of each."""

    owners: Tensor
    """(R,) which picture a region is of."""
    boxes: Tensor
    """(R, 4) x0, y0, x1, y1 in shares of the sides."""
    captions: tuple[str, ...]
    """U of them, no two the same."""
    true_of: Tensor
    """(R, U) bool: the caption is taught as true of the region. One that says the same in other
    words is taught as false, as in SigLIP."""

    def to(self, device: torch.device) -> RegionBatch:
        """The same there."""
        there = {name: getattr(self, name).to(device) for name in ("owners", "boxes", "true_of")}
        return replace(self, **there)


def join_regions(
    regions: Sequence[Sequence[Region]], among: Sequence[Sequence[Region]] | None = None
) -> RegionBatch:
    """One batch of the regions of each picture.

    Args:
        regions: Of each picture.
        among: Of each picture whose captions are compared with them, these included; None stands
            for ``regions``.

    Raises:
        ValueError: No picture has any.
    """
    flat = [region for of_one in regions for region in of_one]
    told = regions if among is None else among
    captions = dict.fromkeys(
        text for of_one in told for region in of_one for text in region.captions
    )
    if not captions:
        raise ValueError(
            f"none of {len(told)} pictures has a region: take a source whose pictures have some"
        )
    places = {text: place for place, text in enumerate(captions)}
    true_of = torch.zeros(len(flat), len(captions), dtype=torch.bool)
    for row, region in enumerate(flat):
        true_of[row, [places[text] for text in region.captions]] = True
    owners = [i for i, of_one in enumerate(regions) for _ in of_one]
    return RegionBatch(
        owners=torch.tensor(owners, dtype=torch.long),
        boxes=torch.tensor([region.box for region in flat], dtype=torch.float32).reshape(-1, 4),
        captions=tuple(captions),
        true_of=true_of,
    )


def regions_of(told: object) -> tuple[Region, ...]:
    """What a source says of a picture, as regions; one caption is of the whole picture.

    Raises:
        ValueError: Neither a caption nor a tuple of regions.
    """
    if isinstance(told, str):
        return (Region(captions=(told,)),)
    if isinstance(told, tuple) and all(isinstance(region, Region) for region in told):
        return told
    raise ValueError(
        "what is told of a picture must be its caption or a tuple of Region, got "
        f"{type(told).__name__} {told!r:.80}: take a source such as emoji-pairs or emoji-regions"
    )


def pair_of(item: object) -> tuple[Any, tuple[Region, ...]]:
    """What a source gives, as a picture and what is told of it.

    Args:
        item: A pair of a picture and a caption or regions; or a sample of one picture, to draw or
            to understand, whose caption is what is said last.

    Raises:
        ValueError: Neither.
    """
    if isinstance(item, tuple) and len(item) == 2:
        return item[0], regions_of(item[1])
    if isinstance(item, Sample) and item.turns:
        caption = item.turns[-1].text.replace(IMAGE_MARK, "").strip()
        if len(item.pictures) == 1 and caption:
            return item.pictures[0], regions_of(caption)
    raise ValueError(
        f"the source gives no pictures with what they show, but a {type(item).__name__}: take one "
        "that does, such as caption-jsonl, emoji-pairs or emoji-regions"
    )


def box_weights(boxes: Tensor, side: int) -> Tensor:
    """How much of a box's mean each patch is.

    Args:
        boxes: (R, 4) in shares of the sides.
        side: Patches a side.

    Returns:
        (R, side * side) shares of each box's area, in raster order; they sum to 1.
    """
    edges = torch.arange(side + 1, device=boxes.device) / side

    def overlap(low: Tensor, high: Tensor) -> Tensor:
        ends = torch.minimum(edges[1:], high[:, None])
        return (ends - torch.maximum(edges[:-1], low[:, None])).clamp_min(0.0)  # (R, side)

    columns, rows = overlap(boxes[:, 0], boxes[:, 2]), overlap(boxes[:, 1], boxes[:, 3])
    area = (rows[:, :, None] * columns[:, None, :]).flatten(1)  # (R, side * side)
    return area / area.sum(1, keepdim=True)
