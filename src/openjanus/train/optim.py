"""Learning-rate schedules and optimizers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from openjanus.train.config import OptimConfig
from openjanus.train.lean_adamw import build_adamw


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
            ValueError: Nothing is trainable, or nothing of it is for Muon where it is asked for.
        """
        self.config = config
        named = [(name, p) for name, p in named_parameters if p.requires_grad]
        if not named:
            raise ValueError("nothing to train: every parameter is frozen; check the stage")
        self.parameters = [p for _, p in named]
        use_muon = config.name == "muon"
        matrices = [
            p for name, p in named if use_muon and p.ndim == 2 and name.startswith(muon_takes)
        ]
        if use_muon and not matrices:
            raise ValueError(
                "optim.name is muon, and none of what is trained here is for it (matrices of "
                f"{', '.join(muon_takes)}): take adamw"
            )
        taken = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in taken]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            build_adamw([group for group in groups if group["params"]], config)
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
