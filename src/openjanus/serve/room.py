"""Where the work is done: a thread for the engine, one for each request, and a few for pictures.

A request's thread builds what the engine takes, and makes words and pictures of what it tells, with
the same ``Speaker`` and ``Artist`` as the library: their driver is one that asks the engine's
thread. Pictures are decoded, and made of ids, in threads that all requests share. The event loop
only waits for what comes out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Generic, TypeVar

from openjanus.bench.measure import image_bytes, text_bytes
from openjanus.engine.engine import Engine, EngineOptions
from openjanus.pipeline import Janus
from openjanus.serve.engine_thread import BASE, EngineFailure, EngineThread, Inbox, JobDriver, Left
from openjanus.serve.errors import ApiError, failed, refused, stopping
from openjanus.serve.lengths import TextLimit
from openjanus.serve.metrics import Metrics

LOG = logging.getLogger("openjanus.serve")

T = TypeVar("T")

U = TypeVar("U")

MAX_UNREAD = 256
"""Results of a request that its client has not read: it is not worked on beyond."""
CHECK_S = 0.25
"""Who waits looks so often whether his client has left."""
MAX_OPENING = 2
"""Requests whose pictures are decoded at once: they take far more memory than their files."""
MAX_PAINTING = 2
"""Pictures that are made of ids at once. Libraries beneath torch keep memory for every thread that
has ever asked them, and so do their own threads: requests' threads, of which there are many, do
not."""


Work = Callable[[JobDriver], Iterator[T]]
"""Checks and builds a request, and returns what makes its results. A ``ValueError`` before that is
the client's, one after it is ours."""

_END = object()


