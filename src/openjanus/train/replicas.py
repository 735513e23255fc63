"""A small model in several processes: each has all of it, and an equal part of every batch.

So the trainings of one door are parallel; a Janus is too large for it (``train.sharding``). After
the backward the gradients are added up, bucket by bucket, and every process takes the same step
of its own optimizer. DistributedDataParallel would not do: it wants one forward and one backward
a step through one module. Here a step has several (the adversary's, the adaptive weight's
``autograd.grad``, which DDP's hooks do not see), the loss calls parts of a model, and there are
losses that are no mean over pictures: those exchange what they need with ``all_rows``.

The convention everywhere: of a mean over the batch each process differentiates its share, its own
mean divided by the number of processes, and gradients are added. All must run the same operations
in the same order, as the exchanges of the backward come in the order of the forward's, reversed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from openjanus.train.parallel import World

Items = TypeVar("Items", bound=Sequence[Any] | Tensor)

BUCKET = 1 << 24
"""Numbers that are added up at once: 64 MB in fp32, the memory that it takes beside the model."""


def check_batch(name: str, batch_size: int, world: World) -> None:
    """Raise ``ValueError`` for a batch that cannot be dealt evenly."""
    if batch_size % world.size != 0:
        less, more = (batch_size // world.size + extra for extra in (0, 1))
        fits = " or ".join(str(part * world.size) for part in (less, more) if part > 0)
        raise ValueError(
            f"{name} ({batch_size}) must be a multiple of the number of processes ({world.size}), "
            f"for every process has as much of it: give {fits}"
        )


def own_part(items: Items, world: World) -> Items:
    """This process's part of what is as long as a batch: neighbours, so that by rank they join."""
    size = len(items) // world.size
    return items[world.rank * size : (world.rank + 1) * size]  # pyright: ignore[reportReturnType]


def sum_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Add up the gradients of all processes, in place.

    Args:
        parameters: In one order everywhere. One without a gradient is left without, so that an
            optimizer passes it over as it does in one process; it must be so in all of them.
        world: All processes.
    """
    if world.size == 1:
        return
    for bucket in _buckets(p.grad for p in parameters if p.grad is not None):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(one.numel() for one in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@torch.no_grad()
def sum_tensor(tensor: Tensor, world: World) -> Tensor:
    """The sum over all processes, without a graph."""
    if world.size == 1:
        return tensor
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def mean_values(values: Mapping[str, float], world: World) -> dict[str, float]:
    """The mean over all processes of each, for what is logged."""
    sums = world.sum(list(values.values()))
    return {name: total / world.size for name, total in zip(values, sums, strict=True)}


class _AllRows(torch.autograd.Function):
    """(...) of each process -> (P, ...); back goes the sum of what all processes want of a row."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        rows = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, tensor)
        return torch.stack(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # A copy: the same tensor may be on its way elsewhere, too.
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]


def all_rows(tensor: Tensor, processes: int) -> Tensor:
    """What every process gave, by rank, with gradients that reach whoever gave it.

    Args:
        tensor: (...), of the same shape everywhere; where it has a graph, so it must everywhere.
        processes: P, their number.

    Returns:
        (P, ...).
    """
    return tensor[None] if processes == 1 else _AllRows.apply(tensor.contiguous())


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of the batch of all processes, without running ones.

    PyTorch's ``SyncBatchNorm`` runs on CUDA alone. The names of the parameters are the same.
    """

    def __init__(self, channels: int, *, processes: int = 1) -> None:
        super().__init__(channels, track_running_stats=False)
        self.processes = processes

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base's name
        """(B, c, h, w) -> (B, c, h, w), B being the part of one process; equal in all."""
        if self.processes == 1:
            return super().forward(input)
        wide = input.float()
        var, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)  # (c,)
        each = all_rows(torch.stack([mean, var]), self.processes)  # (P, 2, c)
        mean = each[:, 0].mean(0)
        # Not the mean square less the square of the mean, which cancels.
        var = (each[:, 1] + (each[:, 0] - mean).square()).mean(0)
        scale = self.weight * (var + self.eps).rsqrt()
        out = (wide - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return out.to(input.dtype)
