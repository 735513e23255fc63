"""Which sample comes when: exact ratios in every step, and an order that is a function of it.

The order is counter-based. Draw n of a run belongs to step ``n // size``; its kind, source, epoch
and index are computed from n and the seed alone. So the state of the data is the step number, and
nothing has to be replayed or restored on a resume.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise

from openjanus.data.samples import KINDS, Kind

MAX_PERIOD = 10_000
"""Ratios are brought to whole numbers; their sum may not be larger than this."""

_FEISTEL_ROUNDS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One place in the order."""

    kind: Kind
    source: int
    """Which source of its kind."""
    index: int
    """Which item of the source."""
    epoch: int
    """How often the source has been gone through before."""


def stable_hash(*parts: int | str) -> int:
    """64 bits of SHA-256 of the parts: the same on every machine, in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def stable_uniform(*parts: int | str) -> float:
    """A number in [0, 1) that is a function of the parts alone."""
    return (stable_hash(*parts) >> 11) / (1 << 53)


def permuted(position: int, length: int, key: int) -> int:
    """Where a permutation of ``range(length)`` sends ``position``; nothing is stored.

    A Feistel network on the next even number of bits, walked until it is back in the range.
    """
    half = max(1, (max(1, length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = position >> half, position & mask
        for round_ in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (_mix(right, key + round_) & mask)
        position = (left << half) | right
        if position < length:
            return position


def _mix(value: int, key: int) -> int:
    """SplitMix64's finaliser of a value and a key."""
    x = (value + key * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)


class _Rota:
    """Choices in exact proportion: choice of draw n, and how often it was chosen before.

    A period of whole weights is laid out by error diffusion: each place goes to whoever is
    furthest behind its share. So any stretch of n draws is within one of the exact quota.
    """

    def __init__(self, weights: Sequence[float], what: str) -> None:
        counts = _whole_weights(weights, what)
        self.counts = counts
        self.period = sum(counts)
        self.order: list[int] = []
        self.ranks: list[int] = []
        taken = [0] * len(counts)
        self.places: list[list[int]] = [[] for _ in counts]
        for place in range(1, self.period + 1):
            chosen = max(
                range(len(counts)), key=lambda i: (counts[i] * place - taken[i] * self.period, -i)
            )
            self.order.append(chosen)
            self.ranks.append(taken[chosen])
            self.places[chosen].append(place - 1)
            taken[chosen] += 1

    def at(self, draw: int) -> tuple[int, int]:
        """The choice of a draw, and its rank among the draws of the same choice."""
        period, place = divmod(draw, self.period)
        chosen = self.order[place]
        return chosen, period * self.counts[chosen] + self.ranks[place]

    def taken(self, draw: int, choice: int) -> int:
        """How often a choice was made before a draw."""
        period, place = divmod(draw, self.period)
        return period * self.counts[choice] + bisect_left(self.places[choice], place)


