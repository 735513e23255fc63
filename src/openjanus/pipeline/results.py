"""What comes out: frozen, with all that is needed to make it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from openjanus.config import DrawingConfig
from openjanus.engine.request import FinishReason
from openjanus.processor.image import sheet

DRAWING_FORMAT_VERSION = 1
"""Version of the ``drawing.json`` that ``Drawing.save`` writes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawOptions:
    """How a drawing was made, beside its prompt and seed."""

    guidance_scale: float
    temperature: float
    top_k: int | None
    top_p: float | None
    negative_prompt: str | None

    @classmethod
    def resolve(
        cls,
        own: DrawingConfig,
        *,
        guidance_scale: float | None,
        temperature: float | None,
        top_k: int | None,
        top_p: float | None,
        negative_prompt: str | None,
    ) -> DrawOptions:
        """The options asked for; where None, a model's own guidance scale and temperature."""
        return cls(
            guidance_scale=own.guidance_scale if guidance_scale is None else guidance_scale,
            temperature=own.temperature if temperature is None else temperature,
            top_k=top_k,
            top_p=top_p,
            negative_prompt=negative_prompt,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawing:
    """n pictures of a prompt."""

    images: tuple[Image.Image, ...]
    image_ids: Tensor
    """(n, N) int64 codebook ids, on the CPU."""
    prompt: str
    seed: int
    options: DrawOptions

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
        text = json.dumps(record, ensure_ascii=False)
        (folder / "drawing.json").write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PartialDrawing:
    """A picture on its way: whole rows of ids from the top, grey below them."""

    image_index: int
    image: Image.Image
    """Near the border the pixels are provisional: the decoder looks at neighbours to come."""
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
