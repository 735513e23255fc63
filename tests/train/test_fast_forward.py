"""The training step's forwards and the model's own are one function each."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from openjanus.model.attention import document_mask
from openjanus.model.siglip import SiglipEncoder
from openjanus.train.fast_forward import run_decoder, run_encoder


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


@pytest.mark.parametrize("select_layer", [-1, -2])
def test_an_encoders_values_and_gradients_are_its_own(make_model, tiny_config, select_layer):
    door = dataclasses.replace(tiny_config.und_encoder, select_layer=select_layer)
    encoder = make_model(dataclasses.replace(tiny_config, und_encoder=door)).und_encoder
    assert isinstance(encoder, SiglipEncoder)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    results = []
    for run in (encoder, lambda x: run_encoder(encoder, x)):
        encoder.zero_grad()
        out = run(pixels)
        out.square().sum().backward()
        results.append((out, [p.grad.clone() for p in encoder.parameters() if p.grad is not None]))
    (plain, gradients), (fast, fast_gradients) = results
    assert torch.allclose(plain, fast, atol=1e-5)
    assert len(gradients) == len(fast_gradients) > 0
    for a, b in zip(gradients, fast_gradients, strict=True):
        assert torch.allclose(a, b, atol=2e-4, rtol=1e-4)


def test_under_autocast_an_encoder_attends_in_fp32(make_model, tiny_config, monkeypatch):
    encoder = make_model(tiny_config).und_encoder
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    attend, seen = F.scaled_dot_product_attention, []

    def spy(q, *others, **options):
        out = attend(q, *others, **options)
        seen.append((q.dtype, out.dtype))
        return out

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        exact = encoder(pixels)
        seen.clear()
        with torch.autocast("cpu", torch.bfloat16):
            plain = encoder(pixels)
            assert {dtype for _, dtype in seen} == {torch.bfloat16}
            seen.clear()
            fast = run_encoder(encoder, pixels)
    assert {dtype for pair in seen for dtype in pair} == {torch.float32}
    error = (fast.float() - exact).abs().mean()
    assert 0 < error < 1.1 * (plain.float() - exact).abs().mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_any_dtype_run_without_autocast(make_model, tiny_config, dtype):
    model = make_model(tiny_config).to(dtype)
    decoder = model.language_model.model
    with torch.no_grad():
        fast = run_encoder(model.und_encoder, torch.zeros(1, 3, 32, 32, dtype=dtype))
        assert fast.dtype == dtype
        embeds, positions = torch.zeros(1, 4, 64, dtype=dtype), torch.arange(4)[None]
        assert run_decoder(decoder, embeds, positions=positions).dtype == dtype


def test_an_encoder_of_another_class_runs_its_own_forward(make_model, tiny_config):
    class Blind(SiglipEncoder):
        def forward(self, pixel_values):
            return torch.zeros(len(pixel_values), 1, 1)

    assert run_encoder(torch.nn.Identity(), torch.ones(2)).tolist() == [1, 1]
    assert run_encoder(Blind(tiny_config.und_encoder), torch.ones(1, 3, 32, 32)).shape == (1, 1, 1)


def test_a_wrong_size_is_refused_as_by_the_model(make_model, tiny_config):
    with pytest.raises(ValueError, match="pixel_values must be"):
        run_encoder(make_model(tiny_config).und_encoder, torch.zeros(1, 3, 8, 8))


def test_the_encoders_forward_is_a_cpus(make_model, tiny_config):
    """Elsewhere the model's own runs, whose attention is the device's."""
    encoder = make_model(tiny_config).und_encoder
    assert type(encoder) is SiglipEncoder
    called = []
    encoder.blocks[0].register_forward_hook(lambda *_: called.append(True))
    size = encoder.config.image_size
    run_encoder(encoder, torch.zeros(1, 3, size, size))
    assert called == []
    run_encoder(encoder.to("meta"), torch.zeros(1, 3, size, size, device="meta"))
    assert called == [True]
