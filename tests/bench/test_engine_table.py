"""``benchmarks/engine.py`` at a tiny size: every row is made, and says what it must."""

from __future__ import annotations

import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "engine.py"
TINY = "--preset tiny --model tiny --steps 3 --pictures 2 --prompts 6 --look-ahead 4 --windows 2 8"

STEPS = ["image_bf16", "image_int8", "image_int4", "image8_bf16", "text_int8", "text_int4"]
ONE_EACH = [*STEPS, "vq_decode", "siglip", "mixed"]
NANO = ["nano_parallel_calls", "nano_parallel_time"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("engine_table", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys.modules["engine_rows"], "BANDWIDTH_BYTES", 2**20)
    return module


def asked(script: ModuleType) -> Namespace:
    return script.parse([*TINY.split(), "--output", "unused.json"])


@pytest.mark.parametrize("key", ONE_EACH)
def test_a_row_has_a_ratio_and_its_goal(script: ModuleType, key: str) -> None:
    with torch.inference_mode():
        row = script.measure(key, asked(script))[key]
    assert json.loads(json.dumps(row)) == row
    assert row["low"] <= row["ratio"] <= row["high"]
    assert row["reached"] == (row["ratio"] >= row["goal"])
    assert ("share" in row) == key.startswith(("image", "text"))
    assert ("whole" in row) == key.startswith("image_")
    assert script.show(key, row).startswith(key)
    if key == "mixed":
        assert row["ours"] == pytest.approx(row["words"] + row["pictures"]) and row["gap"] > 0


def test_the_nano_is_counted_and_a_prediction_says_that_it_is_one(script: ModuleType) -> None:
    options = asked(script)
    with torch.inference_mode():
        rows = script.measure("nano_parallel_calls", options)
        rows |= script.measure("calls_1b", options)
    calls = rows["nano_parallel_calls"]
    assert calls["equal"] == [6, 6] and calls["theirs"] == 15
    assert sum(int(n) * times for n, times in calls["accepted"].items()) == 6 * 15
    seconds = rows["nano_parallel_time"]
    assert seconds["unit"] == "s" and seconds["low"] <= seconds["ratio"] <= seconds["high"]
    assert all(
        row["goal"] == sys.modules["engine_rows"].GOALS[key][0]
        for key, row in rows.items()
        if key in NANO
    )
    assert set(rows["calls_1b"]["by_rows"]) == {"2", "8"}
    predicted = script.predict(rows)
    seconds = rows["calls_1b"]["by_rows"]
    assert predicted["by_look_ahead"]["4"] == pytest.approx(
        calls["by_look_ahead"]["4"] * seconds["2"] / seconds["8"]
    )
    assert "not a measurement" in predicted["is"]
    assert script.predict({"calls_1b": rows["calls_1b"]}) is None


def test_every_row_of_the_table_is_tried_here(script: ModuleType) -> None:
    assert sorted(sys.modules["engine_rows"].GOALS) == sorted([*ONE_EACH, *NANO])


def test_rows_are_written_with_what_made_them(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In this process: the script gives each row one of its own."""
    file = tmp_path / "table.json"
    only = ["--only", "image_int4", "nano_parallel_time", "calls_1b"]
    options = script.parse([*TINY.split(), *only, "--output", str(file)])
    monkeypatch.setattr(script, "parse", lambda: options)
    with torch.inference_mode():
        monkeypatch.setattr(script, "measure_apart", lambda key: script.measure(key, options))
        script.main()
    written = json.loads(file.read_text(encoding="utf-8"))
    assert set(written) == {"image_int4", *NANO, "calls_1b", "prediction", "settings", "machine"}
    row = written["image_int4"]
    assert row["unit"] == "s" and row["goal"] == 2.3
    assert row["ours"] > 0 and row["theirs"] > 0 and row["whole"]["ours"] > 0
    assert written["settings"]["preset"] == "tiny" and "row" not in written["settings"]


def test_an_unknown_row_is_refused(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.parse(["--only", "image_bf17", "--output", "unused.json"])
    assert "image_bf17" in capsys.readouterr().err
