"""Linear layers whose weights lie as this CPU reads them fastest, for inference alone.

A plain matrix is laid out anew by every product. Laid out once, in oneDNN's blocks, the product
takes less time, the more so the fewer rows there are, as when one drawing or one reply is decoded.
Layers that are given the same input become one product.

In bfloat16 the bits have been those of the plain product wherever that was tried, and nothing rests
on it. In fp32 plain products are another library's: the last bits differ, so an id in a great many
does too; in turn a row's bits do not depend on how many rows there are, as far as has been tried.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.model.joined import NO_OTHERS, JoinedQuantized, can_join
from openjanus.model.quantized import QuantizedLinear
from openjanus.rules import require

ROWS: Final = 16
"""Rows for which blocks are chosen: a page of the engine. Any number may be multiplied."""

CLOSE: Final = 0.01
"""Largest difference from the plain product, as a share of the largest result."""

DTYPES: Final = (torch.bfloat16, torch.float32)
"""What is packed."""

JOINED: Final = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Attribute of a module that has it -> its layers that one product may take the place of."""


class PackedLinear(nn.Linear):
    """A linear layer in oneDNN's blocks; its weight is a tensor that ``to_dense`` lays out again.

    Args:
        layer: In one of ``DTYPES``, on a CPU. It is left as it is.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.weight = nn.Parameter(_blocks_of(layer.weight.detach()), requires_grad=False)
        self.bias = None
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name
        """(..., K) -> (..., outputs)."""
        return _product(input, self.weight, self.bias)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.detach().to_dense()

    def _load_from_state_dict(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(NO_OTHERS)

    def _apply(self, fn: Any, recurse: bool = True) -> NoReturn:
        raise RuntimeError(
            "packed weights stay on this CPU and in their dtype: load the model again, unpacked"
        )


class JoinedLinear(nn.Module):
    """Several packed layers of one input, without biases, as one product.

    What is saved are the layers' own weights, under their own names.

    Args:
        layers: By name, in order; they are left as they are.
    """

    def __init__(self, layers: dict[str, nn.Linear]) -> None:
        super().__init__()
        self._names = tuple(layers)
        self._sizes = [layer.out_features for layer in layers.values()]
        whole = torch.cat([layer.weight.detach() for layer in layers.values()])
        self.in_features = whole.shape[1]
        self.weight = nn.Parameter(_blocks_of(whole), requires_grad=False)

    @property
    def num_layers(self) -> int:
        """Layers that this takes the place of."""
        return len(self._names)

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        """(..., K) -> (..., outputs) of each layer."""
        return _product(x, self.weight, None).split(self._sizes, dim=-1)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        parent = prefix.removesuffix(".").rpartition(".")[0]
        parts = self.weight.detach().to_dense().split(self._sizes)
        for name, part in zip(self._names, parts, strict=True):
            # A tensor of its own: files do not hold parts of one memory.
            destination[f"{parent}.{name}.weight" if parent else f"{name}.weight"] = part.clone()

    _load_from_state_dict = PackedLinear._load_from_state_dict
    _apply = PackedLinear._apply


def pack_layers(part: nn.Module) -> int:
    """Put packed layers in place of plain ones, one after another; how many there were.

    Layers in another dtype or on another device are left, as are those whose weight is another
    module's too, and all where torch has no such product. Quantized layers stay as they are, and
    become one where they are given the same input.
    """
    owners: dict[int, int] = {}
    for module in part.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1

    def is_fit(layer: object) -> bool:
        return (
            type(layer) is nn.Linear
            and type(layer.weight) is nn.Parameter
            and layer.weight.dtype in DTYPES
            and layer.weight.device.type == "cpu"
            and owners[id(layer.weight)] == 1
            and can_pack(layer.weight.dtype)
        )

    count = 0
    for holder in list(part.modules()):
        for attribute, names in JOINED.items():
            layers = {name: getattr(holder, name, None) for name in names}
            quantized = {n: one for n, one in layers.items() if isinstance(one, QuantizedLinear)}
            if (
                getattr(holder, attribute, False) is None
                and len(quantized) == len(names)
                and can_join(list(quantized.values()))
                and all(one.codes.device.type == "cpu" for one in quantized.values())
            ):
                setattr(holder, attribute, JoinedQuantized(quantized))
                for name in names:
                    delattr(holder, name)
                count += len(names)
                continue
            plain = {name: one for name, one in layers.items() if isinstance(one, nn.Linear)}
            if (
                getattr(holder, attribute, False) is None
                and len(plain) == len(names)
                and all(is_fit(layer) and layer.bias is None for layer in plain.values())
                and len({layer.weight.dtype for layer in plain.values()}) == 1
            ):
                setattr(holder, attribute, JoinedLinear(plain))
                for name in names:
                    delattr(holder, name)
                count += len(names)
        for name, layer in list(holder.named_children()):
            if is_fit(layer):
                assert isinstance(layer, nn.Linear)
                setattr(holder, name, PackedLinear(layer))
                count += 1
    return count


def count_packed(part: nn.Module) -> int:
    """How many layers ``pack_layers`` has put packed ones in place of."""
    modules = list(part.modules())
    joined = (one for one in modules if isinstance(one, JoinedLinear | JoinedQuantized))
    packed = sum(isinstance(module, PackedLinear) for module in modules)
    return packed + sum(module.num_layers for module in joined)


@functools.cache
def can_pack(dtype: torch.dtype = torch.bfloat16) -> bool:
    """Whether torch packs on this machine, and multiplies as it should."""
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(64, 64, generator=generator).to(dtype) for _ in range(2))
    try:
        found = _product(x[:3], _blocks_of(weight), None)
    except (AttributeError, NotImplementedError, RuntimeError):  # not built for this machine
        return False
    wanted = F.linear(x[:3], weight).float()
    return bool((found.float() - wanted).abs().max() <= CLOSE * wanted.abs().max())


def _blocks_of(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def _product(x: Tensor, blocks: Tensor, bias: Tensor | None) -> Tensor:
    require(
        not (x.requires_grad and torch.is_grad_enabled()),
        "packed weights pass no gradient on: use torch.no_grad, or load the model unpacked",
    )
    return torch.ops.mkldnn._linear_pointwise(x, blocks, bias, "none", [], "")
