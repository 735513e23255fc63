"""Several ids of a drawing in one step, and still the ids of one at a time.

With the noise of every position held fixed, sampling is a map from the ids before a position to its
id. So a step may feed guesses of the coming ids behind the last known one, and sample after each:
where the guesses before a position are what was sampled there, its sample is the sequential one.
The run of right guesses is taken, and the first sample behind it, which corrects the first wrong
one. The other samples are better guesses for the next step (Jacobi iteration, Song et al.,
"Accelerating feedforward computation via parallel nonlinear equation solving", ICML 2021). A wrong
guess costs nothing but its place in a batch, and what it has left in the cache is overwritten.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence


class Draft:
    """A drawing in the making: the ids that are known, and guesses of those that come next.

    Args:
        num_ids: Ids N of a drawing.
        side: Ids of a row.
        known: The first ids, at least one.
    """

    def __init__(self, num_ids: int, side: int, known: Sequence[int]) -> None:
        assert known
        self._num_ids = num_ids
        self._side = side
        self._known = list(known)
        self._guesses: list[int] = []

    def window(self, width: int) -> list[int]:
        """The last known id, and guesses of what comes next.

        No more than can be sampled after: the last of N ids is never fed in.

        Args:
            width: Ids at most, >= 1.
        """
        width = min(width, self._num_ids - len(self._known))
        while len(self._guesses) < width - 1:
            self._guesses.append(self._guess())
        return [self._known[-1], *self._guesses[: width - 1]]

    def _guess(self) -> int:
        """The id above the first place that has none; in the first row, the one to the left."""
        ids = [*self._known, *self._guesses]
        return ids[-self._side] if len(ids) >= self._side else ids[-1]

    def take(self, samples: Sequence[int]) -> list[int]:
        """Take what a step has sampled after each id of the last window.

        Returns:
            The ids that are known now and were not before: at least one.
        """
        right = 0
        while right < len(samples) - 1 and self._guesses[right] == samples[right]:
            right += 1
        taken = list(samples[: right + 1])
        self._known += taken
        self._guesses = [*samples[right + 1 :], *self._guesses[len(samples) :]]
        return taken
