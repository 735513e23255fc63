"""The processes of a run: one, or as many as torchrun started, with the same code for both.

Nothing of the environment is read before a run opens its world. Numbers and objects travel over
gloo, whatever the gradients take; the thread that prepares samples has a group of its own, because
two threads must not be in one group's calls at once.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from openjanus.data.stream import ALONE as WHOLE
from openjanus.data.stream import Share
from openjanus.pipeline.load import choose_device

T = TypeVar("T")

LONGEST_BEAT_S = 10.0
"""Seconds between the signs of life of the first process, at most."""


class LostProcess(ConnectionError):
    """Another process of the run is gone, or has not answered for too long."""


class OtherProcessFailed(ValueError):
    """The first process could not do what all wait for; it tells why itself."""


@dataclass(slots=True)
class Ties:
    """What the processes of a run talk over; empty once they have parted, whoever holds it."""

    loop: dist.ProcessGroup | None = None
    """For numbers and objects of the training loop."""
    data: dist.ProcessGroup | None = None
    """For the thread that prepares samples."""
    mesh: DeviceMesh | None = None
    """For what a model is cut along."""


@dataclass(frozen=True, slots=True)
class World:
    """All processes of a run, as one of them sees them. The default is a process alone."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Of this process."""
    ties: Ties = field(default_factory=Ties)
    """To the other processes; empty where there is one."""
    beat_s: float = LONGEST_BEAT_S
    """Seconds between signs of life of the first process, while the others wait for it."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        """For numbers and objects of the training loop; None where there is one process."""
        return self.ties.loop

    def mesh(self) -> DeviceMesh:
        """All processes in a row, for what is cut over them; the same one each time."""
        if self.ties.mesh is None:
            self.ties.mesh = init_device_mesh(self.device.type, (self.size,))
        return self.ties.mesh

    def share(self) -> Share:
        """This process's part of every step, for the streams of samples."""
        if self.size == 1:
            return WHOLE
        return Share(self.rank, self.size, lambda value: _gather(value, self.size, self.ties.data))

    def gather(self, value: T) -> list[T]:
        """What every process gave, by rank."""
        return [value] if self.size == 1 else _gather(value, self.size, self.group)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, place by place."""
        if self.size == 1:
            return list(values)
        # Added up by rank, so that every process has the same sum to the bit.
        return [float(sum(column)) for column in zip(*self.gather(list(values)), strict=True)]

    def sum_counts(self, counts: Tensor) -> Tensor:
        """Whole numbers of all processes added up, place by place; the tensor is left as it is."""
        if self.size == 1:
            return counts
        whole = counts.detach().cpu().clone()
        dist.all_reduce(whole, group=self.group)
        return whole

    def from_main(self, value: T) -> T:
        """What the first process gave, in all: they must not differ in a last digit."""
        return self.gather(value)[0]

    def any(self, flag: bool) -> bool:
        """Whether some process says so."""
        return any(self.gather(flag))

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.gather(None)

    def on_main(self, do: Callable[[], T]) -> T | None:
        """Do something in the first process while the others wait, however long it takes.

        A group gives up a process that is silent for its timeout. So the first one says every
        ``beat_s`` seconds that it is still at it, from a thread of its own; ``do`` must not
        gather.

        Returns:
            The result, in the first process alone.

        Raises:
            OtherProcessFailed: In the others, where the first one raised.
        """
        if not self.is_main:
            while (told := self.from_main(_BEAT)) == _BEAT:
                pass
            if told is not None:
                raise OtherProcessFailed(f"process 0 of {self.size} stopped: {told}")
            return None
        result: T | None = None
        failure: Exception | None = None
        with self._beating() as lost:
            try:
                result = do()
            except Exception as error:  # noqa: BLE001 - raised again, once the others know
                failure = error
        if not lost:
            self.gather(None if failure is None else f"{type(failure).__name__}: {failure}")
        for error in (failure, *lost):
            if error is not None:
                raise error
        return result

    @contextmanager
    def _beating(self) -> Iterator[list[RuntimeError]]:
        """Signs of life to those who wait in ``on_main``; in the end, why one of them is gone."""
        lost: list[RuntimeError] = []
        if self.size == 1:
            yield lost
            return
        done = threading.Event()

        def beat() -> None:
            try:
                while not done.wait(self.beat_s):
                    self.gather(_BEAT)
            except RuntimeError as error:
                lost.append(error)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            # Two threads must not be in one group's calls at once.
            done.set()
            thread.join()


_BEAT = "still at it"

ALONE = World()
"""One process, on a CPU."""


def _gather(value: T, size: int, group: dist.ProcessGroup | None) -> list[T]:
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value, group=group)
    return values


def num_processes() -> int:
    """Processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the first of those that torchrun started, who alone speaks; or the only."""
    return os.environ.get("RANK", "0") == "0"


def is_restart() -> bool:
    """Whether torchrun has started these processes anew, after some of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def open_world(device: str, *, name: str, timeout_s: float) -> Iterator[World]:
    """Join the processes that torchrun started, and part in the end.

    One process needs no torchrun, and has no groups.

    Args:
        device: A name; ``cuda`` is the device of this process's local rank.
        name: Of the run: several may follow each other in the same processes.
        timeout_s: Seconds after which a process that does not answer is given up.

    Raises:
        LostProcess: Another process is gone.
        ValueError: No such device.
    """
    size = num_processes()
    if size == 1:
        yield World(device=choose_device(device))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    chosen = choose_device(device)
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"several processes train on cpu or cuda, got {device!r}: give one")
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    ties = Ties()
    try:
        _join(ties, name, rank, size, chosen, timedelta(seconds=timeout_s))
        yield World(rank, size, chosen, ties, min(LONGEST_BEAT_S, timeout_s / 4))
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        # The groups are left as they are: taking them down would wait for whoever is gone.
        raise LostProcess(
            f"process {rank} of {size} lost another one ({str(error).splitlines()[0]}): look at "
            "what that one said; the run goes on from its newest checkpoint by the same command "
            "with --run.resume true, with any number of processes"
        ) from error
    _part(ties)


def _join(
    ties: Ties, name: str, rank: int, size: int, device: torch.device, timeout: timedelta
) -> None:
    """Meet the other processes."""
    store, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
    # torchrun keeps its store over a restart: addresses of those who are gone are still in it.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"{name}/{attempt}", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=device if backend == "nccl" else None,
    )
    groups = [dist.new_group(backend="gloo", timeout=timeout) for _ in range(2)]
    ties.loop, ties.data = (each for each in groups if isinstance(each, dist.ProcessGroup))


def _part(ties: Ties) -> None:
    """Take the groups down, threads and all.

    A group lives on in whatever refers to it, and a thread of gloo that frees its last tensor when
    Python has ended brings the process down. Cycles of trainers hold groups; so does the mesh,
    which the caches of DTensor keep to the end.
    """
    dist.destroy_process_group()
    ties.loop = ties.data = None
    if ties.mesh is not None:
        ties.mesh._pg_registry.clear()
        ties.mesh = None
    gc.collect()


LOST = ("closed by peer", "reset by peer", "timed out", "timeout", "broken pipe", "refused")
"""What gloo, nccl and the store say when a process is gone; they have no class for it."""


def _is_lost(error: RuntimeError) -> bool:
    told = str(error).lower()
    return isinstance(error, dist.DistError) or any(words in told for words in LOST)
