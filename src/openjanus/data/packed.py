"""Packs of fixed length, filled across steps, in the wanted ratio of samples, tokens or packs.

Samples come in an order that the counts of what came before decide alone. Each goes into the open
row that it fills best; a row that is closed is a pack, and a step takes the next of them. The
state is those counts and the names of what lies in open rows: kilobytes, exact, and the same for
any number of processes and workers, who only share the reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from openjanus.data.fetching import BadSample, Crew, Fetched
from openjanus.data.mixture import Mixture
from openjanus.data.packing import Bin, BinRules, Piece, put
from openjanus.data.samples import KINDS, Kind
from openjanus.data.stream import ALONE, Share, StepSamples, StreamState, fetch_together

RatioUnit = Literal["samples", "tokens", "packs"]

LOOKAHEAD = 8
"""Items of a source that each worker reads ahead."""

Place = tuple[Kind, int, int]
"""Kind, source of its kind, and how many items of that source came before."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the packer needs of a sample, wherever it was read."""

    piece: Piece[Place]
    bad: tuple[BadSample, ...]


@dataclass(slots=True)
class _Counts:
    """The state, as it is worked on."""

    step: int
    phase: int
    drawn: dict[Kind, list[int]]
    """Items that each source gave, ever."""
    turns: dict[Kind, list[int]]
    """Items that each source gave in this phase."""
    spent: dict[Kind, int]
    """Units of the ratio that each kind had in this phase."""
    open: list[Bin[Place]]

    @classmethod
    def read(cls, state: StreamState, mixture: Mixture) -> _Counts:
        zeros = {kind: [0] * len(mixture.weights(kind)) for kind in KINDS}
        rows = [
            Bin(
                [
                    Piece((kind, source, rank), length, images)
                    for kind, source, rank, length, images in row
                ]
            )
            for row in state.get("open", [])
        ]
        drawn: dict[Kind, list[int]] = {
            kind: list(state.get("drawn", zeros)[kind]) for kind in KINDS
        }
        turns: dict[Kind, list[int]] = {
            kind: list(state.get("turns", zeros)[kind]) for kind in KINDS
        }
        spent = dict(state.get("spent", dict.fromkeys(KINDS, 0)))
        return cls(state.get("step", 0), state.get("phase", 0), drawn, turns, spent, rows)

    def write(self) -> StreamState:
        return {
            "step": self.step,
            "phase": self.phase,
            "drawn": self.drawn,
            "turns": self.turns,
            "spent": self.spent,
            "open": [
                [[*piece.name, piece.length, piece.images] for piece in row.pieces]
                for row in self.open
            ],
        }


