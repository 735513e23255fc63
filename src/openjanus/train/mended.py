"""Items of the doors' own trainings, of which a broken one is named and replaced by another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from tqdm import tqdm

from openjanus.data.fetching import MAX_ATTEMPTS, TooManyBadSamples
from openjanus.data.mixture import stable_hash
from openjanus.train.parallel import World
from openjanus.train.vq_data import HELD_OUT_FIRST, PictureSource

T = TypeVar("T")


class Mended(Generic[T]):
    """Items by number; which one replaces a broken one is a function of its number alone.

    Args:
        read: An item by its number.
        key: Its name.
        instead: The number of another, for a broken one's number and an attempt, from 1.
        limit: Different items that may be unusable before the run stops.
        world: All processes.
    """

    def __init__(
        self,
        read: Callable[[int], T],
        *,
        key: Callable[[int], str],
        instead: Callable[[int, int], int],
        limit: int,
        world: World,
    ) -> None:
        self._read, self.key, self._instead = read, key, instead
        self._limit, self._world = limit, world
        self._new: dict[str, str] = {}
        self.bad: dict[str, str] = {}
        """Names of what could not be used, of all processes, and why."""

    def read(self, number: int) -> T:
        """An item, or what replaces it.

        Raises:
            TooManyBadSamples: Replacement after replacement is broken.
        """
        place, name, reason = number, "", ""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return self._read(place)
            except Exception as error:  # noqa: BLE001 - any code of a source: named, limited
                name, reason = self.key(place), f"{type(error).__name__}: {error}"
                self._new[name] = reason
                place = self._instead(number, attempt)
        raise TooManyBadSamples(
            f"{MAX_ATTEMPTS} items in a row cannot be used, the last: {name}: {reason}; check the "
            "source and its options"
        )

    def count_bad(self) -> dict[str, Any]:
        """Name what was found since the last time; all processes must call this.

        Returns:
            ``bad_samples``, how many different ones there are by now; nothing where there is none.

        Raises:
            TooManyBadSamples: More than the run allows.
        """
        found = {name: why for part in self._world.gather(self._new) for name, why in part.items()}
        new = {name: why for name, why in found.items() if name not in self.bad}
        self._new = {}
        self.bad |= new
        for name, why in new.items() if self._world.is_main else ():
            tqdm.write(f"skipped {name}: {why}", file=sys.stderr)
        if len(self.bad) > self._limit and new:
            name, why = list(new.items())[-1]
            raise TooManyBadSamples(
                f"{len(self.bad)} items could not be used, max_bad_samples is {self._limit}; the "
                f"last: {name}: {why}"
            )
        return {"bad_samples": len(self.bad)} if self.bad else {}


class MendedPictures(Mended[np.ndarray]):
    """A source of pictures; what is held out is replaced by what is held out.

    Args:
        source: Of the pictures.
        seed: Names the replacements.
        limit: As ``Mended``.
        world: As ``Mended``.
    """

    def __init__(self, source: PictureSource, *, seed: int, limit: int, world: World) -> None:
        def instead(number: int, attempt: int) -> int:
            first = HELD_OUT_FIRST if number >= HELD_OUT_FIRST else 0
            return first + stable_hash("replacement", seed, number, attempt) % HELD_OUT_FIRST

        super().__init__(source.picture, key=source.key, instead=instead, limit=limit, world=world)

    def picture(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3); raises as ``read``."""
        return self.read(index)
