"""The training step's decoder and the model's own are one function."""

from __future__ import annotations

import pytest
import torch

from openjanus.model.attention import document_mask
from openjanus.train.fast_decoder import run_decoder


@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_the_models_own(make_model, tiny_config, masked):
    decoder = make_model(tiny_config).language_model.model
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 12, 64, generator=generator)
    positions = torch.arange(12).expand(2, 12)
    mask = None
    if masked:
        documents = torch.tensor([[0] * 5 + [1] * 7, [2] * 12])
        mask = document_mask(documents)
        positions = torch.stack([torch.tensor([*range(5), *range(7)]), torch.arange(12)])
    results = []
    for run in (decoder, lambda *a, **k: run_decoder(decoder, *a, **k)):
        decoder.zero_grad()
        out = run(embeds, positions=positions, mask=mask)
        out.square().sum().backward()
        results.append((out, [p.grad.clone() for p in decoder.parameters() if p.grad is not None]))
    (plain, gradients), (fast, fast_gradients) = results
    assert torch.allclose(plain, fast, atol=1e-5)
    assert len(gradients) == len(fast_gradients)
    for a, b in zip(gradients, fast_gradients, strict=True):
        assert torch.allclose(a, b, atol=2e-4, rtol=1e-4)


def test_under_autocast_it_is_as_close_to_fp32_as_the_models_own(make_model, tiny_config):
    decoder = make_model(tiny_config).language_model.model
    embeds = torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(40).expand(2, 40)
    with torch.no_grad():
        exact = decoder(embeds, positions=positions)
        with torch.autocast("cpu", torch.bfloat16):
            plain = decoder(embeds, positions=positions)
            fast = run_decoder(decoder, embeds, positions=positions)
    assert fast.dtype == plain.dtype
    error = (fast.float() - exact).abs().mean()
    assert 0 < error < 1.1 * (plain.float() - exact).abs().mean()
