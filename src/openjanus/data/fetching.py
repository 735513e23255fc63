"""Getting samples: read from their source, tokenized, replaced where broken; here or in workers."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches one draw at a time: a function of the draw alone, so it can be done anywhere.

    A sample that raises, or that the encoder refuses, is named and replaced by another of the
    same source; which one is a function of the broken one's place.
    """

    sources: Mapping[Kind, Sequence[Source]]
    """By kind, in the order of the mixture's weights."""
    mixture: Mixture
    """Which item replaces which."""
    encode: Callable[[Sample, Draw], EncodedSample]
    """Tokenizes a sample; gets the draw as well, for what depends on the epoch."""

    def __call__(self, wanted: Draw) -> Fetched:
        """Fetch a sample, or what replaces it.

        Raises:
            TooManyBadSamples: Replacement after replacement is broken.
        """
        bad: list[BadSample] = []
        draw = wanted
        for attempt in range(1, MAX_ATTEMPTS + 1):
            name = f"{draw.kind} source {draw.source} item {draw.index}"
            try:
                sample = self.sources[draw.kind][draw.source][draw.index]
                if not isinstance(sample, Sample):
                    raise TypeError(f"the source gave a {type(sample).__name__}, not a Sample")
                name = f"{name} ({sample.key})"
                if sample.kind != draw.kind:
                    raise ValueError(f"the sample is of kind {sample.kind!r}: move its source")
                return Fetched(draw=draw, sample=self.encode(sample, draw), bad=tuple(bad))
            except Exception as error:  # noqa: BLE001 - any code of a source: named, limited
                bad.append(BadSample(name=name, reason=f"{type(error).__name__}: {error}"))
                draw = self.mixture.replacement(wanted, attempt)
        raise TooManyBadSamples(
            f"{MAX_ATTEMPTS} samples in a row cannot be used, the last: {bad[-1].name}: "
            f"{bad[-1].reason}; check the source and its options"
        )


class Crew:
    """Fetches many draws, in order; the same in this process and in any number of others.

    Args:
        fetcher: What is done for each draw; pickled once for each worker.
        num_workers: Processes that do it; 0 does it here.
    """

    def __init__(self, fetcher: Fetcher, num_workers: int = 0) -> None:
        self.fetcher = fetcher
        self.num_workers = num_workers
        self._pool: ProcessPoolExecutor | None = None

    def fetch(self, draws: Sequence[Draw]) -> list[Fetched]:
        """What came of each draw.

        Raises:
            TooManyBadSamples: As the fetcher.
        """
        if self.num_workers == 0:
            return [self.fetcher(draw) for draw in draws]
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self.fetcher,),
            )
        chunk = max(1, -(-len(draws) // (2 * self.num_workers)))
        return list(self._pool.map(_work, draws, chunksize=chunk))

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


T = TypeVar("T")


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


_FETCHER: list[Fetcher] = []
"""The worker's own, in a worker; empty everywhere else."""


def _begin(fetcher: Fetcher) -> None:
    _FETCHER[:] = [fetcher]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed run must not leave its workers waiting for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(draw: Draw) -> Fetched:
    return _FETCHER[0](draw)
