"""What the engine takes and what it tells: frozen requests and events, plain ids throughout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from openjanus.config import DrawingConfig
from openjanus.engine.noise import MAX_SEED, MAX_STREAM
from openjanus.rules import require, require_temperature

_PAPERS = DrawingConfig()

FinishReason = Literal["stop", "length", "complete"]
"""A reply met a stop id, or its limit; a drawing has all its ids."""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_sampling(
    *, temperature: float, top_p: float | None, seed: int, top_k: int | None = None
) -> None:
    """Check the options that every kind of request has.

    Raises:
        ValueError: One of them breaks its rule.
    """
    require_temperature(temperature)
    require(
        top_p is None or 0 < top_p <= 1,
        f"top_p must be in (0, 1], got {top_p}: None keeps everything",
    )
    require(
        top_k is None or (_is_count(top_k) and top_k >= 1),
        f"top_k must be an integer >= 1, got {top_k!r}: None keeps everything",
    )
    require(
        _is_count(seed) and 0 <= seed <= MAX_SEED,
        f"seed must be an integer in [0, 2**64), got {seed!r}",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawRequest:
    """One image to draw.

    Requests with equal ``prompt_ids`` share a prefill, so n images of a prompt are n requests.

    Raises:
        ValueError: An option breaks its rule.
    """

    prompt_ids: tuple[int, ...]
    """Text ids, BOS first, ``<begin_of_image>`` last."""
    uncond_ids: tuple[int, ...] | None
    """What guidance leads away from: BOS, pad ..., BOI of the prompt's length, or a negative prompt
    of any length. Not read where ``guidance_scale`` is 1."""
    seed: int
    """In [0, 2**64)."""
    image_index: int = 0
    """Which image of its prompt: another index is another stream of noise."""
    guidance_scale: float = _PAPERS.guidance_scale
    """1 is no guidance: the conditional logits alone."""
    temperature: float = _PAPERS.temperature
    """0 is greedy."""
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        check_sampling(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed
        )
        DrawingConfig(guidance_scale=self.guidance_scale, temperature=self.temperature)  # its rules
        require(
            _is_count(self.image_index) and 0 <= self.image_index <= MAX_STREAM,
            f"image_index must be an integer in [0, 2**32), got {self.image_index!r}",
        )
        require(len(self.prompt_ids) > 0, "prompt_ids are empty: give at least BOS and BOI")
        require(
            self.guidance_scale == 1 or (self.uncond_ids is not None and len(self.uncond_ids) > 0),
            f"guidance_scale {self.guidance_scale} needs uncond_ids: "
            "give the prompt with all between BOS and BOI replaced by pad",
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChatRequest:
    """One reply to write.

    Raises:
        ValueError: An option breaks its rule.
    """

    input_ids: tuple[int, ...]
    """Text ids, BOS first; each picture is a run of placeholder ids."""
    images: Tensor | None = None
    """(I, 3, S, S) preprocessed pictures in the order of their placeholders."""
    max_new_tokens: int = 512
    """Cut to what the context leaves."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float | None = None
    seed: int = 0
    """In [0, 2**64)."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end the reply; the one that did is its last id."""

    def __post_init__(self) -> None:
        check_sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed)
        require(
            _is_count(self.max_new_tokens) and self.max_new_tokens >= 1,
            f"max_new_tokens must be an integer >= 1, got {self.max_new_tokens!r}",
        )
        require(len(self.input_ids) > 0, "input_ids are empty: give at least BOS")


Request = DrawRequest | ChatRequest


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A text id of a reply."""

    request_id: int
    token_id: int


@dataclass(frozen=True, slots=True)
class ImageIdEvent:
    """A codebook id of a drawing."""

    request_id: int
    position: int
    """In raster order, from 0."""
    image_id: int


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    """The last event of a request."""

    request_id: int
    ids: tuple[int, ...]
    """All text ids of a reply (its stop id included), or all N codebook ids of a drawing."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """The last event of a request that could not be started; all others go on."""

    request_id: int
    error: Exception


Event = TokenEvent | ImageIdEvent | FinishedEvent | FailedEvent
