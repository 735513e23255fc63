"""Tables of results: what stands in one column, and what the papers say beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openjanus.cli import main
from openjanus.eval.benchmark import Benchmark
from openjanus.eval.geneval import TAGS
from openjanus.eval.papers import FAMILY, PAPERS
from openjanus.eval.results import read_result, run_labels
from openjanus.eval.tables import compare
from openjanus.eval.task import build_task


def write(folder: Path, summary: dict[str, Any], **settings: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary | settings))
    return folder


def benchmark(task: str, rules: str, rule: str, value: float, **more: Any) -> dict[str, Any]:
    score = {"name": task.upper(), "value": value, "unit": "percent"}
    return {
        "format_version": 3,
        "task": task,
        "rules": rules,
        "limit": None,
        "options": {"rule": rule, "files": ["questions.json"], "files_sha256": "f" * 64},
        "score": score | {"interval": [value - 2, value + 2]},
        "n": 500,
        "broken": {"n": 0, "items": {}},
    } | more


def emoji(overall: float, judge: str = "a" * 64) -> dict[str, Any]:
    kinds = {"existence": 0.9, "naming": 0.8}
    return {
        "format_version": 3,
        "task": "emoji",
        "rules": "GenEval rules on the emoji world, v1; exact match, v1",
        "limit": None,
        "options": {"judge_sha256": judge, "sprites_sha256": "c" * 64},
        "drawing": {
            "overall": overall,
            "tags": dict.fromkeys(TAGS, overall),
            "ci": {name: [overall - 0.05, overall + 0.05] for name in ("overall", *TAGS)},
            "n": 2400,
            "ceiling": 0.95,
        },
        "understanding": {**kinds, "blind": dict.fromkeys(kinds, 0.25), "n": 2000},
        "details": {"understanding_ci": {kind: [v - 0.1, v + 0.1] for kind, v in kinds.items()}},
    }


def geneval(**more: Any) -> dict[str, Any]:
    return {
        "format_version": 1,
        "task": "geneval",
        "rules": "GenEval, plain mean of six tags, v1",
        "overall": 0.5,
        "tags": dict.fromkeys(TAGS, 0.5),
        "ci": {name: [0.4, 0.6] for name in ("overall", *TAGS)},
        "prompts": dict(zip(TAGS, (80, 99, 80, 94, 100, 100), strict=True)),
        "samples": [4],
        "n": 2212,
        "detector": "Mask2Former",
        "prompts_sha256": "d" * 64,
    } | more


def dpg(**more: Any) -> dict[str, Any]:
    score = {"name": "DPG-Bench", "value": 80.0, "unit": "percent", "interval": [79.0, 81.0]}
    return {
        "format_version": 1,
        "task": "dpg",
        "rules": "DPG-Bench, a question falls with its parents, v1",
        "score": score,
        "categories": {"global": 80.0},
        "n": 4260,
        "prompts": 1065,
        "prompts_without_answers": 0,
        "questions_sha256": "f" * 64,
    } | more


def cells(table: Any, name: str) -> list[float | None]:
    (row,) = [row for row in table.rows if row.name == name]
    found = [row.figures.get(column.key) for column in table.columns]
    return [None if figure is None else figure.value for figure in found]


def test_a_rule_a_limit_and_other_questions_have_their_own_columns(tmp_path: Path) -> None:
    vanilla, circular = "vanilla; heuristics, v1", "circular; heuristics, v1"
    other = {"rule": "vanilla", "files_sha256": "e" * 64}
    folders = [
        write(tmp_path / "a", benchmark("mmbench", vanilla, "vanilla", 75.0)),
        write(tmp_path / "b", benchmark("mmbench", circular, "circular", 66.0)),
        write(tmp_path / "c", benchmark("mmbench", vanilla, "vanilla", 70.0, limit=50)),
        write(tmp_path / "d", benchmark("mmbench", vanilla, "vanilla", 71.0, options=other)),
        write(tmp_path / "e", benchmark("mmbench", vanilla, "vanilla", 72.0)),
    ]
    (table,) = compare([read_result(folder) for folder in folders])
    titles = [column.title for column in table.columns]
    assert titles == [
        f"MMBENCH ({vanilla}; files ffffffff); papers: DEV_EN, each question once",
        f"MMBENCH ({circular})",
        f"MMBENCH ({vanilla}; first 50 of each part alone)",
        f"MMBENCH ({vanilla}; files eeeeeeee); papers: DEV_EN, each question once",
    ]
    assert cells(table, "a") == [75.0, None, None, None]
    assert cells(table, "b") == [None, 66.0, None, None]
    assert cells(table, "c") == [None, None, 70.0, None]
    assert cells(table, "e") == [72.0, None, None, None]
    # The papers' rule and all questions, and nothing else.
    assert cells(table, "Janus-Pro-7B") == [79.2, None, None, 79.2]


def test_the_papers_have_a_column_of_their_own_where_no_run_counts_as_they_do(
    tmp_path: Path,
) -> None:
    run = write(tmp_path / "a", benchmark("mmbench", "circular, v1", "circular", 66.0))
    (table,) = compare([read_result(run)])
    assert table.columns[1].title == "MMB itself (papers: DEV_EN, each question once)"
    assert cells(table, "a") == [66.0, None]
    assert cells(table, "Janus 1.3B") == [None, 69.4]
    assert not [row for row in table.rows if row.name == "VILA-U"]  # no figure, no row


def test_figures_of_the_emoji_world_never_stand_under_the_papers_geneval(tmp_path: Path) -> None:
    runs = [
        write(tmp_path / "one", emoji(0.4)),
        write(tmp_path / "two", emoji(0.5, judge="b" * 64)),
    ]
    tables = compare([read_result(run) for run in runs])
    main_table = tables[0]
    titles = [column.title for column in main_table.columns]
    world = "GenEval rules on the emoji world, v1"
    assert titles == [
        f"drawing overall ({world}; judge aaaaaaaa)",
        f"drawing overall ({world}; judge bbbbbbbb)",
        "GenEval itself (papers: photographs; Mask2Former and CLIP judge)",
    ]
    assert cells(main_table, "one") == [0.4, None, None]
    assert cells(main_table, "SDXL") == [None, None, 0.55]
    for table in tables:
        for column in table.columns:
            named = [row for row in table.rows if column.key in row.figures]
            assert len({row.paper for row in named}) == 1, column
    by_tag = next(table for table in tables[1:] if table.rows[0].paper)
    assert cells(by_tag, "Janus-Pro-7B") == [0.99, 0.89, 0.59, 0.90, 0.79, 0.66]
    answers = next(t for t in tables if t.title.startswith("Parts of answers (exact match, v1)"))
    assert cells(answers, "two") == [0.9, 0.8]
    assert next(iter(answers.rows[0].figures.values())).note == "blind 0.250"


def test_languages_and_plain_accuracies_have_their_columns(tmp_path: Path) -> None:
    both = emoji(0.5)
    scores = {key: both["drawing"][key] for key in ("overall", "tags", "ci", "n")}
    languages = {"english": scores, "chinese": scores | {"overall": 0.3}}
    told = both | {"task": "emoji-chinese-drawing", "drawing": languages, "rules": "in two, v1"}
    plain = {
        "format_version": 3,
        "task": "easy-vqa",
        "rules": "exact match, v1",
        "limit": None,
        "accuracy": 0.8,
        "ci": [0.7, 0.9],
        "n": {"all": 90},
        "blind": {"accuracy": 0.3},
        "kinds": {"shape": 0.75},
        "kinds_ci": {"shape": [0.6, 0.9]},
    }
    runs = [write(tmp_path / "zh", told), write(tmp_path / "easy", plain)]
    tables = compare([read_result(run) for run in runs])
    assert [column.title for column in tables[0].columns[:3]] == [
        "drawing overall, english prompts (in two, v1)",
        "drawing overall, chinese prompts (in two, v1)",
        "easy-vqa accuracy (exact match, v1)",
    ]
    assert cells(tables[0], "zh") == [0.5, 0.3, None, None]
    assert cells(tables[0], "easy") == [None, None, 0.8, None]
    assert cells(tables[-1], "easy") == [0.75]


def test_geneval_proper_stands_beside_the_papers_with_their_judge_named(tmp_path: Path) -> None:
    tables = compare([read_result(write(tmp_path / "run", geneval()))])
    assert tables[0].columns[0].title.endswith("papers: photographs; Mask2Former and CLIP judge")
    assert cells(tables[0], "Janus 1.3B") == [0.61]
    assert cells(tables[1], "run") == [0.5] * 6
    assert cells(tables[1], "Janus-Pro-1B") == [0.98, 0.82, 0.51, 0.89, 0.65, 0.56]


@pytest.mark.parametrize(
    "run",
    [
        dpg(prompts=1064, prompts_without_answers=1, n=4256),
        dpg(n=4259),
        dpg(prompts=10, n=40),
        geneval(prompts=dict.fromkeys(TAGS, 80)),
        geneval(samples=[1]),
        geneval(samples=[3, 4, 5]),
    ],
)
def test_a_part_of_the_benchmark_is_in_no_column_of_the_papers(tmp_path: Path, run) -> None:
    whole = dpg() if run["task"] == "dpg" else geneval()
    folders = [write(tmp_path / "part", run), write(tmp_path / "whole", whole)]
    (table, *_) = compare([read_result(folder) for folder in folders])
    assert "not the whole benchmark" in table.columns[0].title
    assert "papers:" not in table.columns[0].title
    assert "papers:" in table.columns[1].title
    assert cells(table, "Janus-Pro-7B")[0] is None
    assert cells(table, "Janus-Pro-7B")[1] is not None


def test_detectors_and_prompts_tell_genevals_columns_apart(tmp_path: Path) -> None:
    runs = [geneval(), geneval(detector="OWLv2"), geneval(detector=None, prompts_sha256="e" * 64)]
    folders = [write(tmp_path / str(i), run) for i, run in enumerate(runs)]
    (table, *_) = compare([read_result(folder) for folder in folders])
    titles = [column.title for column in table.columns]
    assert len(titles) == 3
    assert "prompts dddddddd; detector OWLv2" in titles[1]
    assert "prompts eeeeeeee; detector not named" in titles[2]


def test_what_a_server_or_another_model_judges_is_said(tmp_path: Path) -> None:
    vet = benchmark("mmvet", "answers alone, v1", "answers", 0.0)
    run = write(tmp_path / "vet", vet | {"score": None, "submission": "submission.json"})
    (table,) = compare([read_result(run)])
    assert cells(table, "vet") == [None]
    assert table.rows[0].figures[table.columns[0].key].note == "submission.json"
    assert cells(table, "Janus-Pro-7B") == [50.0]


def test_tasks_of_mme_stand_by_themselves_where_the_sum_is_not_known(tmp_path: Path) -> None:
    summary = benchmark("mme", "MME's reading, v1", "official", 0.0, score=None)
    summary |= {"tasks": {"count": 125.0, "OCR": 50.0}, "tasks_ci": {"count": [50.0, 200.0]}}
    _, parts, *_ = compare([read_result(write(tmp_path / "run", summary))])
    assert [(c.title, c.unit) for c in parts.columns] == [("count", "points"), ("OCR", "points")]
    count, ocr = (parts.rows[0].figures[column.key] for column in parts.columns)
    assert (count.value, count.interval) == (125.0, (50.0, 200.0))
    assert (ocr.value, ocr.interval) == (50.0, None)  # as the first summaries were


def test_every_paper_figure_is_of_a_task_and_a_rule_that_there_are() -> None:
    for paper in PAPERS:
        if paper.task in ("geneval", "dpg"):
            assert paper.rule is None
            continue
        task = build_task(paper.task, {"data": "anywhere"})
        assert isinstance(task, Benchmark)
        assert paper.rule == task.rule  # the papers' is the one unless said
    for paper in PAPERS:
        assert set(paper.figures) & set(FAMILY)
        for model, parts in paper.parts.items():
            if paper.task == "geneval":  # overall is the mean of the tags, as printed
                assert abs(sum(parts.values()) / 6 - paper.figures[model]) < 0.0075


def test_labels_are_as_short_as_tells_them_apart() -> None:
    runs = [Path("a/x/eval"), Path("b/x/eval"), Path("b/pope")]
    assert list(run_labels(runs).values()) == ["a/x/eval", "b/x/eval", "pope"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if line]
    return line


def test_a_picture_is_called_what_is_printed(tmp_path: Path, capsys) -> None:
    good = write(tmp_path / "good", benchmark("gqa", "exact, v1", "exact", 1.0))
    assert main(["report", str(good), "--output", str(tmp_path / "compared")]) == 0
    (name,) = [line for line in capsys.readouterr().out.splitlines() if "compared" in line]
    assert name == str(tmp_path / "compared.png") and Path(name).is_file()


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty is no run: give a folder that train (metrics.jsonl) or eval" in refused(
        capsys, "report", empty
    )
    half = tmp_path / "half"
    half.mkdir()
    (half / "settings.json").write_text(json.dumps({"format_version": 3, "prompts": 40}))
    (half / "predictions.jsonl").write_text('{"key": "a"}\n{"key": "b"}\n{"ke')
    assert "half is not complete (2 of 40 answers): give its openjanus eval command again" in (
        refused(capsys, "report", half)
    )
    newer = write(tmp_path / "newer", benchmark("gqa", "v9", "exact", 1.0, format_version=9))
    assert "format_version 9 is newer than 3: install a newer openjanus" in refused(
        capsys, "report", newer
    )
    drawn = write(tmp_path / "drawn", {"format_version": 1, "layout": "geneval", "pictures": 4})
    assert "holds drawings that nothing has judged" in refused(capsys, "report", drawn)
    other = write(tmp_path / "other", {"format_version": 3, "task": "echo", "text": "a"})
    assert "task 'echo' states no figure that a report knows" in refused(capsys, "report", other)
    cut = write(tmp_path / "cut", {"format_version": 3, "task": "gqa", "score": {}})
    assert "is no whole summary" in refused(capsys, "report", cut)
    odd = benchmark("gqa", "exact, v1", "exact", 1.0)
    score = odd["score"]
    for number, wrong in enumerate(
        [
            {"rules": None},
            {"task": 5},
            {"score": score | {"value": "x"}},
            {"score": score | {"interval": [1]}},
        ]
    ):
        folder = write(tmp_path / f"odd{number}", odd | wrong)
        assert "is no whole summary" in refused(capsys, "report", folder)
    (cut / "summary.json").write_bytes(b"\xff")
    assert "summary.json is not JSON" in refused(capsys, "report", cut)
    good = write(tmp_path / "good", emoji(0.5))
    assert "--output is a picture, " in refused(capsys, "report", good, "--output", tmp_path)
    assert "--spikes is about runs of train" in refused(capsys, "report", good, "--spikes")
    assert not list(tmp_path.glob("*.png"))
