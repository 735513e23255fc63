"""The samples of each step. What comes next is a function of a small state and nothing else.

A stream holds no position: ``take`` is given the state after one step and returns the samples of
the next one with the state after it. The state is plain data that goes into a checkpoint; neither
workers nor processes are in it, so a run may be resumed with other numbers of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from openjanus.data.encoding import EncodedSample
from openjanus.data.fetching import BadSample, Crew, Fetched, TooManyBadSamples
from openjanus.data.mixture import Draw, Mixture

StreamState = dict[str, Any]
"""JSON of a stream's position; ``{}`` is the beginning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSamples:
    """What one process trains on in a step."""

    draws: tuple[Draw, ...]
    """What each sample is, of this process."""
    samples: tuple[EncodedSample, ...]
    rows: tuple[tuple[int, ...], ...] | None = None
    """Samples of each row, where rows are packed ahead; None leaves that to the collator."""
    bad: tuple[BadSample, ...] = field(default=())
    """What was replaced on the way, in all processes."""
    state: StreamState
    """After this step."""
    fill: float | None = None
    """Share of the rows' tokens that are used, in all processes, where rows are packed ahead."""


class Stream(Protocol):
    """Samples, step after step."""

    def take(self, state: StreamState) -> StepSamples:
        """The samples of the step after ``state``."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every step is this process's, and how processes tell each other."""

    rank: int = 0
    world: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    """What every process gave, by rank; all must call it, in the same order."""

    def check(self, batch_size: int) -> None:
        """Raise ``ValueError`` for a step that cannot be dealt evenly."""
        if batch_size < 1 or batch_size % self.world != 0:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes ({self.world}), "
                f"got {batch_size}"
            )


ALONE = Share()
"""One process has everything."""


class SampleStream:
    """A number of samples a step; step k is the same whether or not any other was asked for.

    Args:
        crew: Fetches samples.
        mixture: The order.
        batch_size: Samples a step, of all processes; a multiple of them.
        share: This process's part.

    Raises:
        ValueError: No samples, or they cannot be dealt evenly.
    """

    def __init__(
        self, crew: Crew, mixture: Mixture, *, batch_size: int, share: Share = ALONE
    ) -> None:
        share.check(batch_size)
        self.crew = crew
        self.mixture = mixture
        self.batch_size = batch_size
        self.share = share

    def take(self, state: StreamState) -> StepSamples:
        """The samples of the step after ``state``.

        Raises:
            TooManyBadSamples: Replacement after replacement is broken.
        """
        return self.step(state.get("step", 0))

    def step(self, step: int) -> StepSamples:
        """The samples of a step, from 0; raises as ``take``."""
        draws = self.mixture.batch(step, self.batch_size)[self.share.rank :: self.share.world]
        fetched = fetch_together(self.crew, draws, self.share)
        bad = self.share.gather([bad for one in fetched for bad in one.bad])
        return StepSamples(
            draws=tuple(one.draw for one in fetched),
            samples=tuple(one.sample for one in fetched),
            bad=tuple(one for part in bad for one in part),
            state={"step": step + 1},
        )


def fetch_together(crew: Crew, draws: Sequence[Draw], share: Share) -> list[Fetched]:
    """Fetch what is this process's; all must call it, and give up where one has to.

    Raises:
        TooManyBadSamples: Replacement after replacement is broken, in any process.
    """
    try:
        fetched, failure = crew.fetch(draws), None
    except TooManyBadSamples as error:
        fetched, failure = [], str(error)
    failures = [each for each in share.gather(failure) if each is not None]
    if failures:
        raise TooManyBadSamples(failures[0])
    return fetched
