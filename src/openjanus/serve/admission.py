"""How many requests are taken at once: counted at receipt, in plain Python, without a clock inside.

Used by the event loop's thread alone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from openjanus.serve.errors import ApiError, refused, stopping

MINUTE_S = 60.0


class Admission:
    """Takes requests up to a limit, of all clients and of each key.

    Args:
        limit: Requests at once.
        limit_per_key: Of one key; None is no limit of its own.
        per_minute: Requests of one key in a minute; None is no limit.
        clock: Seconds, ascending.
    """

    def __init__(
        self,
        limit: int,
        *,
        limit_per_key: int | None = None,
        per_minute: int | None = None,
        clock: Callable[[], float],
    ) -> None:
        self._limit = limit
        self._limit_per_key = limit_per_key
        self._per_minute = per_minute
        self._clock = clock
        self._inside: Counter[str] = Counter()
        self._times: dict[str, deque[float]] = {}
        self.is_draining = False
        """Whether nobody is taken any more, because the server is about to stop."""

    @property
    def num_inside(self) -> int:
        """Requests that are here."""
        return self._inside.total()

    @property
    def is_full(self) -> bool:
        """Whether the next one would be refused."""
        return self.num_inside >= self._limit

    def enter(self, key: str) -> None:
        """Take a request of a key.

        Raises:
            ApiError: There are too many, with a time after which to try again.
        """
        if self.is_draining:
            raise stopping()
        self._check(key, 1)
        self._count_minute(key)
        self._inside[key] += 1

    def widen(self, key: str, places: int) -> None:
        """Take more places for a request that is inside: n replies are n places, not one.

        Raises:
            ApiError: There are not so many, now or ever.
        """
        most = self._limit if self._limit_per_key is None else self._limit_per_key
        most = min(most, self._limit)
        if places >= most:
            raise refused(
                f"n is {places + 1}, and {most} at once is all that may be: ask for fewer",
                param="n",
            )
        self._check(key, places)
        self._inside[key] += places

    def leave(self, key: str, places: int = 1) -> None:
        """A request of a key has ended."""
        self._inside[key] -= places
        assert self._inside[key] >= 0
        if self._inside[key] == 0:
            del self._inside[key]

    def _check(self, key: str, places: int) -> None:
        if self.num_inside + places > self._limit:
            few = f"the server has {self.num_inside} requests, as many as it takes"
            if places > 1:
                few = (
                    f"of {self._limit} places {self.num_inside} are taken, n asks for {places} more"
                )
            raise ApiError(503, f"{few}: try again later", code="overloaded", retry_after_s=1)
        if self._limit_per_key is not None and self._inside[key] + places > self._limit_per_key:
            raise ApiError(
                429,
                f"this key has {self._inside[key]} requests here and may have "
                f"{self._limit_per_key}: wait for one",
                code="too_many_at_once",
                retry_after_s=1,
            )

    def _count_minute(self, key: str) -> None:
        if self._per_minute is None:
            return
        now = self._clock()
        times = self._times.setdefault(key, deque())
        while times and times[0] <= now - MINUTE_S:
            times.popleft()
        if len(times) >= self._per_minute:
            raise ApiError(
                429,
                f"this key may send {self._per_minute} requests a minute: wait",
                code="rate_limit_exceeded",
                retry_after_s=max(1, round(times[0] + MINUTE_S - now)),
            )
        times.append(now)
