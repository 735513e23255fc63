"""Packs across steps: full, in the wanted ratio, and the same however they are made."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import pytest

from openjanus.data.encoding import SampleEncoder
from openjanus.data.fetching import Crew, Fetcher, TooManyBadSamples
from openjanus.data.mixture import Mixture
from openjanus.data.packed import PackedStream
from openjanus.data.packing import Bin, BinRules, Piece, put
from openjanus.data.samples import KINDS, Kind, Sample, Turn
from openjanus.data.stream import Share


class Words:
    """Texts of many lengths, or broken ones."""

    def __init__(self, kind: Kind = "text", length: int = 500, broken: int = 0) -> None:
        self.kind: Kind = kind
        self.length, self.broken = length, broken

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if self.broken and index % self.broken == 0:
            raise OSError(f"unreadable {index}")
        size = 3 + (index * 7919) % 90
        turns = (Turn(role="user", text="q"), Turn(role="assistant", text="w" * size))
        return Sample(key=f"{self.kind}/{index}", kind=self.kind, turns=turns)


RULES = BinRules(capacity=256, max_open=16)


def make_stream(processor, *, workers=0, share=None, ratio=(2, 3, 0), broken=0, **options):
    sources: dict[Kind, list[Words]] = {
        "und": [Words("und")],
        "text": [Words(broken=broken), Words(length=50)],
    }
    lengths: dict[Kind, list[int]] = {
        kind: [len(s) for s in members] for kind, members in sources.items()
    }
    mixture = Mixture(lengths, {"und": [1], "text": [3, 1]}, ratio, seed=3)
    fetcher = Fetcher(sources, mixture, SampleEncoder(processor=processor, max_length=200))
    settings: dict[str, Any] = {"batch_size": 4, "rules": RULES} | options
    if share is not None:
        settings["share"] = share
    return PackedStream(Crew(fetcher, workers), mixture, **settings)


def rows_of(step):
    """The samples of each row."""
    assert step.rows is not None
    return [[step.samples[place] for place in row] for row in step.rows]


def run(stream, steps, state=None):
    """Keys of each pack of each step, and the states after them."""
    state = {} if state is None else state
    packs, states = [], []
    for _ in range(steps):
        step = stream.take(state)
        state = json.loads(json.dumps(step.state))  # as a checkpoint has it
        packs.append([[sample.key for sample in row] for row in rows_of(step)])
        states.append(state)
    return packs, states


def test_a_sample_goes_where_it_leaves_the_least_room():
    rules = BinRules(capacity=10, max_open=2)
    bins: list[Bin[str]] = []
    assert put(bins, Piece("a", 6), rules) is None
    assert put(bins, Piece("b", 8), rules) is None
    assert put(bins, Piece("c", 1), rules) is None
    assert [[p.name for p in row.pieces] for row in bins] == [["a"], ["b", "c"]]
    closed = put(bins, Piece("d", 5), rules)  # fits nowhere: the fullest goes
    assert closed is not None and [p.name for p in closed.pieces] == ["b", "c"]
    full = put(bins, Piece("e", 5), rules)
    assert full is not None and [p.name for p in full.pieces] == ["d", "e"]
    assert [[p.name for p in row.pieces] for row in bins] == [["a"]]


def test_a_row_holds_no_more_pictures_than_allowed():
    rules = BinRules(capacity=100, max_open=4, max_images=2)
    bins: list[Bin[int]] = []
    for name in range(5):
        put(bins, Piece(name, 3, images=1), rules)
    assert [row.images for row in bins] == [2, 2, 1]
    put(bins, Piece(5, 3), rules)
    assert sum(len(row.pieces) for row in bins) == 6


def test_packs_are_full_and_no_sample_is_lost_or_doubled(processor):
    stream = make_stream(processor)
    state: dict[str, Any] = {}
    fills, keys, lengths = [], [], []
    for _ in range(20):
        step = stream.take(state)
        state = step.state
        fills.append(step.fill)
        keys += [sample.key for sample in step.samples]
        lengths += [sum(len(sample.input_ids) for sample in row) for row in rows_of(step)]
    assert max(lengths) <= 256
    assert sum(fills) / len(fills) >= 0.95
    assert fills[0] == pytest.approx(sum(lengths[:4]) / (4 * 256))
    waiting = [place[:3] for row in state["open"] for place in row]
    assert len(keys) + len(waiting) == sum(map(sum, state["drawn"].values()))
    und = Counter(key for key in keys if key.startswith("und"))
    assert set(und.values()) == {1}  # within the first epoch


@pytest.mark.parametrize("unit", ["samples", "tokens", "packs"])
def test_the_ratio_counts_what_was_asked(processor, unit):
    stream = make_stream(processor, ratio_unit=unit)
    state: dict[str, Any] = {}
    samples, tokens, packs = Counter(), Counter(), Counter()
    for _ in range(60):
        step = stream.take(state)
        state = step.state
        for row in rows_of(step):
            kinds = {sample.kind for sample in row}
            packs.update(kinds)
            if unit == "packs":
                assert len(kinds) == 1
        for sample in step.samples:
            samples[sample.kind] += 1
            tokens[sample.kind] += len(sample.input_ids)
    counted = {"samples": samples, "tokens": tokens, "packs": packs}[unit]
    assert counted["und"] / (counted["und"] + counted["text"]) == pytest.approx(0.4, abs=0.02)
    assert state["turns"]["text"][0] == pytest.approx(3 * state["turns"]["text"][1], abs=3)


@pytest.mark.parametrize("unit", ["samples", "tokens", "packs"])
def test_a_stream_goes_on_from_its_state_alone(processor, unit):
    whole, states = run(make_stream(processor, ratio_unit=unit, broken=7), 9)
    for done in (1, 4, 8):
        rest, _ = run(make_stream(processor, ratio_unit=unit, broken=7), 9 - done, states[done - 1])
        assert rest == whole[done:]


def test_broken_samples_are_told_once_whatever_the_resume(processor):
    def told(stream, steps, state):
        names = []
        for _ in range(steps):
            step = stream.take(state)
            state = step.state
            names += [bad.name for bad in step.bad]
        return names, state

    whole, _ = told(make_stream(processor, broken=7), 8, {})
    first, state = told(make_stream(processor, broken=7), 3, {})
    second, _ = told(make_stream(processor, broken=7), 5, state)
    assert len(whole) > 5
    assert first + second == whole


def test_a_replacement_is_named_as_what_it_is(processor):
    """Its ids are kept under that name: another's would be drawn in the next epoch."""
    stream, state = make_stream(processor, ratio=(0, 1, 0), broken=7), {}
    for _ in range(8):
        step = stream.take(state)
        state = step.state
        assert [f"text/{draw.index}" for draw in step.draws] == [s.key for s in step.samples]


