"""AdamW in less memory of the device: averages in 8 bits, or in host memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from openjanus.train.optim_config import OptimConfig

HOST = torch.device("cpu")
"""Where ``OffloadedAdamW`` keeps what it keeps."""


def build_adamw(
    groups: list[dict[str, Any]], config: OptimConfig, *, fused: bool = True
) -> torch.optim.Optimizer:
    """AdamW as the configuration has it.

    Args:
        groups: Parameters with their weight decay.
        config: ``name`` and ``offload`` say which.
        fused: Whether PyTorch's own is one kernel, which takes no parts of parameters.

    Raises:
        ImportError: ``adamw8bit`` without bitsandbytes.
        ValueError: ``adamw8bit`` or ``offload`` for weights that are not on a GPU.
    """
    options: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if config.name == "adamw8bit":
        return _eight_bit(groups, options)
    if config.offload:
        _require_cuda(groups, "optim.offload")
        return OffloadedAdamW(groups, **options)
    return torch.optim.AdamW(groups, fused=fused, **options)


def _eight_bit(groups: list[dict[str, Any]], options: dict[str, Any]) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "optim.name adamw8bit needs bitsandbytes: pip install openjanus[adamw8bit]"
        ) from error
    _require_cuda(groups, "optim.name adamw8bit")
    return AdamW8bit(groups, **options)


def _require_cuda(groups: list[dict[str, Any]], what: str) -> None:
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    if devices != {"cuda"}:
        raise ValueError(
            f"{what} saves memory of a GPU, and what is trained is on {', '.join(sorted(devices))}:"
            " take optim.name adamw without offload, or --device cuda"
        )


class OffloadedAdamW(torch.optim.Optimizer):
    """AdamW whose averages, and a copy of the weights, are in host memory.

    A step brings the gradients over, updates the copy there and takes it back: the device holds
    weights and gradients alone. The copy has the weights' dtype, as plain AdamW has.

    Args:
        groups: Parameters with their options, as of any optimizer.
        lr: Learning rate.
        betas: Of the averages.
        eps: Added to the root of the second one.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas})
        copies = [
            {**group, "params": [_host_copy(p) for p in group["params"]]}
            for group in self.param_groups
        ]
        self._host = torch.optim.AdamW(copies, lr=lr, betas=betas, eps=eps, fused=True)
        self._share_state()

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Parameters on the device, each with its copy."""
        for own, host in zip(self.param_groups, self._host.param_groups, strict=True):
            yield from zip(own["params"], host["params"], strict=True)

    def _share_state(self) -> None:
        """What is kept for a copy is found under its parameter too, as in any optimizer."""
        self.state.clear()
        for parameter, copy in self._pairs():
            self.state[parameter] = self._host.state[copy]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the copies in host memory and take them to the device.

        Raises:
            ValueError: A closure, which nothing here needs.
        """
        if closure is not None:
            raise ValueError("OffloadedAdamW takes no closure: compute the gradients before")
        for own, host in zip(self.param_groups, self._host.param_groups, strict=True):
            host["lr"] = own["lr"]
        for parameter, copy in self._pairs():
            copy.grad = None if parameter.grad is None else parameter.grad.to(copy.device)
        self._host.step()
        for parameter, copy in self._pairs():
            parameter.copy_(copy)
            copy.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The averages; the weights are the model's."""
        return self._host.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the averages, and copy the weights, which are restored before, anew."""
        self._host.load_state_dict(state_dict)
        self._share_state()
        self.take_weights()

    @torch.no_grad()
    def take_weights(self) -> None:
        """Copy the weights anew: they were changed otherwise than by a step."""
        for parameter, copy in self._pairs():
            copy.copy_(parameter)


def _host_copy(parameter: Tensor) -> Tensor:
    return parameter.detach().to(HOST, copy=True).requires_grad_()
