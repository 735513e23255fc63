"""Prompts on their way: whose piece is run next, in plain Python, without torch."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass


@dataclass(slots=True)
class Opening:
    """A request whose prompt is being run."""

    request_id: int
    pieces: Generator[int, None, list[int]]
    """Runs a piece each time it is asked, and says what it cost; its first ids at the end."""
    left: int
    """Tokens that it still takes, at most."""

    def advance(self) -> tuple[int, list[int] | None]:
        """Run a piece: what it cost, and the first ids where it was the last."""
        cost = 0
        try:
            cost = next(self.pieces)
            self.left -= cost
            if self.left == 0:  # what comes of the last piece waits for no other turn
                cost += next(self.pieces)
        except StopIteration as end:
            return cost, end.value
        return cost, None


class Openings:
    """Everybody who has a slot and no id yet.

    The least that is left and the oldest take turns, piece by piece: a question does not wait for
    a book, nor the book for ever. What comes to the same is run in order, so that those that ask
    for one prompt find it prefilled by the first of them.
    """

    def __init__(self) -> None:
        self._by_id: dict[int, Opening] = {}  # oldest first
        self._oldest_is_next = False

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, opening: Opening) -> None:
        """Take one more."""
        self._by_id[opening.request_id] = opening

    def drop(self, request_id: int) -> None:
        """Forget one that is through, or gone; it need not be here."""
        self._by_id.pop(request_id, None)

    def next(self) -> Opening:
        """Whose turn it is; there must be one."""
        openings = self._by_id.values()
        if self._oldest_is_next:
            chosen = next(iter(openings))
        else:
            chosen = min(openings, key=lambda one: one.left)
        self._oldest_is_next = not self._oldest_is_next
        return chosen
