"""The thread in which engines make their steps, and how other threads speak to it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import SimpleQueue

from openjanus.engine.engine import Engine
from openjanus.engine.request import Event, FailedEvent, FinishedEvent, ImageIdEvent, Request
from openjanus.engine.turns import Turns
from openjanus.pipeline.driver import EngineDriver
from openjanus.serve.metrics import Metrics

LOG = logging.getLogger("openjanus.serve")

BASE = ""
"""The name, among engines, of the model without an adapter."""


class EngineFailure(Exception):
    """The engine could not go on with a request; the reason is its cause."""


class Left(Exception):
    """Whoever asked has gone."""


class Inbox:
    """What the engine's thread tells a request's thread.

    Args:
        name: Of the engine that is asked.
    """

    def __init__(self, name: str = BASE) -> None:
        self.name = name
        self.messages: SimpleQueue[list[tuple[int, Event]] | Exception] = SimpleQueue()
        self.has_left = False
        """Whether nobody waits for the answer any more."""


class EngineThread:
    """The only thread that touches the engines.

    Args:
        engines: Without work, by name; one is ``BASE``.
        metrics: Where steps are counted.
        step_bytes: Weights that a step must read for ids of a kind, ``text`` and ``image``.
    """

    def __init__(
        self, engines: Mapping[str, Engine], metrics: Metrics, step_bytes: Mapping[str, int]
    ) -> None:
        self._step_bytes = dict(step_bytes)
        self.engines = dict(engines)
        self._turns = Turns(self.engines)
        self._metrics = metrics
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._owners: dict[int, tuple[Inbox, int]] = {}  # request id -> whose, and which of them
        self._is_stopping = False
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def engine(self) -> Engine:
        """The model's without an adapter."""
        return self.engines[BASE]

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step that runs; whoever is left is told."""
        self._commands.put(self._end)
        self._thread.join()

    def add(self, requests: Sequence[Request], inbox: Inbox) -> None:
        """Take checked requests, whose events go to an inbox with their indices."""
        self._commands.put(lambda: self._add(requests, inbox))
        if self._has_ended:  # then nobody may read the command
            inbox.messages.put(Left())

    def cancel(self, request_id: int) -> None:
        """Drop one request before the next step."""
        self._commands.put(lambda: self._cancel(request_id))

    def drop(self, inbox: Inbox) -> None:
        """Drop before the next step all that an inbox waits for, and say so to who reads it."""
        self._commands.put(lambda: self._drop(inbox))

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                if not self._turns.has_work:
                    self._commands.get()()
                while not self._commands.empty():
                    self._commands.get()()
                if self._turns.has_work and not self._is_stopping:
                    self._step()
                self._metrics.running.set(self._turns.num_running)
                self._metrics.waiting.set(self._turns.num_waiting)
        finally:  # whatever ended it, nobody waits for ever
            self._is_stopping = self._has_ended = True
            for inbox in {owner for owner, _ in self._owners.values()}:
                inbox.messages.put(Left())
            while not self._commands.empty():
                self._commands.get()()

    def _step(self) -> None:
        began = time.perf_counter()
        try:
            events = self._turns.step()
        except Exception as error:
            # What of the step was done is not known: whoever was in it cannot go on.
            LOG.exception("a step of the engine failed")
            self._metrics.failed_steps.inc()
            self._fail_all(error)
            return
        seconds = time.perf_counter() - began
        kinds: set[str] = set()
        batches: dict[Inbox, list[tuple[int, Event]]] = {}
        for event in events:
            inbox, index = self._owners[event.request_id]
            batches.setdefault(inbox, []).append((index, event))
            if isinstance(event, FinishedEvent | FailedEvent):
                del self._owners[event.request_id]
            else:
                kind = "image" if isinstance(event, ImageIdEvent) else "text"
                self._metrics.ids.labels(kind).inc()
                kinds.add(kind)
        # At least: layers are read once for both kinds, where their rows are one batch.
        self._metrics.note_step(seconds, max((self._step_bytes[kind] for kind in kinds), default=0))
        for inbox, batch in batches.items():
            inbox.messages.put(batch)

    def _add(self, requests: Sequence[Request], inbox: Inbox) -> None:
        if inbox.has_left or self._is_stopping:
            inbox.messages.put(Left())
            return
        for index, request in enumerate(requests):
            self._owners[self._turns.add(inbox.name, request)] = (inbox, index)

    def _cancel(self, request_id: int) -> None:
        self._turns.cancel(request_id)
        self._owners.pop(request_id, None)

    def _drop(self, inbox: Inbox) -> None:
        for request_id in [i for i, (owner, _) in self._owners.items() if owner is inbox]:
            self._cancel(request_id)
        inbox.messages.put(Left())

    def _fail_all(self, error: Exception) -> None:
        for inbox in {owner for owner, _ in self._owners.values()}:
            inbox.messages.put(error)
        for request_id in list(self._owners):
            self._cancel(request_id)

    def _end(self) -> None:
        self._is_stopping = True


class JobDriver(EngineDriver):
    """The driver of one request's thread: the library's, but another thread makes the steps."""

    def __init__(self, thread: EngineThread, inbox: Inbox, on_first: Callable[[], None]) -> None:
        super().__init__(
            thread.engines[inbox.name]
        )  # asked in ``check`` alone, which changes nothing
        self._thread = thread
        self._inbox = inbox
        self._on_first = on_first
        self._left: set[int] = set()
        self._indices: dict[int, int] = {}
        self.watch: Callable[[int, Event], None] | None = None
        """Sees every event before who runs the requests."""

    def cancel(self, request_id: int) -> None:
        """Drop one of the requests that are run."""
        self._left.discard(self._indices[request_id])
        self._thread.cancel(request_id)

    @property
    def has_left(self) -> bool:
        """Whether nobody waits for the work any more."""
        return self._inbox.has_left

    def stop_if_left(self) -> None:
        """End the work here where nobody waits for it any more."""
        if self.has_left:
            raise Left

    def run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Event]]:
        """Run requests to their end; see ``EngineDriver.run``.

        Raises:
            EngineFailure: The engine could not go on.
        """
        self._left = set(range(len(requests)))
        self._thread.add(requests, self._inbox)
        try:
            while self._left:
                message = self._inbox.messages.get()
                if isinstance(message, Left):
                    raise message
                if isinstance(message, Exception):
                    raise EngineFailure from message
                if not self._indices:
                    self._on_first()
                for index, event in message:
                    if index not in self._left:
                        continue
                    self._indices[event.request_id] = index
                    if isinstance(event, FailedEvent):
                        raise EngineFailure from event.error
                    if isinstance(event, FinishedEvent):
                        self._left.discard(index)
                    if self.watch is not None:
                        self.watch(index, event)
                    yield index, event
        finally:
            if self._left:
                self._thread.drop(self._inbox)
