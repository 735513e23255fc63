"""A model that shares another's weights, and adds an adapter's thin products to them as it runs.

What is shared lies in memory once, packed or plain. Merged weights would be another model's worth
of memory for each adapter; a thin product beside each layer costs little, and differs from merged
weights in the last bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from openjanus.model.packed import JOINED, JoinedLinear, PackedLinear, can_pack

M = TypeVar("M", bound=nn.Module)

Pair = tuple[Tensor, Tensor]
"""A (rank, in) and B (out, rank), whose product is added; any scale is in B."""


class Thin(nn.Module):
    """x -> B A x, in fp32.

    Args:
        pair: A and B.
        is_packed: Whether they are laid out as the layer beside them, whose rows do not depend on
            each other's number then.
    """

    def __init__(self, pair: Pair, *, is_packed: bool) -> None:
        super().__init__()
        is_packed = is_packed and can_pack(torch.float32)
        self.down, self.up = (_linear(matrix.float(), None, is_packed) for matrix in pair)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.up(self.down(x.float()))


class AdaptedLinear(nn.Module):
    """A layer that is another model's too, and what is added to it."""

    def __init__(self, layer: nn.Module, pair: Pair) -> None:
        super().__init__()
        self.layer = layer
        self.thin = Thin(pair, is_packed=isinstance(layer, PackedLinear))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return _sum(self.layer(x), self.thin(x))


class AdaptedJoined(nn.Module):
    """Layers that one product takes the place of, and what is added to each.

    Args:
        joined: Another model's too.
        names: Of its layers, in order.
        pairs: By name; what is not there is left as it is.
    """

    def __init__(
        self, joined: JoinedLinear, names: Sequence[str], pairs: Mapping[str, Pair]
    ) -> None:
        super().__init__()
        self.joined = joined
        self._names = tuple(names)
        self.thin = nn.ModuleDict(
            {name: Thin(pair, is_packed=True) for name, pair in pairs.items()}
        )

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        """(..., in) -> (..., out) of each layer."""
        plain = zip(self._names, self.joined(x), strict=True)
        return [_sum(y, self.thin[name](x)) if name in self.thin else y for name, y in plain]


def _sum(y: Tensor, added: Tensor) -> Tensor:
    return (y.float() + added).to(y.dtype)


def share(module: M) -> M:
    """A module of the same weights, in the same memory; its parts can be replaced by themselves."""
    return _share(module, {})


def _share(module: M, done: dict[int, nn.Module]) -> M:
    if id(module) not in done:
        copy = done[id(module)] = module.__new__(type(module))
        copy.__dict__.update(module.__dict__)
        copy._parameters = dict(module._parameters)
        copy._buffers = dict(module._buffers)
        copy._modules = {
            name: None if child is None else _share(child, done)
            for name, child in module._modules.items()
        }
    return done[id(module)]  # pyright: ignore[reportReturnType]


def add_pairs(model: nn.Module, pairs: Mapping[str, Pair]) -> None:
    """Put adapted layers in the place of others.

    Args:
        model: From ``share``.
        pairs: By the name of their layer in a plain model.
    """
    joined: dict[tuple[str, str], dict[str, Pair]] = {}
    for path, pair in pairs.items():
        parent, _, name = path.rpartition(".")
        holder = model.get_submodule(parent)
        if name in holder._modules:
            setattr(holder, name, AdaptedLinear(holder.get_submodule(name), pair))
        else:
            attribute = next(key for key, names in JOINED.items() if name in names)
            joined.setdefault((parent, attribute), {})[name] = pair
    for (parent, attribute), found in joined.items():
        holder = model.get_submodule(parent)
        layers = getattr(holder, attribute)
        assert isinstance(layers, JoinedLinear)
        setattr(holder, attribute, AdaptedJoined(layers, JOINED[attribute], found))


def replace_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give some parameters other values, in memory of their own.

    Args:
        model: From ``share``.
        tensors: By their names in a plain model, of the same shapes.
    """
    packed: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        path, _, name = key.rpartition(".")
        module = model.get_submodule(path)
        if isinstance(module, PackedLinear):
            packed.setdefault(path, {})[name] = tensor
            continue
        old = module.get_parameter(name)
        value = tensor.to(old.device, old.dtype, copy=True)
        setattr(module, name, nn.Parameter(value, requires_grad=False))
    for path, found in packed.items():
        old = model.get_submodule(path)
        assert isinstance(old, PackedLinear)
        weight = found["weight"] if "weight" in found else old.weight.detach().to_dense()
        bias = found.get("bias", old.bias)
        parent, _, name = path.rpartition(".")
        kind = old.weight.dtype
        layer = _linear(weight.to(kind), None if bias is None else bias.to(kind), True)
        setattr(model.get_submodule(parent), name, layer)


def _linear(weight: Tensor, bias: Tensor | None, is_packed: bool) -> nn.Linear:
    """A linear layer of these weights."""
    out_features, in_features = weight.shape
    with torch.device("meta"):
        layer = nn.Linear(in_features, out_features, bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return PackedLinear(layer) if is_packed else layer
