"""Dropout without a state: what is dropped is a function of a key, so a step can be repeated.

A run that was resumed, or a layer that is computed twice for want of memory, drops the very same
numbers. Nothing is drawn from the global generator.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Place = Literal["attention", "mlp"]
"""Which of a layer's two branches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DropoutKey:
    """Names the noise of one forward; whoever trains gives it to the decoder."""

    seed: int
    step: int
    """Optimizer step, from 0."""
    shard: int = 0
    """Which part of a step's batch this is, where it is computed in parts or on several devices."""

    def generator(self, layer: int, place: Place, device: torch.device) -> torch.Generator:
        """A fresh generator of one branch of one layer."""
        text = f"dropout/{self.seed}/{self.step}/{self.shard}/{layer}/{place}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        return torch.Generator(device).manual_seed(number >> 1)  # seeds have 63 bits


def drop(x: Tensor, rate: float, key: DropoutKey | None, layer: int, place: Place) -> Tensor:
    """Zero a share of the numbers and enlarge the others, so that their mean stays.

    Args:
        x: Of any shape.
        rate: The share, in [0, 1).
        key: None drops nothing.
        layer: Index of the layer, from 0.
        place: Which branch of it.
    """
    if key is None or rate == 0:
        return x
    generator = key.generator(layer, place, x.device)
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= rate
    return x * kept / (1 - rate)


def require_key(rate: float, key: DropoutKey | None, *, training: bool) -> None:
    """A model with dropout is trained with a key, and used in evaluation mode.

    Raises:
        ValueError: It is neither.
    """
    if training and rate > 0 and key is None:
        raise ValueError(
            f"a decoder with dropout {rate} in training mode needs a key: pass "
            "dropout=DropoutKey(seed=..., step=...) to train, or call model.eval() to use it"
        )
    if key is not None and not training:
        raise ValueError(
            "a key for dropout was given to a decoder in evaluation mode: call model.train(), or "
            "leave the key out"
        )
