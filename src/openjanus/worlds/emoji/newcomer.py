"""A thing that is not of this world, to be learnt from five pictures, and who finds it.

The mushroom is none of the 66 concepts: no picture, caption, question or judge of this world has
it. Its artwork is the same vendors'; ``python -m openjanus.worlds.emoji.newcomer`` fetches it.

The judge of `judge` knows 66 names and cannot say a new one, so here is another that is trained on
nothing: it parts a picture into what lies on its ground and compares each piece with the artwork of
all 67 things, natural and tinted, of all vendors. A piece is the newcomer if that artwork is the
nearest of all and near enough.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from openjanus.data.samples import Sample, Turn
from openjanus.worlds.emoji.concepts import COLOURS, TINTABLE
from openjanus.worlds.emoji.fetch import fetch_icon, shipped_folder
from openjanus.worlds.emoji.sampling import TIDY_BACKGROUNDS
from openjanus.worlds.emoji.scenes import Box, Rgb, Scene, SceneObject, render
from openjanus.worlds.emoji.sprites import Sprites

NAME: Final = "mushroom"
CODE_POINT: Final = "1f344"
VENDOR: Final = "noto"
"""Whose mushroom is learnt: whose things the nano draws."""
FILE: Final = "newcomer.npz"

_LARGE, _SMALL = 8 / 12, 5 / 12
"""Sizes of lone things and of others in what the nano learnt to draw from."""

LESSONS: Final[tuple[tuple[str, float, float, float, int], ...]] = (
    ("a photo of a mushroom", _LARGE, 2 / 12, 2 / 12, 0),
    ("a picture of a mushroom", _LARGE, 3 / 12, 1 / 12, -1),
    ("a drawing of a mushroom", _SMALL, 1 / 12, 4 / 12, 0),
    ("a photo of a mushroom", _SMALL, 6 / 12, 2 / 12, -1),
    ("a mushroom on a plain background", _SMALL, 4 / 12, 6 / 12, 0),
)
"""The five pictures: caption, longer side, left, top, and which of `TIDY_BACKGROUNDS`."""

PROMPTS: Final = (
    "an image of a mushroom",
    "a picture showing a mushroom",
    "a photo of two mushrooms",
    "a photo of three mushrooms",
    "a photo of a mushroom and a car",
    "a photo of a dog and a mushroom",
    "a photo of a mushroom left of a banana",
    "a photo of an apple above a mushroom",
    "a picture of a mushroom and a teddy bear",
    "a picture with a mushroom and two cats",
)
"""What is asked for in the end: none of these words is a caption of the five."""

SIDE: Final = 24
"""Of the squares in which pieces and artwork are compared."""
GROUND_SPREAD: Final = 36
"""Largest difference of a channel from the ground's that is still ground."""
LEAST_AREA: Final = 0.008
"""Of a piece, in areas of the picture; less is dirt."""
SHAPE_WEIGHT: Final = 60.0
"""What a factor of e between two aspect ratios counts, in grey levels."""


def newcomer_art() -> dict[str, np.ndarray]:
    """The mushroom by vendor, as sprites are: (H, W, 4) uint8."""
    with np.load(shipped_folder() / FILE) as arrays:
        return {vendor: arrays[vendor] for vendor in arrays.files}


def sprites_with_newcomer(sprites: Sprites | None = None) -> Sprites:
    """The world's artwork, and the mushroom."""
    sprites = Sprites.load() if sprites is None else sprites
    images = {(c, v): sprites.rgba(c, v) for c in sprites.concepts for v in sprites.vendors}
    art = newcomer_art()
    return Sprites(images | {(NAME, vendor): art[vendor] for vendor in sprites.vendors})


def lesson_picture(index: int, size: int, sprites: Sprites) -> np.ndarray:
    """One of the five pictures, (size, size, 3) uint8."""
    _, longer, left, top, ground = LESSONS[index]
    thing = _placed(longer, left, top, sprites)
    scene = Scene(objects=(thing,), background=TIDY_BACKGROUNDS[ground], tag="single_object")
    return render(scene, size, sprites)


def _placed(longer: float, left: float, top: float, sprites: Sprites) -> SceneObject:
    aspect = sprites.aspect(NAME, VENDOR)
    width, height = longer * min(1.0, aspect), longer * min(1.0, 1 / aspect)
    box: Box = (left, top, left + width, top + height)
    return SceneObject(concept=NAME, vendor=VENDOR, colour=None, box=box)


