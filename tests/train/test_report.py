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


def write_result(folder: Path, value: float) -> Path:
    folder.mkdir()
    score = {"name": "GQA accuracy", "value": value, "unit": "percent", "interval": [1.0, 99.0]}
    summary = {"format_version": 3, "task": "gqa", "rules": "exact, v1", "limit": None, "n": 7}
    options = {"rule": "exact", "files": ["q.json"], "files_sha256": "a"}
    told = summary | {"score": score, "options": options}
    (folder / "summary.json").write_text(json.dumps(told))
    return folder


def test_results_become_a_table_and_bars_beside_the_papers(tmp_path: Path, capsys) -> None:
    runs = [write_result(tmp_path / name, value) for name, value in (("one", 40.0), ("two", 50.0))]
    output = tmp_path / "new" / "bars.png"
    assert main(["report", *map(str, runs), "--output", str(output)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "| | GQA accuracy (exact, v1); papers: exact match |" in told
    assert "| one | 40.00 (1.00 to 99.00), n 7 |" in told
    assert "| *Janus-Pro-7B* (paper) | 62.0 |" in told
    assert told[-1] == str(output)
    with Image.open(output) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    drawn = {tuple(map(int, c)) for c, n in zip(colours, counts, strict=True) if n > 500}
    # The bars of both runs, and the papers' grey.
    assert {(31, 119, 180), (255, 127, 14), (191, 191, 191)} <= drawn


def test_a_mixed_list_has_curves_and_bars(tmp_path: Path, capsys) -> None:
    run = write_run(tmp_path / "run", loss=[3.0, 2.0])
    result = write_result(tmp_path / "result", 40.0)
    command = ["report", str(run), str(result), "--output", str(tmp_path / "both.png")]
    assert main([*command, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    pictures = [str(tmp_path / name) for name in ("both-curves.png", "both-results.png")]
    assert told["pictures"] == pictures
    assert all(Path(picture).is_file() for picture in pictures)
    assert told["format_version"] == 1
    assert "run: 2 steps, no result" in told["runs"][str(run)]
    (table,) = told["tables"]
    rows = {row["name"]: row for row in table["rows"]}
    assert rows["result"]["figures"][0]["interval"] == [1.0, 99.0]
    assert rows["Janus 1.3B"]["figures"][0]["value"] == 59.1
    assert rows["Janus 1.3B"]["paper"] is True
    assert any("2410.13848" in source for source in table["sources"])


def test_a_line_of_metrics_that_is_no_json_is_named(tmp_path: Path, capsys) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo\n')
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "curves.png")]) == 2
    assert "metrics.jsonl, line 2 is not valid JSON" in capsys.readouterr().err
