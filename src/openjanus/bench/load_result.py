"""What became of a load: percentiles, goodput, refusals and errors, by plain arithmetic."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openjanus.bench.arrivals import KINDS, MEASURES_OF, Arrival, Kind, LoadOptions, Measure

FORMAT_VERSION = 1
REFUSED = (429, 503)
"""Statuses that say: not now."""
PERCENTS = (50, 90, 99)
TIMED = "first word", "first partial"
"""Measures that an outcome calls first; the others are the whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one request.

    Seconds count from when it was due, not from when it was sent: a client that is late makes an
    answer late.
    """

    arrival: Arrival
    late_s: float
    """From when it was due to when it was sent."""
    status: int | None
    """None where no answer began."""
    error: str | None
    """Its code, or what happened to the connection; None is a whole answer."""
    first_s: float | None
    """To the first word or the first partial picture."""
    whole_s: float
    """To the end, whichever it was."""
    num_tokens: int = 0
    """Of a reply, as the server counts them."""

    @property
    def is_answered(self) -> bool:
        """Whether a whole answer came."""
        return self.error is None

    @property
    def is_refused(self) -> bool:
        """Whether the server said that it has too much to do."""
        return self.error is not None and self.status in REFUSED

    def seconds(self, measure: Measure) -> float | None:
        """A measure of an answer; None where it has none."""
        if not self.is_answered or measure not in MEASURES_OF[self.arrival.kind]:
            return None
        return self.first_s if measure in TIMED else self.whole_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds of many, by nearest rank: each is one that was measured."""

    count: int
    p50: float
    p90: float
    p99: float
    most: float


@dataclass(frozen=True, kw_only=True, slots=True)
class OfKind:
    """What became of the requests of one kind."""

    kind: Kind
    sent: int
    answered: int
    good: int
    """Answered, and within all limits that are given."""
    times: dict[str, Times]
    """By measure, of those that were answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadResult:
    """A whole load."""

    url: str
    model: str | None
    options: LoadOptions
    seconds: float
    """From the first request to the last end."""
    sent: int
    answered: int
    good: int
    refusals: dict[str, Times]
    """By status."""
    errors: dict[str, int]
    """By status and code, refusals left out."""
    late: Times
    """How late this client sent: where it is much, the client was the limit."""
    tokens: int
    """Of all replies."""
    kinds: tuple[OfKind, ...]

    @property
    def goodput(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds

    @property
    def good_share(self) -> float:
        """Of all that were sent."""
        return self.good / self.sent

    def of(self, kind: Kind) -> OfKind | None:
        """What became of a kind; None where there was none."""
        return next((one for one in self.kinds if one.kind == kind), None)

    def as_data(self) -> dict[str, Any]:
        """As JSON holds it."""
        derived = {"goodput": self.goodput, "good_share": self.good_share}
        return {"format_version": FORMAT_VERSION, **asdict(self), **derived}

    def lines(self) -> dict[str, object]:
        """Name -> value, to be read by people."""
        limits = ", ".join(f"{name} {limit:g} s" for name, limit in self.options.limits)
        told: dict[str, object] = {
            "server": self.url if self.model is None else f"{self.url}, {self.model}",
            "offered": f"{self.options.rate:g} requests / s ({self.options.arrivals}), "
            f"{self.sent:,} in {self.seconds:.1f} s",
            "answered": f"{self.answered:,}, {self.answered / self.seconds:.3g} / s",
            "good": f"{self.good:,} ({self.good_share:.1%}), {self.goodput:.3g} / s"
            f" within {limits or 'no limit'}",
        }
        if self.tokens:
            told["words"] = f"{self.tokens / self.seconds:,.3g} tokens / s"
        for one in self.kinds:
            told[one.kind] = f"{one.answered:,} of {one.sent:,} answered, {one.good:,} good"
            told |= {f"{one.kind}, {name}": spelled(t) for name, t in one.times.items()}
        for status, times in self.refusals.items():
            told[f"refused, {status}"] = f"{times.count:,}, after {spelled(times)}"
        for code, number in self.errors.items():
            told[f"error, {code}"] = f"{number:,}"
        told["sent late by"] = spelled(self.late)
        return told


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The least value that so many percent are not above (nearest rank).

    Args:
        ascending: At least one, sorted.
        percent: In (0, 100].
    """
    return ascending[math.ceil(percent / 100 * len(ascending)) - 1]


