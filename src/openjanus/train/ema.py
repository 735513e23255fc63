"""A moving average of the weights, in the same parts as the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from openjanus.train.sharding import local_part


class Ema:
    """An exponential moving average of what is trained; what is frozen is its own average.

    The decay of step n is at most (1 + n) / (10 + n), so that the weights of the beginning are
    soon forgotten.

    Args:
        named_parameters: Those that are trained; where they are sharded, so is the average.
        decay: Share of the average that a step keeps, in (0, 1).
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        self.parameters = dict(named_parameters)
        self.decay = decay
        self.steps = 0
        self.tensors: Mapping[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, average in self.tensors.items():
            local_part(average).lerp_(local_part(self.parameters[name].detach()), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Put the average where the weights are, and these where it was; twice changes nothing."""
        for name, average in self.tensors.items():
            ours, weights = local_part(average), local_part(self.parameters[name].detach())
            kept = weights.clone()
            weights.copy_(ours)
            ours.copy_(kept)
