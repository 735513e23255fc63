"""What comes out: frozen, with all that is needed to make it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from openjanus.config import DrawingConfig
from openjanus.engine.request import FinishReason
from openjanus.processor.image import sheet

DRAWING_FORMAT_VERSION = 1
"""Version of the ``drawing.json`` that ``Drawing.save`` writes."""
WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""What ids may come as."""

OnProgress = Callable[[Literal["drawing", "looking"], int, int], None]
"""(what is done, how much of it is, of how much): ids that are drawn, candidates looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawOptions:
    """How a drawing was made, beside its prompt and seed."""

    guidance_scale: float | tuple[float, ...]
    """Several numbers: one for each id, or for each row of ids."""
    temperature: float
    top_k: int | None
    top_p: float | None
    negative_prompt: str | None
    prefix_ids: tuple[int, ...] = ()
    """The first ids of every picture, which were given."""

    @classmethod
    def resolve(
        cls,
        own: DrawingConfig,
        *,
        guidance_scale: float | Sequence[float] | None,
        temperature: float | None,
        top_k: int | None,
        top_p: float | None,
        negative_prompt: str | None,
        prefix_ids: Tensor | Sequence[int] | None = None,
    ) -> DrawOptions:
        """The options asked for; where None, a model's own guidance scale and temperature.

        Raises:
            ValueError: A schedule or ids that are no flat sequence of numbers.
        """
        scale = own.guidance_scale if guidance_scale is None else guidance_scale
        return cls(
            guidance_scale=scale if isinstance(scale, int | float) else _schedule(scale),
            prefix_ids=() if prefix_ids is None else _flat_ids(prefix_ids),
            temperature=own.temperature if temperature is None else temperature,
            top_k=top_k,
            top_p=top_p,
            negative_prompt=negative_prompt,
        )


def _schedule(scales: Sequence[float]) -> tuple[float, ...]:
    if (
        isinstance(scales, str)
        or not isinstance(scales, Sequence)
        or not all(isinstance(scale, int | float) for scale in scales)
    ):
        raise ValueError(
            f"guidance_scale must be a number, or one for each row of ids, got {scales!r}"
        )
    return tuple(float(scale) for scale in scales)


def _flat_ids(ids: Tensor | Sequence[int]) -> tuple[int, ...]:
    rule = "prefix_ids must be the first ids of one picture"
    fix = "give for instance drawing.image_ids[0, :k]"
    try:
        whole = torch.as_tensor(ids, device="cpu")
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # torch's, of four kinds
        raise ValueError(f"{rule}, got {ids!r}: {fix}") from error
    if whole.ndim != 1 or (len(whole) > 0 and whole.dtype not in WHOLE_NUMBERS):
        raise ValueError(f"{rule}, got {whole.dtype} of shape {tuple(whole.shape)}: {fix}")
    return tuple(whole.tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A question about a picture, and what a picture that shows the prompt makes the model say.

    Raises:
        ValueError: No right answer.
    """

    question: str
    right: tuple[str, ...] = ("Yes", "yes")
    """Answers that speak for the picture; their probabilities are added up."""
    wrong: tuple[str, ...] = ("No", "no")
    """Answers that speak against it. Where there are none, the model might say anything else."""

    def __post_init__(self) -> None:
        if not self.right:
            raise ValueError(f"a check needs a right answer, {self.question!r} has none: add one")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidates:
    """What the pictures of a drawing were chosen from, k for each of n."""

    checks: tuple[Check, ...]
    """What was asked about each."""
    scores: Tensor
    """(n, k) fp32 on the CPU: the log-probability, by the model, that every check is passed."""
    chosen: tuple[int, ...]
    """For each picture the candidate with the highest score, of equal ones the first."""
    image_ids: Tensor
    """(n, k, N) int64 codebook ids of all, on the CPU."""

    def record(self) -> dict[str, Any]:
        """Plain data, for files."""
        return {
            "checks": [asdict(check) for check in self.checks],
            "scores": self.scores.tolist(),
            "chosen": list(self.chosen),
            "image_ids": self.image_ids.tolist(),
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawing:
    """n pictures of a prompt."""

    images: tuple[Image.Image, ...]
    image_ids: Tensor
    """(n, N) int64 codebook ids, on the CPU."""
    prompt: str
    seed: int
    options: DrawOptions
    candidates: Candidates | None = None
    """What the pictures were chosen from, with ``best_of`` above 1."""

    def sheet(self) -> Image.Image:
        """All pictures on one page."""
        return sheet(list(self.images))

    def save(self, folder: Path | str) -> None:
        """Write ``0.png``, ``1.png``, ... and ``drawing.json`` into a folder, made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(self.images):
            image.save(folder / f"{index}.png")
        record = {
            "format_version": DRAWING_FORMAT_VERSION,
            "prompt": self.prompt,
            "seed": self.seed,
            "options": asdict(self.options),
            "image_ids": self.image_ids.tolist(),
        }
        if self.candidates is not None:
            record["candidates"] = self.candidates.record()
        text = json.dumps(record, ensure_ascii=False)
        (folder / "drawing.json").write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PartialDrawing:
    """A picture on its way: whole rows of ids from the top, grey below them."""

    image_index: int
    image: Image.Image
    """Provisional until it is complete: the decoder sees a band of rows and not what is to come."""
    image_ids: Tensor
    """(k,) int64 codebook ids known so far, on the CPU."""
    seed: int
    options: DrawOptions
    is_complete: bool
    """Whether this is the finished picture, pixel for pixel what ``draw`` gives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of a reply."""

    prompt_tokens: int
    """Image slots included."""
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer."""

    text: str
    """Stripped, without special tokens, cut before a stop string."""
    token_ids: tuple[int, ...]
    """As sampled, end-of-sentence token or stop string included."""
    finish_reason: FinishReason
    """``stop`` or ``length``."""
    usage: Usage
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A piece of a reply on its way; the texts of all pieces joined are the reply's."""

    text: str
    reply: Reply | None
    """The whole reply, with the last piece."""
