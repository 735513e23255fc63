"""Adapters in place of whole parts: the section ``lora`` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from openjanus.rules import require_at_least_one
from openjanus.train.stages import Part

DECODER_PROJECTIONS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
"""The matrices of a decoder layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Train thin matrices beside the decoder's, and freeze the rest (LoRA, Hu et al., 2021)."""

    rank: int = 16
    """Width of the thin matrices."""
    alpha: float = 32.0
    """What they add is scaled by alpha over rank."""
    dropout: float = 0.0
    """Must be 0: a mask drawn anew would not be the same after a resume."""
    faces: Literal["und", "gen", "both"] = "both"
    """Whose doors ``train_doors`` is about; the decoder, which both share, always has adapters."""
    targets: list[str] = field(default_factory=lambda: list(DECODER_PROJECTIONS))
    """Projections of the decoder's layers that have adapters."""
    train_doors: Literal["none", "lora", "full"] = "none"
    """Whether the faces' aligners and ``gen_head`` stay frozen, have adapters, or are trained."""

    def __post_init__(self) -> None:
        require_at_least_one("lora.rank", self.rank)
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha must be > 0, got {self.alpha}")
        if self.dropout != 0:
            raise ValueError(
                f"lora.dropout must be 0, got {self.dropout}: a resumed run could not repeat it; "
                "lower lora.rank or run.steps against overfitting"
            )
        unknown = [name for name in self.targets if name not in DECODER_PROJECTIONS]
        if unknown or not self.targets:
            raise ValueError(
                f"lora.targets must be some of {', '.join(DECODER_PROJECTIONS)}, got {self.targets}"
            )

    @property
    def doors(self) -> tuple[Part, ...]:
        """The doors of the faces, which lead into the decoder or out of it."""
        und: tuple[Part, ...] = ("und_aligner",)
        gen: tuple[Part, ...] = ("gen_aligner", "gen_head")
        return {"und": und, "gen": gen, "both": (*und, *gen)}[self.faces]

    @property
    def whole_doors(self) -> frozenset[Part]:
        """The doors that are trained whole."""
        return frozenset(self.doors if self.train_doors == "full" else ())
