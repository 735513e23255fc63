"""Quantized layers of one input as one product: the same numbers, saved as they were."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from openjanus.model.janus import JanusModel, build_model, pack_model, quantize_model
from openjanus.model.joined import JoinedQuantized, can_join
from openjanus.model.packed import count_packed
from openjanus.model.quantized import (
    Fp8Linear,
    Int4Linear,
    Int8Linear,
    QuantizedLinear,
    count_weights,
)
from openjanus.presets import preset
from openjanus.quantization import QuantizationConfig

KINDS = {
    "int8": QuantizationConfig(kind="int8"),
    "int4": QuantizationConfig(kind="int4", group_size=32),
    "fp8": QuantizationConfig(kind="fp8"),
}
PLAIN = {"int8": Int8Linear, "fp8": Fp8Linear}


def layer(kind: str, outputs: int, seed: int, width: int = 128) -> QuantizedLinear:
    generator = torch.Generator().manual_seed(seed)
    made = PLAIN[kind](width, outputs) if kind in PLAIN else Int4Linear(width, outputs, 32)
    weight = torch.randn(outputs, width, generator=generator)
    made.load_state_dict(made.quantized(weight), assign=True)
    return made


def model_of(kind: str, dtype: torch.dtype) -> JanusModel:
    model = build_model(preset("tiny"), device="cpu", dtype=dtype).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    quantize_model(model, KINDS[kind])
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [1, 2, 16, 70])
def test_one_product_is_that_of_each_layer(kind: str, dtype: torch.dtype, rows: int) -> None:
    parts = {name: layer(kind, size, size) for name, size in (("a", 192), ("b", 64), ("c", 64))}
    joined = JoinedQuantized(parts)
    x = torch.randn(2, rows, 128, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        for found, part in zip(joined(x), parts.values(), strict=True):
            wanted = part(x)
            assert found.shape == wanted.shape
            torch.testing.assert_close(found, wanted, rtol=2e-2, atol=1e-2 * float(wanted.max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_packed_quantized_model_is_the_same_one(kind: str, dtype: torch.dtype) -> None:
    model = model_of(kind, dtype)
    ids = torch.arange(20)[None]

    @torch.inference_mode()
    def hidden() -> Tensor:
        return model.language_model.model(model.embed_text(ids)).float()

    before, count = hidden(), count_weights(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    packed = pack_model(model)
    layers = model.config.language.num_hidden_layers
    assert count_packed(model) == packed and model.is_packed
    joined = [one for one in model.modules() if isinstance(one, JoinedQuantized)]
    # Keys and values have 32 outputs each, which is no whole block of int4.
    assert [one.num_layers for one in joined] == ([3, 2] if kind in PLAIN else [2]) * layers
    assert count_weights(model) == count
    torch.testing.assert_close(hidden(), before, atol=0.05, rtol=0.05)
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert all(value.is_contiguous() for value in after.values())
    assert pack_model(model) == 0
    with pytest.raises(RuntimeError, match="packed weights take no others"):
        model.load_state_dict(state)


def test_only_layers_of_one_kind_and_whole_blocks_are_joined() -> None:
    assert can_join([layer("int8", 64, 0), layer("int8", 128, 1)])
    assert not can_join([layer("int8", 64, 0), layer("int4", 64, 1)])
    assert not can_join([layer("int8", 64, 0), layer("fp8", 64, 1)])
    assert not can_join([layer("int4", 64, 0), layer("int4", 96, 1)])
    assert not can_join([layer("int8", 64, 0), nn.Linear(128, 64)])
    assert not can_join([Int4Linear(128, 64, 32), Int4Linear(128, 64, 64)])
