"""When requests come and of which kind: decided before the first is sent, in plain Python.

The loop is open: a request is sent when its time has come, whether or not the ones before it have
been answered, as clients who do not know of each other do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal, cast, get_args

import numpy as np

from openjanus.rules import near, require, require_at_least_one

Kind = Literal["chat", "vision", "draw", "stream-draw"]
Measure = Literal["first word", "whole reply", "first partial", "whole picture"]

KINDS: tuple[Kind, ...] = get_args(Kind)
MEASURES: tuple[Measure, ...] = get_args(Measure)
MEASURES_OF: dict[Kind, tuple[Measure, ...]] = {
    "chat": ("first word", "whole reply"),
    "vision": ("first word", "whole reply"),
    "draw": ("whole picture",),
    "stream-draw": ("first partial", "whole picture"),
}
"""What is timed of each kind; replies are streamed."""
LIMITS: dict[str, Measure] = {
    "first": "first word",
    "reply": "whole reply",
    "partial": "first partial",
    "picture": "whole picture",
}
"""How a limit is typed."""
MOST_REQUESTS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """What a load is made of.

    Raises:
        ValueError: A value breaks its rule.
    """

    rate: float = 1.0
    """Requests a second, of all kinds together."""
    requests: int | None = None
    """How many; None is what comes within ``seconds``."""
    seconds: float | None = None
    """How long requests come; None is until there are ``requests``."""
    mix: tuple[tuple[Kind, float], ...] = (("chat", 1.0),)
    """Shares of the kinds, by any scale."""
    arrivals: Literal["poisson", "constant"] = "poisson"
    seed: int = 0
    max_new_tokens: int = 64
    timeout_s: float = 120.0
    """Without a byte of an answer."""
    limits: tuple[tuple[Measure, float], ...] = ()
    """Seconds that an answer must keep to be a good one."""

    def __post_init__(self) -> None:
        require(0 < self.rate < math.inf, f"rate must be > 0 requests a second, got {self.rate}")
        require(
            (self.requests is None) != (self.seconds is None),
            "give either the number of requests or the seconds in which they come",
        )
        if self.requests is not None:
            require_at_least_one("requests", self.requests)
        for name, value in (("seconds", self.seconds), ("timeout_s", self.timeout_s)):
            require(
                value is None or 0 < value < math.inf,
                f"{name} must be a number of seconds > 0, got {value}",
            )
        number = self.rate * self.seconds if self.seconds is not None else self.requests or 0
        require(
            number <= MOST_REQUESTS,
            f"a load has at most {MOST_REQUESTS:,} requests, got {number:,.0f}: lower the rate or "
            "the time",
        )
        names = [kind for kind, _ in self.mix]
        require(
            len(names) > 0 and len(set(names)) == len(names) and set(names) <= set(KINDS),
            f"a mix has each kind of {', '.join(KINDS)} once at most, got {names}",
        )
        require(
            all(0 < share < math.inf for _, share in self.mix),
            f"shares of a mix must be > 0, got {dict(self.mix)}: leave a kind out",
        )
        require(
            self.arrivals in ("poisson", "constant"),
            f"arrivals are poisson or constant, got {self.arrivals!r}",
        )
        require(0 <= self.seed < 2**64, f"seed must be in [0, 2**64), got {self.seed}")
        require_at_least_one("max_new_tokens", self.max_new_tokens)
        for measure, limit in self.limits:
            require(measure in MEASURES, f"no measure {measure!r}; {near(measure, [*MEASURES])}")
            require(0 < limit < math.inf, f"the limit of {measure} must be > 0, got {limit}")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request to come."""

    index: int
    at_s: float
    """After the load's beginning."""
    kind: Kind
    content: int
    """In [0, 2**32): which words and which picture it has."""


def schedule(options: LoadOptions) -> tuple[Arrival, ...]:
    """All requests of a load, in order of time.

    Request i's kind and content are a function of (seed, i, mix) alone: another rate, or a longer
    load, changes neither; and times scale with the rate.
    """
    found: list[Arrival] = []
    at_s = 0.0
    total = sum(share for _, share in options.mix)
    for index in count():
        if index == options.requests:
            break
        gap, place, content = np.random.Generator(
            np.random.Philox(key=options.seed, counter=index)
        ).random(3)
        if index > 0:  # the first comes at once
            at_s += (-math.log1p(-gap) if options.arrivals == "poisson" else 1.0) / options.rate
        if options.seconds is not None and at_s >= options.seconds:
            break
        kind = _at(options.mix, place * total)
        found.append(Arrival(index, at_s, kind, int(content * 2**32)))
    return tuple(found)


def _at(mix: Sequence[tuple[Kind, float]], place: float) -> Kind:
    """The kind on whose stretch of the mix a place is."""
    for kind, share in mix:
        if place < share:
            return kind
        place -= share
    return mix[-1][0]  # the last bit of a sum


def parse_mix(text: str) -> tuple[tuple[Kind, float], ...]:
    """Read ``chat=3,draw=1``; a kind alone has the share 1.

    Raises:
        ValueError: An unknown kind, or a share that is no number.
    """
    mix: list[tuple[Kind, float]] = []
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        require(name in KINDS, f"no kind {name!r} of request; {near(name, [*KINDS])}")
        mix.append((cast(Kind, name), _number(part, value) if equals else 1.0))
    return tuple(mix)


def parse_limits(text: str) -> tuple[tuple[Measure, float], ...]:
    """Read ``first=0.5,picture=10``, in seconds.

    Raises:
        ValueError: An unknown measure, or a limit that is no number.
    """
    limits: list[tuple[Measure, float]] = []
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        require(name in LIMITS, f"no limit {name!r}; {near(name, [*LIMITS])}")
        limits.append((LIMITS[name], _number(part, value)))
    return tuple(limits)


def _number(part: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ValueError(f"{part.strip()!r} must read NAME=NUMBER, such as chat=3") from error
