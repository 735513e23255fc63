"""Who sits where: pages, slots and the queue, in plain Python, without torch.

A page is a batch of fixed shape: one mode, one capacity, a fixed number of slots. Requests are
admitted strictly in order of arrival: nobody overtakes, so nobody starves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Mode = Literal["image", "text", "compose"]

SMALLEST_CAPACITY = 64


def capacity_class(num_tokens: int, context: int) -> int:
    """Cache tokens that a request of ``num_tokens`` gets: 64, 96, 128, 192, 256, 384, 512, ...

    Classes are powers of two and their halfway points, cut at the context, so that requests of
    similar lengths share pages and no cache is much larger than what it holds.

    Raises:
        ValueError: ``num_tokens`` is past the context.
    """
    if not 0 < num_tokens <= context:
        raise ValueError(
            f"a request takes {num_tokens} tokens, the context holds {context}: "
            "shorten the prompt or ask for fewer new tokens"
        )
    power = SMALLEST_CAPACITY
    while power < num_tokens:
        if power * 3 // 2 >= num_tokens:
            return min(power * 3 // 2, context)
        power *= 2
    return min(power, context)


@dataclass(frozen=True, slots=True)
class Seat:
    """Where an admitted request sits."""

    request_id: int
    page_id: int
    slot: int


@dataclass(frozen=True, slots=True)
class _Page:
    mode: Mode
    capacity: int
    seats: list[int | None]


class Scheduler:
    """Admits requests to slots of pages, makes pages up to a limit, and queues the rest.

    Args:
        slots: Requests that fit in one page, by mode.
        max_pages: Pages that exist at once.
    """

    def __init__(self, slots: Mapping[Mode, int], max_pages: int) -> None:
        self._slots = dict(slots)
        self._max_pages = max_pages
        self._pages: dict[int, _Page] = {}
        self._next_page_id = 0
        self._queue: deque[tuple[int, Mode, int]] = deque()
        self._seats: dict[int, Seat] = {}

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def num_running(self) -> int:
        """Requests that sit in a slot."""
        return len(self._seats)

    @property
    def page_ids(self) -> list[int]:
        """Pages that exist, oldest first; empty ones are kept until their place is needed."""
        return list(self._pages)

    def page_shape(self, page_id: int) -> tuple[Mode, int]:
        """Mode and capacity of a page."""
        page = self._pages[page_id]
        return page.mode, page.capacity

    def seat(self, request_id: int) -> Seat | None:
        """Where a request sits; None while it waits, or when it is gone."""
        return self._seats.get(request_id)

    def seated(self, page_id: int) -> list[tuple[int, int]]:
        """(slot, request id) of everyone on a page, by slot."""
        seats = self._pages[page_id].seats
        return [(slot, request) for slot, request in enumerate(seats) if request is not None]

    def submit(self, request_id: int, mode: Mode, capacity: int) -> None:
        """Queue a request that needs ``capacity`` tokens of cache for life."""
        assert request_id not in self._seats
        self._queue.append((request_id, mode, capacity))

    def admit(self) -> Seat | None:
        """Seat the first request of the queue; None when it must wait or nobody does."""
        if not self._queue:
            return None
        request_id, mode, capacity = self._queue[0]
        page_id = self._free_page(mode, capacity)
        if page_id is None:
            return None
        self._queue.popleft()
        seats = self._pages[page_id].seats
        slot = seats.index(None)
        seats[slot] = request_id
        self._seats[request_id] = Seat(request_id, page_id, slot)
        return self._seats[request_id]

    def _free_page(self, mode: Mode, capacity: int) -> int | None:
        for page_id, page in self._pages.items():
            if (page.mode, page.capacity) == (mode, capacity) and None in page.seats:
                return page_id
        if len(self._pages) >= self._max_pages:
            empty = next((i for i in self._pages if not self.seated(i)), None)
            if empty is None:
                return None
            del self._pages[empty]
        page_id = self._next_page_id
        self._next_page_id += 1
        self._pages[page_id] = _Page(mode, capacity, [None] * self._slots[mode])
        return page_id

    def release(self, request_id: int) -> bool:
        """Free a request's slot or take it out of the queue; False when it is not here."""
        seat = self._seats.pop(request_id, None)
        if seat is not None:
            self._pages[seat.page_id].seats[seat.slot] = None
            return True
        waiting = next((item for item in self._queue if item[0] == request_id), None)
        if waiting is not None:
            self._queue.remove(waiting)
        return waiting is not None
