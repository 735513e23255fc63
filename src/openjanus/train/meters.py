"""What a step of a Janus's training says of itself, beside its losses. Nothing here changes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from openjanus.data.collate import Batch
from openjanus.train.stages import Part, part_of


class GradientNorms:
    """The gradient's norm by part, as it is before clipping.

    Args:
        named_parameters: After parts were frozen.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._parts: dict[Part, list[nn.Parameter]] = {}
        for name, parameter in named_parameters:
            if parameter.requires_grad:
                self._parts.setdefault(part_of(name), []).append(parameter)

    @torch.no_grad()
    def read(self) -> dict[str, float]:
        """``grad_norm_PART`` of each part that has gradients."""
        found: dict[str, Tensor] = {}
        for part, parameters in self._parts.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                norm = nn.utils.get_total_norm(gradients)
                found[f"grad_norm_{part}"] = (
                    norm.full_tensor() if isinstance(norm, DTensor) else norm
                )
        if not found:
            return {}
        norms = torch.stack(list(found.values())).tolist()  # one wait for the device
        return {name: round(norm, 6) for name, norm in zip(found, norms, strict=True)}


def codebook_use(batches: Sequence[Batch], codebook_size: int) -> dict[str, float]:
    """How much of the codebook the pictures of a step use; nothing where there are none.

    Returns:
        ``codebook_usage``, the share of its rows; ``codebook_entropy`` of the ids, in nats: at
        most ln C, where each row is as frequent as any other.
    """
    ids = [batch.image_ids.flatten() for batch in batches if batch.image_ids is not None]
    if not ids:
        return {}
    counts = torch.cat(ids).bincount(minlength=codebook_size).double()
    shares = counts[counts > 0] / counts.sum()
    return {
        "codebook_usage": round(len(shares) / codebook_size, 6),
        "codebook_entropy": round(float(-(shares * shares.log()).sum()), 5),
    }


def speeds(num_tokens: float, num_supervised: float, seconds: float) -> dict[str, Any]:
    """Tokens a second, real ones and supervised ones."""
    return {
        "tokens_per_second": round(num_tokens / seconds),
        "supervised_tokens_per_second": round(num_supervised / seconds),
    }


def fill_of(batches: Sequence[Batch]) -> float:
    """Share of the rows' places that hold real tokens."""
    places = sum(batch.attention_mask.numel() for batch in batches)
    return sum(batch.num_tokens for batch in batches) / places