def times_of(seconds: Iterable[float]) -> Times | None:
    """Percentiles; None where there is nothing."""
    ascending = sorted(seconds)
    if not ascending:
        return None
    p50, p90, p99 = (percentile(ascending, percent) for percent in PERCENTS)
    return Times(count=len(ascending), p50=p50, p90=p90, p99=p99, most=ascending[-1])


def spelled(times: Times) -> str:
    """For people, in seconds or thousandths."""
    values = (times.p50, times.p90, times.p99, times.most)
    unit, factor = ("ms", 1e3) if times.most < 1 else ("s", 1)
    names = ("p50", "p90", "p99", "most")
    pairs = zip(names, values, strict=True)
    return ", ".join(f"{name} {value * factor:.3g}" for name, value in pairs) + f" {unit}"


def is_good(outcome: Outcome, limits: Sequence[tuple[Measure, float]]) -> bool:
    """Whether an answer is whole and within the limits of its kind.

    A picture without any partial one keeps that limit by being whole in time.
    """
    if not outcome.is_answered:
        return False
    for measure, limit in limits:
        if measure not in MEASURES_OF[outcome.arrival.kind]:
            continue
        seconds = outcome.seconds(measure)
        if (outcome.whole_s if seconds is None else seconds) > limit:
            return False
    return True


def result_of(
    outcomes: Sequence[Outcome], options: LoadOptions, *, url: str, model: str | None
) -> LoadResult:
    """Count.

    Args:
        outcomes: Of all requests, at least one, in any order.
        options: Of the load.
        url: Of the server.
        model: That was asked.
    """
    good = {one.arrival.index for one in outcomes if is_good(one, options.limits)}
    refused: dict[str, list[float]] = {}
    for one in outcomes:
        if one.is_refused:
            refused.setdefault(str(one.status), []).append(one.whole_s)
    errors = Counter(_name(one) for one in outcomes if not (one.is_answered or one.is_refused))
    late = times_of(one.late_s for one in outcomes)
    assert late is not None
    return LoadResult(
        url=url,
        model=model,
        options=options,
        seconds=max(one.arrival.at_s + one.whole_s for one in outcomes),
        sent=len(outcomes),
        answered=sum(one.is_answered for one in outcomes),
        good=len(good),
        refusals={status: _times(refused[status]) for status in sorted(refused)},
        errors=dict(errors.most_common()),
        late=late,
        tokens=sum(one.num_tokens for one in outcomes),
        kinds=tuple(
            _of_kind(kind, [one for one in outcomes if one.arrival.kind == kind], good)
            for kind in KINDS
            if any(one.arrival.kind == kind for one in outcomes)
        ),
    )


def _name(outcome: Outcome) -> str:
    return str(outcome.error) if outcome.status is None else f"{outcome.status} {outcome.error}"


def _times(seconds: Sequence[float]) -> Times:
    times = times_of(seconds)
    assert times is not None
    return times


def _of_kind(kind: Kind, outcomes: Sequence[Outcome], good: set[int]) -> OfKind:
    measured = {
        measure: [s for one in outcomes if (s := one.seconds(measure)) is not None]
        for measure in MEASURES_OF[kind]
    }
    return OfKind(
        kind=kind,
        sent=len(outcomes),
        answered=sum(one.is_answered for one in outcomes),
        good=sum(one.arrival.index in good for one in outcomes),
        times={name: _times(seconds) for name, seconds in measured.items() if seconds},
    )
