"""Optimizer and schedule: the section ``optim`` of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Optimizer and schedule."""

    name: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """``adamw8bit`` keeps AdamW's two averages in 8 bits, by bitsandbytes. ``muon`` takes the
    weight matrices of the decoder's layers, or of both towers' layers when the encoder is trained
    by itself; AdamW has everything else."""
    lr: float = 1e-4
    """Peak learning rate of AdamW."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
    warmup_steps: int = 0
    eps: float = 1e-8
    """Added to the root of AdamW's second average."""
    schedule: Literal["constant", "cosine", "exponential"] = "constant"
    final_lr_ratio: float = 0.0
    """Where cosine and exponential end, as a share of ``lr``; exponential never gets to 0."""
    offload: bool = False
    """Keep AdamW's averages and its copy of the weights in host memory, and update there."""

    def __post_init__(self) -> None:
        for name in ("lr", "muon_lr", "grad_clip", "eps"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"optim.{name} must be > 0, got {value}")
        if not 0 <= self.weight_decay < math.inf or self.warmup_steps < 0:
            raise ValueError(
                "optim.weight_decay must be finite and >= 0 and optim.warmup_steps >= 0, got "
                f"{self.weight_decay} and {self.warmup_steps}"
            )
        if not 0 <= self.final_lr_ratio <= 1:
            raise ValueError(f"optim.final_lr_ratio must be in [0, 1], got {self.final_lr_ratio}")
        if self.schedule == "exponential" and self.final_lr_ratio == 0:
            raise ValueError(
                "optim.schedule exponential never gets to 0: give the share of lr that it ends at, "
                "for instance --optim.final_lr_ratio 0.01"
            )
        if self.offload and self.name != "adamw":
            raise ValueError(f"optim.offload is for name adamw, got {self.name}: leave one out")
