"""A moving average of a module's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """A copy that follows a module: after each step, copy = decay * copy + (1 - decay) * module."""

    def __init__(self, module: M, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, module: M) -> None:
        """Follow by one step."""
        pairs = zip(self.module.parameters(), module.parameters(), strict=True)
        for mean, now in pairs:
            mean.lerp_(now.to(mean.dtype), 1 - self.decay)

    @torch.no_grad()
    def reset(self, module: M) -> None:
        """Start again from the module as it is."""
        self.module.load_state_dict(module.state_dict(), strict=True)
