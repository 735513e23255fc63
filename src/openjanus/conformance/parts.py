"""Sizes of a model's parts: how many parameters, and the norms of weights and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from openjanus.conformance.vectors import Answers

PARTS = (
    *("language_model", "und_encoder", "und_aligner"),
    *("gen_embed", "gen_aligner", "gen_head", "vq"),
)
TRAINED_PARTS = tuple(part for part in PARTS if part != "vq")
"""The generation tokenizer is frozen."""

Groups = Mapping[str, Sequence[Tensor]]
"""Tensors by part; a part may be left out."""


def norms(parts: Sequence[str], groups: Groups) -> Tensor:
    """L2 norm of each part in fp64, in the order of ``parts``; 0 where it is left out."""
    totals = [sum(float(t.double().square().sum()) for t in groups.get(p, ())) for p in parts]
    return torch.tensor(totals, dtype=torch.float64).sqrt()


def weight_answers(parts: Sequence[str], parameters: Groups) -> Answers:
    """Number of parameters and norm of each part, in the order of ``parts``."""
    with torch.no_grad():
        counts = [sum(tensor.numel() for tensor in parameters.get(part, ())) for part in parts]
        return {"num_parameters": torch.tensor(counts), "norms": norms(parts, parameters)}


def loss_answers(parts: Sequence[str], loss: Tensor, gradients: Groups) -> Answers:
    """A loss and the norm of its gradient in each part, in the order of ``parts``."""
    return {"loss": loss.detach(), "gradient_norms": norms(parts, gradients)}
