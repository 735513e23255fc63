"""Six columns of two faces, of a random model and of answers made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openjanus.eval.ablation import COLUMNS, DRAWING, UNDERSTANDING
from openjanus.eval.runner import run_task
from openjanus.eval.task import register_task
from openjanus.pipeline.load import load
from openjanus.worlds.emoji.cells import evaluation_cells
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.faces_task import (
    FacesTask,
    accuracy,
    existence_f1,
    four_choices,
    judge_features,
)
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.judge import Calibration, Judge
from openjanus.worlds.emoji.judge_network import JudgeConfig, empty_network
from openjanus.worlds.emoji.questions import exam
from openjanus.worlds.emoji.sampling import touches_held_out
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS
from openjanus.worlds.emoji.sprites import Sprites


@pytest.fixture(scope="module")
def referee() -> Judge:
    network = empty_network(JudgeConfig(widths=(2, 2, 3, 2)), norm=False)
    network.init_weights(torch.Generator().manual_seed(0))
    return Judge(network, Calibration(), {})


def options_of(sprites: Sprites, referee: Judge, **changes: Any) -> dict[str, Any]:
    options = {
        "sprites": sprites,
        "referee": referee,
        "vendors": ("first",),
        "references": 20,
        "drawings": 2,
        "questions": 3,
    }
    return options | changes


def test_the_few_are_judged_by_the_first_worlds_judge(sprites: Sprites, referee: Judge) -> None:
    few = sprites.in_world("few")
    task = FacesTask(**options_of(few, referee, world="few", slots=True))
    settings = task.settings(load("tiny"))
    assert (settings["world"], settings["slots"], settings["one_ground"]) == ("few", True, False)
    asked = task.requests(limit=100, seed=0)
    cells = {request.data["cell"] for request in asked if request.group.startswith("drawing/")}
    known = {cell.name for tag in GENEVAL_TAGS for cell in evaluation_cells(tag, "few")}
    assert cells
    assert cells <= known


def test_a_run_has_six_columns_and_goes_on(
    sprites: Sprites, referee: Judge, tmp_path: Path
) -> None:
    register_task("faces-test", FacesTask)
    janus = load("tiny")
    options = options_of(sprites, referee)
    summary = run_task(janus, "faces-test", output=tmp_path, options=options)
    assert list(summary["columns"]) == list(COLUMNS)
    assert {name: column["n"] for name, column in summary["columns"].items()} == {
        **dict.fromkeys(UNDERSTANDING, 3),
        **dict.fromkeys(DRAWING, 12),
    }
    assert summary["columns"]["frechet"]["value"] > 0
    assert (tmp_path / "sheet.png").is_file()
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").open()]
    parsed = [line["parsed"] for line in lines if line["key"].startswith("understanding/")]
    assert len(parsed) == 9 and not all(parsed)  # a random model babbles
    assert summary["parse_failure_rate"] == round(parsed.count(False) / 9, 4)
    chosen = [line for line in lines if line["key"].startswith("choice/")]
    for line in chosen:
        best = min(line["losses"], key=line["losses"].__getitem__)
        assert line["options"][best] == line["reply"]
    del summary["seconds"]
    again = run_task(janus, "faces-test", output=tmp_path, options=options)
    assert {key: again[key] for key in summary} == summary


@pytest.mark.parametrize(("faces", "columns"), [("und", UNDERSTANDING), ("gen", DRAWING)])
def test_one_face_is_asked_alone(
    faces: str, columns: tuple[str, ...], sprites: Sprites, referee: Judge, tmp_path: Path
) -> None:
    register_task("faces-test", FacesTask)
    options = options_of(sprites, referee, faces=faces, questions=2, drawings=1)
    summary = run_task(load("tiny"), "faces-test", output=tmp_path, options=options)
    assert tuple(summary["columns"]) == columns
    assert (summary["parse_failure_rate"] is None) == (faces == "gen")


def test_cells_are_held_out_ones_and_many(sprites: Sprites, referee: Judge) -> None:
    task = FacesTask(**options_of(sprites, referee, drawings=30))
    asked = [r for r in task.requests(limit=None, seed=0) if r.key.startswith("drawing/")]
    for tag in GENEVAL_TAGS:
        own = [request for request in asked if request.data["tag"] == tag]
        assert sum(request.data["n"] for request in own) == 30
        names = [cell.name for cell in evaluation_cells(tag)]
        assert [request.data["cell"] for request in own] == names[: len(own)]
        assert len(own) == min(30, len(names))
    assert len(task.requests(limit=1, seed=0)) == 6 + 4


def test_questions_may_be_about_what_training_shows(sprites: Sprites, referee: Judge) -> None:
    asked = {}
    for split in ("held_out", "train"):
        task = FacesTask(**options_of(sprites, referee, faces="und", split=split, questions=30))
        asked[split] = task.requests(limit=None, seed=0)
        assert task.settings(load("tiny")).get("split") == {"train": "train"}.get(split)
    assert [r.key for r in asked["train"]] == [r.key for r in asked["held_out"]]
    for split, requests in asked.items():
        counted = [r for r in requests if "/counting/" in r.key and r.data["answer"] != "one"]
        held = [touches_held_out(r.data["scene"]) for r in counted]
        assert held == [split == "held_out"] * len(counted), split
        named = [r for r in requests if r.key.startswith("choice/")]
        assert any(touches_held_out(r.data["scene"]) for r in named) == (split == "held_out")


def test_wrong_names_are_not_in_the_picture(sprites: Sprites) -> None:
    places = set()
    for i, (scene, question) in enumerate(exam("naming", 60, 5, sprites)):
        options = four_choices(scene, question.answer, [1, i])
        assert list(options) == ["A", "B", "C", "D"]
        assert len(set(options.values())) == 4
        shown = {thing.concept for thing in scene.objects}
        assert [name for name in options.values() if name in shown] == [question.answer]
        assert set(options.values()) <= set(CONCEPTS)
        places.add(list(options.values()).index(question.answer))
        assert options == four_choices(scene, question.answer, [1, i])
    assert places == {0, 1, 2, 3}


def test_f1_is_popes() -> None:
    replies = [("yes", "yes")] * 3 + [("yes", "no")] * 1 + [("no", "yes")] * 2 + [("no", "no")] * 4
    found = existence_f1([{"reply": said, "answer": right} for said, right in replies], 0)
    assert found["value"] == pytest.approx(2 * 3 / (4 + 5), abs=1e-4)
    low, high = found["interval"]
    assert low < found["value"] < high
    never = existence_f1([{"reply": "no", "answer": "yes"}] * 4, 0)
    assert never == {"value": 0.0, "interval": [0.0, 0.0], "n": 4}


def test_accuracy_is_a_share() -> None:
    found = accuracy([{"correct": n < 3} for n in range(4)], 0)
    assert (found["value"], found["n"]) == (0.75, 4)


def test_features_are_means_over_places(sprites: Sprites, referee: Judge) -> None:
    source = SceneSource(sprites=sprites, seed=3, size=128)
    pictures = [source.picture(i) for i in range(3)]
    features = judge_features(referee, pictures)
    assert features.shape == (3, 3)
    assert np.allclose(features[1:2], judge_features(referee, pictures[1:2]), atol=1e-5)
    # The heads are linear: what they say of a picture's mean is the mean of what they say.
    with torch.no_grad():
        pixels = torch.from_numpy(pictures[0]).permute(2, 0, 1)[None].float() / 127.5 - 1
        maps = referee.network(pixels)
        centre = referee.network.heads(torch.from_numpy(features[:1])[..., None, None])[0, 0]
    assert centre.item() == pytest.approx(maps.centre.mean().item(), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"faces": "none"}, "faces must be both, und or gen, got 'none'"),
        ({"split": "test"}, "split must be train or held_out, got 'test'"),
        ({"split": "train"}, "split train goes with faces und, got 'both'"),
        ({"references": 1}, "references must be at least 2, got 1"),
        ({"questions": 0}, "must be at least 1"),
    ],
)
def test_wrong_options_are_refused(
    changes: dict[str, Any], says: str, sprites: Sprites, referee: Judge
) -> None:
    with pytest.raises(ValueError, match=says):
        FacesTask(**options_of(sprites, referee, **changes))
