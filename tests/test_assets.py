"""What ships in the package: the nano, its judge, and the demo's picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import openjanus
from openjanus.pipeline.load import packaged_models
from openjanus.presets import preset
from openjanus.train.config import JanusTrainConfig
from openjanus.train.parse import parse_typed
from openjanus.train.recipes import load_recipe
from openjanus.worlds.emoji.judge import Judge, judge_drawings
from openjanus.worlds.emoji.judge_measures import trials
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, render
from openjanus.worlds.emoji.sprites import Sprites

MOST_BYTES = 32_000_000
ASSETS = Path(openjanus.__file__).parent / "assets"
NANOS = [folder for name, folder in packaged_models().items() if name != "nano"]


@pytest.fixture(scope="module")
def nano() -> openjanus.Janus:
    return openjanus.load("nano")


@pytest.mark.parametrize("folder", NANOS, ids=lambda folder: folder.name)
def test_a_packaged_model_is_small_and_documented(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    card = (folder / "README.md").read_text(encoding="utf-8")
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "apache-2.0"
    for word in ("Noto", "Fluent", "Twemoji", "CC-BY-4.0", "WordNet", "held out", "ceiling"):
        assert word.lower() in body.lower()
    for path in files:
        if path.suffix in (".md", ".yaml", ".jsonl"):
            assert not re.search(r"/(?:root|work|home)/", path.read_text(encoding="utf-8"))


STOPPED = {"stage3d": 995, "compose2": 405}
"""Runs that were gone on from before their end, and where."""

RUNS = [
    *(
        ("nano-v0", "nano", stage)
        for stage in (
            *("text", "stage1", "stage2", "stage3", "words", "stage3b", "stage3c"),
            *("stage3d", "match", "stage3e", "align"),
        )
    ),
    *(
        ("nano-v1", "nano-v1", run)
        for run in (
            *("pixels", "draw", "align", "compose", "compose2"),
            *("mixed2", "talk2", "align3", "sure2", "tints"),
        )
    ),
]
"""Version, family of recipes, run."""
AGAIN = {
    "compose2": "compose",
    "mixed2": "mixed",
    "talk2": "talk",
    "align3": "align",
    "sure2": "sure",
}
"""Runs of a recipe that another run is named after."""


@pytest.mark.parametrize(("version", "family", "stage"), RUNS)
def test_each_stage_left_its_configuration_and_metrics(
    version: str, family: str, stage: str
) -> None:
    folder = packaged_models()[version] / "training" / stage
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    recipe = load_recipe(f"{family}/{AGAIN.get(stage, stage)}")
    parsed = parse_typed(type(recipe), config, stage)
    if isinstance(recipe, JanusTrainConfig):
        assert isinstance(parsed, JanusTrainConfig)
        assert parsed.stage == recipe.stage
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] == STOPPED.get(stage, config["run"]["steps"])


def test_the_nano_draws_what_it_scores(nano: openjanus.Janus) -> None:
    drawing = nano.draw("a photo of an apple", seed=0)
    assert drawing.images[0].size == (96, 96)
    assert nano.config.drawing == preset(NANOS[-1].name).drawing
    scale = drawing.options.guidance_scale
    assert isinstance(scale, float)
    scores = nano.score_image("a photo of an apple", drawing.image_ids[0], guidance_scale=scale)
    assert torch.isfinite(scores).all()
    assert float(scores.mean()) > -4  # chance is -6.9
    assert torch.equal(nano.draw("a photo of an apple", seed=0).image_ids, drawing.image_ids)


def test_the_demo_picture_is_answered(nano: openjanus.Janus) -> None:
    told = json.loads((ASSETS / "demo" / "scene.json").read_text(encoding="utf-8"))
    assert len(told["questions"]) >= 3
    with Image.open(ASSETS / "demo" / "scene.png") as picture:
        replies = [
            nano.chat(question, images=[picture], max_new_tokens=16, temperature=0.0).text
            for question, _ in told["questions"]
        ]
    assert all(reply.strip() for reply in replies)


def test_the_packaged_judge_tells_right_from_wrong() -> None:
    sprites = Sprites.load()
    judge = Judge.load()
    made = [trial for tag in GENEVAL_TAGS for trial in trials(tag, 5, 77, sprites)]
    pictures = [render(trial.scene, 96, sprites) for trial in made]
    right = judge_drawings(pictures, [trial.right for trial in made], referee=judge)
    wrong = judge_drawings(pictures, [trial.wrong for trial in made], referee=judge)
    accuracy = np.mean([v.correct for v in right] + [not v.correct for v in wrong])
    assert accuracy >= 0.9
    for shown in judge.record["measures"].values():
        assert set(shown) == set(GENEVAL_TAGS)