def _whole_weights(weights: Sequence[float], what: str) -> list[int]:
    if not weights or any(not math.isfinite(w) or w < 0 for w in weights) or sum(weights) == 0:
        raise ValueError(f"{what} must be numbers >= 0, not all 0, got {list(weights)}")
    parts = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(part.denominator for part in parts))
    whole = [int(part * scale) for part in parts]
    divisor = math.gcd(*whole)
    whole = [number // divisor for number in whole]
    if sum(whole) > MAX_PERIOD:
        raise ValueError(
            f"{what} {list(weights)} need a period of {sum(whole)} draws, at most {MAX_PERIOD}: "
            "give rounder numbers"
        )
    return whole


Span = tuple[int, int | None]
"""Steps in which a source takes part: the first, and the one after the last; None is no end."""

ALWAYS: Span = (0, None)


class Mixture:
    """The order of a run over several sources of three kinds.

    Where sources come and go, the run has phases. A phase deals by the weights of those that take
    part in it; a source that was there before goes on with the items that it has not given yet.

    Args:
        lengths: By kind, the number of items of each of its sources.
        weights: By kind, the weight of each source among its kind, in draws.
        ratio: und : text : gen, counted in samples.
        seed: Names the order.
        spans: By kind, the steps in which each source takes part; all where left out.

    Raises:
        ValueError: A ratio or weight against a rule, an empty source, or a kind with a share but
            without sources.
    """

    def __init__(
        self,
        lengths: Mapping[Kind, Sequence[int]],
        weights: Mapping[Kind, Sequence[float]],
        ratio: Sequence[float],
        *,
        seed: int,
        spans: Mapping[Kind, Sequence[Span]] | None = None,
    ) -> None:
        if len(ratio) != len(KINDS):
            raise ValueError(f"ratio must be und : text : gen, three numbers, got {list(ratio)}")
        self.seed = seed
        self._kinds = _Rota(ratio, "ratio")
        self._lengths = {kind: tuple(lengths.get(kind, ())) for kind in KINDS}
        given = {} if spans is None else spans
        self._spans = {
            kind: tuple(given.get(kind, [ALWAYS for _ in self._lengths[kind]])) for kind in KINDS
        }
        edges = {edge for spans in self._spans.values() for span in spans for edge in span}
        self.boundaries = tuple(sorted({0} | {edge for edge in edges if edge is not None}))
        """First step of each phase."""
        self._sources: dict[Kind, tuple[_Rota | None, ...]] = {}
        for kind, share in self.shares.items():
            if share == 0:
                continue
            if not self._lengths[kind]:
                raise ValueError(
                    f"ratio gives {kind!r} a share but there is no source: add sources.{kind}, "
                    "or set its share to 0"
                )
            if min(self._lengths[kind]) < 1:
                raise ValueError(f"a source of {kind!r} is empty: check its options")
            self._sources[kind] = self._rotas(kind, weights[kind])

    def _rotas(self, kind: Kind, weights: Sequence[float]) -> tuple[_Rota | None, ...]:
        """How each phase deals a kind; None where nothing of it takes part."""
        what = f"weights of sources.{kind}"
        _whole_weights(weights, what)
        rotas: list[_Rota | None] = []
        for step in self.boundaries:
            present = [
                weight if first <= step and (end is None or step < end) else 0
                for weight, (first, end) in zip(weights, self._spans[kind], strict=True)
            ]
            rotas.append(_Rota(present, what) if any(present) else None)
        return tuple(rotas)

    @property
    def shares(self) -> dict[Kind, int]:
        """The ratio by kind, in whole numbers."""
        return dict(zip(KINDS, self._kinds.counts, strict=True))

    def phase(self, step: int) -> int:
        """Which phase a step belongs to, from 0."""
        return bisect_right(self.boundaries, step) - 1

    def weights(self, kind: Kind, step: int = 0) -> tuple[int, ...]:
        """Weights of a kind's sources at a step, in whole numbers; 0 for those not there.

        Raises:
            ValueError: The kind has a share and none of its sources takes part.
        """
        if kind not in self._sources:
            return tuple(0 for _ in self._lengths[kind])
        return tuple(self._rota(kind, self.phase(step)).counts)

    def _rota(self, kind: Kind, phase: int) -> _Rota:
        rota = self._sources[kind][phase]
        if rota is None:
            later = [str(step - 1) for step in self.boundaries[phase + 1 :][:1]]
            raise ValueError(
                f"ratio gives {kind!r} a share, but none of its sources takes part from step "
                f"{self.boundaries[phase]} to {''.join(later) or 'the end'}: change their "
                "from_step or until_step"
            )
        return rota

    def batch(self, step: int, size: int) -> list[Draw]:
        """The draws of a step (from 0) of ``size`` samples; a function of both and the seed."""
        starts = tuple(edge * size for edge in self.boundaries[: self.phase(step) + 1])
        return [self.draw(n, starts) for n in range(step * size, (step + 1) * size)]

    def draw(self, n: int, starts: tuple[int, ...] = (0,)) -> Draw:
        """Draw ``n`` of the run, from 0.

        Args:
            n: Which.
            starts: The first draw of each phase, up to that of ``n``.
        """
        kind_place, kind_rank = self._kinds.at(n)
        kind = KINDS[kind_place]
        begun = [self._kinds.taken(start, kind_place) for start in starts]
        source, rank = self._rota(kind, len(starts) - 1).at(kind_rank - begun[-1])
        for phase, (first, end) in enumerate(pairwise(begun)):
            if end > first:
                rank += self._rota(kind, phase).taken(end - first, source)
        return self.item(kind, source, rank)

    def item(self, kind: Kind, source: int, rank: int) -> Draw:
        """What a source gives after ``rank`` others: epoch by epoch, each in its own order."""
        length = self._lengths[kind][source]
        epoch, position = divmod(rank, length)
        index = permuted(position, length, _epoch_key(self.seed, kind, source, epoch))
        return Draw(kind=kind, source=source, index=index, epoch=epoch)

    def replacement(self, draw: Draw, attempt: int) -> Draw:
        """Another item of the same source, for one that cannot be used; ``attempt`` from 1."""
        length = self._lengths[draw.kind][draw.source]
        key = stable_hash("replacement", self.seed, draw.kind, draw.source, draw.epoch, draw.index)
        index = (draw.index + 1 + _mix(attempt, key) % max(1, length - 1)) % length
        return Draw(kind=draw.kind, source=draw.source, index=index, epoch=draw.epoch)


@cache
def _epoch_key(seed: int, kind: str, source: int, epoch: int) -> int:
    return stable_hash("epoch", seed, kind, source, epoch)
