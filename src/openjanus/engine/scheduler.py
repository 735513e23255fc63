"""Who sits where: pages, slots and the queues, in plain Python, without torch.

A page is a batch of fixed shape: one mode, one capacity, a fixed number of slots.

Requests of one mode are admitted strictly in order of arrival. Another mode's may go first where
they find a place and the older one does not; words and pictures each leave the other a share of the
pages, so that a flood of drawings does not keep a chat waiting, nor the other way round. And nobody
waits for ever: who has been overtaken ``PATIENCE`` times is overtaken no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Mode = Literal["image", "text", "compose"]

SMALLEST_CAPACITY = 64
PATIENCE = 64
"""Younger requests that may be seated before one that has no place."""
SHARE = 7 / 8
"""Of the pages, and of their memory, that words alone or pictures alone may take."""


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


class _Waiting:
    """A request in a queue."""

    __slots__ = ("capacity", "overtaken", "request_id")

    def __init__(self, request_id: int, capacity: int) -> None:
        self.request_id = request_id
        self.capacity = capacity
        self.overtaken = 0


class Scheduler:
    """Admits requests to slots of pages, makes pages up to a limit, and queues the rest.

    Args:
        slots: Requests that fit in one page, by mode.
        max_pages: Pages that exist at once.
        cost: Bytes of a page of a mode and capacity; None counts none.
        budget: Bytes of all pages together; None is as many as there are.
        is_estimate: Whether the budget is a guess, which a page alone may be more than.
    """

    def __init__(
        self,
        slots: Mapping[Mode, int],
        max_pages: int,
        *,
        cost: Callable[[Mode, int], int] | None = None,
        budget: int | None = None,
        is_estimate: bool = False,
    ) -> None:
        self._slots = dict(slots)
        self._max_pages = max_pages
        self._cost = cost if cost is not None and budget is not None else lambda *_: 0
        self._budget = 0 if budget is None else budget
        self._is_estimate = is_estimate
        self._pages: dict[int, _Page] = {}
        self._next_page_id = 0
        self._queues: dict[Mode, deque[_Waiting]] = {mode: deque() for mode in slots}
        self._seats: dict[int, Seat] = {}

    @property
    def num_waiting(self) -> int:
        """Requests in the queues."""
        return sum(map(len, self._queues.values()))

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

    def check(self, mode: Mode, capacity: int) -> None:
        """Refuse what could never be seated.

        Raises:
            ValueError: A page of this capacity alone is more than the budget.
        """
        cost = self._cost(mode, capacity)
        if cost > self._budget and not self._is_estimate:
            raise ValueError(
                f"a batch of {capacity} tokens a row takes {cost:,} bytes of cache, the engine has "
                f"{self._budget:,}: raise max_cache_bytes, lower rows_per_page, or ask for less"
            )

    def submit(self, request_id: int, mode: Mode, capacity: int) -> None:
        """Queue a request that needs ``capacity`` tokens of cache for life; ids must ascend."""
        assert request_id not in self._seats
        self._queues[mode].append(_Waiting(request_id, capacity))

    def admit(self) -> Seat | None:
        """Seat the oldest request that has a place; None when all must wait, or nobody does."""
        heads: list[tuple[_Waiting, Mode]] = [
            (queue[0], mode) for mode, queue in self._queues.items() if queue
        ]
        heads.sort(key=lambda head: head[0].request_id)
        passed: list[_Waiting] = []
        for waiting, mode in heads:
            page_id = self._free_page(mode, waiting.capacity)
            if page_id is None:
                if waiting.overtaken >= PATIENCE:
                    return None  # the next place is for this one
                passed.append(waiting)
                continue
            for other in passed:
                other.overtaken += 1
            self._queues[mode].popleft()
            seats = self._pages[page_id].seats
            slot = seats.index(None)
            seats[slot] = waiting.request_id
            seat = self._seats[waiting.request_id] = Seat(waiting.request_id, page_id, slot)
            return seat
        return None

    def _free_page(self, mode: Mode, capacity: int) -> int | None:
        for page_id, page in self._pages.items():
            if (page.mode, page.capacity) == (mode, capacity) and None in page.seats:
                return page_id
        if not self._may_grow(mode, capacity):
            return None
        while not self._has_room(mode, capacity):
            empty = next((i for i in self._pages if not self.seated(i)), None)
            if empty is None:
                return None
            del self._pages[empty]
        page_id = self._next_page_id
        self._next_page_id += 1
        self._pages[page_id] = _Page(mode, capacity, [None] * self._slots[mode])
        return page_id

    def _has_room(self, mode: Mode, capacity: int) -> bool:
        """Whether one more page fits."""
        if self._is_estimate and not self._pages:
            return True
        taken = sum(self._cost(page.mode, page.capacity) for page in self._pages.values())
        is_few = len(self._pages) < self._max_pages
        return is_few and taken + self._cost(mode, capacity) <= self._budget

    def _may_grow(self, mode: Mode, capacity: int) -> bool:
        """Whether words, or pictures, would leave the others their share with one more page.

        Their first page is always theirs.
        """
        own = [
            page
            for page_id, page in self._pages.items()
            if (page.mode == "text") == (mode == "text") and self.seated(page_id)
        ]
        if not own:
            return True
        taken = sum(self._cost(page.mode, page.capacity) for page in own)
        is_few = len(own) + 1 <= max(1, int(SHARE * self._max_pages))
        return is_few and taken + self._cost(mode, capacity) <= SHARE * self._budget

    def release(self, request_id: int) -> bool:
        """Free a request's slot or take it out of its queue; False when it is not here."""
        seat = self._seats.pop(request_id, None)
        if seat is not None:
            self._pages[seat.page_id].seats[seat.slot] = None
            return True
        for queue in self._queues.values():
            waiting = next((item for item in queue if item.request_id == request_id), None)
            if waiting is not None:
                queue.remove(waiting)
                return True
        return False
