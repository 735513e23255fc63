"""Learning-rate schedules and optimizers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from openjanus.train.lean_adamw import HOST, OffloadedAdamW, build_adamw
from openjanus.train.optim_config import OptimConfig


def lr_factor(config: OptimConfig, step: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step.

    Args:
        config: Warm-up and shape.
        step: From 0; step k of a warm-up of w gives (k + 1) / w.
        total_steps: Length of the schedule, whatever ``run.stop_at`` says.

    Returns:
        A factor in [0, 1].
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    if config.schedule == "exponential":
        return config.final_lr_ratio ** min(1.0, progress)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine


DECODER_LAYERS = ("language_model.model.layers.",)
"""Where the matrices that Muon takes lie in a Janus."""


class Optimizers:
    """One or two optimizers that step as one, with one clipped gradient and one schedule.

    Weight decay applies to matrices alone: norms, biases and vectors have none.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        config: OptimConfig,
        *,
        muon_takes: tuple[str, ...] = DECODER_LAYERS,
    ) -> None:
        """Take every parameter that requires a gradient, each exactly once.

        Args:
            named_parameters: What may be trained.
            config: Rates and kinds.
            muon_takes: Muon, where ``config`` has it, is for the matrices whose names start with
                one of these; AdamW has the rest.

        Raises:
            ValueError: Nothing is trainable, or nothing of it is for Muon where it is asked for;
                or Muon is to take parameters of which each process has a part.
        """
        self.config = config
        named = [(name, p) for name, p in named_parameters if p.requires_grad]
        if not named:
            raise ValueError("nothing to train: every parameter is frozen; check the stage")
        self.named = dict(named)
        self.parameters = [p for _, p in named]
        sharded = any(isinstance(p, DTensor) for p in self.parameters)
        use_muon = config.name == "muon"
        matrices = [
            p for name, p in named if use_muon and p.ndim == 2 and name.startswith(muon_takes)
        ]
        if use_muon and not matrices:
            raise ValueError(
                "optim.name is muon, and none of what is trained here is for it (matrices of "
                f"{', '.join(muon_takes)}): take adamw"
            )
        if matrices and sharded:
            raise ValueError(
                "optim.name is muon, which needs whole matrices, and each of several processes "
                "has a part of them: take adamw, or one process"
            )
        taken = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in taken]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            build_adamw([group for group in groups if group["params"]], config, fused=not sharded)
        ]
        self.peaks = [config.lr]
        if matrices:
            self.optimizers.append(
                torch.optim.Muon(
                    matrices, lr=config.muon_lr, momentum=0.95, weight_decay=config.weight_decay
                )
            )
            self.peaks.append(config.muon_lr)

    def step(self, step: int, total_steps: int) -> tuple[float, float]:
        """Clip, set the rate of this step, update, and clear the gradients.

        Returns:
            The gradient norm before clipping, and AdamW's learning rate.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        factor = lr_factor(self.config, step, total_steps)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(norm), self.config.lr * factor

    def state_dict(self) -> list[dict]:
        """State of every optimizer, in order."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: Saved with other optimizers.
        """
        if len(states) != len(self.optimizers):
            raise ValueError(
                f"the checkpoint holds {len(states)} optimizers, this run has "
                f"{len(self.optimizers)}: keep optim.name when resuming"
            )
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)

    def named_state(self) -> dict[str, Tensor]:
        """What is kept for each parameter, as ``NAME/key``: sharded as the parameters are."""
        kept = self._kept()
        return {name: value for name, value in kept.items() if isinstance(value, Tensor)}

    def named_numbers(self) -> dict[str, int | float]:
        """What is kept for each parameter and is no tensor, as ``NAME/key``."""
        kept = self._kept()
        return {name: value for name, value in kept.items() if isinstance(value, int | float)}

    def _kept(self) -> dict[str, Any]:
        return {
            f"{name}/{key}": value
            for name, parameter in self.named.items()
            for optimizer in self.optimizers
            if parameter in optimizer.state
            for key, value in optimizer.state[parameter].items()
        }

    def make_state(
        self,
        shapes: Mapping[str, Sequence[int]],
        dtypes: Mapping[str, torch.dtype],
        numbers: Mapping[str, int | float],
    ) -> dict[str, Tensor]:
        """Make room for a state that is to be read, and forget the present one.

        Args:
            shapes: By the names that ``named_state`` gave.
            dtypes: By the same names.
            numbers: What ``named_numbers`` gave.

        Returns:
            The state's own tensors, to be filled in place.

        Raises:
            ValueError: A state for what this run does not train.
        """
        owner = {
            p: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for p in group["params"]
        }
        for optimizer in self.optimizers:
            for kept in optimizer.state.values():
                kept.clear()  # not the whole: two optimizers may share what is kept
        made: dict[str, Tensor] = {}
        for full_name, shape in shapes.items():
            parameter, key = self._place_of(full_name)
            optimizer, dtype = owner[parameter], dtypes[full_name]
            device = HOST if isinstance(optimizer, OffloadedAdamW) else parameter.device
            if tuple(shape) == tuple(parameter.shape):
                value = torch.zeros_like(parameter.detach(), dtype=dtype, device=device)
            else:
                # A number of steps, which AdamW of one kernel alone has on the device.
                if not shape and not optimizer.defaults.get("fused", False):
                    device = torch.device("cpu")
                value = torch.zeros(tuple(shape), dtype=dtype, device=device)
            optimizer.state[parameter][key] = made[full_name] = value
        for full_name, number in numbers.items():
            parameter, key = self._place_of(full_name)
            owner[parameter].state[parameter][key] = number
        return made

    def _place_of(self, full_name: str) -> tuple[nn.Parameter, str]:
        """The parameter that a state is kept for, and its key.

        Raises:
            ValueError: It is not trained here.
        """
        name, _, key = full_name.rpartition("/")
        if name not in self.named:
            raise ValueError(
                f"the checkpoint has a state of the optimizer for {name}, which this run does "
                "not train: resume with the stage that the run was started with"
            )
        return self.named[name], key

    def take_weights(self) -> None:
        """Hear of weights that were changed otherwise than by a step."""
        for optimizer in self.optimizers:
            if isinstance(optimizer, OffloadedAdamW):
                optimizer.take_weights()

    def by_name(self, states: list[dict]) -> dict[str, Tensor]:
        """A state by number, which ``state_dict`` of one process gave, as ``NAME/key``."""
        names = {id(parameter): name for name, parameter in self.named.items()}
        found: dict[str, Tensor] = {}
        for optimizer, state in zip(self.optimizers, states, strict=True):
            order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
            for number, values in state["state"].items():
                found |= {f"{order[number]}/{key}": value for key, value in values.items()}
        return found
