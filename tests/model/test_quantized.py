"""Quantized linear layers: what codes keep, and that every way to multiply by them agrees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from openjanus.config import JanusConfig
from openjanus.model.janus import JanusModel, build_model, quantize_model
from openjanus.model.quantized import (
    FP8_MAX,
    KERNEL_DTYPES,
    Fp8Linear,
    Int4Linear,
    Int8Linear,
    QuantizedLinear,
    _has_fp8_kernel,
    count_weights,
    pack_int4,
    quantized_modules,
    unpack_int4,
)
from openjanus.presets import preset
from openjanus.quantization import QuantizationConfig

INT8, INT4 = QuantizationConfig(kind="int8"), QuantizationConfig(kind="int4", group_size=32)
FP8 = QuantizationConfig(kind="fp8")
KINDS = ["int8", "int4", "fp8"]
SIZES = [(128, 256), (160, 320), (5, 64)]  # 160 and 5 outputs are not whole blocks of 64
ROWS = (1, 2, 3, 16, 17, 64, 65)

PLAIN_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Of the largest result: how far a product is from that with the matrix in fp64."""


def make(kind: str, weight: Tensor, group_size: int = 32) -> QuantizedLinear:
    """A layer that holds a weight."""
    outputs, width = weight.shape
    layer: QuantizedLinear
    if kind == "int4":
        layer = Int4Linear(width, outputs, group_size)
    else:
        layer = (Int8Linear if kind == "int8" else Fp8Linear)(width, outputs)
    layer.load_state_dict(layer.quantized(weight), assign=True)
    return layer


