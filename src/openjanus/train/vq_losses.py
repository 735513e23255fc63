"""Losses of the image tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.model.vq import VQTokenizer
from openjanus.train.perceptual import PerceptualLoss
from openjanus.train.replicas import all_rows
from openjanus.train.vq_config import VQLossConfig

OF_PICTURES = ("l1", "mse", "edge", "perceptual")
"""Terms that compare pictures: what an adaptive GAN weight is measured against."""


class VQLosses(NamedTuple):
    """What a pass gives."""

    total: Tensor
    """The weighted sum."""
    terms: dict[str, Tensor]
    """By name, before their weights."""
    ids: Tensor
    """(B, N) chosen ids."""
    vectors: Tensor
    """(B * N, d) unit vectors before quantization, without a graph."""
    reconstruction: Tensor
    """(B, 3, S, S), unclipped, with its graph."""


def edge_loss(reconstruction: Tensor, pixels: Tensor) -> Tensor:
    """L1 between the differences of neighbouring pixels, both ways; (B, 3, S, S) each."""
    error = reconstruction - pixels
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


def entropy_loss(
    vectors: Tensor, codebook: Tensor, temperature: float, *, processes: int = 1
) -> Tensor:
    """Low when each vector is sure of its row and all rows are chosen alike.

    Args:
        vectors: (M, d) unit vectors.
        codebook: (C, d) unit rows.
        temperature: Squared distance taken for one unit.
        processes: How many have such vectors: the mean choice is that of all.

    Returns:
        Mean entropy of the vectors' soft choices, minus the entropy of their mean.
    """
    distance = 2 - 2 * vectors @ codebook.T  # (M, C)
    logs = F.log_softmax(-distance / temperature, dim=-1)
    shares = logs.exp()
    each = -(shares * logs).sum(-1).mean()
    mean = all_rows(shares.mean(0), processes).mean(0)  # (C,)
    return each - torch.special.entr(mean).sum()


def vq_losses(
    model: VQTokenizer,
    pixels: Tensor,
    config: VQLossConfig,
    noise: Tensor | None = None,
    perceptual: PerceptualLoss | None = None,
    *,
    more: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None,
    processes: int = 1,
) -> VQLosses:
    """Reconstruct and compare.

    Args:
        model: The tokenizer.
        pixels: (B, 3, S, S) in [-1, 1].
        config: Weights of the terms.
        noise: (B, N, d) added to the unit vectors in place of quantization; None quantizes.
        perceptual: Needed where ``config`` weighs it.
        more: Called with the pixels and the quantized vectors (B, N, d); gives further terms, whose
            weights ``config`` has by their names.
        processes: How many have a part of the batch: the terms are means over this one's, but for
            what is no mean over pictures.
    """
    grid = model.encode_to_vectors(pixels).float()  # (B, d, g, g)
    vectors = F.normalize(grid, dim=1)
    flat = vectors.flatten(2).transpose(1, 2)  # (B, N, d)
    ids = model.quantize.nearest(flat.detach())
    chosen = model.quantize.lookup(ids)  # (B, N, d)
    terms: dict[str, Tensor] = {}
    if noise is None:
        terms["codebook"] = F.mse_loss(chosen, flat.detach())
        terms["commitment"] = F.mse_loss(flat, chosen.detach())
        if config.entropy > 0:
            with torch.autocast(pixels.device.type, enabled=False):
                rows = model.quantize.normalised_codebook()
                terms["entropy"] = entropy_loss(
                    flat.flatten(0, 1),
                    rows,
                    config.entropy_temperature,
                    processes=processes,
                )
        # Straight through: the decoder sees the rows, the encoder gets the decoder's gradient.
        quantized = flat + (chosen - flat).detach()
    else:
        quantized = F.normalize(flat + noise, dim=-1)
    if more is not None:
        terms |= more(pixels, quantized)
    quantized = quantized.transpose(1, 2).unflatten(2, grid.shape[-2:])
    reconstruction = model.decode_vectors(quantized).float()
    terms |= _of_pictures(reconstruction, pixels, config, perceptual)
    vectors = flat.detach().reshape(-1, flat.shape[-1])
    return VQLosses(_weighted(terms, config), terms, ids, vectors, reconstruction)


def decoder_losses(
    model: VQTokenizer,
    ids: Tensor,
    pixels: Tensor,
    config: VQLossConfig,
    perceptual: PerceptualLoss | None = None,
) -> VQLosses:
    """Compare what the decoder makes of ids with the pictures that they stand for.

    Args:
        model: The tokenizer.
        ids: (B, N), N a square number.
        pixels: (B, 3, S, S) in [-1, 1].
        config: Weights of the terms; those that are not about pictures are left out.
        perceptual: Needed where ``config`` weighs it.
    """
    side = math.isqrt(ids.shape[1])
    rows = model.quantize.lookup(ids).detach()  # (B, N, d)
    grid = rows.transpose(1, 2).unflatten(2, (side, side))
    reconstruction = model.decode_vectors(grid).float()
    terms = _of_pictures(reconstruction, pixels, config, perceptual)
    return VQLosses(_weighted(terms, config), terms, ids, rows.flatten(0, 1), reconstruction)


def _of_pictures(
    reconstruction: Tensor,
    pixels: Tensor,
    config: VQLossConfig,
    perceptual: PerceptualLoss | None,
) -> dict[str, Tensor]:
    """The terms that ``OF_PICTURES`` names."""
    terms = {
        "l1": F.l1_loss(reconstruction, pixels),
        "mse": F.mse_loss(reconstruction, pixels),
    }
    if config.edge > 0:
        terms["edge"] = edge_loss(reconstruction, pixels)
    if config.perceptual > 0:
        assert perceptual is not None
        terms["perceptual"] = perceptual(reconstruction, pixels)
    return terms


def _weighted(terms: dict[str, Tensor], config: VQLossConfig) -> Tensor:
    weighted = [getattr(config, name) * term for name, term in terms.items()]
    return torch.stack(weighted).sum()
