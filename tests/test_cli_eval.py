"""The verb eval: what it writes, and that a user's mistake is one line and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openjanus.cli import main

TINY = ["eval", "--model", "tiny"]


def refused(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line]
    assert len(lines) == 1, said.err
    return lines[0]


@pytest.fixture
def gqa(tmp_path) -> Path:
    folder = tmp_path / "gqa"
    (folder / "images").mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (16, 16)).save(folder / "images" / f"{name}.jpg")
    questions = {
        name: {"imageId": name, "question": "What?", "answer": "x"} for name in ("a", "b", "c")
    }
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    return folder


def test_a_benchmark_by_path(gqa, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = [*TINY, "--task", "gqa", "--data", str(gqa), "--rule", "exact"]
    assert main([*arguments, "--output", str(out)]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert summary == json.loads((out / "summary.json").read_text())
    assert (summary["n"], summary["broken"]["n"], summary["options"]["rule"]) == (2, 1, "exact")
    assert "openjanus: c is broken and left out: no image at" in said.err


def test_a_wrong_path_is_said_before_any_weights_are_read(tmp_path, capsys):
    arguments = ["eval", "--model", "no/such-model", "--output", tmp_path / "run", "--data"]
    for task, says in [
        ("pope", "expected a folder with coco_pope_random.json"),
        ("mme", "has no folder of a task of MME: expected MME's folder"),
        ("mmbench", "expected MMBench's .tsv"),
        ("seed", "expected SEED-Bench.json"),
        ("gqa", "expected a GQA questions file"),
        ("vqav2", "expected a folder with one v2_OpenEnded_mscoco_SPLIT_questions.json"),
        ("mmmu", "expected MMMU's folder"),
        ("mmvet", "expected MM-Vet's mm-vet.json"),
    ]:
        assert says in refused(capsys, *arguments, tmp_path, "--task", task)
    assert not (tmp_path / "run").exists()
    said = refused(capsys, *arguments, tmp_path / "x", "--task", "pope", "--rule", "circular")
    assert "POPE has no rule 'circular'; known: authors, splits" in said
    assert "unknown option 'data'" in refused(capsys, *arguments, tmp_path, "--task", "emoji")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--output", "x"], "one of the arguments --task --generate-set is required"),
        (["--task", "gqa", "--generate-set", "x"], "not allowed with argument"),
        (["--task", "gqa", "--data", "x"], "give --output"),
        (["--task", "gqa", "--detections", "x"], "--task gqa does nothing with --detections"),
        (["--task", "geneval", "--data", "x"], "scores files: give --detections"),
        (["--task", "dpg"], "scores files: give --data and --answers"),
        (["--task", "frechet", "--data", "x"], "scores files: give --reference"),
        (["--task", "dpg", "--limit", "3"], "--task dpg does nothing with --limit"),
        (["--task", "dpg", "--data", "x", "--answers", "y", "--set", "a=1"], "nothing with --set"),
        (
            ["--task", "frechet", "--data", "x", "--reference", "y", "--set", "resize=none"],
            "means nothing without its network and how pictures were resized: give --set features",
        ),
        (
            ["--task", "geneval", "--data", "x", "--detections", "y", "--drawings", "z"],
            "--task geneval does nothing with --drawings",
        ),
        (["--task", "gqa", "--data", "x", "--drawings", "y"], "nothing with --drawings"),
        (["--task", "dpg", "--data", "x", "--answers", "y"], "does nothing with --model"),
        (
            ["--task", "geneval", "--data", "x", "--detections", "y", "--set", "detectr=OWLv2"],
            "--task geneval has no option 'detectr'; did you mean 'detector'?",
        ),
        (
            ["--task", "geneval", "--data", "x", "--detections", "y", "--set", "detector="],
            "give --set detector=NAME",
        ),
        (["--generate-set", "x", "--output", "y"], "give --layout, one of geneval, dpg, flat"),
        (["--generate-set", "x", "--layout", "flat"], "give --output"),
        (["--generate-set", "x", "--rule", "a"], "--generate-set does nothing with --rule"),
        (
            ["--generate-set", "x", "--layout", "flat", "--output", "y", "--set", "m=1"],
            "unknown option 'm' of a set; known: n, batch_size",
        ),
        (
            ["--generate-set", "x", "--layout", "flat", "--output", "y", "--set", "n=many"],
            "n must be a number (int | None), got 'many'",
        ),
        (
            ["--generate-set", "x", "--layout", "flat", "--output", "y", "--set", "top_p=7"],
            "openjanus: top_p must be in (0, 1], got 7",
        ),
        (
            ["--generate-set", "no-such", "--layout", "flat", "--output", "y"],
            "no-such does not exist: expected a text file",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, says, capsys):
    assert says in refused(capsys, *TINY, *arguments)


def test_an_output_that_is_a_file_is_refused_before_any_weights_are_read(gqa, tmp_path, capsys):
    file = tmp_path / "run"
    file.write_text("")
    tasks = (
        ["--model", "no/such-model", "--task", "gqa", "--data", gqa],
        ["--model", "no/such-model", "--generate-set", "x", "--layout", "flat"],
        ["--task", "dpg", "--data", "x", "--answers", "y"],
    )
    for arguments in tasks:
        for output in (file, file / "below"):
            said = refused(capsys, "eval", *arguments, "--output", output)
            assert f"--output is a folder, {file} is a file: give another" in said


@pytest.mark.parametrize("option", ["--device", "--dtype", "--revision", "--adapter"])
def test_what_is_scored_from_files_has_no_model(option, capsys):
    files = ["--task", "dpg", "--data", "x", "--answers", "y"]
    assert f"does nothing with {option}" in refused(capsys, "eval", *files, option, "float32")


def test_from_prompts_to_a_geneval_score(tmp_path, capsys):
    metadata = {"tag": "counting", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(metadata) + "\n")
    out, found = tmp_path / "drawings", tmp_path / "found.jsonl"
    arguments = [*TINY, "--generate-set", str(tmp_path / "prompts.jsonl"), "--layout", "geneval"]
    assert main([*arguments, "--output", str(out), "--set", "n=2", "--seed", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["drawn"] == 2
    dog = {"class": "dog", "score": 0.95, "box": [0, 0, 1, 1]}
    lines = [
        {"file": f"00000/samples/000{i}.png", "detections": [dog] if i else []} for i in (0, 1)
    ]
    found.write_text("".join(json.dumps(line) + "\n" for line in lines))
    score = ["eval", "--task", "geneval", "--data", str(out), "--detections", str(found)]
    score += ["--set", "detector=OWLv2"]
    assert main([*score, "--output", str(tmp_path / "score")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "score" / "summary.json").read_text())
    assert result["tags"] == {"counting": 0.5}
    lines = (tmp_path / "score" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "key": f"00000/samples/000{i}.png",
            "tag": "counting",
            "prompt": "a dog",
            "correct": bool(i),
            "reasons": [] if i else ["expected 1 dog, found 0"],
        }
        for i in (0, 1)
    ]
    assert (result["drawings"]["seed"], result["detector"]) == (4, "OWLv2")
    # A result of its own kind is written anew; what drawings or another task say is not lost.
    assert main([*score, "--output", str(tmp_path / "score")]) == 0
    capsys.readouterr()
    assert "holds another result than one of geneval" in refused(capsys, *score, "--output", out)
    (tmp_path / "score" / "summary.json").write_text('{"task": "gqa"}')
    assert "holds another result" in refused(capsys, *score, "--output", tmp_path / "score")


def test_dpg_and_frechet(tmp_path, capsys):
    table, told = tmp_path / "dpg.csv", tmp_path / "told.jsonl"
    header = "item_id,text,proposition_id,dependency,category_broad,question_natural_language\n"
    table.write_text(header + "a,t,1,0,entity,?\n")
    told.write_text('{"item_id": "a", "tile": 0, "proposition_id": 1, "answer": "yes"}\n')
    assert main(["eval", "--task", "dpg", "--data", str(table), "--answers", str(told)]) == 0
    assert json.loads(capsys.readouterr().out)["score"]["value"] == 100.0
    features = np.random.default_rng(0).normal(size=(30, 3))
    np.save(tmp_path / "a.npy", features)
    np.save(tmp_path / "b.npy", features + np.array([1, 2, 2]))
    paths = ["--data", str(tmp_path / "a.npy"), "--reference", str(tmp_path / "b.npy")]
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    (drawn / "settings.json").write_text('{"layout": "flat", "checkpoint_sha256": "aa"}')
    names = ["--set", "features=Inception", "--set", "resize=299", "--drawings", str(drawn)]
    assert main(["eval", "--task", "frechet", *paths, *names]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["features"], result["resize"]) == ("Inception", "299")
    assert result["drawings"]["checkpoint_sha256"] == "aa"
    assert result["frechet_distance"] == pytest.approx(9)
    assert (result["format_version"], result["n"]) == (1, 30)
