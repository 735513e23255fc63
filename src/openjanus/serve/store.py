"""Pictures that are answered as addresses: kept in memory for a while."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable


class PictureStore:
    """The last pictures, by names that cannot be guessed. Used by the event loop's thread alone.

    Args:
        max_bytes: Of all together; the oldest go first.
        lifetime_s: After which one is gone.
        clock: Seconds, ascending.
    """

    def __init__(self, max_bytes: int, lifetime_s: float, clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of all."""
        return self._num_bytes

    def put(self, png: bytes) -> str:
        """Keep a picture; its name."""
        name = secrets.token_urlsafe(24)
        self._kept[name] = (self._clock() + self._lifetime_s, png)
        self._num_bytes += len(png)
        self._forget()
        return name

    def get(self, name: str) -> bytes | None:
        """A picture, or None where it is gone."""
        self._forget()
        found = self._kept.get(name)
        return None if found is None else found[1]

    def _forget(self) -> None:
        now = self._clock()
        while self._kept:
            name, (end, png) = next(iter(self._kept.items()))  # all live as long: oldest first
            # The newest stays, however large: somebody is about to be told of it.
            if end > now and (self._num_bytes <= self._max_bytes or len(self._kept) == 1):
                return
            del self._kept[name]
            self._num_bytes -= len(png)
