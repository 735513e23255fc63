"""Several samples in one row, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put samples into as few rows as first-fit-decreasing finds.

    Args:
        lengths: Tokens of each sample.
        capacity: Tokens a row holds. A sample is never split: a longer one has a row of its own.

    Returns:
        Indices of the samples of each row; a function of the arguments alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows: list[list[int]] = []
    room: list[int] = []
    for index in order:
        length = lengths[index]
        row = next((r for r, left in enumerate(room) if length <= left), None)
        if row is None:
            rows.append([index])
            room.append(capacity - length)
        else:
            rows[row].append(index)
            room[row] -= length
    return rows


@dataclass(frozen=True, slots=True)
class Piece(Generic[T]):
    """A sample as a packer sees it."""

    name: T
    """Whatever finds the sample again."""
    length: int
    """Tokens."""
    images: int = 0
    """Pictures to understand."""


@dataclass(slots=True)
class Bin(Generic[T]):
    """A row that is being filled."""

    pieces: list[Piece[T]] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens in it."""
        return sum(piece.length for piece in self.pieces)

    @property
    def images(self) -> int:
        """Pictures to understand in it."""
        return sum(piece.images for piece in self.pieces)


@dataclass(frozen=True, kw_only=True, slots=True)
class BinRules:
    """What fits where."""

    capacity: int
    """Tokens a row holds."""
    max_open: int = 16
    """Rows that are filled at once: the more, the fuller they get, and the longer samples wait."""
    max_images: int | None = None
    """Pictures to understand that a row holds; None is any number."""


def put(bins: list[Bin[T]], piece: Piece[T], rules: BinRules) -> Bin[T] | None:
    """Put a sample into the open row that it fills best, changing ``bins`` in place.

    Args:
        bins: Open rows.
        piece: At most ``rules.capacity`` tokens and ``rules.max_images`` pictures.
        rules: What fits.

    Returns:
        The row that is closed: one that is now full; else, where a new one had to be opened and
        ``max_open`` already were, the fullest. None if no row is.
    """
    fitting = [
        (rules.capacity - row.length - piece.length, place)
        for place, row in enumerate(bins)
        if row.length + piece.length <= rules.capacity
        and (rules.max_images is None or row.images + piece.images <= rules.max_images)
    ]
    if fitting:
        room, place = min(fitting)
        bins[place].pieces.append(piece)
        return bins.pop(place) if room == 0 else None
    closed = None
    if len(bins) >= rules.max_open:
        fullest = max(range(len(bins)), key=lambda place: (bins[place].length, -place))
        closed = bins.pop(fullest)
    bins.append(Bin([piece]))
    if closed is None and piece.length == rules.capacity:
        return bins.pop()
    return closed
