"""Several samples in one row, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence


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
