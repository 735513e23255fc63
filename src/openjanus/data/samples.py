"""A training sample, before any tokenizer has seen it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from openjanus.processor.chat import IMAGE_MARK, Turn

__all__ = ["DRAW_MARK", "IMAGE_MARK", "KINDS", "Kind", "Region", "Sample", "Turn"]

Kind = Literal["und", "text", "gen"]
"""What a sample teaches: to answer about pictures, to write, or to draw."""

KINDS: tuple[Kind, ...] = ("und", "text", "gen")
"""In the order that the papers state ratios: und : text : gen."""

DRAW_MARK = "<draw_placeholder>"
"""Where a picture to draw stands in the words of a document."""

EDGE = 1e-6
"""How far rounding may carry a box over its picture's edge."""

LEAST_SIDE = 1e-3
"""Least width and height of a region."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A part of a picture, and what is true of it.

    Raises:
        ValueError: A box that is not in shares of the sides, or nothing said.
    """

    captions: tuple[str, ...]
    """Each true of the region by itself."""
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """x0, y0, x1, y1 in shares of the sides, y growing downwards; the whole picture if left out."""

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.box
        inside = min(x0, y0) >= -EDGE and max(x1, y1) <= 1 + EDGE
        if not (inside and x1 - x0 >= LEAST_SIDE and y1 - y0 >= LEAST_SIDE):
            raise ValueError(
                f"a box must be x0, y0, x1, y1 in shares of the sides, from 0 to 1 and at least "
                f"{LEAST_SIDE} wide and high, got {self.box}: divide pixels by the picture's sides"
            )
        if isinstance(self.captions, str) or not self.captions or "" in self.captions:
            raise ValueError(
                f"captions of a region must be a tuple of phrases that are true of it, got "
                f"{self.captions!r}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One thing to learn from; its key names it in every message."""

    key: str
    """Names the sample for ever: source, seed and index."""
    kind: Kind
    turns: tuple[Turn, ...]
    """A dialogue; for ``gen`` one user turn, the caption; for plain forms one assistant turn."""
    images: tuple[np.ndarray, ...] = ()
    """uint8 (H, W, 3) pictures to understand, in the order of their marks."""
    target: np.ndarray | None = None
    """gen: the uint8 (H, W, 3) picture to draw."""
    targets: tuple[np.ndarray, ...] = ()
    """gen, in place of ``target``: the pictures that a document draws between its words, or a chat
    in its answers, in the order of their ``<draw_placeholder>``; pictures to understand may stand
    beside them, in a chat in its questions."""
    form: Literal["chat", "plain"] = "chat"
    """``chat`` is the model's template; ``plain`` are stage I's forms, without roles."""
    system: str | None = None
    """System prompt of a chat; None is the model's own, "" is none."""
    branched: bool = False
    """Whether the exchanges of a chat stand beside each other, each as the first after what
    precedes the first question, and none sees another: many questions for one picture's cost, and
    no answer that could be read off an earlier one."""

    @property
    def pictures(self) -> tuple[np.ndarray, ...]:
        """All of them, of both roles."""
        own = () if self.target is None else (self.target,)
        return (*self.images, *self.targets, *own)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"sample {self.key}: kind must be one of {KINDS}, got {self.kind!r}")
        marks = sum(turn.text.count(IMAGE_MARK) for turn in self.turns)
        if marks != len(self.images):
            raise ValueError(
                f"sample {self.key}: {marks} {IMAGE_MARK} for {len(self.images)} pictures: "
                "write one mark for each picture"
            )
        drawn = sum(turn.text.count(DRAW_MARK) for turn in self.turns)
        if drawn != len(self.targets):
            raise ValueError(
                f"sample {self.key}: {drawn} {DRAW_MARK} for {len(self.targets)} pictures to draw: "
                "write one mark for each picture"
            )
        draws = (self.target is not None) + bool(self.targets)
        if draws != (self.kind == "gen"):
            raise ValueError(
                f"sample {self.key}: a target picture belongs to kind 'gen' alone, which has "
                "either target or targets"
            )
        if self.form == "chat" and any(
            DRAW_MARK in turn.text for turn in self.turns if turn.role == "user"
        ):
            raise ValueError(f"sample {self.key}: pictures are drawn in answers, not in questions")
        if self.system is not None and (self.form == "plain" or self.target is not None):
            raise ValueError(f"sample {self.key}: a system prompt belongs to dialogues alone")
        roles = [turn.role for turn in self.turns]
        if not roles:
            raise ValueError(f"sample {self.key}: it has no turns: say what is to be learnt")
        if self.branched and (self.kind == "gen" or self.form == "plain"):
            raise ValueError(
                f"sample {self.key}: branches belong to dialogues, got kind {self.kind!r} in form "
                f"{self.form!r}"
            )
        if self.branched and roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError(
                f"sample {self.key}: branches are questions and answers in turn, got {roles}"
            )