def test_workers_change_nothing(processor):
    alone, states = run(make_stream(processor, broken=7), 4)
    stream = make_stream(processor, workers=2, broken=7)
    try:
        assert run(stream, 4) == (alone, states)
    finally:
        stream.crew.close()


def together(processor, world, steps, state=None):
    """Run a stream in as many threads as there would be processes; packs in their global order."""
    barrier = threading.Barrier(world)
    board: list[Any] = [None] * world

    def gather_of(rank):
        def gather(value):
            board[rank] = value
            barrier.wait()
            values = list(board)
            barrier.wait()
            return values

        return gather

    results: list[Any] = [None] * world

    def work(rank):
        share = Share(rank, world, gather_of(rank))
        results[rank] = run(make_stream(processor, share=share, broken=7), steps, state)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    packs = [[results[i % world][0][step][i // world] for i in range(4)] for step in range(steps)]
    assert all(result[1] == results[0][1] for result in results)
    return packs, results[0][1]


def test_any_number_of_processes_has_the_same_packs(processor):
    whole, states = run(make_stream(processor, broken=7), 6)
    two, two_states = together(processor, 2, 3)
    assert (two, two_states) == (whole[:3], states[:3])
    one, _ = run(make_stream(processor, broken=7), 1, two_states[-1])  # 2 -> 1
    assert one == whole[3:4]
    four, _ = together(processor, 4, 2, states[3])  # and back
    assert four == whole[4:]


def test_a_source_where_nothing_works_ends_all(processor):
    with pytest.raises(TooManyBadSamples, match="in a row"):
        make_stream(processor, broken=1).take({})


def test_a_batch_that_cannot_be_dealt_is_refused(processor):
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of .* \(3\), got 4"):
        make_stream(processor, share=Share(0, 3))


def test_kinds_without_a_share_give_nothing(processor):
    packs, states = run(make_stream(processor, ratio=(0, 1, 0)), 3)
    assert all(key.startswith("text") for step in packs for row in step for key in row)
    assert states[-1]["drawn"]["und"] == [0]
    assert set(states[-1]["drawn"]) == set(KINDS)
