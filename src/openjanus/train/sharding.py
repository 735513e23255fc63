"""A model over several processes: FSDP2, unit by unit, and back to a whole one.

Each layer of the decoder and each block of the understanding encoder is a unit, gathered for its
own forward and backward alone; the rest lies at the root. The generation tokenizer is frozen and
runs outside of the forward, so every process has it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.utils.checkpoint import checkpoint

from openjanus.model.decoder import DecoderLayer
from openjanus.model.janus import JanusModel, build_model
from openjanus.model.siglip import SiglipBlock
from openjanus.train.parallel import World

TOKENIZER = "vq."
"""What the parameters that stay whole begin with."""


def blocks_of(model: JanusModel) -> Iterator[nn.Module]:
    """The repeated blocks, in which nearly all the weights lie."""
    for name, module in model.named_modules():
        if isinstance(module, DecoderLayer | SiglipBlock) and not name.startswith(TOKENIZER):
            yield module


def checkpoint_activations(model: JanusModel) -> None:
    """Keep a block's input alone for the backward, which runs the block again."""
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def shard_model(root: nn.Module, model: JanusModel, world: World, *, bf16: bool) -> None:
    """Give each process its part of the parameters, which become ``DTensor``.

    What is frozen must be so before. Gradients are added over processes: the loss of each is
    already a share of one mean over all supervised tokens.

    Args:
        root: The module whose forward holds the loss; ``model`` is in it.
        model: The same on every process.
        world: All processes.
        bf16: On CUDA, units are gathered and computed in bf16 and reduced in fp32. On a CPU the
            weights are gathered in fp32 and autocast goes on choosing per operation, as with one
            process: the numbers are the same, and there is no memory to save.
    """
    mesh = world.mesh()
    policy = MixedPrecisionPolicy()
    if bf16 and world.device.type == "cuda":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    whole = set(model.vq.parameters())
    if not any(parameter.is_meta for parameter in whole):
        model.vq.to(world.device)
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(root, mesh=mesh, mp_policy=policy, ignored_params=whole)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it adds


def free_gathered(root: nn.Module) -> None:
    """Drop the whole weights that a forward without a backward leaves gathered at the root.

    The next forward would take them for the weights, whatever was put into the parts since.

    Args:
        root: As in ``shard_model``; one that is not sharded is left alone.
    """
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local_part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; all of one that is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_part(place: Tensor, whole: Tensor) -> None:
    """Fill a tensor, or this process's part of one, from the whole that every process can see.

    Args:
        place: Sharded by ``shard_model``, or whole.
        whole: In any dtype, on any device; of a mapped one, other processes' rows are not read.
    """
    if not isinstance(place, DTensor):
        place.copy_(whole)
        return
    (placement,) = place.placements
    assert placement == Shard(0), placement  # FSDP cuts rows
    mine = place.to_local()
    rows = -(-len(whole) // place.device_mesh.size())
    first = rows * place.device_mesh.get_local_rank()
    mine.copy_(whole[first : first + rows])


def whole_of(tensor: Tensor) -> Tensor:
    """A tensor in one piece; where it is in parts, all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather_model(
    model: JanusModel,
    world: World,
    *,
    instead: Mapping[str, Tensor] | None = None,
    prepare: Callable[[JanusModel], None] | None = None,
) -> JanusModel | None:
    """A whole copy in the first process, on its device; all processes must call this.

    Args:
        model: Sharded or not.
        world: All processes.
        instead: Tensors in place of parameters, by name; sharded as they are.
        prepare: Gives a model of the same configuration what this one has beside it: adapters.

    Returns:
        The copy, in fp32; None in every process but the first.
    """
    copy = None
    places: dict[str, Tensor] = {}
    if world.is_main:
        copy = build_model(model.config, device="cpu")
        if prepare is not None:
            prepare(copy)
        places = copy.state_dict()
    parts = {**model.state_dict(), **({} if instead is None else instead)}
    assert copy is None or parts.keys() == places.keys()
    for name, tensor in parts.items():
        whole = whole_of(tensor)  # one at a time: the device may not hold all
        if copy is not None:
            places[name].copy_(whole)
    return None if copy is None else copy.to(world.device)