class NewcomerLessons:
    """The five pictures with their captions, to draw from, over and over.

    Args:
        size: Side of the pictures in pixels.
        length: How many items iteration sees: each of the five is there every fifth time.

    Raises:
        ValueError: A size or length below 1.
    """

    def __init__(self, *, size: int = 96, length: int = 5000) -> None:
        if size < 1 or length < 1:
            raise ValueError(f"size and length must be at least 1, got {size} and {length}")
        sprites = sprites_with_newcomer()
        self.length = length
        self.pictures = [lesson_picture(i, size, sprites) for i in range(len(LESSONS))]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not -self.length <= index < self.length:
            raise IndexError(f"index must be below the length {self.length}, got {index}")
        index %= self.length
        lesson = index % len(LESSONS)
        return Sample(
            key=f"emoji-newcomer/{index}",
            kind="gen",
            turns=(Turn(role="user", text=LESSONS[lesson][0]),),
            target=self.pictures[lesson],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Something on a picture's ground, and the thing whose artwork it is nearest to."""

    name: str
    distance: float
    """Mean absolute difference in grey levels, and what the shapes differ by."""
    box: tuple[int, int, int, int]
    """left, top, right, bottom in pixels."""


class ArtworkJudge:
    """Names pieces by the nearest artwork.

    Args:
        sprites: What there is to be named.
        limit: Distance from which on a piece is nothing that is known.
    """

    def __init__(self, sprites: Sprites, *, limit: float) -> None:
        self.limit = limit
        names, colours, alphas, aspects = [], [], [], []
        for concept in sprites.concepts:
            for vendor in sprites.vendors:
                for colour in (None, *(COLOURS if concept in TINTABLE else ())):
                    art = Image.fromarray(sprites.rgba(concept, vendor, colour)).convert("RGBa")
                    small = np.asarray(art.resize((SIDE, SIDE), Image.Resampling.BOX))
                    names.append(concept)
                    colours.append(small[..., :3])
                    alphas.append(small[..., 3:])
                    aspects.append(sprites.aspect(concept, vendor))
        self.names = names
        self._colours = np.stack(colours).astype(np.float32)  # (R, SIDE, SIDE, 3), premultiplied
        self._clear = 1 - np.stack(alphas).astype(np.float32) / 255
        self._aspects = np.log(np.array(aspects))

    def look(self, picture: np.ndarray) -> list[Piece]:
        """Name the pieces of a picture, (H, W, 3) uint8, whatever their distance."""
        ground = ground_of(picture)
        shown = self._colours + self._clear * np.asarray(ground, dtype=np.float32)
        found = []
        for box in pieces_of(picture, ground):
            piece = Image.fromarray(picture).crop(box).resize((SIDE, SIDE), Image.Resampling.BOX)
            near = np.abs(shown - np.asarray(piece, dtype=np.float32)).mean(axis=(1, 2, 3))
            aspect = np.log((box[2] - box[0]) / (box[3] - box[1]))
            distances = near + SHAPE_WEIGHT * np.abs(self._aspects - aspect)
            best = int(distances.argmin())
            found.append(Piece(name=self.names[best], distance=float(distances[best]), box=box))
        return found

    def finds(self, picture: np.ndarray, name: str = NAME) -> bool:
        """Whether any piece is a thing of this name."""
        return any(p.name == name and p.distance <= self.limit for p in self.look(picture))


def ground_of(picture: np.ndarray) -> Rgb:
    """The colour that a picture's rim mostly has: the median of its channels."""
    rim = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    red, green, blue = np.median(rim, axis=0).astype(int).tolist()
    return red, green, blue


def pieces_of(picture: np.ndarray, ground: Rgb) -> list[tuple[int, int, int, int]]:
    """Boxes of what lies together on the ground, in pixels, corners not counted as touching."""
    differs = np.abs(picture.astype(int) - np.asarray(ground)).max(axis=-1) > GROUND_SPREAD
    height, width = differs.shape
    waiting = {(int(y), int(x)) for y, x in np.argwhere(differs)}
    boxes = []
    while waiting:
        stack = [waiting.pop()]
        piece = list(stack)
        while stack:
            y, x = stack.pop()
            for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if place in waiting:
                    waiting.remove(place)
                    stack.append(place)
                    piece.append(place)
        if len(piece) >= LEAST_AREA * height * width:
            ys, xs = zip(*piece, strict=True)
            boxes.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return sorted(boxes)


def distance_limit(judge: ArtworkJudge, shown: Sequence[tuple[np.ndarray, str]]) -> float:
    """The distance below which 98 % of the pieces lie that are named rightly.

    Args:
        judge: Without regard to its own limit.
        shown: Pictures of one thing each, with its name; of the world's own things.
    """
    right = [
        piece.distance
        for picture, name in shown
        for piece in judge.look(picture)
        if piece.name == name
    ]
    if not right:
        raise ValueError("no piece was named rightly: give pictures of known things")
    return float(np.quantile(right, 0.98))


def main() -> None:
    """Fetch the mushroom's artwork and write it beside the world's."""
    content = io.BytesIO()
    np.savez_compressed(content, **fetch_icon(CODE_POINT))  # pyright: ignore[reportArgumentType]
    (shipped_folder() / FILE).write_bytes(content.getvalue())


if __name__ == "__main__":
    main()
