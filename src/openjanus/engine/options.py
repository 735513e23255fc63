"""How much an engine runs at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from openjanus.model.janus import JanusModel
from openjanus.model.quantized import count_weights

Compile = Literal["auto", "on", "off"]

ACCELERATOR_TOKENS = 4096
LEAST_PAGES = 4
CPU_MOMENT_FLOP = 2.5e11
"""Work of a quarter of a second at 1 TFLOP/s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """How much runs at once. A result depends on the rows of a step alone, in its last bits."""

    rows_per_page: int = 16
    """Rows R of every decode step; a guided drawing takes two."""
    max_pages: int = 8
    """Batches that exist at once; requests that find no place wait."""
    max_prefill_tokens: int | None = None
    """Prompt tokens run in one step before everybody else's next token, beyond the first chunk.
    None is 4096, or on a CPU what takes about a quarter of a second. What guidance leads a
    composition's picture away from is not counted."""
    prefill_chunk: int = 128
    """Tokens that a prompt is run in at a time; what it may share begins at its multiples."""
    kept_prompt_tokens: int = 2048
    """Tokens of the last prompts of words and pictures that are kept, for those that begin alike,
    as the next turn of a conversation does; 0 keeps none."""
    max_cache_bytes: int | None = None
    """Memory for what all batches hold: keys, values, noise. What would take more waits, and what
    alone is more is refused. None is half of what is free when the engine is made, and of that one
    batch may take as much as it needs. What is kept of prompts comes on top."""
    look_ahead: int = 8
    """Ids of a drawing that a step tries at most; 1 decodes one at a time. Steps of drawings have
    twice as many rows where that is more than ``rows_per_page``. See ``look_ahead``."""
    prefix_cache_size: int = 8
    """Drawing prompts kept prefilled, unconditional ones included; 0 keeps none."""
    compile: Compile = "auto"
    """Whether ``torch.compile`` makes one program of a decode step, for each mode and shape: that
    takes a minute or so when the first of each is run. ``auto`` is yes on CUDA for plain weights
    (this project had no GPU to run it on), and no elsewhere: on a CPU packed weights are faster,
    and ``on`` wants them unpacked. In fp32 the last bits differ, so an id in a great many does."""

    def __post_init__(self) -> None:
        names = ("rows_per_page", "max_pages", "max_prefill_tokens", "prefill_chunk")
        names += ("look_ahead", "max_cache_bytes")
        for name in names:
            value = getattr(self, name)
            if value is not None and not isinstance(value, int):
                raise ValueError(f"{name} must be an integer, got {value!r}")
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.rows_per_page % 2 != 0:
            raise ValueError(
                f"rows_per_page must be even, got {self.rows_per_page}: guidance takes pairs"
            )
        if self.compile not in get_args(Compile):
            raise ValueError(
                f"compile must be {', '.join(get_args(Compile))}, got {self.compile!r}"
            )
        for name in ("prefix_cache_size", "kept_prompt_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}: 0 keeps none")

    def shared_by(self, number: int) -> EngineOptions:
        """What each of several engines of one machine may have, so that all keep to these.

        Memory is divided. So are pages, but for four, which an engine needs for requests of
        several lengths.
        """

        def part(whole: int | None) -> int | None:
            return None if whole is None else max(1, whole // number)

        return replace(
            self,
            max_pages=min(self.max_pages, max(LEAST_PAGES, self.max_pages // number)),
            max_cache_bytes=part(self.max_cache_bytes),
            kept_prompt_tokens=self.kept_prompt_tokens // number,
        )

    def compiles(self, model: JanusModel) -> bool:
        """Whether steps of this model are compiled."""
        if self.compile != "auto":
            return self.compile == "on"
        device = model.language_model.model.embed_tokens.weight.device
        return device.type == "cuda" and model.config.quantization is None

    def prefill_budget(self, model: JanusModel) -> int:
        """Prompt tokens of a step of this model."""
        if self.max_prefill_tokens is not None:
            return self.max_prefill_tokens
        if model.language_model.model.embed_tokens.weight.device.type != "cpu":
            return ACCELERATOR_TOKENS
        return max(1, round(CPU_MOMENT_FLOP / (2 * count_weights(model.language_model))))
