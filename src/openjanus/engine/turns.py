"""Several engines as one: they step in turns, in one thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from openjanus.engine.engine import Engine
from openjanus.engine.request import Event, Request


class Turns:
    """Engines by name, whose requests have ids of their own together.

    Each step is one engine's: the next that has work. So a name that has much to do keeps another
    waiting for a step at a time, however much it is.

    Args:
        engines: At least one.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._names = tuple(engines)
        self._engines = tuple(engines.values())
        self._next = 0

    @property
    def has_work(self) -> bool:
        """Whether any engine has."""
        return any(engine.has_work for engine in self._engines)

    @property
    def num_running(self) -> int:
        """Requests that have a slot."""
        return sum(engine.num_running for engine in self._engines)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""
        return sum(engine.num_waiting for engine in self._engines)

    def add(self, name: str, request: Request) -> int:
        """Take a request for one of the engines; its id among all.

        Raises:
            ValueError: It does not suit that model; nothing has changed.
        """
        place = self._names.index(name)
        return self._engines[place].add(request) * len(self._engines) + place

    def cancel(self, request_id: int) -> bool:
        """Drop a request at once; see ``Engine.cancel``."""
        own_id, place = divmod(request_id, len(self._engines))
        return self._engines[place].cancel(own_id)

    def step(self) -> list[Event]:
        """A step of the next engine that has work; see ``Engine.step``."""
        number = len(self._engines)
        for offset in range(number):
            place = (self._next + offset) % number
            if self._engines[place].has_work:
                # Also where the step fails: the others are not kept waiting by it.
                self._next = (place + 1) % number
                events = self._engines[place].step()
                return [_numbered(event, event.request_id * number + place) for event in events]
        return []


def _numbered(event: Event, request_id: int) -> Event:
    return event if event.request_id == request_id else replace(event, request_id=request_id)
