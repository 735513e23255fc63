from __future__ import annotations

import json

import pytest

from openjanus.train.best import Best, best_steps, ended_early
from openjanus.train.checkpoint import checkpoint_steps, save_checkpoint
from openjanus.train.watch_config import BestConfig


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_the_best_are_ranked_and_of_equal_ones_the_earlier_is_better(mode, sign):
    best = Best(BestConfig(mode=mode, keep=2))
    kept = [
        best.add(step, sign * value) for step, value in ((1, 3.0), (2, 2.0), (3, 2.0), (4, 9.0))
    ]
    assert kept == [True, True, True, False]
    assert best.entries == [(2, sign * 2.0), (3, sign * 2.0)]


def test_patience_counts_what_is_no_new_best_and_begins_anew_with_one():
    best = Best(BestConfig(keep=5), patience=2)
    for step, value in ((1, 3.0), (2, 3.0), (3, 2.0), (4, 2.5)):
        best.add(step, value)
    assert (best.waited, best.ended_at) == (1, None)
    best.add(5, 2.0)
    assert (best.waited, best.ended_at) == (2, 5)


def test_what_is_restored_is_what_was_there():
    one, other = (Best(BestConfig(keep=2), patience=3) for _ in "ab")
    for step, value in ((1, 3.0), (2, 2.0), (3, 2.5)):
        one.add(step, value)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert other == one


def test_a_metric_that_is_no_number_or_is_not_there_is_told():
    best = Best(BestConfig(metric="val_loss_gen"))
    with pytest.raises(ValueError, match="val_loss_gen is nan at step 4, which is neither better"):
        best.add(4, float("nan"))
    with pytest.raises(ValueError, match="not measured at step 4; did you mean 'val_loss_gem'"):
        best.read_metric({"val_loss_gem": 1.0}, 4)


def test_the_oldest_go_but_not_the_best(tmp_path):
    best = Best(BestConfig(keep=1))
    for step, value in ((1, 5.0), (2, 1.0), (3, 4.0), (4, 3.0), (5, 2.0)):
        best.add(step, value)
        best.write(tmp_path)
        save_checkpoint(tmp_path, step, {"step": step}, keep=2)
    assert checkpoint_steps(tmp_path) == [2, 4, 5]
    assert best_steps(tmp_path) == [2]
    best.add(6, 0.5)
    best.write(tmp_path)
    save_checkpoint(tmp_path, 6, {"step": 6}, keep=2)
    assert checkpoint_steps(tmp_path) == [5, 6]
    assert not ended_early(tmp_path)


def test_a_newer_list_is_refused(tmp_path):
    (tmp_path / "best.json").write_text('{"format_version": 99}')
    with pytest.raises(ValueError, match="format_version 99 is newer"):
        best_steps(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, r"run\.best\.keep must be >= 1"),
        ({"mode": "least"}, r"run\.best\.mode must be min or max, got 'least'"),
        ({"metric": "loss_gen"}, "'loss_gen', which is of another batch in every step"),
    ],
)
def test_lists_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BestConfig(**options)
