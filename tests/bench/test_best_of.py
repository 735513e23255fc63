"""``benchmarks/best_of.py``: what it asks for, and its figures on verdicts made by hand."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from openjanus.eval.geneval import TAGS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "best_of.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("best_of", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_it_asks_for_as_many_of_each_tag_without_being_told(script: ModuleType) -> None:
    asked = script.requests(script.parse([]).prompts)
    counts = Counter(line["tag"] for line in asked)
    assert set(counts) == set(TAGS) and len(set(counts.values())) == 1
    assert len({line["prompt"] for line in asked}) == len(asked)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--prompts", "7"], "--prompts must be a multiple of 6 up to 144, got 7"),
        (["--prompts", "150"], "up to 144, got 150"),
        (["--best-of", "1"], "one of them at least 2"),
        (["--best-of", "0", "4"], "of at least 1"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    script: ModuleType, capsys: pytest.CaptureFixture[str], given: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        script.parse(given)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_figures_are_of_the_first_candidates_alone(script: ModuleType) -> None:
    row = {"scores": [-3.0, -1.0, -2.0, -0.5], "right": [True, False, True, False]}
    rows = [row | {"tag": tag, "prompt": tag} for tag in TAGS]
    one, two, four = (script.figures(rows, k, 0) for k in (1, 2, 4))
    assert [one["ours"], one["theirs"], one["any_right"]] == [1.0, 1.0, 1.0]
    assert [two["ours"], two["theirs"], two["any_right"]] == [0.0, 0.5, 1.0]
    assert [four["ours"], four["theirs"], four["any_right"]] == [0.0, 0.5, 1.0]
    assert four["by_tag"]["colors"] == [0.0, 0.5, 1.0]
