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

from openjanus.data.indices import checked_index
from openjanus.data.samples import Sample, Turn
from openjanus.worlds.emoji.captions import phrase
from openjanus.worlds.emoji.concepts import COLOURS, TINTABLE
from openjanus.worlds.emoji.draws import below, pick
from openjanus.worlds.emoji.fetch import fetch_icon, shipped_folder
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.sampling import TIDY_BACKGROUNDS, TOUCH
from openjanus.worlds.emoji.scenes import (
    OPPOSITE,
    Box,
    Rgb,
    Scene,
    SceneObject,
    relations,
    render,
)
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

KEPT_APART: Final = frozenset({"car", "dog", "banana", "apple", "teddy bear", "cat"})
"""What stands beside it in `PROMPTS`."""

ONE: Final = ("a photo of a mushroom", "a picture of a mushroom", "a drawing of a mushroom")
TWO: Final = ("a picture of two mushrooms", "a drawing of two mushrooms", "two mushrooms")

GRID: Final = 12
"""Places a side on which the things lie that the nano learnt to draw from."""

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
    """The five pictures with their captions, and what can be made by cutting the mushroom out.

    Every third item is one of the five as it is. The others, if `pasted`, have the mushroom's
    square moved elsewhere, twice on one ground, or in place of one thing of a training scene's two.
    What the final prompts name beside it (`KEPT_APART`) is never beside it here, and no caption is
    one of them.

    Args:
        size: Side of the pictures in pixels, a multiple of 12.
        length: How many items iteration sees.
        seed: Of what is pasted where.
        pasted: Whether there is anything but the five.

    Raises:
        ValueError: A size that is no multiple of 12, or a length below 1.
    """

    def __init__(
        self, *, size: int = 96, length: int = 6000, seed: int = 0, pasted: bool = True
    ) -> None:
        if size < GRID or size % GRID or length < 1:
            raise ValueError(
                f"size must be a multiple of {GRID} and length at least 1, got {size} and {length}"
            )
        sprites = sprites_with_newcomer()
        self.size = size
        self.length = length
        self.seed = seed
        self.pasted = pasted
        self.pictures = [lesson_picture(i, size, sprites) for i in range(len(LESSONS))]
        self.scenes = SceneSource(
            seed=seed,
            tags={"two_object": 1.0, "position": 1.0},
            size=size,
            grid=GRID,
            two_sizes=True,
            vendors=[VENDOR],
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        index = checked_index(index, self.length)
        turn, way = divmod(index, 3)
        if not self.pasted or way == 0:
            lesson = (turn if self.pasted else index) % len(LESSONS)
            words, picture = LESSONS[lesson][0], self.pictures[lesson]
        elif way == 1 and turn % 2 == 0:
            words, picture = self._moved(np.random.default_rng([self.seed, index, 0]))
        else:
            words, picture = self._beside(np.random.default_rng([self.seed, index, 1]))
        return Sample(
            key=f"emoji-newcomer/{self.seed}/{index}",
            kind="gen",
            turns=(Turn(role="user", text=words),),
            target=picture,
        )

    def _cut(self, lesson: int) -> np.ndarray:
        """The square of a lesson's picture that the mushroom is in."""
        _, longer, left, top, _ = LESSONS[lesson]
        x, y, side = (round(value * self.size) for value in (left, top, longer))
        return self.pictures[lesson][y : y + side, x : x + side]

    def _moved(self, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        """One mushroom anywhere on the ground, or two small ones apart."""
        lesson = below(rng, len(LESSONS))
        piece, step = self._cut(lesson), self.size // GRID
        places = (self.size - len(piece)) // step + 1
        spots = [(below(rng, places) * step, below(rng, places) * step)]
        words = pick(rng, ONE)
        if LESSONS[lesson][1] == _SMALL and rng.random() < 0.7:
            apart = [
                (y * step, x * step)
                for y in range(places)
                for x in range(places)
                if max(abs(y * step - spots[0][0]), abs(x * step - spots[0][1]))
                >= len(piece) + step
            ]
            if apart:
                spots.append(pick(rng, apart))
                words = pick(rng, TWO)
        picture = np.empty_like(self.pictures[lesson])
        picture[:] = TIDY_BACKGROUNDS[LESSONS[lesson][4]]
        for y, x in spots:
            picture[y : y + len(piece), x : x + len(piece)] = piece
        return words, picture

    def _beside(self, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        """A training scene of two things, the mushroom in place of one of them."""
        while True:
            index = below(rng, len(self.scenes))
            scene = self.scenes.scene(index)
            gone = below(rng, 2)
            other, place = scene.objects[1 - gone], scene.objects[gone].box
            lessons = [
                i
                for i, (_, longer, _, _, ground) in enumerate(LESSONS)
                if longer == _SMALL and TIDY_BACKGROUNDS[ground] == scene.background
            ]
            box = (place[0], place[1], place[0] + _SMALL, place[1] + _SMALL)
            if (
                lessons
                and other.concept not in KEPT_APART
                and max(box) <= 1 + TOUCH
                and _apart(box, other.box)
            ):
                break
        picture = self.scenes.picture(index)
        x0, y0, x1, y1 = (round(value * self.size) for value in place)
        picture[y0:y1, x0:x1] = scene.background
        piece = self._cut(pick(rng, lessons))
        picture[y0 : y0 + len(piece), x0 : x0 + len(piece)] = piece
        return _told(box, other, rng), picture


def _apart(a: Box, b: Box) -> bool:
    """Whether a place of the grid lies between two boxes, so that they are two islands."""
    gap = 1 / GRID - TOUCH
    across = max(a[0], b[0]) - min(a[2], b[2])
    down = max(a[1], b[1]) - min(a[3], b[3])
    return across >= gap or down >= gap


def _told(box: Box, other: SceneObject, rng: np.random.Generator) -> str:
    """A caption of the mushroom and another thing; half of them tell a relation if there is one."""
    words, mushroom = phrase(other.concept), f"a {NAME}"
    held = sorted(relations(box, other.box))
    opening = pick(rng, ("a photo of ", "a picture of ", "a drawing of ", ""))
    if len(held) == 1 and rng.random() < 0.5:
        if rng.random() < 0.5:
            return f"{opening}{mushroom} {held[0]} {words}"
        return f"{opening}{words} {OPPOSITE[held[0]]} {mushroom}"
    first, second = (words, mushroom) if rng.random() < 0.5 else (mushroom, words)
    return f"{opening}{first} and {second}"


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
