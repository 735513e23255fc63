from __future__ import annotations

import pytest
import torch
from torch import nn

from openjanus.model.janus import build_model, pack_model
from openjanus.model.packed import DTYPES, JoinedLinear, PackedLinear, can_pack, pack_layers
from openjanus.presets import preset

pytestmark = pytest.mark.skipif(not can_pack(), reason="torch packs no weights on this machine")


def layer(bias: bool = False, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(96, 160, bias=bias, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 130])
def test_a_packed_layer_multiplies_as_the_plain_one(
    bias: bool, rows: int, dtype: torch.dtype
) -> None:
    plain = layer(bias, dtype)
    x = torch.randn(rows, 1, 96).to(dtype)
    with torch.inference_mode():
        found, wanted = PackedLinear(plain)(x), plain(x)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0.02)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_how_many_there_are(dtype: torch.dtype) -> None:
    packed, x = PackedLinear(layer(dtype=dtype)), torch.randn(64, 96).to(dtype)
    with torch.inference_mode():
        whole = packed(x)
        assert all(torch.equal(packed(x[:n]), whole[:n]) for n in (2, 3, 4, 8, 16, 32))


def test_what_is_saved_is_the_plain_weight() -> None:
    plain = layer(bias=True)
    state = PackedLinear(plain).state_dict()
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())
    assert not any(value.is_mkldnn for value in state.values())


def test_packed_weights_take_no_others_and_stay_where_they_are() -> None:
    packed = PackedLinear(layer())
    with pytest.raises(RuntimeError, match="packed weights take no others"):
        packed.load_state_dict(layer().state_dict())
    with pytest.raises(RuntimeError, match="stay on this CPU"):
        packed.to(torch.float32)


def test_other_layers_are_left_alone() -> None:
    tied = nn.Linear(8, 16, bias=False, dtype=torch.bfloat16)
    table = nn.Embedding(16, 8)
    table.weight = tied.weight
    part = nn.ModuleDict({"wide": layer(dtype=torch.float64), "tied": tied, "table": table})
    assert pack_layers(part) == 0
    assert type(part["tied"]) is nn.Linear
    assert pack_layers(nn.ModuleDict({"one": layer(), "wide": layer(dtype=torch.float64)})) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_joined_product_is_that_of_each_layer_to_the_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = {
        name: nn.Linear(96, size, bias=False, dtype=dtype) for name, size in (("a", 160), ("b", 64))
    }
    joined = JoinedLinear(layers)
    for rows in (2, 3, 16, 40):
        x = torch.randn(rows, 96, generator=generator).to(dtype)
        with torch.inference_mode():
            for found, one in zip(joined(x), layers.values(), strict=True):
                assert torch.equal(found, PackedLinear(one)(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["tiny", "tiny-chameleon"])
def test_a_packed_model_computes_what_it_did(name: str, dtype: torch.dtype) -> None:
    model = build_model(preset(name), device="cpu", dtype=dtype).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    ids = torch.arange(30)[None]

    @torch.inference_mode()
    def logits() -> list[torch.Tensor]:
        hidden = model.language_model.model(model.embed_text(ids))
        return [model.text_logits(hidden), model.image_logits(hidden)]

    before, count = logits(), sum(p.numel() for p in model.parameters())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    packed = pack_model(model)
    layers = model.config.language.num_hidden_layers
    assert packed == 7 * layers + (1 if name == "tiny-chameleon" else 5)
    for found, wanted in zip(logits(), before, strict=True):
        torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)
    assert sum(p.numel() for p in model.parameters()) == count
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert pack_model(model) == 0


def test_in_fp64_nothing_is_packed() -> None:
    assert pack_model(build_model(preset("tiny"), device="cpu", dtype=torch.float64)) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_layers_pass_no_gradient_on_and_say_so(dtype: torch.dtype) -> None:
    packed, x = PackedLinear(layer(dtype=dtype)), torch.randn(3, 96).to(dtype)
    with pytest.raises(ValueError, match=r"pass no gradient on: use torch\.no_grad"):
        packed(x.clone().requires_grad_())
    with torch.no_grad():
        wanted = packed(x.clone().requires_grad_())
    assert torch.equal(packed(x), wanted)
