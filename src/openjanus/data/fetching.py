"""Getting samples: read, tokenized, and replaced or named where broken; here or in workers."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

from openjanus.data.encoding import EncodedSample
from openjanus.data.mixture import Draw, Mixture
from openjanus.data.samples import Kind, Sample
from openjanus.data.sources import Source

MAX_ATTEMPTS = 16
"""Replacements tried for one sample before the source is given up."""


class TooManyBadSamples(ValueError):
    """More samples could not be used than the run allows."""


def first_readable(source: Source) -> Any:
    """The first item of a source that is not broken, to see what it gives.

    Raises:
        Exception: Whatever the first item raises, where none of the first few can be read.
    """
    first: Exception | None = None
    for index in range(min(MAX_ATTEMPTS, len(source))):
        try:
            return source[index]
        except Exception as error:  # noqa: BLE001 - any code of a source: raised again
            first = error if first is None else first
    raise ValueError("the source is empty: check its options") if first is None else first


@dataclass(frozen=True, kw_only=True, slots=True)
class BadSample:
    """A sample that could not be used."""

    name: str
    """kind, source and index, and the sample's key where it has one."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What came of a draw."""

    draw: Draw
    """What was taken in the end: the draw itself, or its replacement."""
    sample: EncodedSample
    bad: tuple[BadSample, ...] = field(default=())
    """What was replaced on the way."""


Sources = Mapping[Kind, Sequence[Source]]
"""By kind, in the order of the mixture's weights."""

Encode = Callable[[Sample, Draw], EncodedSample]
"""Tokenizes a sample; gets the draw as well, for what depends on the epoch."""


def read_draw(sources: Sources, encode: Encode, draw: Draw) -> EncodedSample | BadSample:
    """Read a draw's sample and tokenize it, or say why that cannot be."""
    name = f"{draw.kind} source {draw.source} item {draw.index}"
    try:
        sample = sources[draw.kind][draw.source][draw.index]
        if not isinstance(sample, Sample):
            raise TypeError(f"the source gave a {type(sample).__name__}, not a Sample")
        name = f"{name} ({sample.key})"
        if sample.kind != draw.kind:
            raise ValueError(f"the sample is of kind {sample.kind!r}: move its source")
        return encode(sample, draw)
    except Exception as error:  # noqa: BLE001 - any code of a source: named, limited
        return BadSample(name=name, reason=f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class Reader:
    """Fetches one draw, or names it: nothing replaces what is broken."""

    sources: Sources
    encode: Encode

    def __call__(self, wanted: Draw) -> EncodedSample | BadSample:
        """Fetch a sample, or why there is none."""
        return read_draw(self.sources, self.encode, wanted)


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches one draw at a time: a function of the draw alone, so it can be done anywhere.

    A sample that raises, or that the encoder refuses, is named and replaced by another of the
    same source; which one is a function of the broken one's place.
    """

    sources: Sources
    mixture: Mixture
    """Which item replaces which."""
    encode: Encode

    def __call__(self, wanted: Draw) -> Fetched:
        """Fetch a sample, or what replaces it.

        Raises:
            TooManyBadSamples: Replacement after replacement is broken.
        """
        bad: list[BadSample] = []
        draw = wanted
        for attempt in range(1, MAX_ATTEMPTS + 1):
            found = read_draw(self.sources, self.encode, draw)
            if isinstance(found, EncodedSample):
                return Fetched(draw=draw, sample=found, bad=tuple(bad))
            bad.append(found)
            draw = self.mixture.replacement(wanted, attempt)
        raise TooManyBadSamples(
            f"{MAX_ATTEMPTS} samples in a row cannot be used, the last: {bad[-1].name}: "
            f"{bad[-1].reason}; check the source and its options"
        )


T = TypeVar("T")


class Workers(Generic[T]):
    """Does something for each draw, in order; the same here and in any number of processes.

    Args:
        call: What is done, a function of the draw alone; pickled once for each process.
        num_workers: Processes that do it; 0 does it here.
    """

    def __init__(self, call: Callable[[Draw], T], num_workers: int = 0) -> None:
        self.call = call
        self.num_workers = num_workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, draws: Sequence[Draw]) -> list[T]:
        """What came of each draw."""
        if self.num_workers == 0:
            return [self.call(draw) for draw in draws]
        chunk = max(1, -(-len(draws) // (2 * self.num_workers)))
        return list(self._open().map(_work, draws, chunksize=chunk))

    def pieces(self, draws: Iterable[Draw], size: int) -> Iterator[list[tuple[Draw, T]]]:
        """Each draw and what came of it, some at a time.

        Workers read on while what came is used, and hold two pieces or as much as keeps each of
        them busy.

        Args:
            draws: Taken as they are needed; each once.
            size: Draws of a piece; the last one may have fewer.
        """
        rest = iter(draws)
        if self.num_workers == 0:
            while piece := list(islice(rest, size)):
                yield [(draw, self.call(draw)) for draw in piece]
            return
        pool = self._open()
        waiting: deque[list[tuple[Draw, Future[T]]]] = deque()
        most = 1 + max(1, -(-2 * self.num_workers // size))
        while True:
            while len(waiting) < most and (piece := list(islice(rest, size))):
                waiting.append([(draw, pool.submit(_work, draw)) for draw in piece])
            if not waiting:
                return
            yield [(draw, future.result()) for draw, future in waiting.popleft()]

    def _open(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self.call,),
            )
        return self._pool

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


class Crew:
    """Fetches many draws, in order; the same in this process and in any number of others.

    Args:
        fetcher: What is done for each draw; pickled once for each worker.
        num_workers: Processes that do it; 0 does it here.
    """

    def __init__(self, fetcher: Fetcher, num_workers: int = 0) -> None:
        self.fetcher = fetcher
        self.num_workers = num_workers
        self._workers = Workers(fetcher, num_workers)

    def fetch(self, draws: Sequence[Draw]) -> list[Fetched]:
        """What came of each draw.

        Raises:
            TooManyBadSamples: As the fetcher.
        """
        return self._workers.map(draws)

    def close(self) -> None:
        """End the workers."""
        self._workers.close()


class Ahead(Generic[T]):
    """A call in a thread of its own, which does not keep a process that fails from ending."""

    def __init__(self, call: Callable[..., T], *arguments: Any) -> None:
        self._future: Future[T] = Future()
        threading.Thread(target=self._run, args=(call, arguments), daemon=True).start()

    def _run(self, call: Callable[..., T], arguments: tuple[Any, ...]) -> None:
        try:
            self._future.set_result(call(*arguments))
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._future.set_exception(error)

    def result(self) -> T:
        """What the call gave, or raises what it raised."""
        return self._future.result()

    def wait(self) -> None:
        """Wait for its end, whatever it is."""
        self._future.exception()


_CALL: list[Callable[[Draw], Any]] = []
"""The worker's own, in a worker; empty everywhere else."""


def _begin(call: Callable[[Draw], Any]) -> None:
    _CALL[:] = [call]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed run must not leave its workers waiting for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(draw: Draw) -> Any:
    return _CALL[0](draw)
