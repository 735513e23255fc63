"""``benchmarks/determinism.py``: one hash of every drawing, and it sees where there are more."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "determinism.py"
PROMPTS = ["a dog", "a photo of two cats", "a red car left of a clock", "x", "a blue cow", "yes"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("determinism", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
@pytest.mark.parametrize("scale", [5.0, None])
@pytest.mark.parametrize("kind", ["fp32", "fp32 packed"])
def test_every_way_draws_the_same(script: ModuleType, kind: str, scale: float | None) -> None:
    asked = script.parse(["--model", "tiny", "--output", "unused.json"])
    row = script.measure(kind, PROMPTS, scale, asked)
    assert row["ways"] == 12 and row["prompts"] == len(PROMPTS)
    assert row["differ"] == 0 and row["flips"] == 0 and row["ours"] == 1
    assert not any(row["by_way"].values())


def test_another_drawing_is_seen(script: ModuleType) -> None:
    one, other = ("a", torch.tensor([1, 2])), ("b", torch.tensor([1, 3]))
    row = script.compare({"alone": [one, one], "same": [one, one], "else": [one, other]})
    assert row["ours"] == 1.5 and row["differ"] == 1
    assert row["flips"] == pytest.approx(1 / 8)
    assert row["by_way"] == {"alone": 0, "same": 0, "else": 1}


def test_the_order_of_the_prompts_comes_back(script: ModuleType) -> None:
    asked = script.parse(["--model", "tiny", "--output", "unused.json"])
    janus = script.models(asked.model, "fp32")[8]
    straight = script.in_batches(3)(janus, PROMPTS[:3], 5.0, 0)
    mixed = script.shuffled(janus, PROMPTS[:3], 5.0, 0)
    assert [one for one, _ in mixed] == [one for one, _ in straight]
    assert len({one for one, _ in mixed}) == 3
