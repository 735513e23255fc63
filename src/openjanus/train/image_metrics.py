"""How near reconstructions are to their pictures: pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.eval import frechet
from openjanus.eval.frechet import gaussian_of

WINDOW = 11
"""Side of SSIM's Gaussian window, in pixels; pictures are at least as large."""
SIGMA = 1.5


def psnr(one: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture.

    Args:
        one: (B, 3, S, S) in [-1, 1].
        other: The same shape.

    Returns:
        (B,) in dB, the peak being 2; infinite for equal pictures.
    """
    error = (one.double() - other.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error)


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of each picture (Wang et al. 2004), the mean over places and channels.

    Args:
        one: (B, 3, S, S) in [-1, 1], S >= 11.
        other: The same shape.

    Returns:
        (B,), at most 1. The window is 11 pixels of a Gaussian of 1.5, without padding.
    """
    one, other = (one.double() + 1) / 2, (other.double() + 1) / 2
    places = torch.arange(WINDOW, dtype=torch.float64, device=one.device) - WINDOW // 2
    line = torch.exp(-places.square() / (2 * SIGMA**2))
    line = line / line.sum()
    channels = one.shape[1]
    window = torch.outer(line, line).expand(channels, 1, WINDOW, WINDOW)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=channels)

    mean_a, mean_b = blur(one), blur(other)
    var_a = blur(one * one) - mean_a.square()
    var_b = blur(other * other) - mean_b.square()
    both = blur(one * other) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    bottom = (mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2)
    return (top / bottom).mean(dim=(1, 2, 3))


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Distance of two clouds of features, each taken for a Gaussian.

    Args:
        one: (n, d) features.
        other: (m, d).

    Returns:
        ``eval.frechet.frechet_distance`` of them.

    Raises:
        ValueError: Fewer than 2 of one, or a number that is not finite.
    """
    return frechet.frechet_distance(*(gaussian_of(x.double().cpu().numpy()) for x in (one, other)))


def codebook_use(counts: Tensor) -> tuple[float, float]:
    """Share of the codebook's rows chosen at all, and exp of the entropy of the choices.

    Args:
        counts: (C,) how often each row was chosen.
    """
    shares = counts.double() / counts.sum()
    entropy = torch.special.entr(shares).sum()
    return float((counts > 0).double().mean()), float(entropy.exp())
