"""What ``compose`` gives back: words and pictures in the order in which they came."""

from __future__ import annotations

import html
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from openjanus.config import DrawingConfig
from openjanus.engine.request import FinishReason
from openjanus.pipeline.results import Usage

COMPOSITION_FORMAT_VERSION = 1
"""Version of the ``composition.json`` that ``Composition.save`` writes."""

Form = Literal["chat", "plain"]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Composition</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 40em; padding: 0 1em }
p { white-space: pre-wrap } img { display: block; margin: 1em 0; max-width: 100% }
</style></head><body>
{body}
</body></html>
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComposeOptions:
    """How a composition was made, beside its prompt and seed."""

    form: Form
    system: str | None
    max_new_tokens: int
    max_images: int
    temperature: float
    top_k: int | None
    top_p: float | None
    guidance_scale: float
    image_temperature: float
    image_top_k: int | None
    image_top_p: float | None

    @classmethod
    def resolve(
        cls,
        own: DrawingConfig,
        *,
        guidance_scale: float | None,
        image_temperature: float | None,
        **others: Any,
    ) -> ComposeOptions:
        """The options asked for; where None, a model's own guidance scale and temperature."""
        scale = own.guidance_scale if guidance_scale is None else guidance_scale
        heat = own.temperature if image_temperature is None else image_temperature
        return cls(guidance_scale=scale, image_temperature=heat, **others)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ComposedImage:
    """A picture of a composition."""

    image: Image.Image
    image_ids: Tensor
    """(N,) int64 codebook ids, on the CPU."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Composition:
    """A reply in which words and pictures come in turn."""

    parts: tuple[str | ComposedImage, ...]
    """In order; words are stripped, without special tokens, and never empty."""
    token_ids: tuple[int, ...]
    """As sampled, marks of pictures and the end-of-sentence token included. Code i of a picture is
    ``text_vocab_size`` + i, as in a model of one vocabulary."""
    finish_reason: FinishReason
    """``stop`` or ``length``."""
    usage: Usage
    seed: int
    options: ComposeOptions

    @property
    def text(self) -> str:
        """The words alone, a blank line where a picture stands between."""
        return "\n\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The pictures alone."""
        return tuple(part.image for part in self.parts if isinstance(part, ComposedImage))

    def save(self, folder: Path | str) -> None:
        """Write ``page.html``, ``0.png``, ``1.png``, ... and ``composition.json`` into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(self.images):
            image.save(folder / f"{index}.png")
        body, parts, number = [], [], 0
        for part in self.parts:
            if isinstance(part, str):
                body.append(f"<p>{html.escape(part)}</p>")
                parts.append({"type": "text", "text": part})
            else:
                body.append(f'<img src="{number}.png" alt="picture {number}">')
                ids = part.image_ids.tolist()
                parts.append({"type": "image", "image": f"{number}.png", "image_ids": ids})
                number += 1
        (folder / "page.html").write_text(
            _PAGE.replace("{body}", "\n".join(body)), encoding="utf-8"
        )
        record = {
            "format_version": COMPOSITION_FORMAT_VERSION,
            "seed": self.seed,
            "options": asdict(self.options),
            "finish_reason": self.finish_reason,
            "parts": parts,
            "token_ids": list(self.token_ids),
        }
        text = json.dumps(record, ensure_ascii=False)
        (folder / "composition.json").write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ComposedPiece:
    """A piece of a composition on its way: some words, or a whole picture."""

    text: str
    """White space at either end of words between pictures is left out."""
    image: ComposedImage | None
    composition: Composition | None
    """All of it, with the last piece."""
