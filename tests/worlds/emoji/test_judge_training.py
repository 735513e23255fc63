from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from openjanus.config import VQConfig
from openjanus.model.vq import VQTokenizer
from openjanus.processor.image import uint8_to_pixel_values
from openjanus.worlds.emoji import judge_training
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.judge import Calibration, Judge
from openjanus.worlds.emoji.judge_network import JudgeConfig, empty_network, pixel_values_of
from openjanus.worlds.emoji.judge_targets import augmented, false_coloured, judge_loss, targets_of
from openjanus.worlds.emoji.judge_training import (
    JudgeTrainConfig,
    JudgeTrainer,
    finished,
    load_vq,
    main,
    report,
)
from openjanus.worlds.emoji.sprites import Sprites

SMALL = JudgeConfig(widths=(8, 8, 16, 16))


def settings(**changes: float) -> JudgeTrainConfig:
    values = {
        "batch_size": 8,
        "fresh_reconstructions": 2,
        "first_reconstructions": 6,
        "pool_size": 12,
        "per_tag": 2,
        "calibration_scenes": 40,
    }
    return JudgeTrainConfig(**(values | changes))  # pyright: ignore[reportArgumentType]


def test_training_learns(vq: VQTokenizer, source: SceneSource) -> None:
    trainer = JudgeTrainer(vq, source, settings(minutes=60), SMALL)
    trainer.elapsed = 200.0  # past the rise of the learning rate
    losses = [trainer.train_step() for _ in range(25)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert trainer.step == 25


def test_steps_are_a_function_of_the_seed(vq: VQTokenizer, sprites: Sprites) -> None:
    def losses(seed: int) -> list[float]:
        made = SceneSource(sprites=sprites, seed=seed, size=64)
        trainer = JudgeTrainer(vq, made, settings(), SMALL)
        return [trainer.train_step() for _ in range(2)]

    state = torch.get_rng_state()
    first = losses(1)
    assert losses(1) == first
    assert losses(2) != first
    assert torch.equal(torch.get_rng_state(), state)  # the caller's seed is left alone


def test_a_run_keeps_to_its_budget_and_goes_on(
    vq: VQTokenizer, source: SceneSource, tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "training.pt"
    trainer = JudgeTrainer(vq, source, settings(minutes=0.5 / 60), SMALL)
    trainer.run(path)
    assert trainer.elapsed >= 0.5
    again = JudgeTrainer(vq, source, settings(minutes=0.5 / 60), SMALL)
    again.load(path)
    assert (again.step, again.elapsed) == (trainer.step, trainer.elapsed)
    for name, weight in trainer.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name])
    again.run(path)  # nothing is left to do
    assert again.step == trainer.step
    with pytest.raises(FileNotFoundError, match="leave out --resume"):
        again.load(tmp_path / "none.pt")


def test_augmented_pictures_are_slightly_off(source: SceneSource) -> None:
    pixels = uint8_to_pixel_values(np.stack([source.picture(i) for i in range(8)]))
    before = pixels.clone()
    rough = augmented(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(pixels, before)
    assert rough.min() >= -1
    assert rough.max() <= 1
    change = (rough - pixels).abs().mean((1, 2, 3))
    assert change.min() > 0
    assert change.max() < 0.4
    assert torch.equal(rough, augmented(pixels, torch.Generator().manual_seed(0)))


def test_a_finished_judge_carries_its_figures(
    vq: VQTokenizer, source: SceneSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few steps teach no names, and a curve needs finds that are right.
    monkeypatch.setattr(judge_training, "calibrate", lambda found, scenes: Calibration(scale=3.0))
    trainer = JudgeTrainer(vq, source, settings(), SMALL)
    trainer.train_step()
    judge = finished(trainer)
    judge.save(tmp_path)
    record = Judge.load(tmp_path).record
    assert record["measures"]["reconstructions"]["position"]["n"] == 2
    assert record["calibration"] == {"scale": 3.0, "bias": 0.0}
    assert record["training"]["steps"] == 1
    assert record["detection"]["renders"]["scenes"] == 20
    words = report(judge)
    assert "NOT reached" in words
    assert "color_attr" in words


def test_wrong_arguments(
    vq: VQTokenizer, sprites: Sprites, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="minutes must be > 0"):
        settings(minutes=0)
    with pytest.raises(ValueError, match="0 < fresh <= first <= pool_size"):
        settings(first_reconstructions=1)
    held_out = SceneSource(sprites=sprites, split="held_out", size=64)
    with pytest.raises(ValueError, match="learns from split 'train'"):
        JudgeTrainer(vq, held_out, settings(), SMALL)
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        load_vq(tmp_path, "nano-v0")
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path)])
    assert "--vq" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--vq", str(tmp_path)])
    assert "no tokenizer at" in capsys.readouterr().err


def test_checkpoints_of_tokenizer_training_are_opened(tmp_path: Path) -> None:
    from openjanus.presets import preset

    config = preset("nano-v0").gen_tokenizer
    assert isinstance(config, VQConfig)
    vq = VQTokenizer(config)
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    torch.save({"step": 1, "task": {"model": vq.state_dict()}}, folder / "state.pt")
    (tmp_path / "finished" / "final").mkdir(parents=True)
    save_file(vq.state_dict(), tmp_path / "finished" / "final" / "door.safetensors")
    for path in (folder, tmp_path / "finished"):
        opened = load_vq(path, "nano-v0")
        assert torch.equal(opened.quantize.embedding.weight, vq.quantize.embedding.weight)
        assert not any(weight.requires_grad for weight in opened.parameters())
    with pytest.raises(ValueError, match="another tokenizer than that of 'tiny'"):
        load_vq(folder, "tiny")


def test_false_colours_keep_shapes_and_ask_for_no_colour(source: SceneSource) -> None:
    pixels = pixel_values_of([source.picture(i) for i in range(8)])
    shown, false = false_coloured(pixels, 0.5, torch.Generator().manual_seed(0))
    assert 0 < false.sum() < 8
    assert torch.equal(shown[~false], pixels[~false])
    assert -1 <= shown.min() <= shown.max() <= 1
    for picture, other in zip(pixels[false], shown[false], strict=True):
        even = (picture == picture[:, :1, :1]).all(0)  # the ground
        assert (other[:, even] == other[:, even][:, :1]).all()
        assert (picture - other).abs().mean() > 0.05
    targets = targets_of([source.scene(i) for i in range(8)])
    asked = targets.without_colours(false)
    assert (asked.colour[false] == -1).all()
    assert torch.equal(asked.colour[~false], targets.colour[~false])
    assert torch.equal(asked.concept, targets.concept)
    maps = empty_network(JudgeConfig(widths=(4, 4, 8, 8)), norm=True)
    maps.init_weights(torch.Generator().manual_seed(0))
    nothing = targets.without_colours(torch.ones(8, dtype=torch.bool))
    assert torch.isfinite(judge_loss(maps(shown), nothing))
