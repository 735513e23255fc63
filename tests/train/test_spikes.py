"""Spikes: pure functions over the lines of metrics."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from PIL import Image

from openjanus.cli import main
from openjanus.train.report import draw_curves
from openjanus.train.spikes import find_spikes, judge, tell_spikes


def noisy(count=120, **changes):
    """A falling, noisy loss and norms; ``changes`` maps s<step>_<name> to a factor."""
    rng = random.Random(0)
    lines = []
    for step in range(1, count + 1):
        line = {"step": step, "loss": 2 + 3 / step + 0.05 * rng.random(), "lr": 1.0}
        line |= {"grad_norm": 1 + 0.3 * rng.random(), "output_norm": 3 + 0.01 * step}
        lines.append(line)
    for place, factor in changes.items():
        step, name = place[1:].split("_", 1)
        lines[int(step) - 1][name] *= factor
    return lines


def test_a_quiet_run_has_no_spikes():
    assert find_spikes(noisy()) == []


def test_spikes_are_named_with_step_and_samples():
    lines = noisy(s60_loss=2, s80_output_norm=3, s60_grad_norm=20, s90_lr=50)
    lines[59]["keys"] = ["a/1", "b/2"]
    found = find_spikes(lines)
    assert [(s.step, s.name) for s in found] == [
        (60, "loss"),
        (60, "grad_norm"),
        (80, "output_norm"),
    ]
    assert found[0].keys == ("a/1", "b/2")
    assert found[2].keys == ()
    assert found[0].value == lines[59]["loss"]
    assert found[0].usual == pytest.approx(2.1, abs=0.1)
    assert found[0].score > 8


def test_a_second_spike_is_seen_as_the_first_was():
    found = find_spikes(noisy(s60_loss=2, s61_loss=2, s63_loss=2))
    assert [s.step for s in found] == [60, 61, 63]


def test_what_came_before_the_window_is_forgotten():
    lines = [{"step": n, "loss": 1.0 if n <= 50 else 2.0} for n in range(1, 101)]
    assert [s.step for s in find_spikes(lines, window=20)] == list(range(51, 61))


def test_a_fall_is_no_spike_and_the_start_is_not_judged():
    assert find_spikes(noisy(s60_loss=0.1)) == []
    assert find_spikes(noisy(s5_loss=10)) == []


def test_a_value_that_is_no_number_is_a_spike_and_no_history():
    lines = noisy(s60_loss=math.nan, s61_grad_norm=math.inf)
    assert [(s.step, s.name, s.score) for s in find_spikes(lines)] == [
        (60, "loss", math.inf),
        (61, "grad_norm", math.inf),
    ]


def test_values_that_are_no_numbers_do_not_hide_what_follows():
    changes: dict[str, Any] = {f"s{step}_loss": math.inf for step in range(50, 100)}
    lines = noisy(**changes, s110_loss=2)
    found = [s.step for s in find_spikes(lines, names=("loss",))]
    assert found == [*range(50, 100), 110]


def test_the_score_is_in_robust_deviations():
    before = [1.0, 2.0, 3.0, 4.0, 100.0]
    assert judge(before, 3.0) == (3.0, 0.0)
    assert judge(before, 3.0 + 1.4826) == (3.0, pytest.approx(1.0))
    assert judge([2.0] * 10, 2.1) == (2.0, pytest.approx(5.0))  # a hundredth is the least spread
    assert judge([0.0] * 10, 0.1) == (0.0, math.inf)


def test_what_cannot_be_judged_by_is_refused():
    with pytest.raises(ValueError, match="window must be >= 10 lines, got 9"):
        find_spikes([], window=9)
    with pytest.raises(ValueError, match="threshold must be > 0, got 0"):
        find_spikes([], threshold=0)


def test_the_text_names_all_and_how_norms_went():
    lines = noisy(s60_loss=2)
    lines[59]["keys"] = ["a/1", "b/2"]
    text = tell_spikes(lines, find_spikes(lines)).splitlines()
    assert text[0].startswith("loss: 1 spikes in 120 lines; median 2.")
    assert text[2] == (
        "output_norm: 0 spikes in 120 lines; median 3.255 in the first 50, 3.955 in the last"
    )
    assert text[3].startswith("step 60: loss 4.")
    assert text[3].endswith("samples: a/1, b/2")
    assert len(text) == 4


def test_the_command_tells_and_marks_them(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    lines = "".join(json.dumps(line) + "\n" for line in noisy(s60_loss=2))
    (run / "metrics.jsonl").write_text(lines)
    output = tmp_path / "curves.png"
    assert main(["report", str(run), "--output", str(output), "--spikes"]) in (0, None)
    told = capsys.readouterr().out.splitlines()
    start = told.index("run")
    assert "step 60: loss" in told[start + 4]
    draw_curves([run], tmp_path / "plain.png")
    with Image.open(output) as marked, Image.open(tmp_path / "plain.png") as plain:
        assert marked.size == plain.size
        assert marked.tobytes() != plain.tobytes()


def test_a_mark_is_drawn_where_the_spike_reached(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    seen = []
    from matplotlib.axes import Axes

    scatter = Axes.scatter
    monkeypatch.setattr(
        Axes, "scatter", lambda s, x, y, **k: (seen.append((x, y)), scatter(s, x, y, **k))[1]
    )
    lines = noisy(s60_grad_norm=9)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves([run], tmp_path / "curves.png", spikes=True)
    assert [place for place in seen if place[0]] == [([60], [lines[59]["grad_norm"]])]


def test_a_run_logs_keys_where_asked(make_config, make_trainer):
    assert "keys" not in make_trainer(make_config()).train_step(0)
    trainer = make_trainer(make_config(log_keys=True))
    values = trainer.train_step(0)
    assert values["keys"] == trainer.last_keys()
    assert len(values["keys"]) == 10
