"""Quantized layers that are given the same input, as one product; ``packed`` does so in plain ones.

Outputs of one layer do not meet in a product, so codes and scales are put one after another and no
number changes. What is saved are the layers' own, under their own names.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from openjanus.model.quantized import PACK_ROWS, Int4Linear, QuantizedLinear, ScaledLinear

NO_OTHERS = "packed weights take no others: load the model again, and pack it then"


class JoinedQuantized(nn.Module):
    """Several quantized layers of one kind in the place of an attribute of their holder.

    Args:
        layers: By name, in order, as ``can_join`` wants them; they are left as they are.
    """

    def __init__(self, layers: dict[str, QuantizedLinear]) -> None:
        super().__init__()
        first, *_ = parts = list(layers.values())
        self._names = tuple(layers)
        self._sizes = [part.out_features for part in parts]
        total = sum(self._sizes)
        self._output_dim = 1 if isinstance(first, Int4Linear) else 0
        if isinstance(first, Int4Linear):
            self.whole: QuantizedLinear = Int4Linear(first.in_features, total, first.group_size)
        else:
            self.whole = type(first)(first.in_features, total)
        self.whole.codes = torch.cat([part.codes for part in parts])
        self.whole.scale = torch.cat([part.scale for part in parts], dim=self._output_dim)

    @property
    def num_layers(self) -> int:
        """Layers that this takes the place of."""
        return len(self._names)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., K) -> (..., outputs) of each layer."""
        return self.whole(x).split(self._sizes, dim=-1)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The layers' own tensors, beside where this stands."""
        destination: dict[str, Tensor] = kwargs.get("destination", {})
        prefix: str = kwargs.get("prefix", "")
        parent = prefix.removesuffix(".").rpartition(".")[0]
        codes = self.whole.codes.split(self._sizes)
        scales = self.whole.scale.split(self._sizes, dim=self._output_dim)
        for name, code, scale in zip(self._names, codes, scales, strict=True):
            start = f"{parent}.{name}" if parent else name
            # Tensors of their own: files do not hold parts of one memory.
            destination[f"{start}.codes"] = code.clone()
            destination[f"{start}.scale"] = scale.clone(memory_format=torch.contiguous_format)
        return destination

    def _load_from_state_dict(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(NO_OTHERS)


def can_join(layers: list[object]) -> bool:
    """Whether some layers are quantized in one way; in int4 whole blocks of outputs each."""
    if all(isinstance(one, ScaledLinear) and type(one) is type(layers[0]) for one in layers):
        return True
    parts = [one for one in layers if type(one) is Int4Linear]
    return (
        len(parts) == len(layers)
        and len({one.group_size for one in parts}) == 1
        and all(one.out_features % PACK_ROWS == 0 for one in parts)
    )
