"""The order of a run: exact, counter-based, and the same wherever one starts."""

from __future__ import annotations

from collections import Counter

import pytest

from openjanus.data.mixture import Mixture, permuted, stable_uniform


def mixture(ratio=(2, 3, 5), lengths=(50, 50, 50), seed=0):
    sizes = dict(zip(("und", "text", "gen"), ([n] for n in lengths), strict=True))
    return Mixture(sizes, {kind: [1.0] for kind in ("und", "text", "gen")}, ratio, seed=seed)


@pytest.mark.parametrize("ratio", [(2, 3, 5), (7, 3, 10), (5, 1, 4), (1, 0, 1), (1, 0, 3)])
@pytest.mark.parametrize("size", [1, 7, 20, 33])
def test_every_step_has_its_exact_share(ratio, size):
    order = mixture(ratio)
    counts = Counter()
    for step in range(40):
        draws = order.batch(step, size)
        assert len(draws) == size
        counts.update(draw.kind for draw in draws)
        drawn = size * (step + 1)
        for kind, share in zip(("und", "text", "gen"), ratio, strict=True):
            # Error diffusion: never a whole sample away from the exact quota.
            assert abs(counts[kind] - drawn * share / sum(ratio)) < 1


def test_a_step_is_a_function_of_its_number():
    forward = [mixture().batch(step, 12) for step in range(30)]
    fresh = mixture()
    assert [fresh.batch(step, 12) for step in reversed(range(30))] == forward[::-1]
    assert mixture(seed=1).batch(0, 12) != forward[0]


def test_an_epoch_sees_every_item_once_in_another_order_each_time():
    order = mixture((0, 0, 1), (1, 1, 37))
    draws = [draw for step in range(37) for draw in order.batch(step, 4)]
    epochs = [[d.index for d in draws if d.epoch == epoch] for epoch in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(37))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_are_full_across_an_epochs_end():
    # The known defect: a step at the end of an epoch that yields nothing.
    order = mixture((1, 1, 1), (5, 3, 2))
    assert all(len(order.batch(step, 9)) == 9 for step in range(20))


def test_sources_of_a_kind_have_their_weights():
    order = Mixture({"gen": [10, 1000]}, {"gen": [1, 3]}, (0, 0, 1), seed=0)
    counts = Counter(draw.source for draw in order.batch(0, 400))
    assert counts == {0: 100, 1: 300}


@pytest.mark.parametrize("length", [1, 2, 3, 10, 1000, 4097])
def test_permuted_is_a_permutation(length):
    assert sorted(permuted(i, length, 99) for i in range(length)) == list(range(length))


def test_a_replacement_is_another_item_of_the_same_source():
    order = mixture(lengths=(50, 50, 50))
    draw = order.draw(3)
    others = [order.replacement(draw, attempt) for attempt in range(1, 6)]
    assert others == [order.replacement(draw, attempt) for attempt in range(1, 6)]
    assert all((o.kind, o.source) == (draw.kind, draw.source) for o in others)
    assert draw.index not in [o.index for o in others]
    assert len({o.index for o in others}) > 1


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        ((1, 1), "three numbers"),
        ((0, 0, 0), "not all 0"),
        ((1, -1, 1), ">= 0"),
        ((1, float("nan"), 1), ">= 0"),
        ((0.123457, 1, 1), "rounder"),
    ],
)
def test_wrong_ratios_are_told(ratio, says):
    with pytest.raises(ValueError, match=says):
        mixture(ratio)


def test_a_share_without_a_source_is_told():
    with pytest.raises(ValueError, match=r"add sources\.und"):
        Mixture({"gen": [10]}, {"gen": [1]}, (1, 0, 1), seed=0)
    with pytest.raises(ValueError, match="empty"):
        mixture(lengths=(50, 0, 50))


def test_uniform_numbers_depend_on_their_parts_alone():
    values = [stable_uniform("drop", 0, f"key/{i}", 0) for i in range(2000)]
    assert values == [stable_uniform("drop", 0, f"key/{i}", 0) for i in range(2000)]
    assert min(values) >= 0 and max(values) < 1
    assert abs(sum(values) / len(values) - 0.5) < 0.03
    assert stable_uniform("drop", 1, "key/0", 0) != values[0]


def phased(size_of_gen=(40, 50, 60), weights=(1, 1, 2), spans=((0, 6), (6, None), (3, None))):
    return Mixture(
        {"und": [30], "gen": size_of_gen},
        {"und": [1], "gen": weights},
        (1, 0, 3),
        seed=0,
        spans={"gen": list(spans)},
    )


def test_sources_come_and_go_at_their_steps():
    order = phased()
    assert order.boundaries == (0, 3, 6)
    assert [order.phase(step) for step in (0, 2, 3, 5, 6, 99)] == [0, 0, 1, 1, 2, 2]
    assert [order.weights("gen", step) for step in (0, 3, 6)] == [(1, 0, 0), (1, 0, 2), (0, 1, 2)]
    assert order.weights("text") == () and order.weights("und", 6) == (1,)
    for step, shares in [(0, {0: 9}), (3, {0: 3, 2: 6}), (7, {1: 3, 2: 6})]:
        draws = order.batch(step, 12)
        assert Counter(d.source for d in draws if d.kind == "gen") == shares
        assert sum(d.kind == "und" for d in draws) == 3


def test_a_source_goes_on_across_phases_where_it_was():
    # No item comes twice before every item of the source came once, whatever else came or went.
    order = phased()
    for size in (5, 7, 12):
        seen = {}
        for step in range(24):
            for draw in order.batch(step, size):
                seen.setdefault((draw.kind, draw.source), []).append((draw.epoch, draw.index))
        for (kind, source), items in seen.items():
            length = {"und": [30], "gen": (40, 50, 60)}[kind][source]
            assert len(set(items)) == len(items)
            assert [epoch for epoch, _ in items] == [n // length for n in range(len(items))]


def test_a_step_of_a_later_phase_is_a_function_of_its_number():
    forward = [phased().batch(step, 7) for step in range(12)]
    fresh = phased()
    assert [fresh.batch(step, 7) for step in reversed(range(12))] == forward[::-1]


def test_a_phase_without_a_source_says_which_steps():
    order = phased((40, 50, 60), (1, 1, 1), ((0, 2), (5, 8), (5, 8)))
    assert len(order.batch(1, 4)) == 4
    with pytest.raises(ValueError, match=r"'gen' a share, .* from step 2 to 4: change"):
        order.batch(2, 4)
    with pytest.raises(ValueError, match="from step 8 to the end"):
        order.weights("gen", 8)
