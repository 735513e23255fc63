"""Linear layers whose weights are codes of few bits times scales; activations stay as they are.

int8 has a scale for each output (symmetric), as has fp8, whose codes are numbers of float8_e4m3fn;
int4 a scale and a zero for each group of inputs of an output (from the group's least value to its
largest). Scales are numbers of bfloat16, whatever the dtype of the model, and codes are chosen for
the scales as they were rounded: a file written in one dtype and opened in another is the same
model.

The plain way makes the matrix again, a few outputs at a time, and multiplies; it runs anywhere.
torch's own CPU kernels, which read the codes alone, are taken in 16 bits and up to ``kernel_rows``
rows, where a trial on this machine has shown that they compute the same: with more rows they are
slower than the plain way, and in fp32 always (there they are plain loops). A kernel's rows do not
change with their number, as far as has been tried, so no bound is below a page of the engine: one
drawing alone gets the ids that it gets among seven others. fp8 has a kernel on CUDA alone, tried
in the same way; this project has no machine to run it on.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.quantization import QuantizationConfig
from openjanus.rules import require

KERNEL_DTYPES = (torch.bfloat16, torch.float16)

BLOCK_ROWS = 512
"""Outputs for which the plain way makes the matrix at a time: it fits a cache."""

PACK_ROWS = 64
"""Outputs whose int4 codes lie together, as torch's kernel on AVX-512 reads them."""

KERNEL_TOLERANCE = 0.02
"""Largest difference of a kernel's results from the plain way's, as a share of the largest: a few
roundings of bfloat16."""

SCALE_DTYPE = torch.bfloat16

ALIGNMENT = 64
"""Bytes. The int8 kernel ends the program (SIGSEGV, torch 2.13) where a row of its operands does
not begin at such a place in memory; tensors mapped from a file begin anywhere."""


FP8_DTYPE = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8_DTYPE).max


