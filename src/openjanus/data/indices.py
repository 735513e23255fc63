"""Items of a source by index, as those of a list."""

from __future__ import annotations


def checked_index(index: int, length: int) -> int:
    """An index for `__getitem__`, counted from the end when negative.

    Returns:
        0 to length - 1.

    Raises:
        IndexError: Outside the length, which is what ends iteration.
    """
    if not -length <= index < length:
        raise IndexError(f"index must be below the length {length}, got {index}")
    return index % length