class PackedStream:
    """A number of packs a step.

    Args:
        crew: Fetches samples.
        mixture: Ratio, sources and their weights.
        batch_size: Packs a step, of all processes; a multiple of them.
        rules: Length of a pack, rows open at once, pictures a pack.
        ratio_unit: What the ratio counts. ``packs`` holds each kind in packs of its own.
        share: This process's part.

    Raises:
        ValueError: No packs, or they cannot be dealt evenly.
    """

    def __init__(
        self,
        crew: Crew,
        mixture: Mixture,
        *,
        batch_size: int,
        rules: BinRules,
        ratio_unit: RatioUnit = "samples",
        share: Share = ALONE,
    ) -> None:
        share.check(batch_size)
        self.crew = crew
        self.mixture = mixture
        self.batch_size = batch_size
        self.rules = rules
        self.ratio_unit = ratio_unit
        self.share = share
        self._known: dict[Place, _Known] = {}
        self._fetched: dict[Place, Fetched] = {}

    def take(self, state: StreamState) -> StepSamples:
        """The packs of the step after ``state``, dealt in turn to the processes.

        Raises:
            TooManyBadSamples: Replacement after replacement is broken.
        """
        counts = _Counts.read(state, self.mixture)
        phase = self.mixture.phase(counts.step)
        if phase != counts.phase:  # other sources: what came before is no debt to the new ones
            fresh = _Counts.read({}, self.mixture)
            counts = replace(counts, phase=phase, turns=fresh.turns, spent=fresh.spent)
        packs: list[Bin[Place]] = []
        bad: list[BadSample] = []
        while len(packs) < self.batch_size:
            kind = self._next_kind(counts)
            known = self._next_item(kind, counts)
            bad += known.bad
            closed = self._put(known.piece, kind, counts)
            if self.ratio_unit == "samples":
                counts.spent[kind] += 1
            elif self.ratio_unit == "tokens":
                counts.spent[kind] += known.piece.length
            elif closed is not None:
                counts.spent[kind] += 1
            if closed is not None:
                packs.append(closed)
        counts.step += 1
        return self._step(packs, bad, counts.write())

    def _next_kind(self, counts: _Counts) -> Kind:
        """The kind that is furthest behind its share, of those that have one."""
        shares = self.mixture.shares
        return _furthest_behind([shares[kind] for kind in KINDS], counts.spent, KINDS)

    def _next_item(self, kind: Kind, counts: _Counts) -> _Known:
        turns = counts.turns[kind]
        weights = self.mixture.weights(kind, counts.step)
        source = _furthest_behind(weights, dict(enumerate(turns)), range(len(turns)))
        place: Place = (kind, source, counts.drawn[kind][source])
        turns[source] += 1
        counts.drawn[kind][source] += 1
        if place not in self._known:
            self._read_from(place)
        return self._known.pop(place)

    def _put(self, piece: Piece[Place], kind: Kind, counts: _Counts) -> Bin[Place] | None:
        if self.ratio_unit != "packs":
            return put(counts.open, piece, self.rules)
        own = [row for row in counts.open if row.pieces[0].name[0] == kind]
        others = [row for row in counts.open if row.pieces[0].name[0] != kind]
        closed = put(own, piece, self.rules)
        counts.open = [*others, *own]
        return closed

    def _read_from(self, first: Place) -> None:
        """Read an item and some after it, each process its part, and tell each other."""
        kind, source, rank = first
        number = LOOKAHEAD * max(1, self.crew.num_workers) * self.share.world
        places: list[Place] = [(kind, source, rank + i) for i in range(number)]
        places = [place for place in places if place not in self._known]
        mine = places[self.share.rank :: self.share.world]
        found: dict[Place, _Known] = {}
        draws = [self.mixture.item(*place) for place in mine]
        for place, one in zip(mine, fetch_together(self.crew, draws, self.share), strict=True):
            piece = Piece(place, len(one.sample.input_ids), len(one.sample.images))
            found[place] = _Known(piece, one.bad)
            self._fetched[place] = one
        for part in self.share.gather(found):
            self._known.update(part)

    def _step(
        self, packs: Sequence[Bin[Place]], bad: Sequence[BadSample], state: StreamState
    ) -> StepSamples:
        used = sum(row.length for row in packs)
        mine = packs[self.share.rank :: self.share.world]
        places = [piece.name for row in mine for piece in row.pieces]
        missing = [place for place in places if place not in self._fetched]
        # Read by another process, or before this one was started: broken ones were told then.
        for place, one in zip(
            missing,
            self.crew.fetch([self.mixture.item(*place) for place in missing]),
            strict=True,
        ):
            self._fetched[place] = one
        taken = [self._fetched[place] for place in places]
        for row in packs:
            for piece in row.pieces:
                self._fetched.pop(piece.name, None)
        rows: list[tuple[int, ...]] = []
        for row in mine:
            start = sum(len(before) for before in rows)
            rows.append(tuple(range(start, start + len(row.pieces))))
        return StepSamples(
            draws=tuple(one.draw for one in taken),  # of what was taken, not of what was wanted
            samples=tuple(one.sample for one in taken),
            rows=tuple(rows),
            bad=tuple(bad),
            state=state,
            fill=used / (len(packs) * self.rules.capacity),
        )


def _furthest_behind(weights: Sequence[int], taken: Any, names: Sequence[Any]) -> Any:
    """Whose share of all that was taken is furthest below its weight; the first of equals."""
    total, whole = sum(taken[name] for name in names) + 1, sum(weights)
    behind = [
        (weight * total - taken[name] * whole, -place)
        for place, (weight, name) in enumerate(zip(weights, names, strict=True))
        if weight > 0
    ]
    return names[-max(behind)[1]]
