"""Figures of reconstructions against plain computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from openjanus.train.image_metrics import codebook_use, frechet_distance, psnr, ssim
from openjanus.train.vq_losses import entropy_loss


def pictures(seed, side=12):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_has_a_peak_of_2():
    one = torch.zeros(2, 3, 4, 4)
    other = torch.stack([one[0] + 0.2, one[0] + 0.02])
    assert psnr(one, other).tolist() == pytest.approx([20, 40])
    assert psnr(one, one).tolist() == [math.inf, math.inf]


def test_ssim_is_its_formula():
    one, other = pictures(0), pictures(1)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    expected = []
    for a, b in zip((one.double().numpy() + 1) / 2, (other.double().numpy() + 1) / 2, strict=True):
        values = []
        for channel in range(3):
            for top in range(2):
                for left in range(2):
                    x = a[channel, top : top + 11, left : left + 11]
                    y = b[channel, top : top + 11, left : left + 11]
                    mx, my = (window * x).sum(), (window * y).sum()
                    vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                    cov = (window * (x - mx) * (y - my)).sum()
                    above = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
                    values.append(above / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
        expected.append(np.mean(values))
    assert ssim(one, other).tolist() == pytest.approx(expected)
    assert ssim(one, one).tolist() == pytest.approx([1, 1])


def test_frechet_distance_is_its_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 3)), rng.normal(size=(60, 3)) @ np.diag([1, 2, 3]) + 1
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = sum(math.sqrt(abs(value)) for value in np.linalg.eigvals(ca @ cb))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + ca.trace() + cb.trace() - 2 * root
    assert frechet_distance(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected)
    assert frechet_distance(torch.tensor(a), torch.tensor(a)) == pytest.approx(0, abs=1e-9)
    # Fewer vectors than dimensions: covariances without full rank.
    few = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(few, few + 1) == pytest.approx(8, abs=1e-4)


def test_codebook_use():
    usage, perplexity = codebook_use(torch.tensor([5, 5, 0, 0]))
    assert usage == 0.5
    assert perplexity == pytest.approx(2)


def test_the_entropy_term_wants_sure_choices_of_all_rows():
    rows = torch.eye(4)
    assert entropy_loss(rows, rows, 0.01).item() == pytest.approx(-math.log(4), abs=1e-4)
    assert entropy_loss(rows[:1].expand(4, 4), rows, 0.01).item() == pytest.approx(0, abs=1e-4)
    shares = torch.softmax(torch.tensor([0.0, -2.0, -2.0, -2.0]), 0)
    each = -(shares * shares.log()).sum().item()
    assert entropy_loss(rows, rows, 1.0).item() == pytest.approx(each - math.log(4), abs=1e-5)