class QuantizedLinear(nn.Module):
    """A linear layer without bias, for inference: nothing of it is trained.

    Args:
        in_features: Width K of the input.
        out_features: Width of the output.
    """

    codes: Tensor
    scale: Tensor
    kernel_width: ClassVar[int]
    """What the kernel's K must be a multiple of."""
    kernel_rows: ClassVar[int]
    """Most rows for which the kernel is asked."""
    kernel_device: ClassVar[str] = "cpu"
    """Kind of device that has the kernel."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features

    @property
    def num_weights(self) -> int:
        """Numbers of the matrix that the codes stand for."""
        return self.in_features * self.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., outputs) in the dtype of ``x``."""
        rows = x.reshape(-1, self.in_features)
        y = self.kernel(rows) if self.takes_kernel(rows) else self.plain(rows)
        return y.view(*x.shape[:-1], self.out_features)

    def takes_kernel(self, rows: Tensor) -> bool:
        """Whether torch's kernel computes these (rows, K)."""
        return (
            0 < len(rows) <= self.kernel_rows
            and rows.dtype in KERNEL_DTYPES
            and rows.device.type == self.kernel_device
            and not (rows.requires_grad and torch.is_grad_enabled())
            and self.in_features % self.kernel_width == 0
            and is_aligned(self.codes)
            and self.has_kernel(rows.dtype)
        )

    @abstractmethod
    def quantized(self, weight: Tensor) -> dict[str, Tensor]:
        """The tensors of this layer for a weight (outputs, K), by name; scales in bfloat16.

        Raises:
            ValueError: It holds NaN or infinity.
        """

    @abstractmethod
    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """(outputs, K): the matrix that the codes stand for."""

    @abstractmethod
    def plain(self, rows: Tensor) -> Tensor:
        """(rows, K) -> (rows, outputs) by products with the matrix, made again in parts."""

    @abstractmethod
    def kernel(self, rows: Tensor) -> Tensor:
        """The same by torch's kernel."""

    @abstractmethod
    def has_kernel(self, dtype: torch.dtype) -> bool:
        """Whether torch has the kernel on this machine, and it computes what it should."""

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class ScaledLinear(QuantizedLinear):
    """A scale for each output; codes (outputs, K), a weight being code times scale."""

    code_dtype: ClassVar[torch.dtype]
    most: ClassVar[float]  # the largest code; the least is its negative

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        codes = torch.zeros(out_features, in_features, dtype=self.code_dtype)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", torch.zeros(out_features, dtype=SCALE_DTYPE))

    def quantized(self, weight: Tensor) -> dict[str, Tensor]:
        """Codes and scales: each weight by its nearest code."""
        codes = torch.empty(weight.shape, dtype=self.code_dtype, device=weight.device)
        scale = torch.empty(len(weight), dtype=SCALE_DTYPE, device=weight.device)
        for start in range(0, len(weight), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            block = weight[part].to(torch.float32, copy=True)
            scale[part] = _step(block.abs().amax(dim=1) / self.most)
            block.div_(scale[part].float()[:, None]).clamp_(-self.most, self.most)
            codes[part] = block if self.code_dtype.is_floating_point else block.round_()
        return {"codes": codes, "scale": scale}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Codes times scales."""
        return self.codes.to(dtype) * self.scale.to(dtype)[:, None]

    def plain(self, rows: Tensor) -> Tensor:
        """Codes are exact in every dtype, so scales come after the product, where there is room."""
        scale = self.scale.to(rows.dtype)
        parts = zip(self.codes.split(BLOCK_ROWS), scale.split(BLOCK_ROWS), strict=True)
        if rows.dtype == torch.float16:  # sums of codes would leave its range
            products = [F.linear(rows, c.to(rows.dtype) * s[:, None]) for c, s in parts]
        else:
            products = [F.linear(rows, c.to(rows.dtype)) * s for c, s in parts]
        return torch.cat(products, dim=-1)


class Int8Linear(ScaledLinear):
    """Codes are whole numbers, half a step off at most."""

    code_dtype = torch.int8
    most = 127
    kernel_width = ALIGNMENT
    kernel_rows = 16

    def kernel(self, rows: Tensor) -> Tensor:
        """``_weight_int8pack_mm``."""
        scale = self.scale.to(rows.dtype)
        return torch.ops.aten._weight_int8pack_mm(aligned(rows), self.codes, scale)

    def has_kernel(self, dtype: torch.dtype) -> bool:
        """As tried on a small layer."""
        return _has_int8_kernel(dtype)


class Fp8Linear(ScaledLinear):
    """Codes are numbers of float8_e4m3fn: four significant bits, a sixteenth off at most."""

    code_dtype = FP8_DTYPE
    most = FP8_MAX
    kernel_width = 16  # and as many outputs are wanted at a time
    kernel_rows = 64
    kernel_device = "cuda"

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """As every module's, but ``to(dtype)`` is for numbers, and codes are none."""
        self.codes = self.codes.view(torch.uint8)
        try:
            return super()._apply(fn, recurse)
        finally:
            self.codes = self.codes.view(FP8_DTYPE)

    def kernel(self, rows: Tensor) -> Tensor:
        """``_scaled_mm``, which takes fp8 on both sides: each row goes in twice.

        Once as its own codes, and once as the codes of what those leave out, so that activations
        keep eight bits, as in bfloat16; the weights are read once.
        """
        wide = rows.float()
        first, first_scale = _fp8_rows(wide)
        rest, rest_scale = _fp8_rows(wide - first.float() * first_scale)
        one = torch.ones((), device=rows.device)
        found = torch._scaled_mm(
            torch.cat([first, rest]), self.codes.t(), one, one, out_dtype=torch.float32
        )
        high, low = found.split(len(rows))
        return ((high * first_scale + low * rest_scale) * self.scale.float()).to(rows.dtype)

    def has_kernel(self, dtype: torch.dtype) -> bool:
        """As tried on a small layer on the GPU; this project has none to run it on."""
        fits = self.out_features % self.kernel_width == 0
        return fits and self.codes.is_cuda and _has_fp8_kernel(dtype, self.codes.device)


class Int4Linear(QuantizedLinear):
    """A scale and a zero for each group of inputs of an output; codes from 0 to 15.

    ``scale`` is (groups, rows, 2): a weight is (code - 8) * scale[..., 0] + scale[..., 1]. Rows are
    the outputs, filled up with zeros to whole blocks of 64. ``codes`` (rows, K / 2) are such blocks
    one after another, of each input by input 32 bytes: byte n holds output n in its lower and
    output n + 32 in its upper half.

    Args:
        in_features: A multiple of ``group_size``.
        out_features: Any.
        group_size: Inputs that share a scale.
    """

    kernel_width = 32
    kernel_rows = 64  # to make the matrix again takes longer than in int8

    def __init__(self, in_features: int, out_features: int, group_size: int) -> None:
        super().__init__(in_features, out_features)
        self.group_size = group_size
        rows = -(-out_features // PACK_ROWS) * PACK_ROWS
        self.register_buffer("codes", torch.zeros(rows, in_features // 2, dtype=torch.uint8))
        groups = in_features // group_size
        self.register_buffer("scale", torch.zeros(groups, rows, 2, dtype=SCALE_DTYPE))

    def quantized(self, weight: Tensor) -> dict[str, Tensor]:
        """Codes and scales, half a step off at most, and what scale and zero lost by rounding."""
        codes = torch.empty(self.codes.shape, dtype=torch.uint8, device=weight.device)
        scale = torch.empty(self.scale.shape, dtype=SCALE_DTYPE, device=weight.device)
        for start in range(0, len(weight), BLOCK_ROWS):
            block = weight[start : start + BLOCK_ROWS].to(torch.float32, copy=True)
            block = F.pad(block, (0, 0, 0, -len(block) % PACK_ROWS))
            groups = block.view(len(block), -1, self.group_size)  # (rows, groups, group_size)
            least, most = groups.amin(dim=-1), groups.amax(dim=-1)
            step = _step((most - least) / 15)
            # Of equal weights, code 8 is all: the step of 1 in a zero would leave them few bits.
            zero = torch.where(most > least, least + 8 * step.float(), least).to(SCALE_DTYPE)
            groups.sub_(zero.float()[..., None]).div_(step.float()[..., None])
            found = groups.round_().add_(8).clamp_(0, 15).to(torch.uint8).view(len(block), -1)
            part = slice(start, start + len(block))
            codes[part] = pack_int4(found)
            scale[:, part] = torch.stack([step, zero], dim=-1).transpose(0, 1)
        return {"codes": codes, "scale": scale}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """(code - 8) * scale + zero."""
        matrices = [block.transpose(1, 2).flatten(0, 1) for block in self._blocks(dtype)]
        return torch.cat(matrices)[: self.out_features]

    def plain(self, rows: Tensor) -> Tensor:
        """The matrix is made as the codes lie: blocks of (K, 64), transposed."""
        products = [
            torch.matmul(rows, block).transpose(0, 1).flatten(1)  # (b, rows, 64) -> (rows, b * 64)
            for block in self._blocks(rows.dtype)
        ]
        return torch.cat(products, dim=-1)[:, : self.out_features].contiguous()

    def _blocks(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Some blocks (b, K, 64) of the transposed matrix at a time, in order."""
        step = BLOCK_ROWS // PACK_ROWS
        codes = self.codes.view(-1, self.in_features, PACK_ROWS // 2)
        scale = self.scale.float().view(len(self.scale), -1, PACK_ROWS, 2)
        sizes, zeros = scale.permute(3, 1, 0, 2).contiguous()[:, :, :, None]  # (blocks, g, 1, 64)
        zeros = zeros - 8 * sizes
        for start in range(0, len(codes), step):
            part = slice(start, start + step)
            halves = [codes[part] & 15, codes[part] >> 4]
            block = torch.cat(halves, dim=-1).float()  # (b, K, 64); fp32 is faster here than bf16
            groups = block.view(len(block), -1, self.group_size, PACK_ROWS)
            torch.addcmul(zeros[part], groups, sizes[part], out=groups)
            yield block.to(dtype)

    def kernel(self, rows: Tensor) -> Tensor:
        """``_weight_int4pack_mm_for_cpu``."""
        scale = self.scale.to(rows.dtype)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(
            aligned(rows), self.codes, self.group_size, scale
        )
        return y[:, : self.out_features].contiguous()

    def has_kernel(self, dtype: torch.dtype) -> bool:
        """As tried on a small layer: the kernel reads our layout on machines with AVX-512 alone."""
        return _has_int4_kernel(dtype, self.group_size)


def _fp8_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, K) numbers of fp32 -> codes and the scale (rows, 1) of each row."""
    scale = (rows.abs().amax(dim=1, keepdim=True) / FP8_MAX).clamp_min(torch.finfo().tiny)
    return (rows / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8_DTYPE), scale


def is_aligned(tensor: Tensor) -> bool:
    """Whether a tensor begins where kernels may read it."""
    return tensor.data_ptr() % ALIGNMENT == 0


def aligned(tensor: Tensor) -> Tensor:
    """A tensor in one piece that kernels may read; a copy where it must be."""
    tensor = tensor.contiguous()
    return tensor if is_aligned(tensor) else tensor.clone()


def pack_int4(codes: Tensor) -> Tensor:
    """(rows, K) codes from 0 to 15, rows a multiple of 64 -> (rows, K / 2), two to a byte."""
    rows, width = codes.shape
    halves = codes.view(rows // PACK_ROWS, 2, PACK_ROWS // 2, width)
    packed = halves[:, 0] | (halves[:, 1] << 4)  # (blocks, 32, K)
    return packed.transpose(1, 2).reshape(rows, width // 2)


def unpack_int4(packed: Tensor) -> Tensor:
    """The inverse of ``pack_int4``."""
    rows, half = packed.shape
    blocks = packed.view(rows // PACK_ROWS, 2 * half, PACK_ROWS // 2).transpose(1, 2)
    return torch.stack([blocks & 15, blocks >> 4], dim=1).reshape(rows, 2 * half)


def _step(step: Tensor) -> Tensor:
    """Steps as they are stored, 1 where there is nothing to divide.

    Raises:
        ValueError: One is no number.
    """
    require(
        bool(step.isfinite().all()),
        "a weight holds NaN or infinity, which no code stands for: load it without quantize",
    )
    stored = step.to(SCALE_DTYPE)
    return torch.where(stored > 0, stored, torch.ones_like(stored))


@functools.cache
def _has_int8_kernel(dtype: torch.dtype) -> bool:
    return hasattr(torch.ops.aten, "_weight_int8pack_mm") and _agrees(Int8Linear(128, 64), dtype)


@functools.cache
def _has_int4_kernel(dtype: torch.dtype, group_size: int) -> bool:
    return (
        group_size in (32, 64, 128, 256)  # what it has
        and hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")
        and _agrees(Int4Linear(2 * group_size, 2 * PACK_ROWS, group_size), dtype)
    )


@functools.cache
def _has_fp8_kernel(dtype: torch.dtype, device: torch.device) -> bool:
    """On GPUs that multiply fp8, from 8.9 on."""
    return hasattr(torch, "_scaled_mm") and _agrees(Fp8Linear(128, 64), dtype, device)


@torch.inference_mode()
def _agrees(layer: QuantizedLinear, dtype: torch.dtype, device: torch.device | str = "cpu") -> bool:
    """Whether a layer's kernel is there and computes what the plain way does in fp32."""
    generator = torch.Generator().manual_seed(0)
    shape = (layer.out_features, layer.in_features)
    weight = torch.randn(shape, generator=generator, device="cpu")
    layer.load_state_dict(layer.quantized(weight), assign=True)
    layer.to(device)
    rows = torch.randn(3, layer.in_features, generator=generator, device="cpu").to(device, dtype)
    try:
        found = layer.kernel(rows)
    except (RuntimeError, NotImplementedError):  # not built for this machine or this dtype
        return False
    wanted = layer.plain(rows.float())
    return bool((found.float() - wanted).abs().max() <= KERNEL_TOLERANCE * wanted.abs().max())


def quantized_layers(language_model: nn.Module, config: QuantizationConfig) -> list[str]:
    """Names of the linear layers that are quantized: the decoder's, and its head if asked for."""
    return [
        name
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear)
        and (name.startswith("model.layers.") or (name == "lm_head" and config.lm_head))
    ]


def make_layer(layer: nn.Linear, config: QuantizationConfig) -> QuantizedLinear:
    """A quantized layer, without its numbers, on a layer's device.

    Raises:
        ValueError: The layer has a bias, or its input does not divide into groups.
    """
    require(layer.bias is None, "a linear layer with a bias cannot be quantized: leave it out")
    with layer.weight.device:
        if config.group_size is None:
            kind = Fp8Linear if config.kind == "fp8" else Int8Linear
            return kind(layer.in_features, layer.out_features)
        return Int4Linear(layer.in_features, layer.out_features, config.group_size)


@torch.no_grad()
def quantize_layers(language_model: nn.Module, config: QuantizationConfig) -> None:
    """Put quantized layers into the place of a language model's linear ones, one after another.

    Args:
        language_model: Changed in place; on the meta device shapes alone change.
        config: How.
    """
    for name in quantized_layers(language_model, config):
        layer = language_model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        made = make_layer(layer, config)
        if not layer.weight.is_meta:
            tensors = made.quantized(layer.weight)
            scale = tensors["scale"].to(layer.weight.dtype)
            made.load_state_dict(tensors | {"scale": scale}, assign=True)
        parent, _, child = name.rpartition(".")
        setattr(language_model.get_submodule(parent), child, made)


def quantized_modules(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantized layers of a model by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear)
    }


def count_weights(part: nn.Module) -> int:
    """Numbers that a module's matrices hold: quantized ones count as what they stand for."""
    plain = {id(value): value.numel() for value in part.parameters()}
    quantized = quantized_modules(part).values()
    return sum(plain.values()) + sum(layer.num_weights for layer in quantized)
