"""The speedrun's rules and its clock; what it runs is run by ``make speedrun-mini``."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from openjanus.pipeline.load import load
from openjanus.train.recipes import load_members, read_configs, read_recipe

ROOT = Path(__file__).parents[1]


BLIND = {"existence": 0.5, "colour": 0.3}


@pytest.fixture(scope="module")
def speedrun() -> Any:
    spec = importlib.util.spec_from_file_location("speedrun", ROOT / "scripts" / "speedrun.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def record() -> dict[str, Any]:
    """A run that reached what is wanted."""
    stages = {
        "tokenizer": {"recipe": "speedrun/tokenizer", "seconds": 20.0},
        "vq": {
            "recipe": "speedrun/vq",
            "seconds": 1800.0,
            "steps": 3000,
            "loss": "l1",
            "first": 0.4,
            "last": 0.05,
        },
    }
    drawing = {"overall": 0.471, "ci": {"overall": [0.45, 0.492]}, "n": 2400}
    return {
        "limit": 400,
        "commit": "0123456789",
        "idea": "fewer looks",
        "machine": {"cpus": 2},
        "world": {"equals_shipped": True},
        "stages": stages,
        "training_seconds": 3 * 3600 + 7 * 60 + 31.0,
        "result": {
            "drawing": drawing,
            "understanding": {"existence": 0.8, "colour": 0.3, "blind": BLIND, "n": 800},
            "parameters": 15_500_000,
            "judge": {"renders": {"counting": {}}},
        },
    }


def test_the_shipped_recipes_keep_the_rules(speedrun):
    for recipe in ("speedrun/all", "speedrun/mini"):
        speedrun.check_rules(load_members(recipe), read_configs(recipe))


def test_the_miniature_has_every_part_by_its_own_recipe():
    whole, mini = load_members("speedrun/all"), load_members("speedrun/mini")
    assert [(m.folder, m.recipe) for m in mini] == [(m.folder, m.recipe) for m in whole]
    assert [m.folder for m in whole] == [
        *("tokenizer", "vq", "encoder", "text", "stage1", "stage2", "stage3")
    ]
    assert "make speedrun-mini" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("stage1", {"init": ["text/final", "nano"]}, "starts from 'nano': a speedrun starts from"),
        ("text", {"init": ["./base"]}, r"starts from '\./base'"),
        ("stage1", {"init": ["stage3/final"]}, "starts from 'stage3/final'"),  # not yet there
        ("text", {"vq": "../other/vq/final"}, r"starts from '\.\./other/vq/final'"),
        ("encoder", {"tokenizer": "weights/t"}, "starts from 'weights/t'"),
        (
            "vq",
            {"source": {"type": "emoji-pictures", "options": {"size": 96, "split": "held_out"}}},
            "vq .* is shown the split 'held_out'",
        ),
    ],
)
def test_what_starts_from_weights_or_sees_held_out_cells_is_refused(
    speedrun, tmp_path, capsys, part, changes, says
):
    (tmp_path / "part.yaml").write_text(yaml.safe_dump(read_recipe(f"speedrun/{part}") | changes))
    whole = copy.deepcopy(read_recipe("speedrun/all"))
    whole["recipes"][part]["recipe"] = str(tmp_path / "part.yaml")
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    output = tmp_path / "run"
    arguments = ["--recipe", str(tmp_path / "all.yaml"), "--output", str(output)]
    assert speedrun.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(says, line)
    assert not output.exists()


def test_a_run_is_of_one_commit_and_goes_on(speedrun, tmp_path, monkeypatch):
    monkeypatch.setattr(speedrun, "_commit", lambda: "aaaa")
    first = speedrun.open_record(tmp_path, "speedrun/all", "an idea", 400)
    speedrun.Clock(tmp_path, first).write()
    again = speedrun.open_record(tmp_path, "speedrun/all", "", 400)
    assert (first["sessions"], again["sessions"], again["idea"]) == (1, 2, "an idea")
    with pytest.raises(ValueError, match="was begun with limit 400, this is 4"):
        speedrun.open_record(tmp_path, "speedrun/all", "", 4)
    monkeypatch.setattr(speedrun, "_commit", lambda: "bbbb")
    with pytest.raises(ValueError, match="was begun with commit 'aaaa', this is 'bbbb'"):
        speedrun.open_record(tmp_path, "speedrun/all", "", 400)
    (tmp_path / "record.json").write_text(json.dumps(first | {"format_version": 9}))
    with pytest.raises(ValueError, match="format_version 9 is newer than 1"):
        speedrun.open_record(tmp_path, "speedrun/all", "", 400)


def test_the_clock_goes_on_where_it_was(speedrun, tmp_path, monkeypatch):
    sleep = [sys.executable, "-c", "import sys, time; time.sleep(0.4); sys.exit(int(sys.argv[1]))"]
    monkeypatch.setattr(speedrun, "COMMAND", sleep)
    stage = {"recipe": "speedrun/vq", "seconds": 100.0}
    clock = speedrun.Clock(tmp_path, {"stages": {"vq": stage}, "training_seconds": 0.0})
    clock.run(stage, "seconds", ["0"])
    once = stage["seconds"]
    assert 100.4 <= once < 110
    with pytest.raises(SystemExit) as failed:
        clock.run(stage, "seconds", ["3"])
    assert failed.value.code == 3
    assert stage["seconds"] >= once + 0.4
    written = json.loads((tmp_path / "record.json").read_text())
    assert written["training_seconds"] == stage["seconds"]


def test_a_signal_to_stop_is_handed_on_once(speedrun, tmp_path, monkeypatch):
    program = (
        "import signal, sys, time; from pathlib import Path; "
        "signal.signal(signal.SIGTERM, lambda *_: (Path(sys.argv[1]).touch(), sys.exit(0))); "
        "time.sleep(60)"
    )
    monkeypatch.setattr(speedrun, "COMMAND", [sys.executable, "-c", program])
    stage = {"recipe": "speedrun/vq", "seconds": 0.0}
    clock = speedrun.Clock(tmp_path, {"stages": {"vq": stage}, "training_seconds": 0.0})
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(SystemExit) as stopped:
        clock.run(stage, "seconds", [str(tmp_path / "saved")])
    assert stopped.value.code == 130
    assert (tmp_path / "saved").is_file()
    assert 1 < json.loads((tmp_path / "record.json").read_text())["training_seconds"] < 50
    assert signal.getsignal(signal.SIGTERM) == before


def test_both_ends_of_a_loss_are_means_and_a_tokenizer_is_told_by_l1(speedrun, tmp_path):
    lines = [{"step": i, "loss": 5.0 - i / 10, "l1": 1.0 + i} for i in range(1, 31)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert speedrun.ends(tmp_path) == {"steps": 30, "loss": "l1", "first": 5.0, "last": 28.0}
    (tmp_path / "metrics.jsonl").write_text(text.replace("l1", "other"))
    assert speedrun.ends(tmp_path)["last"] == pytest.approx(2.3)
    assert speedrun.ends(tmp_path / "words") == {}


def test_what_must_hold_of_any_run(speedrun, record):
    assert speedrun.failures(record) == []
    record["stages"]["vq"]["last"] = 0.5
    record["stages"]["text"] = {"recipe": "speedrun/text", "seconds": 1.0}
    record["result"]["judge"] = {}
    assert speedrun.failures(record) == [
        "vq: l1 rose, 0.4 to 0.5",
        "text: no metrics",
        "the judge was not measured beside",
    ]
    record["result"]["drawing"]["n"] = 0
    assert "nothing was judged" in speedrun.failures(record)


def test_the_line_and_what_keeps_it_out_of_the_table(speedrun, record):
    assert speedrun.why_no_record(record) == []
    line = speedrun.table_line(record)
    assert line == "| 3 h 08 min | 0.471 (0.450 to 0.492) | 0123456789 | fewer looks |"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    head = next(row for row in readme.splitlines() if row.startswith("| wall-clock |"))
    assert head.count("|") == line.count("|")
    record |= {"commit": "0123456789+", "idea": "", "limit": 4, "machine": {"cpus": 8}}
    record["world"]["equals_shipped"] = False
    record["result"]["drawing"]["overall"] = 0.44
    record["result"]["understanding"]["colour"] = 0.29
    record["result"]["parameters"] += 1
    assert [said.split(":")[0] for said in speedrun.why_no_record(record)] == [
        "overall 0.440 is below 0.45",
        "answers of colour are below blind",
        "15,500,001 parameters, more than 15,500,000",
        "4 drawings a tag, not 400",
        "8 CPUs, not 2",
        "the code is of no commit (0123456789+)",
        "the world that was rendered is not the one that ships",
        "no --idea",
    ]


def test_parameters_are_those_of_all_parts(speedrun, tmp_path):
    janus = load("tiny")
    janus.save(tmp_path / "final")
    wanted = sum(parameter.numel() for parameter in janus.model.parameters())
    assert speedrun.parameters_of(tmp_path / "final") == wanted


def test_what_is_complete_is_not_run_again(speedrun, tmp_path, monkeypatch, capsys):
    """Commands are looked at here, and leave what real ones leave."""
    ran: list[list[str]] = []

    def run(clock, where, name, command):
        ran.append(command)
        where[name] = where.get(name, 0.0) + 10.0
        if command[0] == "train":
            folder = Path(command[command.index("--run.dir") + 1])
            (folder / "final").mkdir(parents=True)
            lines = ({"step": i, "loss": 9 - i} for i in (1, 2))
            (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
        else:
            folder = Path(command[command.index("--output") + 1])
            folder.mkdir()
            drawing = {"overall": 0.1, "ci": {"overall": [0.0, 0.2]}, "n": 24}
            summary = {"rules": "r", "drawing": drawing}
            summary["understanding"] = BLIND | {"blind": BLIND}
            summary |= {"judge": {"renders": {"a": 1}}, "options": {"judge_sha256": "x"}}
            told = summary | {"checkpoint_sha256": "y"}
            (folder / "summary.json").write_text(json.dumps(told))

    monkeypatch.setattr(speedrun.Clock, "run", run)
    monkeypatch.setattr(speedrun, "_commit", lambda: "aaaa")
    monkeypatch.setattr(speedrun, "parameters_of", lambda model: 7)
    arguments = ["--recipe", "speedrun/mini", "--shipped-world", "--limit", "4"]
    assert speedrun.main([*arguments, "--output", str(tmp_path)]) == 0
    assert [command[0] for command in ran] == ["train"] * 7 + ["eval"]
    assert "--samples=4000" in ran[0]
    assert ran[-1][ran[-1].index("--model") + 1] == str(tmp_path / "stage3" / "final")
    assert capsys.readouterr().out.startswith("| 0 h 01 min | 0.100 (0.000 to 0.200) | aaaa |")
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["training_seconds"], record["judging_seconds"]) == (70.0, 10.0)
    assert speedrun.main([*arguments, "--output", str(tmp_path)]) == 0
    assert len(ran) == 8
