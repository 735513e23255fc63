"""The wide world's task and judge: figures of their own, and nothing drawn without a judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from openjanus.model.vq import VQTokenizer
from openjanus.pipeline import Janus
from openjanus.worlds.emoji import judge_training
from openjanus.worlds.emoji.cells import evaluation_cells
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.judge import Calibration, Judge
from openjanus.worlds.emoji.judge_measures import trials
from openjanus.worlds.emoji.judge_network import JudgeConfig, empty_network
from openjanus.worlds.emoji.judge_training import (
    TRAIN_TAGS,
    JudgeTrainConfig,
    JudgeTrainer,
    finished,
    main,
)
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.task import EmojiTask, possible_answers
from openjanus.worlds.emoji.vocabulary import world
from openjanus.worlds.emoji.wide_task import EmojiWideTask

SMALL = JudgeConfig(widths=(4, 4, 8, 8), world="wide")
QUICK = JudgeTrainConfig(
    batch_size=8,
    fresh_reconstructions=2,
    first_reconstructions=6,
    pool_size=12,
    per_tag=2,
    calibration_scenes=40,
)


def untrained() -> Judge:
    network = empty_network(SMALL, norm=False)
    network.init_weights(torch.Generator().manual_seed(0))
    return Judge(network, Calibration(), {})


def test_without_a_judge_there_are_questions_alone(wide_sprites: Sprites) -> None:
    task = EmojiWideTask(sprites=wide_sprites)
    requests = task.requests(limit=9, seed=0)
    assert {request.group for request in requests} == {"understanding", "blind"}
    known = possible_answers(world("wide"))
    predictions: list[dict[str, Any]] = []
    for request in requests:
        answer = request.data["answer"]
        assert answer in known[request.data["kind"]]
        reply = answer if request.group == "understanding" else "no idea"
        predictions.append(
            {
                "key": request.key,
                "kind": request.data["kind"],
                "negatives": request.data["negatives"],
                "answer": answer,
                "reply": reply,
                "correct": reply == answer,
                "parsed": True,
            }
        )
    summary = task.summarise(cast("Janus", None), predictions, Path(), seed=0)
    assert set(summary) == {"understanding", "details", "parse_failure_rate"}
    assert summary["understanding"]["counting"] == 1
    assert summary["understanding"]["blind"]["naming"] == 0
    assert summary["details"]["majority"]["counting"] == pytest.approx(2 / 9, abs=1e-3)
    assert task.rules != EmojiTask.rules
    assert "wide" in task.rules


def test_a_judge_brings_drawings_of_each_tag(wide_sprites: Sprites) -> None:
    task = EmojiWideTask(sprites=wide_sprites, referee=untrained(), drawings_per_tag=30)
    requests = task.requests(limit=30, seed=0)
    drawings = [r for r in requests if r.group.startswith("drawing/")]
    for tag in GENEVAL_TAGS:
        own = [r for r in drawings if r.data["tag"] == tag]
        assert [r.data["cell"] for r in own] == [c.name for c in evaluation_cells(tag, "wide")[:30]]
        assert {r.data["n"] for r in own} == {1}


def test_a_judge_and_artwork_are_of_one_world(sprites: Sprites, wide_sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="a judge of world wide cannot judge world v0"):
        EmojiTask(sprites=sprites, referee=untrained())
    with pytest.raises(ValueError, match="a judge of world v0 cannot judge world wide"):
        EmojiWideTask(sprites=wide_sprites, referee=Judge.load())
    with pytest.raises(ValueError, match="a judge's folder or a judge, got both"):
        EmojiWideTask(sprites=wide_sprites, referee=untrained(), judge="somewhere")


def test_the_task_is_registered_and_says_how_to_fetch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENJANUS_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="data fetch emoji --wide"):
        EmojiWideTask()
    entry = 'emoji-wide = "openjanus.worlds.emoji.wide_task:EmojiWideTask"'
    project = Path(__file__).parents[3] / "pyproject.toml"
    assert entry in project.read_text(encoding="utf-8")


def test_trials_of_the_wide_world_differ_in_one_respect(wide_sprites: Sprites) -> None:
    for tag in GENEVAL_TAGS:
        for trial in trials(tag, 12, 0, wide_sprites):
            assert trial.scene.world == "wide"
            assert trial.right != trial.wrong
            assert trial.right["tag"] == trial.wrong["tag"] == tag


def test_a_judge_of_the_wide_world_is_trained_measured_and_kept(
    vq: VQTokenizer, wide_sprites: Sprites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_training, "calibrate", lambda found, scenes: Calibration(scale=3.0))
    source = SceneSource(sprites=wide_sprites, seed=1, tags=TRAIN_TAGS, size=64, world="wide")
    trainer = JudgeTrainer(vq, source, QUICK, SMALL)
    before = trainer.network.heads.weight.detach().clone()
    trainer.train_step()
    assert not torch.equal(before, trainer.network.heads.weight)
    judge = finished(trainer)
    judge.save(tmp_path)
    kept = Judge.load(tmp_path)
    assert kept.record["world"] == "wide"
    assert kept.names == tuple(world("wide").concepts)
    assert set(kept.record["measures"]) == {"renders", "reconstructions"}
    assert kept.record["measures"]["renders"]["counting"]["n"] == 2
    assert kept.record["training"]["sprites_sha256"] == wide_sprites.sha256()
    with pytest.raises(
        ValueError, match="judge of world v0 cannot learn from scenes of world wide"
    ):
        JudgeTrainer(vq, source, QUICK, JudgeConfig(widths=(4, 4, 8, 8)))


def test_the_command_trains_either_world(
    monkeypatch: pytest.MonkeyPatch,
    vq: VQTokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENJANUS_CACHE", str(tmp_path))
    monkeypatch.setattr(judge_training, "load_vq", lambda path, architecture: vq)
    with pytest.raises(SystemExit):
        main(["--vq", "x", "--out", str(tmp_path / "judge"), "--world", "wide"])
    assert "data fetch emoji --wide" in capsys.readouterr().err
