"""Drives an engine for whoever asks: iterators open at the same time share its batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from openjanus.engine.engine import Engine
from openjanus.engine.request import Event, FailedEvent, Request


class EngineDriver:
    """Hands every event to the iterator whose request it belongs to. Not thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._inboxes: dict[int, deque[Event]] = {}

    def cancel(self, request_id: int) -> None:
        """Drop one of the requests that are run, by the id that its events carry."""
        self.engine.cancel(request_id)

    def run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Event]]:
        """Run requests to their end; closing the iterator cancels what is left of them.

        Nothing is queued before the first event is asked for, so an iterator that nobody starts
        leaves nothing behind.

        Args:
            requests: Checked by ``engine.check``.

        Yields:
            Each event with the index of its request.

        Raises:
            RuntimeError: A request could not be started (out of memory, for instance).
        """
        inbox: deque[Event] = deque()
        indices: dict[int, int] = {}
        try:
            for index, request in enumerate(requests):
                request_id = self.engine.add(request)
                indices[request_id] = index
                self._inboxes[request_id] = inbox
            while True:
                while inbox:
                    event = inbox.popleft()
                    if isinstance(event, FailedEvent):
                        raise event.error
                    yield indices[event.request_id], event
                if not any(request_id in self.engine for request_id in indices):
                    return
                for event in self.engine.step():
                    self._inboxes[event.request_id].append(event)
        finally:
            for request_id in indices:
                self.engine.cancel(request_id)
                del self._inboxes[request_id]
