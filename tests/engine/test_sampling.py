from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openjanus.engine.noise import gumbel_noise
from openjanus.engine.sampling import apply_temperature_top_k_top_p, guide, sample


def random_logits(rows: int, size: int) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(3)) * 2


def full(value: float, rows: int = 1) -> Tensor:
    return torch.full((rows,), value)


def test_guidance_formula_row_by_row() -> None:
    cond, uncond = random_logits(6, 10).chunk(2)
    scale = torch.tensor([1.0, 5.0, 0.0])
    guided = guide(cond, uncond, scale)
    assert torch.equal(guided[0], cond[0])
    torch.testing.assert_close(guided[1], uncond[1] + 5 * (cond[1] - uncond[1]))
    torch.testing.assert_close(guided[2], uncond[2])


def test_guidance_is_fp32_and_does_not_read_an_unguided_row() -> None:
    cond = random_logits(1, 4).bfloat16()
    broken = torch.full_like(cond, torch.nan)
    guided = guide(cond, broken, full(1.0))
    assert guided.dtype == torch.float32
    assert torch.equal(guided, cond.float())


def test_temperature_divides() -> None:
    logits = random_logits(1, 8)
    softened = apply_temperature_top_k_top_p(logits, full(2.0))
    torch.testing.assert_close(softened.softmax(-1), (logits / 2).softmax(-1))


def test_tiny_temperature_is_greedy_not_nan() -> None:
    logits, noise = random_logits(1, 8), gumbel_noise(0, 0, torch.arange(1), 8, "cpu")
    assert int(sample(logits, noise, full(1e-38))) == int(logits.argmax())


def test_top_k_keeps_k() -> None:
    logits = random_logits(2, 10)
    kept = apply_temperature_top_k_top_p(logits, full(1.0, 2), top_k=torch.tensor([3, 10]))
    assert kept.isfinite().sum(-1).tolist() == [3, 10]
    assert set(kept[0].topk(3).indices.tolist()) == set(logits[0].topk(3).indices.tolist())


@pytest.mark.parametrize(
    ("top_p", "expected"), [(1e-300, 1), (0.05, 1), (0.5, 1), (0.51, 2), (0.8, 2), (1, 4)]
)
def test_top_p_keeps_the_likeliest_until_they_reach_it(top_p: float, expected: int) -> None:
    logits = torch.tensor([[0.3, 0.5, 0.15, 0.05]]).log()
    kept = apply_temperature_top_k_top_p(logits, full(1.0), top_p=full(top_p))
    assert kept.isfinite().nonzero()[:, 1].tolist() == sorted([1, 0, 2, 3][:expected])


def test_top_p_counts_within_top_k() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    kept = apply_temperature_top_k_top_p(
        logits, full(1.0), top_k=torch.tensor([2]), top_p=full(0.55)
    )
    assert kept.isfinite().tolist() == [[True, False, False, False]]  # 0.4 / 0.7 > 0.55


def test_neutral_filters_change_no_bit() -> None:
    logits = random_logits(4, 1000)
    plain = apply_temperature_top_k_top_p(logits, full(0.7, 4))
    neutral = apply_temperature_top_k_top_p(
        logits, full(0.7, 4), top_k=torch.full((4,), 1000), top_p=full(1.0, 4)
    )
    assert torch.equal(plain, neutral)


def test_zero_temperature_is_greedy_in_its_row_alone() -> None:
    logits = random_logits(2, 50)
    noise = torch.zeros(2, 50)
    noise[:, 17] = 1000.0
    ids = sample(logits, noise, torch.tensor([0.0, 1.0]))
    assert ids.tolist() == [int(logits[0].argmax()), 17]


def test_samples_follow_the_softmax() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]])
    draws = 20_000
    noise = gumbel_noise(9, 0, torch.arange(draws), 4, "cpu")
    ids = sample(logits.expand(draws, 4), noise, full(1.0, draws))
    shares = torch.bincount(ids, minlength=4) / draws
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.012, rtol=0)


def test_inputs_are_left_alone() -> None:
    logits, noise, temperature = random_logits(2, 9), random_logits(2, 9), full(0.5, 2)
    before = [logits.clone(), noise.clone(), temperature.clone()]
    sample(logits, noise, temperature, torch.tensor([2, 3]), full(0.5, 2))
    guide(logits, noise, temperature)
    assert all(torch.equal(a, b) for a, b in zip((logits, noise, temperature), before, strict=True))
