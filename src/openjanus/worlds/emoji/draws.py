"""The draws that everything random here is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")
Name = TypeVar("Name", bound=str)


def below(rng: np.random.Generator, n: int) -> int:
    """A whole number from 0 to n - 1, all alike (several times faster than `rng.integers`)."""
    return int(rng.random() * n)


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of some options, all alike."""
    return options[int(rng.random() * len(options))]


class Weighted(Generic[T]):
    """Options with a weight each.

    Args:
        weights: At least 0, of one above 0.
    """

    def __init__(self, weights: Mapping[T, float]) -> None:
        self._options = tuple(weights)
        self._edges = np.cumsum(list(weights.values())) / sum(weights.values())

    def pick(self, rng: np.random.Generator) -> T:
        """One of them, as often as its weight says."""
        return self._options[int(np.searchsorted(self._edges, rng.random(), side="right"))]


def check_parts(parts: Mapping[Name, float], known: Sequence[Name]) -> None:
    """Refuse parts of a source's items that there are not, or that nothing weighs.

    Raises:
        ValueError: Unknown or no parts, or weights of which one is below 0 or none above.
    """
    unknown = [part for part in parts if part not in known]
    if unknown or not parts or min(parts.values()) < 0 or sum(parts.values()) <= 0:
        raise ValueError(
            f"parts must weigh some of {', '.join(known)} at >= 0 and one > 0, got {dict(parts)}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HowMany:
    """A number of things from a least to a most, all alike.

    Raises:
        ValueError: Not `fewest` <= least <= most <= `limit`.
    """

    things: str
    """What is counted: of "questions", the options are least_questions and most_questions."""
    least: int
    most: int
    fewest: int = 1
    limit: int

    def __post_init__(self) -> None:
        if not self.fewest <= self.least <= self.most <= self.limit:
            raise ValueError(
                f"{self.things} must be {self.fewest} <= least_{self.things} <= "
                f"most_{self.things} <= {self.limit}, got {self.least} and {self.most}"
            )

    def draw(self, rng: np.random.Generator) -> int:
        """One such number."""
        return self.least + below(rng, self.most - self.least + 1)
