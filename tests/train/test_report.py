from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openjanus.train.report import draw_curves, read_curves, smooth


def write_run(folder: Path, **losses: list[float]) -> Path:
    folder.mkdir()
    rows = [dict(zip(losses, row, strict=True)) for row in zip(*losses.values(), strict=True)]
    lines = [json.dumps({"step": step, **row}) for step, row in enumerate(rows, start=1)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_smoothing_keeps_a_constant_and_averages_neighbours() -> None:
    np.testing.assert_allclose(smooth(np.full(7, 2.5), 3), 2.5)
    np.testing.assert_allclose(smooth(np.array([0.0, 3.0, 6.0]), 3), [1.5, 3.0, 4.5])


def test_curves_are_read_by_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", loss=[3.0, 2.0], loss_gen=[4.0, 3.5], lr=[1.0, 1.0])
    curves = read_curves(run)
    assert set(curves) == {"loss", "loss_gen"}
    assert curves["loss_gen"][0].tolist() == [1, 2]
    assert curves["loss_gen"][1].tolist() == [4.0, 3.5]


def test_runs_are_drawn_side_by_side(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", loss=[3.0, 2.0, 1.0])
    two = write_run(tmp_path / "two", loss=[3.0, 2.5, 2.0], l1=[0.3, 0.2, 0.1])
    draw_curves([one, two], tmp_path / "out" / "curves.png")
    with Image.open(tmp_path / "out" / "curves.png") as image:
        assert image.width > image.height  # two panels
        assert len(np.unique(np.asarray(image))) > 10  # something is drawn


def test_a_run_has_one_colour_in_every_panel(tmp_path: Path, monkeypatch) -> None:
    from matplotlib.axes import Axes

    for name, loss in (("one", "loss_und"), ("two", "loss_text")):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"step": i, "loss": 1.0, loss: 2.0}) for i in (1, 2)]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    seen = []
    plot = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda *a, **k: (seen.append((k["label"], k["color"])), plot(*a, **k))[1]
    )
    draw_curves([tmp_path / "one", tmp_path / "two"], tmp_path / "curves.png")
    assert set(seen) == {("one", "C0"), ("two", "C1")}
    assert len(seen) == 4


def test_a_folder_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no metrics\.jsonl in"):
        draw_curves([tmp_path], tmp_path / "curves.png")