def random(*shape: int, seed: int = 0, offset: float = 0.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + offset


def test_packing_is_a_bijection_and_lies_as_written_down() -> None:
    codes = torch.randint(0, 16, (128, 10), generator=torch.Generator().manual_seed(0))
    codes = codes.to(torch.uint8)
    packed = pack_int4(codes)
    assert packed.shape == (128, 5) and packed.dtype == torch.uint8
    assert torch.equal(unpack_int4(packed), codes)
    for row, column in [(0, 0), (31, 9), (32, 3), (63, 9), (64, 0), (127, 7)]:
        block, output = divmod(row, 64)
        half, place = divmod(output, 32)
        byte = int(packed.flatten()[block * 320 + column * 32 + place])
        assert (byte >> 4 * half) & 15 == int(codes[row, column])


@pytest.mark.parametrize("size", SIZES)
def test_int8_is_half_a_step_off_at_most(size: tuple[int, int]) -> None:
    weight = random(*size)
    weight[0] *= 100  # a loud output takes nothing from the others
    layer = make("int8", weight)
    assert layer.codes.dtype == torch.int8 and int(layer.codes.min()) >= -127
    error = (layer.dequantize(torch.float32) - weight).abs()
    assert bool((error <= 0.5001 * layer.scale.float()[:, None]).all())
    assert bool((layer.scale.float() <= 1.01 * weight.abs().amax(1) / 127).all())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_int4_is_half_a_step_off_at_most_but_for_the_rounding_of_its_scales(
    size: tuple[int, int], group_size: int, offset: float
) -> None:
    weight = random(*size, offset=offset)
    layer = make("int4", weight, group_size)
    error = (layer.dequantize(torch.float32) - weight).abs().view(size[0], -1, group_size)
    scale = layer.scale.float().transpose(0, 1)[: size[0]]  # (outputs, groups, 2)
    allowed = 0.5 * scale[..., 0] + 2**-8 * (15 * scale[..., 0] + scale[..., 1].abs())
    assert bool((error.amax(-1) <= allowed).all())
    groups = weight.view(size[0], -1, group_size)
    step = (groups.amax(-1) - groups.amin(-1)) / 15
    assert bool((scale[..., 0] <= 1.01 * step).all())


def test_int4_keeps_groups_of_equal_weights() -> None:
    weight = random(64, 64)
    weight[:, :32] = torch.linspace(-0.05, 0.05, 64)[:, None]
    layer = make("int4", weight)
    found = layer.dequantize(torch.float32)[:, :32]
    assert bool(((found - weight[:, :32]).abs() <= 2**-8 * weight[:, :32].abs()).all())


@pytest.mark.parametrize("size", SIZES)
def test_fp8_is_a_sixteenth_off_at_most(size: tuple[int, int]) -> None:
    weight = random(*size)
    weight[0] *= 100
    layer = make("fp8", weight)
    assert layer.codes.dtype == torch.float8_e4m3fn
    scale = layer.scale.float()[:, None]
    assert bool((scale <= 1.01 * weight.abs().amax(1, keepdim=True) / FP8_MAX).all())
    error = (layer.dequantize(torch.float32) - weight).abs()
    # Half of the last of three bits behind the first; below 2^-6 the steps are all alike.
    allowed = torch.maximum(weight.abs() / 16, scale * 2.0**-10)
    assert bool((error <= 1.0001 * allowed).all())


def test_fp8_codes_stay_what_they_are() -> None:
    layer = make("fp8", random(32, 64))
    codes = layer.codes.clone()
    for dtype in (torch.bfloat16, torch.float32):
        layer.to(dtype)
        assert layer.scale.dtype == dtype and torch.equal(layer.codes, codes)
    assert layer.to("meta").codes.dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("dtype", [torch.float32, *KERNEL_DTYPES])
def test_the_kernel_of_fp8_keeps_activations(dtype: torch.dtype) -> None:
    """Run here by the CPU's ``_scaled_mm``: no product is asked of it but on CUDA."""
    layer = make("fp8", random(64, 256))
    assert isinstance(layer, Fp8Linear)
    x = random(5, 256, seed=1).to(dtype)
    x[0] *= 1000
    x[1] = 0
    assert not layer.takes_kernel(x)
    try:
        found = layer.kernel(x)
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"no _scaled_mm on this CPU: {error}")
    wanted = x.double() @ layer.dequantize(torch.float32).double().T
    largest = wanted.abs().amax(dim=1, keepdim=True).clamp_min(1e-9)
    assert found.dtype == dtype
    assert float(((found.double() - wanted).abs() / largest).max()) <= 0.005
    once = layer.kernel(x.to(torch.float8_e4m3fn).to(dtype))  # what one code each would give
    far = (once.double() - wanted).abs()[2:] / largest[2:]
    assert float(far.max()) > 0.01
    assert _has_fp8_kernel(dtype, torch.device("cpu"))  # the trial that a GPU must pass
    assert not layer.has_kernel(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_spread_is_kept(kind: str) -> None:
    weight = torch.zeros(64, 64)
    assert torch.equal(make(kind, weight).dequantize(torch.float32), weight)
    if kind == "int4":
        flat = torch.full((64, 64), 0.375)
        assert torch.equal(make(kind, flat).dequantize(torch.float32), flat)


@pytest.mark.parametrize("kind", KINDS)
def test_no_code_stands_for_nan(kind: str) -> None:
    weight = random(64, 64)
    weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        make(kind, weight)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", PLAIN_TOLERANCE)
def test_every_number_of_rows_multiplies_by_the_same_matrix(
    kind: str, size: tuple[int, int], dtype: torch.dtype
) -> None:
    layer = make(kind, random(*size))
    matrix = layer.dequantize(torch.float32).double()
    for number in ROWS:
        x = random(number, size[1], seed=number).to(dtype)
        wanted = x.double() @ matrix.T
        bound = PLAIN_TOLERANCE[dtype] * float(wanted.abs().max())
        for found in (layer(x), layer.plain(x)):
            assert found.dtype == dtype and found.shape == (number, size[0])
            assert float((found.double() - wanted).abs().max()) <= bound


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_kernel_is_chosen_by_rows_and_dtype(kind: str) -> None:
    layer = make(kind, random(64, 64))
    for dtype in (torch.float32, *KERNEL_DTYPES):
        most = layer.kernel_rows
        few, many = random(most, 64).to(dtype), random(most + 1, 64).to(dtype)
        here = dtype != torch.float32 and layer.has_kernel(dtype)
        assert layer.takes_kernel(few) is here
        assert not layer.takes_kernel(many)
        if here:
            assert torch.equal(layer(few), layer.kernel(few))
            found, wanted = layer.kernel(few).float(), layer.plain(few).float()
            assert float((found - wanted).abs().max() / wanted.abs().max()) <= 0.01
        assert torch.equal(layer(many), layer.plain(many))
    assert not layer.takes_kernel(random(2, 64).bfloat16().requires_grad_())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", PLAIN_TOLERANCE)
def test_a_row_does_not_depend_on_the_others(kind: str, dtype: torch.dtype) -> None:
    layer = make(kind, random(128, 256))
    for number in (2, 16, 17, 64, 65):
        x = random(number, 256, seed=1).to(dtype)
        others = random(number, 256, seed=2).to(dtype) * 50
        others[1] = x[1]
        assert torch.equal(layer(x)[1], layer(others)[1])


def test_a_machine_without_the_kernel_takes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make("int8", random(64, 64))
    monkeypatch.setattr(Int8Linear, "has_kernel", lambda *_: False)
    x = random(2, 64).bfloat16()
    assert torch.equal(layer(x), layer.plain(x))


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_operands_may_begin_anywhere(kind: str) -> None:
    """torch's int8 kernel ends the program where they do not begin at a multiple of 32 bytes."""
    layer = make(kind, random(64, 64))
    codes = layer.codes.flatten()
    shifted = torch.cat([codes.new_zeros(8), codes])[8:].view(layer.codes.shape)
    x = torch.cat([torch.zeros(5), random(3 * 64)]).bfloat16()[5:].view(3, 64)
    wanted = layer(x.clone())
    assert torch.equal(layer(x), wanted)
    layer.load_state_dict({"codes": shifted, "scale": layer.scale}, assign=True)
    assert not layer.takes_kernel(x)
    assert torch.equal(layer(x), layer.plain(x))
    narrow = make("int8", random(64, 72))
    assert not narrow.takes_kernel(random(2, 72).bfloat16())


def test_the_shape_of_a_batch_is_kept() -> None:
    layer = make("int4", random(5, 64))
    x = random(2, 3, 64)
    assert torch.equal(layer(x), layer(x.view(6, 64)).view(2, 3, 5))
    assert layer(x[:0].bfloat16()).shape == (0, 3, 5)
    assert layer.to("meta")(x.to("meta")).shape == (2, 3, 5)


@pytest.mark.parametrize("chosen", [INT8, INT4, FP8, replace(INT8, lm_head=True)])
def test_the_decoder_alone_is_quantized(
    chosen: QuantizationConfig, tiny_model: JanusModel, make_model
) -> None:
    model = make_model(tiny_model.config)
    quantize_model(model, chosen)
    found = quantized_modules(model)
    layers = model.config.language.num_hidden_layers
    assert len(found) == 7 * layers + chosen.lm_head
    assert all(name.startswith("language_model.") for name in found)
    assert isinstance(model.gen_head.vision_head, nn.Linear)
    assert model.config.quantization == chosen
    assert count_weights(model) == count_weights(tiny_model)
    plain = tiny_model.state_dict()
    kept = {name for name in model.state_dict() if not name.endswith((".codes", ".scale"))}
    assert all(torch.equal(model.state_dict()[name], plain[name]) for name in kept)
    assert set(plain) - kept == {f"{name}.weight" for name in found}


def test_a_config_builds_the_shapes_that_quantizing_gives(
    tiny_config: JanusConfig, make_model
) -> None:
    model = make_model(tiny_config)
    quantize_model(model, INT4)
    built = build_model(model.config).state_dict()
    found = model.state_dict()
    assert {name: tensor.shape for name, tensor in built.items()} == {
        name: tensor.shape for name, tensor in found.items()
    }
    assert all(built[name].dtype == found[name].dtype for name in built if name.endswith("codes"))


def test_a_state_dict_is_strict(tiny_config: JanusConfig, make_model) -> None:
    model = make_model(tiny_config)
    plain = model.state_dict()
    quantize_model(model, INT8)
    with pytest.raises(RuntimeError, match="codes"):
        model.load_state_dict(plain)


def test_a_quantized_model_is_not_filled_afresh(tiny_config: JanusConfig) -> None:
    model = build_model(replace(tiny_config, quantization=INT8), device="cpu")
    with pytest.raises(ValueError, match="no fresh weights"):
        model.init_weights(torch.Generator())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "int2"}, "int8, int4 or fp8, got 'int2'"),
        ({"kind": "int4"}, "group_size must be one of 32, 64, 128, got None"),
        ({"kind": "int4", "group_size": 48}, "got 48"),
        ({"kind": "int8", "group_size": 64}, "no groups, got group_size 64"),
        ({"kind": "fp8", "group_size": 32}, "fp8 has a scale for each output and no groups"),
    ],
)
def test_a_quantization_keeps_its_rules(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizationConfig(**options)


def test_a_model_keeps_the_rules_of_its_quantization(tiny_config: JanusConfig) -> None:
    with pytest.raises(ValueError, match="hidden_size to be a multiple of it, and it is 64"):
        replace(tiny_config, quantization=QuantizationConfig(kind="int4", group_size=128))
    tied = replace(tiny_config.language, tie_word_embeddings=True)
    with pytest.raises(ValueError, match="leave it out of the quantization"):
        replace(tiny_config, language=tied, quantization=replace(INT8, lm_head=True))
    with pytest.raises(ValueError, match="leave it out of the quantization"):
        replace(preset("tiny-chameleon"), quantization=replace(INT8, lm_head=True))
