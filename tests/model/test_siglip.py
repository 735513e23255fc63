"""The understanding encoder."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from openjanus.config import SiglipConfig
from openjanus.model.siglip import SiglipEncoder, SiglipMLP

CONFIG = SiglipConfig(
    image_size=24,
    patch_size=8,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def encoder_of(config: SiglipConfig) -> SiglipEncoder:
    encoder = SiglipEncoder(config)
    generator = torch.Generator().manual_seed(0)
    for _, parameter in sorted(encoder.named_parameters()):
        parameter.normal_(0, 0.3, generator=generator)
    return encoder.eval()


def pixels(batch: int = 2, size: int = 24) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_every_patch_gives_a_feature() -> None:
    assert encoder_of(CONFIG)(pixels()).shape == (2, 9, 16)


def test_batch_equals_single() -> None:
    encoder, both = encoder_of(CONFIG), pixels()
    single = torch.cat([encoder(picture[None]) for picture in both])
    torch.testing.assert_close(encoder(both), single, atol=1e-5, rtol=0)


def test_patches_are_in_raster_order() -> None:
    encoder = encoder_of(CONFIG)
    picture = torch.zeros(1, 3, 24, 24)
    plain = encoder.patch_embed(picture)
    picture[:, :, 0:8, 16:24] = 1.0  # first row, last column
    changed = (encoder.patch_embed(picture) != plain).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize(("select_layer", "layers"), [(-1, 3), (-2, 2), (-3, 1), (0, 1), (1, 2)])
def test_select_layer_counts_as_a_list_index(select_layer: int, layers: int) -> None:
    encoder = encoder_of(dataclasses.replace(CONFIG, select_layer=select_layer))
    x = encoder.patch_embed(pixels()) + encoder.pos_embed
    for block in encoder.blocks[:layers]:
        x = block(x)
    assert torch.equal(encoder(pixels()), encoder.norm(x))


@pytest.mark.parametrize("select_layer", [3, -4])
def test_select_layer_out_of_range(select_layer: int) -> None:
    with pytest.raises(ValueError, match=rf"select_layer must be in \[-3, 2\], got {select_layer}"):
        dataclasses.replace(CONFIG, select_layer=select_layer)


def test_gelu_is_exact() -> None:
    mlp = SiglipMLP(dataclasses.replace(CONFIG, hidden_size=2, intermediate_size=2))
    for layer in (mlp.fc1, mlp.fc2):
        layer.weight.copy_(torch.eye(2))
        layer.bias.zero_()
    x = torch.tensor([-1.5, 2.0])
    exact = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    torch.testing.assert_close(mlp(x), exact, atol=1e-6, rtol=0)
    tanh = torch.nn.functional.gelu(x, approximate="tanh")
    assert (exact - tanh).abs().max() > 1e-5, "the approximation would not be told apart"


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(B, 3, 24, 24\), got \(2, 3, 32, 32\)"):
        encoder_of(CONFIG)(pixels(size=32))


def test_pixels_are_left_alone() -> None:
    given = pixels()
    kept = given.clone()
    encoder_of(CONFIG)(given)
    assert torch.equal(given, kept)
