"""The toy world: coloured squares and circles on plain ground. It needs no download.

Small enough to learn in a minute on a laptop, and every answer about it can be checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from openjanus.data.indices import checked_index
from openjanus.data.samples import DRAW_MARK, IMAGE_MARK, Kind, Sample, Turn

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 80, 220),
    "yellow": (240, 205, 40),
}
SHAPES = ("square", "circle")
GROUNDS: dict[str, tuple[int, int, int]] = {"white": (250, 250, 250), "black": (20, 20, 20)}

_SCENE, _WORDS = 0, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyScene:
    """One shape on a ground."""

    colour: str
    shape: str
    ground: str
    centre: tuple[float, float]
    """x and y as shares of the side."""
    radius: float
    """Half the width, as a share of the side."""

    @property
    def caption(self) -> str:
        """What is drawn, without where."""
        return f"a {self.colour} {self.shape} on {self.ground}"


def render(scene: ToyScene, size: int) -> np.ndarray:
    """Draw a scene: uint8 (size, size, 3)."""
    centres = (np.arange(size) + 0.5) / size
    x = centres[None, :] - scene.centre[0]
    y = centres[:, None] - scene.centre[1]
    if scene.shape == "circle":
        inside = x * x + y * y <= scene.radius**2
    else:
        inside = np.maximum(abs(x), abs(y)) <= scene.radius
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = GROUNDS[scene.ground]
    picture[inside] = COLOURS[scene.colour]
    return picture


class _ToySource:
    """Scenes by index: scene i is a function of (seed, i) alone."""

    name = "toy"

    def __init__(self, *, seed: int = 0, size: int = 32, length: int = 10_000) -> None:
        if size < 1 or length < 1:
            raise ValueError(f"size and length must be >= 1, got {size} and {length}")
        self.seed = seed
        self.size = size
        self.length = length

    def __len__(self) -> int:
        return self.length

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, index, purpose])

    def scene(self, index: int) -> ToyScene:
        """The scene of an index."""
        rng = self._rng(index, _SCENE)
        radius = 0.15 + 0.15 * rng.random()
        return ToyScene(
            colour=list(COLOURS)[rng.integers(len(COLOURS))],
            shape=SHAPES[rng.integers(len(SHAPES))],
            ground=list(GROUNDS)[rng.integers(len(GROUNDS))],
            centre=(0.35 + 0.3 * rng.random(), 0.35 + 0.3 * rng.random()),
            radius=radius,
        )

    def picture(self, index: int) -> np.ndarray:
        """The picture of an index, uint8 (size, size, 3)."""
        return render(self.scene(index), self.size)

    def key(self, index: int) -> str:
        """The item's name for ever."""
        return f"{self.name}/{self.seed}/{index}"

    def _checked(self, index: int) -> int:
        return checked_index(index, self.length)


class ToyPictures(_ToySource):
    """Pictures alone, for the image tokenizer."""

    name = "toy-pictures"

    def __getitem__(self, index: int) -> np.ndarray:
        return self.picture(self._checked(index))


class ToyPairs(_ToySource):
    """(picture, caption) pairs, for the understanding encoder."""

    name = "toy-pairs"

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        index = self._checked(index)
        return self.picture(index), self.scene(index).caption


class ToyScenes(_ToySource):
    """Samples to understand, to write and to draw.

    Args:
        kind: What a sample teaches.
        form: ``chat``, or ``plain`` for stage I: a picture and its caption, or a name and its
            picture.
        seed: Names the stream of scenes.
        size: Side of the pictures, in pixels.
        length: How many samples there are.

    Raises:
        ValueError: An unknown kind or form, or a size or length below 1.
    """

    def __init__(
        self,
        *,
        kind: Kind,
        form: Literal["chat", "plain"] = "chat",
        seed: int = 0,
        size: int = 32,
        length: int = 10_000,
    ) -> None:
        super().__init__(seed=seed, size=size, length=length)
        if kind not in ("und", "text", "gen") or form not in ("chat", "plain"):
            raise ValueError(
                "kind must be und, text or gen, and form chat or plain, "
                f"got {kind!r} and {form!r}: change the source's options"
            )
        self.kind: Kind = kind
        self.form: Literal["chat", "plain"] = form
        self.name = f"toy-{kind}-{form}"

    def __getitem__(self, index: int) -> Sample:
        index = self._checked(index)
        scene = self.scene(index)
        picture = self.picture(index)
        return Sample(
            key=self.key(index),
            kind=self.kind,
            turns=self._turns(scene, self._rng(index, _WORDS)),
            images=(picture,) if self.kind == "und" else (),
            target=picture if self.kind == "gen" else None,
            form=self.form,
        )

    def _turns(self, scene: ToyScene, rng: np.random.Generator) -> tuple[Turn, ...]:
        if self.form == "plain":
            text = f"{scene.colour} {scene.shape}" if self.kind == "gen" else scene.caption
            mark = IMAGE_MARK if self.kind == "und" else ""
            return (Turn(role="assistant", text=f"{mark}{text}"),)
        if self.kind == "gen":
            return (Turn(role="user", text=scene.caption),)
        question, answer = _question(scene, rng)
        mark = f"{IMAGE_MARK}\n" if self.kind == "und" else f"There is {scene.caption}. "
        return (
            Turn(role="user", text=f"{mark}{question}"),
            Turn(role="assistant", text=answer),
        )


class ToyDocuments(_ToySource):
    """Documents that tell of two scenes in turn, and draw each.

    Args:
        form: ``plain`` documents, or ``chat``: the answer to a prompt that names both.
        seed: Names the stream of scenes.
        size: Side of the pictures, in pixels.
        length: How many documents there are.

    Raises:
        ValueError: An unknown form, or a size or length below 1.
    """

    def __init__(
        self,
        *,
        form: Literal["chat", "plain"] = "plain",
        seed: int = 0,
        size: int = 32,
        length: int = 10_000,
    ) -> None:
        super().__init__(seed=seed, size=size, length=length)
        if form not in ("chat", "plain"):
            raise ValueError(f"form must be chat or plain, got {form!r}: change the options")
        self.form: Literal["chat", "plain"] = form
        self.name = f"toy-documents-{form}"

    def __getitem__(self, index: int) -> Sample:
        index = self._checked(index)
        pair = (index, (index + 1) % self.length)
        first, second = (f"{self.scene(i).colour} {self.scene(i).shape}" for i in pair)
        told = f"a {first}: {DRAW_MARK} a {second}: {DRAW_MARK} done"
        turns = (Turn(role="assistant", text=told),)
        if self.form == "chat":
            turns = (Turn(role="user", text=f"a {first}, a {second}"), *turns)
        return Sample(
            key=self.key(index),
            kind="gen",
            turns=turns,
            targets=tuple(self.picture(i) for i in pair),
            form=self.form,
        )


def _question(scene: ToyScene, rng: np.random.Generator) -> tuple[str, str]:
    questions = (
        ("Which colour?", scene.colour),
        ("Which shape?", scene.shape),
        ("Which ground?", scene.ground),
    )
    return questions[rng.integers(len(questions))]
