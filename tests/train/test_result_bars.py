from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from openjanus.eval.results import Block, Figure, Result
from openjanus.eval.tables import compare
from openjanus.train.result_bars import draw_results


def test_a_panel_says_of_what_it_is_a_part(tmp_path: Path, monkeypatch) -> None:
    axes = pytest.importorskip("matplotlib.axes").Axes
    titles, set_title = [], axes.set_title
    monkeypatch.setattr(
        axes, "set_title", lambda *a, **k: (titles.append(a[1]), set_title(*a, **k))[1]
    )
    block = Block(
        task="seen",
        title="Seen",
        rules="v1",
        rule=None,
        unit="percent",
        limit=None,
        marks={},
        main=Figure(value=50.0, interval=(40.0, 60.0)),
        parts={"far": Figure(value=20.0)},
    )
    draw_results(compare([Result(folder=tmp_path / "run", blocks=(block,))]), tmp_path / "r.png")
    assert titles == ["Seen (v1)", "Parts of Seen (v1): far"]
    with Image.open(tmp_path / "r.png") as image:
        assert len(image.convert("RGB").getcolors(image.width * image.height) or ()) > 3
