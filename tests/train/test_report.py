from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openjanus.cli import main
from openjanus.train.report import draw_curves, read_curves, smooth, summarise


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
    assert set(curves) == {"loss", "loss_gen", "lr"}
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


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, by the title of its panel; as the axes have it in the end."""
    from matplotlib.figure import Figure

    panels: dict[str, list[str]] = {}
    save = Figure.savefig

    def look(figure, *args, **options):
        for axes in figure.axes:
            if axes.get_visible():
                panels[axes.get_title()] = [line.get_label() for line in axes.get_lines()]
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", look)
    return panels


def test_what_is_held_out_is_in_the_panel_of_its_loss(tmp_path: Path, drawn) -> None:
    run = write_run(tmp_path / "run", loss=[3.0, 2.0], val_loss=[3.5, 2.5], val_loss_gen=[4.0, 4.0])
    best = {"format_version": 1, "metric": "val_loss", "checkpoints": [{"step": 2}]}
    (run / "best.json").write_text(json.dumps(best | {"ended_at": None}))
    draw_curves([run], tmp_path / "curves.png")
    assert drawn["loss"][:2] == ["run", "run, held out"]
    assert drawn["loss_gen"][0] == "run, held out"
    assert [len(lines) for lines in drawn.values()] == [3, 2]  # and the line of the best


def test_norms_of_parts_share_a_panel_for_each_run(tmp_path: Path, drawn) -> None:
    norms = {"loss": [1.0, 1.0], "grad_norm": [2.0, 2.0], "grad_norm_gen_head": [1.0, 1.0]}
    runs = [write_run(tmp_path / name, **norms, grad_norm_vq=[1.0, 3.0]) for name in ("a", "b")]
    draw_curves(runs, tmp_path / "curves.png")
    assert list(drawn) == [
        *("loss", "grad_norm", "gradient norms by part a", "gradient norms by part b")
    ]
    assert drawn["gradient norms by part b"] == ["gen_head", "vq"]


@pytest.mark.parametrize(
    ("metrics", "titles"),
    [
        ({"loss": [9.0, 1.0], "image_to_text": [0.1, 0.9]}, ["loss", "image_to_text"]),
        ({"l1": [0.3, 0.1], "codebook_usage": [0.5, 1.0]}, ["l1", "codebook_usage"]),
        (
            {"loss": [1.0, 1.0], "data_wait": [0.1, 0.1], "fill": [1, 1]},
            ["loss", "data_wait", "fill"],
        ),
        ({"loss": [1.0, 1.0], "eval_emoji_overall": [1.0, 2.0]}, ["loss", "eval_emoji_overall"]),
    ],
)
def test_runs_of_every_kind_have_their_panels(tmp_path: Path, drawn, metrics, titles) -> None:
    draw_curves([write_run(tmp_path / "run", **metrics)], tmp_path / "curves.png")
    assert list(drawn) == titles


def test_the_command_draws_what_is_named_and_sums_up(tmp_path: Path, drawn, capsys) -> None:
    samples = [{"und": 1, "text": 0, "gen": 3}, {"und": 2, "text": 0, "gen": 6}]
    values = {"loss": [3.0, 2.0], "lr": [1e-3, 5e-4], "grad_norm": [2.0, 4.0], "samples": samples}
    run = write_run(tmp_path / "run", **values, fill=[0.5, 0.7], eval_a_b=[0.25, 0.5])
    output = tmp_path / "out.png"
    assert main(["report", str(run), "--output", str(output), "--metrics", "lr", "fill"]) == 0
    assert list(drawn) == ["lr", "fill"]
    told = capsys.readouterr().out
    for line in (
        "run: 2 steps, no result",
        "loss: 3 to 2; least 2 at 2",
        "grad_norm: median 3, largest 4",
        "lr: peak 0.001, last 0.0005",
        "und : text : gen in samples: 0.250 : 0.000 : 0.750",
        "fill: median 0.6",
        "eval_a_b: last 0.5",
    ):
        assert line in told
    assert main(["report", str(run), "--metrics", "los"]) == 2
    assert "no run has a metric 'los'; did you mean 'loss'" in capsys.readouterr().err


def test_the_summary_tells_the_best_and_an_early_end(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", loss=[3.0, 2.0, 2.5], seconds=[1.0, 2.0, 9.0])
    best = {"format_version": 1, "metric": "val_loss", "checkpoints": [{"step": 2}], "ended_at": 3}
    (run / "best.json").write_text(json.dumps(best))
    (run / "final").mkdir()
    assert summarise(run).splitlines()[0] == (
        f"{run}: 3 steps, 2 s each (median), complete, best val_loss at 2, patience ended at 3"
    )
