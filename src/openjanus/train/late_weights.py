"""Weights that come after a model was cut: each process keeps its part of them, tensor by tensor.

Under torchrun nobody has room for as many whole models as there are processes. So a model begins
as shapes (the meta device), is frozen and sharded as such, and only then gets its weights: a
tensor at a time is drawn, or mapped from its file, and each process copies its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from openjanus.model.janus import JanusModel
from openjanus.train.parallel import World
from openjanus.train.sharding import copy_part

Put = Callable[[str, Tensor], None]
"""Takes a whole tensor by its name; what it wants of it, it copies."""


class Places:
    """Where each tensor of a model belongs, by its name of now, whatever becomes of the model.

    Adapters rename what they are put beside, and sharding puts other parameters in place of these:
    a module stays the same module.

    Args:
        model: Neither sharded nor with adapters yet; on any device.
    """

    def __init__(self, model: JanusModel) -> None:
        self._owners: dict[str, tuple[nn.Module, str]] = {
            f"{path}.{name}": (module, name)
            for path, module in model.named_modules(remove_duplicate=False)
            for name, _ in module.named_parameters(recurse=False)
        }
        self._awaited = {name for name, _ in model.named_parameters()}
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

    def put(self, name: str, whole: Tensor) -> None:
        """Copy a tensor, or this process's part of it, to where it belongs."""
        module, attribute = self._owners[name]
        copy_part(getattr(module, attribute), whole)
        self._awaited.discard(name)

    def below(self, part: str) -> tuple[Mapping[str, tuple[int, ...]], Put]:
        """The shapes of a part of the model by its own names, and a ``put`` that takes these."""
        prefix = f"{part}."
        shapes = {
            name.removeprefix(prefix): shape
            for name, shape in self._shapes.items()
            if name.startswith(prefix)
        }
        return shapes, lambda name, whole: self.put(prefix + name, whole)

    def require_all(self) -> None:
        """See that nothing was left as memory happened to be."""
        assert not self._awaited, f"no weights for {sorted(self._awaited)[:3]}"


Fill = Callable[[Places], None]
"""One source of weights: puts what it has; a later one takes the place of an earlier one."""


class LateWeights:
    """What a model of shapes is to be filled with.

    Args:
        model: On the meta device.
        fills: In order.
    """

    def __init__(self, model: JanusModel, fills: Sequence[Fill]) -> None:
        self._model = model
        self._places = Places(model)
        self._fills = fills

    @torch.no_grad()
    def pour(self, root: nn.Module, world: World) -> None:
        """Make room for what this process has of a sharded model, and fill it; once.

        Args:
            root: What was sharded; the model is in it.
            world: All processes.
        """
        root.to_empty(device=world.device)
        # The tokenizer is whole, and gen_embed is made of it: on the host, so that it is the same
        # to the bit wherever the rest lies.
        self._model.vq.to_empty(device="cpu")
        for fill in self._fills:
            fill(self._places)
        self._places.require_all()
        self._model.vq.to(world.device)


def can_come_late(model: JanusModel) -> bool:
    """Whether a model's weights are all parameters, drawn one by one or read.

    A door of one's own that fills itself, or has buffers, must be built where its values are.
    """
    fills_itself = any(
        callable(getattr(module, "init_weights", None)) and module is not model
        for module in model.modules()
    )
    return not fills_itself and next(model.buffers(), None) is None
