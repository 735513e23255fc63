"""How much is measured, and what every contestant is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from openjanus.config import JanusConfig
from openjanus.engine.options import Compile
from openjanus.processor.text import TextTokenizer
from openjanus.rules import require, require_at_least_one

DRAW_PROMPT = 16
"""Tokens of a prompt to draw."""
TEXT_PROMPT = 256
"""Tokens before the words that are timed."""
FIRST_PROMPT = 64
"""Tokens of the question whose first word is timed."""
BANDWIDTH_BYTES = 2**30
"""Read at once to find how fast memory is: past every cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchOptions:
    """How much is measured.

    Raises:
        ValueError: An option breaks its rule.
    """

    batch: int = 4
    """Pictures drawn at once."""
    steps: int = 32
    """Steps of each kind that are timed."""
    pictures: int = 8
    """Pictures through each door, and first words."""
    whole: int = 0
    """Whole pictures drawn, from words to pixels; 0 is none."""
    bandwidth_bytes: int = BANDWIDTH_BYTES
    """Memory that is read to find how fast it is."""

    compile: Compile = "auto"
    """As ``EngineOptions.compile``."""

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "pictures", "bandwidth_bytes"):
            require_at_least_one(name, getattr(self, name))
        require(self.whole >= 0, f"whole must be >= 0, got {self.whole}: 0 draws none")


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What every contestant is given, in ids of the model's own words."""

    draw_ids: tuple[int, ...]
    """BOS, words, BOI: half a picture longer than a prompt, so that steps have the mean of a
    drawing behind them."""
    uncond_ids: tuple[int, ...]
    """What guidance leads away from, of the same length."""
    text_ids: tuple[int, ...]
    """BOS and words, before the words that are timed."""
    question_ids: tuple[int, ...]
    """BOS and words, before the first word that is timed."""
    image_question_ids: tuple[int, ...]
    """BOS, a picture, and words."""
    num_words: int
    """That are written at most after ``text_ids``."""
    image_ids: Tensor
    """(1, N) of a picture to decode."""
    pixel_values: Tensor
    """(1, 3, S, S) of a picture to understand."""
    image_pad_id: int
    """Stands for one feature of the picture."""
    pad_id: int
    """Stands for a word where there is none."""
    guidance_scale: float


class Contestant(Protocol):
    """Who can be measured. Each method gets ready and returns what is timed, again and again."""

    def draw(self, num_images: int) -> Callable[[], object]:
        """A step of so many guided pictures at once."""
        ...

    def write(self) -> Callable[[], object]:
        """A step of one reply."""
        ...

    def answer(self, *, picture: bool) -> Callable[[], object]:
        """A question, with a picture or without, up to its first word."""
        ...

    def understand(self) -> Callable[[], object]:
        """A picture through the understanding encoder and its aligner."""
        ...

    def decode(self) -> Callable[[], object]:
        """The pixels of a picture's ids."""
        ...


def make_inputs(
    config: JanusConfig,
    tokenizer: TextTokenizer,
    options: BenchOptions,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Inputs:
    """Words that mean nothing, and noise, the same for the same model and options.

    Raises:
        ValueError: The model's context does not hold them.
    """
    context = config.language.max_position_embeddings
    num_ids, num_features = config.num_gen_image_tokens, config.num_und_image_tokens
    behind = min(DRAW_PROMPT + num_ids // 2, context - num_ids)
    text, question = min(TEXT_PROMPT, context // 2), min(FIRST_PROMPT, context // 4)
    require(
        behind >= 2 and question + num_features + 3 <= context,
        f"a context of {context} tokens is too short for a picture of {num_ids} ids or one of "
        f"{num_features} features and a question: there is nothing to measure",
    )
    bos, boi, eoi = tokenizer.bos_id, tokenizer.boi_id, tokenizer.eoi_id
    special = {bos, boi, eoi, tokenizer.eos_id, tokenizer.pad_id, tokenizer.image_pad_id}
    plain = [i for i in range(tokenizer.vocab_size) if i not in special][:32]
    words = tuple(plain[i % len(plain)] for i in range(max(behind, text, question)))
    generator = torch.Generator().manual_seed(0)
    size = config.und_image_size
    picture = (boi, *(tokenizer.image_pad_id,) * num_features, eoi)
    return Inputs(
        draw_ids=(bos, *words[: behind - 2], boi),
        uncond_ids=(bos, *(tokenizer.pad_id,) * (behind - 2), boi),
        text_ids=(bos, *words[: text - 1]),
        question_ids=(bos, *words[: question - 1]),
        image_question_ids=(bos, *picture, *words[: question - 1]),
        num_words=min(options.steps + 2, context - text),
        image_ids=torch.randint(config.codebook_size, (1, num_ids), generator=generator).to(device),
        pixel_values=(torch.rand(1, 3, size, size, generator=generator) * 2 - 1).to(device, dtype),
        image_pad_id=tokenizer.image_pad_id,
        pad_id=tokenizer.pad_id,
        guidance_scale=config.drawing.guidance_scale,
    )
