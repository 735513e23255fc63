"""Pictures for the image tokenizer: where they come from, and the piece that is trained on."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from PIL import Image

from openjanus.data.fetching import first_readable
from openjanus.data.id_cache import content_fingerprint_of, fingerprint_of
from openjanus.data.mixture import permuted, stable_hash
from openjanus.data.samples import Sample
from openjanus.data.sources import Source
from openjanus.processor.image import crop_to_square

CROP_CANDIDATES = 4
HELD_OUT_FIRST = 1 << 40
"""Index of the first held-out picture of a source without an end: far from every training index."""


class PictureSource(Protocol):
    """Pictures by index, the same for ever; those from ``HELD_OUT_FIRST`` on are held out."""

    def picture(self, index: int, /) -> np.ndarray:
        """uint8 (H, W, 3)."""
        ...

    def key(self, index: int, /) -> str:
        """The picture's name for messages."""
        ...


class EpochPictures:
    """A source with an end as one without: every epoch in an order of its own.

    Args:
        source: Items that hold a picture: an array, a pair that starts with one, or a sample.
        seed: Names the orders.
        held_out: How many no epoch has: anywhere in the source, the same for every seed, since
            the last ones of a folder of classes would be of one class.

    Raises:
        ValueError: The source is too short, or its first readable item has no picture.
    """

    def __init__(self, source: Source, *, seed: int, held_out: int) -> None:
        self._source, self._seed = source, seed
        self._length = len(source) - held_out
        if self._length < 1:
            raise ValueError(
                f"the source has {len(source)} pictures and eval.pictures holds {held_out} back: "
                "give more pictures, or lower eval.pictures"
            )
        self._held_out = held_out
        _picture_of(first_readable(source))

    def __len__(self) -> int:
        return self._length + self._held_out

    def fingerprint(self) -> str | None:
        """Names the files of the source; None for one without."""
        return fingerprint_of(self._source)

    def content_fingerprint(self) -> str | None:
        """Names some items of the source by what they hold; None where it does not."""
        return content_fingerprint_of(self._source)

    def _place(self, index: int) -> int:
        if index >= HELD_OUT_FIRST:
            place = self._length + (index - HELD_OUT_FIRST) % self._held_out
        else:
            epoch, position = divmod(index, self._length)
            place = permuted(position, self._length, stable_hash("vq", self._seed, epoch))
        total = self._length + self._held_out
        return permuted(place, total, stable_hash("vq held out"))

    def picture(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3)."""
        return _picture_of(self._source[self._place(index)])

    def key(self, index: int) -> str:
        """Which item of the source it is."""
        return f"item {self._place(index)}"


def _picture_of(item: Any) -> np.ndarray:
    if isinstance(item, Sample):
        item = item.target if item.target is not None else next(iter(item.images), None)
    elif isinstance(item, tuple):
        item = item[0]
    if not (isinstance(item, np.ndarray) and item.ndim == 3):
        raise ValueError(
            "the source has no pictures: take one that does, such as toy-pictures or image-folder"
        )
    return item


def centre(picture: np.ndarray, size: int) -> np.ndarray:
    """The shorter side resized to ``size``, the middle cut out; nothing where it fits already."""
    if picture.shape[:2] == (size, size):
        return picture
    return np.asarray(crop_to_square(Image.fromarray(picture), size))


def busiest_crop(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """The piece with the most contrast among a few random ones, so that plain ground is rare.

    Args:
        picture: uint8 (H, W, 3).
        size: Side of the piece, <= H and W.
        rng: Draws the candidates.
    """
    height, width = picture.shape[:2]
    tops = rng.integers(0, height - size + 1, CROP_CANDIDATES)
    lefts = rng.integers(0, width - size + 1, CROP_CANDIDATES)
    pieces = [picture[t : t + size, x : x + size] for t, x in zip(tops, lefts, strict=True)]
    return max(pieces, key=lambda piece: float(piece.std(axis=(0, 1)).sum()))


def random_crop(
    picture: np.ndarray, size: int, smallest: float, rng: np.random.Generator
) -> np.ndarray:
    """Resize to a random scale and cut a random square out.

    Args:
        picture: uint8 (H, W, 3) of any size.
        size: Side of the piece.
        smallest: The least share of the shorter side that the piece shows; at most 1.
        rng: Draws the scale and the place.
    """
    shorter = int(rng.integers(size, int(size / smallest) + 1))
    height, width = picture.shape[:2]
    scale = shorter / min(height, width)
    new_size = (max(shorter, round(width * scale)), max(shorter, round(height * scale)))
    image = Image.fromarray(picture).resize(new_size, Image.Resampling.BICUBIC)
    left = int(rng.integers(0, image.width - size + 1))
    top = int(rng.integers(0, image.height - size + 1))
    return np.asarray(image.crop((left, top, left + size, top + size)))
