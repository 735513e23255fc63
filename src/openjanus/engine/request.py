"""What the engine takes and what it tells: frozen requests and events, plain ids throughout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from openjanus.config import DrawingConfig
from openjanus.engine.noise import MAX_SEED, MAX_STREAM
from openjanus.rules import require, require_number, require_temperature

_PAPERS = DrawingConfig()

FinishReason = Literal["stop", "length", "complete"]
"""A reply or composition met a stop id, or its limit; a drawing has all its ids."""


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
    if top_p is not None:
        require_number("top_p", top_p)
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
    guidance_scale: float | tuple[float, ...] = _PAPERS.guidance_scale
    """1 is no guidance: the conditional logits alone. Several numbers are a schedule: one for each
    of the N ids, or for each row of ids."""
    prefix_ids: tuple[int, ...] = ()
    """The first ids of the image, fewer than N: they are kept, and the others are drawn by the
    noise of their own positions."""
    temperature: float = _PAPERS.temperature
    """0 is greedy."""
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        check_sampling(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed
        )
        for scale in self._scales:
            DrawingConfig(guidance_scale=scale, temperature=self.temperature)  # its rules
        require(
            len(self._scales) > 0, "guidance_scale is empty: give a number, or one a row of ids"
        )
        require(
            _is_count(self.image_index) and 0 <= self.image_index <= MAX_STREAM,
            f"image_index must be an integer in [0, 2**32), got {self.image_index!r}",
        )
        require(len(self.prompt_ids) > 0, "prompt_ids are empty: give at least BOS and BOI")
        require(
            not self.is_guided or (self.uncond_ids is not None and len(self.uncond_ids) > 0),
            f"guidance_scale {self.guidance_scale} needs uncond_ids: "
            "give the prompt with all between BOS and BOI replaced by pad",
        )

    @property
    def _scales(self) -> tuple[float, ...]:
        scale = self.guidance_scale
        return scale if isinstance(scale, tuple) else (scale,)

    @property
    def is_guided(self) -> bool:
        """Whether any id is drawn with guidance."""
        return any(scale != 1 for scale in self._scales)

    def scales(self, num_ids: int, side: int) -> list[float]:
        """The guidance scale of every position.

        Args:
            num_ids: Ids N of an image.
            side: Ids of a row.

        Raises:
            ValueError: A schedule of another length.
        """
        if not isinstance(self.guidance_scale, tuple):
            return [self.guidance_scale] * num_ids
        count = len(self.guidance_scale)
        require(
            count in (num_ids, side),
            f"a guidance_scale schedule has {num_ids} numbers, one an id, or {side}, one a row of "
            f"ids, got {count}",
        )
        return [scale for scale in self.guidance_scale for _ in range(num_ids // count)]


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
    top_k: int | None = None
    """The likeliest ids among which one is sampled; None is all."""
    top_p: float | None = None
    seed: int = 0
    """In [0, 2**64)."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end the reply; the one that did is its last id."""
    top_logprobs: int | None = None
    """How many of the likeliest ids are told of beside each sampled one, each with its
    log-probability; 0 tells the sampled one's alone, None tells nothing."""

    def __post_init__(self) -> None:
        check_sampling(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed
        )
        require(
            _is_count(self.max_new_tokens) and self.max_new_tokens >= 1,
            f"max_new_tokens must be an integer >= 1, got {self.max_new_tokens!r}",
        )
        require(
            self.top_logprobs is None or (_is_count(self.top_logprobs) and self.top_logprobs >= 0),
            f"top_logprobs must be an integer >= 0, got {self.top_logprobs!r}: None tells nothing",
        )
        require(len(self.input_ids) > 0, "input_ids are empty: give at least BOS")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ComposeRequest:
    """One reply in which words and pictures come in turn (Chameleon, section 2.4).

    Words are sampled until ``<begin_of_image>`` is; then N codes, then ``<end_of_image>``, and
    words again. A picture that is begun is always completed.

    Raises:
        ValueError: An option breaks its rule.
    """

    input_ids: tuple[int, ...]
    """Text ids, BOS first; each picture is a run of placeholder ids."""
    images: Tensor | None = None
    """(I, 3, S, S) preprocessed pictures in the order of their placeholders."""
    boi_id: int
    """The word after which codes come."""
    eoi_id: int
    """The word after the last code; never sampled, as little as a placeholder."""
    pad_id: int
    """Stands for all but BOS in what guidance leads away from."""
    max_new_tokens: int = 512
    """Words, ``<begin_of_image>`` among them; a picture's codes are counted by ``max_images``."""
    max_images: int = 4
    """Pictures; another is begun only where it fits whole into the context."""
    temperature: float = 0.0
    """Of words; 0 is greedy."""
    top_k: int | None = None
    """Of words."""
    top_p: float | None = None
    """Of words."""
    guidance_scale: float = _PAPERS.guidance_scale
    """Of pictures, against BOS and pads of the length that the reply then has; 1 is none."""
    image_temperature: float = _PAPERS.temperature
    """Of pictures."""
    image_top_k: int | None = None
    image_top_p: float | None = None
    seed: int = 0
    """In [0, 2**64). Words are noise stream 0, picture k (from 0) is stream k + 1."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end the reply; the one that did is its last id."""

    def __post_init__(self) -> None:
        check_sampling(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed
        )
        DrawingConfig(guidance_scale=self.guidance_scale)  # its rule
        try:
            check_sampling(
                temperature=self.image_temperature,
                top_k=self.image_top_k,
                top_p=self.image_top_p,
                seed=self.seed,
            )
        except ValueError as error:
            raise ValueError(f"image_{error}") from error
        require(
            _is_count(self.max_new_tokens) and self.max_new_tokens >= 1,
            f"max_new_tokens must be an integer >= 1, got {self.max_new_tokens!r}",
        )
        require(
            _is_count(self.max_images) and 0 <= self.max_images <= MAX_STREAM,
            f"max_images must be an integer >= 0, got {self.max_images!r}: 0 is words alone",
        )
        require(len(self.input_ids) > 0, "input_ids are empty: give at least BOS")


Request = DrawRequest | ChatRequest | ComposeRequest


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely a sampled text id was, at temperature 1 and before any cut."""

    logprob: float
    top: tuple[tuple[int, float], ...]
    """(id, log-probability) of the likeliest, the likeliest first."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A text id of a reply or composition."""

    request_id: int
    token_id: int
    logprobs: TokenLogprobs | None = None
    """Where the request asks for them."""


@dataclass(frozen=True, slots=True)
class ImageIdEvent:
    """A codebook id of a drawing, or of the picture that a composition is at."""

    request_id: int
    position: int
    """In raster order, from 0."""
    image_id: int


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    """The last event of a request."""

    request_id: int
    ids: tuple[int, ...]
    """All text ids of a reply (its stop id included), or all N codebook ids of a drawing. In a
    composition code i is V + i, V the number of text ids, as in a model of one vocabulary."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """The last event of a request that an error has ended; others go on."""

    request_id: int
    error: Exception


Event = TokenEvent | ImageIdEvent | FinishedEvent | FailedEvent
