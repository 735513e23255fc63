"""In how few bits weights are kept: plain data, as all that a ``JanusConfig`` holds.

Nothing here imports torch; ``model.quantized`` has the layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from openjanus.rules import require

if TYPE_CHECKING:
    from openjanus.config import DecoderConfig

QUANTIZATIONS = ("int8", "int4", "fp8")
"""Kinds of weights that take fewer bits than they were trained in."""
GROUP_SIZES = (32, 64, 128)
GROUP_SIZE = 64
"""Of int4 where no other is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationConfig:
    """In what the decoder's linear layers are kept; the doors and the image head never are."""

    kind: str
    """``int8`` or ``fp8``, a scale for each output; ``int4``, a scale and a zero for each group."""
    group_size: int | None = None
    """Inputs that share a scale in int4: 32, 64 or 128. int8 and fp8 have no groups."""
    lm_head: bool = False
    """Whether the head for words is quantized too."""

    def __post_init__(self) -> None:
        require(
            self.kind in QUANTIZATIONS,
            f"quantize must be {', '.join(QUANTIZATIONS[:-1])} or {QUANTIZATIONS[-1]}, "
            f"got {self.kind!r}",
        )
        if self.kind != "int4":
            require(
                self.group_size is None,
                f"{self.kind} has a scale for each output and no groups, got group_size "
                f"{self.group_size}: leave it out, or choose int4",
            )
            return
        require(
            self.group_size in GROUP_SIZES,
            f"group_size must be one of {', '.join(map(str, GROUP_SIZES))}, got {self.group_size}",
        )

    def __str__(self) -> str:
        groups = "" if self.group_size is None else f" in groups of {self.group_size}"
        return f"{self.kind}{groups}{' with lm_head' if self.lm_head else ''}"

    @classmethod
    def by_name(cls, kind: str) -> QuantizationConfig:
        """What a name alone stands for.

        Raises:
            ValueError: No such kind.
        """
        return cls(kind=kind, group_size=GROUP_SIZE if kind == "int4" else None)

    def check(self, language: DecoderConfig, *, one_vocabulary: bool) -> None:
        """Whether a model can be quantized so.

        Args:
            language: Its decoder's.
            one_vocabulary: Whether its head for words predicts codes too.

        Raises:
            ValueError: It cannot; the message says why.
        """
        require(
            not (self.lm_head and (one_vocabulary or language.tie_word_embeddings)),
            "lm_head of this model predicts pictures or is the embedding table, and neither is "
            "quantized: leave it out of the quantization",
        )
        if self.group_size is None:
            return
        inputs = {
            "hidden_size": language.hidden_size,
            "intermediate_size": language.intermediate_size,
            "num_attention_heads * head_dim": language.num_attention_heads * language.head_size,
        }
        for name, width in inputs.items():
            require(
                width % self.group_size == 0,
                f"int4 in groups of {self.group_size} needs {name} to be a multiple of it, and "
                f"it is {width}: choose a smaller group_size, or int8",
            )