class Job(Generic[T]):
    """A request that is worked on. For the event loop's thread; made by ``Room.begin``."""

    def __init__(self, room: Room, work: Work[T], deadline_s: float, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = room.thread
        self._work = work
        self._inbox = Inbox(name)
        self._results: asyncio.Queue[T | ApiError | object] = asyncio.Queue()
        self._unread = threading.Semaphore(MAX_UNREAD)
        self._is_valid: asyncio.Future[ApiError | None] = self._loop.create_future()
        self._deadline = self._loop.time() + deadline_s
        self._late = ApiError(
            504,
            f"the answer took longer than {deadline_s:g} seconds: ask for less",
            code="deadline_exceeded",
        )
        self._timeout: asyncio.Timeout | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when nothing is worked on any more, which may be after the last result."""
        self.begun: Future[None] | None = None
        """Its thread's side."""
        self.first_at: float | None = None
        """By ``time.perf_counter``, when the first id was known."""

    async def valid(self) -> None:
        """Wait until the request has been found valid.

        Raises:
            ApiError: It has not.
        """
        try:
            error = await self._in_time(self._is_valid)
        except BaseException:  # the client has left, or the server ends: raised on
            self.cancel()
            raise
        if error is not None:
            raise error

    async def results(self) -> AsyncIterator[T]:
        """What comes out; closing this gives up the request.

        Raises:
            ApiError: It failed, or its time is up.
        """
        try:
            while True:
                result = await self._in_time(self._results.get())
                self._unread.release()
                if result is _END:
                    return
                if isinstance(result, ApiError):
                    raise result
                yield result  # pyright: ignore[reportReturnType]
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give up: its slots are free before the engine's next step."""
        if not self._inbox.has_left:
            self._inbox.has_left = True
            self._thread.drop(self._inbox)
        if self.begun is not None and self.begun.cancel():
            self._say_ended()

    def stop_by(self, when: float) -> None:
        """End with an error at a time of the loop's, because the server stops."""
        if when >= self._deadline:
            return
        self._deadline, self._late = when, stopping()
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(when)

    async def _in_time(self, awaited: Awaitable[U]) -> U:
        try:
            async with asyncio.timeout_at(self._deadline) as self._timeout:
                return await awaited
        except TimeoutError as error:
            raise self._late from error
        finally:
            self._timeout = None

    def run(self) -> None:
        """The whole of it, in a thread of its own."""
        try:
            driver = JobDriver(self._thread, self._inbox, self._first)
            driver.stop_if_left()
            try:
                results = self._work(driver)
            except ValueError as error:
                raise refused(" ".join(str(error).split())) from error
            self._tell(self._say_valid)
            for result in results:
                self._put(result)
            self._tell(self._say_ended)  # first: who has his answer whole may ask again at once
            self._put(_END)
        except Left:
            self._end(failed(RuntimeError("stopped")))  # heard where the server stops
        except ApiError as error:
            self._end(error)
        except EngineFailure as error:
            cause = error.__cause__
            assert isinstance(cause, Exception)
            LOG.error("a request failed in the engine: %s", cause, exc_info=cause)
            self._end(failed(cause))
        except Exception as error:
            LOG.exception("a request failed")
            self._end(failed(error))
        finally:
            self._tell(self._say_ended)

    def _first(self) -> None:
        self.first_at = time.perf_counter()

    def _put(self, result: object) -> None:
        # Who reads slowly has few results waiting; the engine goes on meanwhile.
        while not self._unread.acquire(timeout=CHECK_S):
            if self._inbox.has_left:
                raise Left
        self._tell(lambda: self._results.put_nowait(result))

    def _end(self, error: ApiError) -> None:
        self._tell(lambda: self._say_valid(error))
        self._tell(lambda: self._results.put_nowait(error))

    def _say_ended(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _say_valid(self, error: ApiError | None = None) -> None:
        if not self._is_valid.done():
            self._is_valid.set_result(error)

    def _tell(self, what: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(what)


class Room:
    """A model, its engine in a thread, and the threads of requests. A context manager.

    Args:
        janus: Its own engine stays idle.
        engine_options: How much runs at once.
        max_jobs: Requests that are worked on at once.
        metrics: Where work is counted.
        beside: Models of the same weights with adapters, by name.
    """

    def __init__(
        self,
        janus: Janus,
        *,
        max_jobs: int,
        metrics: Metrics,
        engine_options: EngineOptions | None = None,
        beside: Mapping[str, Janus] | None = None,
    ) -> None:
        self.janus = janus
        self._models = {BASE: janus, **({} if beside is None else beside)}
        self.metrics = metrics
        self.text_limit = TextLimit(janus)
        self._jobs: set[Job[Any]] = set()
        self._stop_at = math.inf
        image_pad_id = janus.processor.tokenizer.image_pad_id
        options = EngineOptions() if engine_options is None else engine_options
        options = options.shared_by(len(self._models))
        engines = {
            name: Engine(one.model, image_pad_id=image_pad_id, options=options)
            for name, one in self._models.items()
        }
        read = {"text": text_bytes(janus.model), "image": image_bytes(janus.model)}
        self.thread = EngineThread(engines, metrics, read)
        self._opening = ThreadPoolExecutor(MAX_OPENING, thread_name_prefix="opening")
        self._painting = ThreadPoolExecutor(MAX_PAINTING, thread_name_prefix="painting")
        self.reading = ThreadPoolExecutor(1, thread_name_prefix="bodies")
        """Parses large bodies, one at a time: two would keep the event loop waiting twice."""
        self._hands = ThreadPoolExecutor(max_jobs, thread_name_prefix="request")

    def __enter__(self) -> Room:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.thread.stop()
        # Requests' threads first: they may wait for what the others do.
        for pool in (self._hands, self._opening, self._painting, self.reading):
            pool.shutdown(wait=True, cancel_futures=True)

    def open(self, driver: JobDriver, work: Callable[[], U]) -> U:
        """Call what decodes the pictures of a request, when its turn has come.

        Raises:
            Left: Who has left does not wait for it.
        """
        return _done_by(self._opening, driver, work)

    def paint(self, driver: JobDriver, work: Callable[[], U]) -> U:
        """Call what makes a picture of ids, when its turn has come.

        Raises:
            Left: Who has left does not wait for it.
        """
        return _done_by(self._painting, driver, work)

    def stop_within(self, seconds: float) -> None:
        """End all requests, those to come too, with an error after so many seconds."""
        self._stop_at = asyncio.get_running_loop().time() + seconds
        for job in self._jobs:
            job.stop_by(self._stop_at)

    def engine_name(self, model: str) -> str:
        """Whose engine answers for what clients call a model."""
        return model if model in self._models else BASE

    def model(self, name: str) -> Janus:
        """The model of an engine."""
        return self._models[name]

    def begin(self, work: Work[T], deadline_s: float, name: str = BASE) -> Job[T]:
        """Start to work on a request.

        Args:
            work: Called in a thread of its own.
            deadline_s: After so many seconds its results end in an error.
            name: Of the engine that is asked.
        """
        job = Job(self, work, deadline_s, name)
        job.stop_by(self._stop_at)
        self._jobs.add(job)
        job.ended.add_done_callback(lambda _: self._jobs.discard(job))
        job.begun = self._hands.submit(job.run)
        return job


def _done_by(pool: ThreadPoolExecutor, driver: JobDriver, work: Callable[[], U]) -> U:
    """What a pool makes of work; what was begun is waited for, whoever has left."""
    asked = pool.submit(work)
    while not wait([asked], CHECK_S).done:
        if driver.has_left and asked.cancel():
            raise Left
    return asked.result()
