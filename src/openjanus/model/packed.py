"""Linear layers whose weights lie as this CPU reads them fastest: bfloat16, for inference alone.

A plain matrix is laid out anew by every product. Laid out once, in oneDNN's blocks, the same
product gives the same bits in less time, the more so the fewer rows there are, as when one drawing
or one reply is decoded.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS: Final = 16
"""Rows for which blocks are chosen: a page of the engine. Any number may be multiplied."""

CLOSE: Final = 0.01
"""Largest difference from the plain product, as a share of the largest result."""


class PackedLinear(nn.Linear):
    """A linear layer in oneDNN's blocks; its weight is a tensor that ``to_dense`` lays out again.

    Args:
        layer: In bfloat16, on a CPU. It is left as it is.
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
        raise RuntimeError("packed weights take no others: load the model again, and pack it then")

    def _apply(self, fn: Any, recurse: bool = True) -> NoReturn:
        raise RuntimeError(
            "packed weights stay on this CPU and in bfloat16: load the model again, unpacked"
        )


def pack_layers(part: nn.Module) -> int:
    """Put packed layers in place of plain ones, one after another; how many.

    Layers in another dtype or on another device are left, as are those whose weight is another
    module's too, and all where torch has no such product.
    """
    owners: dict[int, int] = {}
    for module in part.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    names = [
        name
        for name, module in part.named_modules()
        if type(module) is nn.Linear
        and module.weight.dtype == torch.bfloat16
        and module.weight.device.type == "cpu"
        and owners[id(module.weight)] == 1
    ]
    if not names or not can_pack():
        return 0
    for name in names:
        parent, _, child = name.rpartition(".")
        holder = part.get_submodule(parent)
        layer = getattr(holder, child)
        setattr(holder, child, PackedLinear(layer))
    return len(names)


@functools.cache
def can_pack() -> bool:
    """Whether torch packs on this machine, and multiplies as it should."""
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(64, 64, generator=generator).bfloat16() for _ in range(2))
    try:
        found = _product(x[:3], _blocks_of(weight), None)
    except (AttributeError, NotImplementedError, RuntimeError):  # not built for this machine
        return False
    wanted = F.linear(x[:3], weight).float()
    return bool((found.float() - wanted).abs().max() <= CLOSE * wanted.abs().max())


def _blocks_of(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def _product(x: Tensor, blocks: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, blocks, bias, "none", [], "")
