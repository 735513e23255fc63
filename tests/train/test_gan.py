"""The adversary: whose gradients go where, and what its losses are."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from openjanus.config import VQConfig
from openjanus.data.sources import build_source
from openjanus.model.vq import VQTokenizer
from openjanus.presets import preset
from openjanus.train.checkpoint import load_checkpoint, newest_checkpoint
from openjanus.train.gan import (
    Adversary,
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    smallest_side,
)
from openjanus.train.loop import run_loop
from openjanus.train.metrics import read_metrics
from openjanus.train.optim_config import OptimConfig
from openjanus.train.parts import load_door
from openjanus.train.recipes import load_recipe, run_recipe
from openjanus.train.run_config import RunConfig
from openjanus.train.runs import init_vq, run_training
from openjanus.train.source_config import SourceConfig
from openjanus.train.vq_config import GanConfig, VQEvalConfig, VQLossConfig, VQTrainConfig
from openjanus.train.vq_trainer import VQTrainer

SMALL: dict[str, Any] = {"weight": 0.5, "start": 0, "layers": 2, "width": 8}


def make_config(run=None, gan=None, **options):
    defaults = {
        "source": SourceConfig(type="toy-pictures"),
        "run": RunConfig(**({"dir": "x", "steps": 4} | (run or {}))),
        "optim": OptimConfig(lr=2e-3),
        "gan": GanConfig(**(SMALL | (gan or {}))),
        "batch_size": 4,
        "bf16": False,
    }
    return VQTrainConfig(**(defaults | options))


def make_trainer(config):
    door = preset("tiny").gen_tokenizer
    assert isinstance(door, VQConfig)
    model = VQTokenizer(door)
    init_vq(model, 0)
    return VQTrainer(model, build_source("toy-pictures", {}), config)


def gradients(module):
    return [p.grad for p in module.parameters() if p.grad is not None]


def pixels(count=4, side=32, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_hinge_losses_are_their_formulas():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.25])
    # real: max(0, 1 - D) = 0, 0.5, 2; fake: max(0, 1 + D) = 0, 1.25
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx((2.5 / 3 + 1.25 / 2) / 2)
    assert hinge_generator_loss(fake).item() == pytest.approx(2.75 / 2)


def test_the_discriminator_is_pix2pix_patchgan():
    model = PatchDiscriminator(3, 64)
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convs] == [64, 128, 256, 512, 1]
    assert [c.stride[0] for c in convs] == [2, 2, 2, 1, 1]
    assert [c.bias is not None for c in convs] == [True, False, False, False, True]
    assert sum(p.numel() for p in model.parameters()) == 2_765_633  # 4 x 4 convolutions, 3 norms
    assert model(pixels(2, 256)).shape == (2, 1, 30, 30)
    assert model(pixels(2, smallest_side(3))).shape == (2, 1, 1, 1)


def test_the_generators_term_leaves_nothing_in_the_discriminator():
    adversary = Adversary(GanConfig(**SMALL), seed=0, device=torch.device("cpu"))
    made = pixels().requires_grad_()
    adversary.generator_loss(made).backward()
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
    assert gradients(adversary.discriminator) == []
    assert all(p.requires_grad for p in adversary.discriminator.parameters())


def test_the_discriminators_loss_leaves_nothing_in_the_generator():
    adversary = Adversary(GanConfig(**SMALL), seed=0, device=torch.device("cpu"))
    made, real = pixels(seed=1).requires_grad_(), pixels().requires_grad_()
    loss, _ = adversary.discriminator_loss(real, made)
    loss.backward()
    assert made.grad is None
    assert real.grad is None
    assert len(gradients(adversary.discriminator)) == len([*adversary.discriminator.parameters()])


def test_a_step_updates_the_discriminator_by_its_own_loss_alone(monkeypatch):
    # The known defect: what the generator's backward left there is added to it.
    trainer = make_trainer(make_config())
    adversary = trainer.adversary
    assert adversary is not None
    before = copy.deepcopy(adversary.discriminator)
    seen = []
    own_loss = adversary.discriminator_loss

    def spy(real, made):
        seen.append((real.clone(), made.detach().clone(), gradients(adversary.discriminator)))
        return own_loss(real, made)

    monkeypatch.setattr(adversary, "discriminator_loss", spy)
    trainer.train_step(0)
    ((real, made, left),) = seen
    assert left == []
    assert gradients(trainer.model) == []
    assert gradients(adversary.discriminator) == []

    optimizer = torch.optim.Adam(before.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    hinge_discriminator_loss(before(real), before(made)).backward()
    torch.nn.utils.clip_grad_norm_(before.parameters(), 1.0)
    optimizer.step()
    pairs = zip(before.parameters(), adversary.discriminator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_generator_hears_the_adversary_from_its_start_on():
    def weights(start):
        trainer = make_trainer(make_config(gan={"start": start}))
        values = [trainer.train_step(step) for step in range(2)]
        return values, trainer.model.decoder.conv_out.weight.detach()

    late, at_late = weights(2)
    soon, at_soon = weights(1)
    assert not any(name.startswith("gan_") for value in late for name in value)
    assert "gan_generator" not in soon[0]
    assert soon[1]["gan_weight"] == 0.5
    parts = sum(soon[1][name] * w for name, w in (("l1", 1), ("mse", 1), ("codebook", 1)))
    parts += 0.25 * soon[1]["commitment"] + 0.5 * soon[1]["gan_generator"]
    assert soon[1]["loss"] == pytest.approx(parts, rel=1e-5)
    assert not torch.equal(at_late, at_soon)


def test_the_adaptive_weight_is_a_ratio_of_gradients():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    # |grad| = |(3, 4)| = 5 and |(0, 2)| = 2
    ratio = adaptive_weight((weight * torch.tensor([3.0, 4.0])).sum(), 2 * weight[1], weight)
    assert ratio.item() == pytest.approx(5 / (2 + 1e-4))
    assert not ratio.requires_grad

    trainer = make_trainer(make_config(gan={"adaptive": True}))
    values = trainer.train_step(0)
    assert values["gan_weight"] != 0.5
    assert math.isfinite(values["gan_weight"])


def test_small_pictures_are_refused_for_a_deep_discriminator():
    with pytest.raises(ValueError, match=r"gan\.layers needs pictures of 48 pixels a side, got 32"):
        make_trainer(make_config(gan={"layers": 4}))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gan": GanConfig(adaptive=True), "compile": True}, r"gan\.adaptive"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\)"),
        ({"crop_share": 0.0}, r"crop_share must be in \(0, 1\]"),
        ({"eval": VQEvalConfig(every=3), "run": RunConfig(log_every=2)}, r"eval\.every \(3\)"),
    ],
)
def test_wrong_options_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        VQTrainConfig(source=SourceConfig(type="toy-pictures"), **wrong)


@pytest.mark.parametrize("name", ["weight", "start", "layers", "width", "lr", "grad_clip"])
def test_wrong_numbers_of_the_adversary_are_refused(name):
    wrong: dict[str, Any] = {name: -1}
    with pytest.raises(ValueError, match=rf"gan\.{name}"):
        GanConfig(**wrong)


def test_wrong_numbers_of_the_measurements_are_refused():
    with pytest.raises(ValueError, match=r"eval\.pictures must be >= 2"):
        VQEvalConfig(pictures=1)


def test_a_resumed_run_with_all_of_it_is_the_uninterrupted_one(tmp_path):
    def run(name, **changes):
        config = make_config(
            run={"dir": str(tmp_path / name), "steps": 6} | changes,
            gan={"start": 1},
            ema_decay=0.9,
            eval=VQEvalConfig(every=2, pictures=4),
            crop="random",
            flip=True,
            quantize_from=2,
            restart_every=2,
            restart_until=6,
            bf16=True,
        )
        run_loop(make_trainer(config), config.run, description=name)
        lines = read_metrics(tmp_path / name / "metrics.jsonl")
        state = load_checkpoint(newest_checkpoint(tmp_path / name))["task"]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines], state

    def same(one, other):
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
        if isinstance(one, list | tuple):
            return len(one) == len(other) and all(map(same, one, other))
        return torch.equal(one, other) if torch.is_tensor(one) else one == other

    lines, state = run("whole")
    run("parts", stop_at=3)
    resumed_lines, resumed_state = run("parts", resume=True)
    assert lines == resumed_lines
    assert {"adversary", "ema"} <= state.keys()
    assert same(state, resumed_state)
    assert "val_psnr" in lines[-1]
    assert "frechet_random_encoder" in lines[-1]


def test_the_average_follows_and_is_the_result(tmp_path):
    config = make_config(
        run={"dir": str(tmp_path), "steps": 3}, ema_decay=0.75, restart_every=0, gan={"weight": 0.0}
    )
    trainer = make_trainer(config)
    mean = trainer.model.quant_conv.weight.detach().clone()
    for step in range(3):
        trainer.train_step(step)
        mean = 0.75 * mean + 0.25 * trainer.model.quant_conv.weight.detach()
    torch.testing.assert_close(trainer.result.quant_conv.weight, mean)
    assert not torch.equal(trainer.result.quant_conv.weight, trainer.model.quant_conv.weight)

    run_training(config)
    written = VQTokenizer(trainer.model.config)
    load_door(tmp_path / "final", written, trainer.model.config)
    torch.testing.assert_close(written.quant_conv.weight, mean)


def test_restarted_rows_are_restarted_in_the_average():
    trainer = make_trainer(make_config(ema_decay=0.999, restart_every=1, restart_until=4))
    assert trainer.train_step(0)["codebook_restarts"] > 0
    rows = trainer.model.quantize.embedding.weight
    mean = trainer.result.quantize.embedding.weight
    moved = (mean == rows).all(dim=1)
    assert moved.sum() > 0
    assert np.isclose(rows.detach()[moved].norm(dim=1), 1, atol=1e-4).all()


def test_the_entropy_term_is_weighed():
    values = make_trainer(make_config(gan={"weight": 0.0})).train_step(0)
    loss = VQLossConfig(entropy=0.5)
    weighed = make_trainer(make_config(gan={"weight": 0.0}, loss=loss)).train_step(0)
    assert "entropy" not in values
    assert weighed["loss"] == pytest.approx(values["loss"] + 0.5 * weighed["entropy"], rel=1e-5)


def test_the_small_recipe_runs_to_its_end(tmp_path):
    changes = ["--run.steps", "2", "--gan.start", "1", "--eval.every", "2", "--batch_size", "2"]
    run_recipe("tiny/vq-gan", ["--run.dir", str(tmp_path), *changes])
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert {"gan_generator", "gan_discriminator", "val_ssim", "val_perplexity"} <= last.keys()
    assert (tmp_path / "final" / "door.safetensors").is_file()


def test_the_large_recipe_is_llamagens():
    config = load_recipe("vq16/imagenet256")
    assert isinstance(config, VQTrainConfig)
    loss, gan, optim = config.loss, config.gan, config.optim
    assert (loss.l1, loss.mse, loss.perceptual, loss.edge, loss.entropy) == (0, 1, 1, 0, 0)
    assert (loss.codebook, loss.commitment) == (1, 0.25)
    assert (gan.weight, gan.start, gan.layers, gan.width, gan.adaptive) == (
        0.5,
        20_000,
        3,
        64,
        False,
    )
    assert (optim.lr, optim.betas, optim.grad_clip, optim.schedule) == (
        1e-4,
        (0.9, 0.95),
        1,
        "constant",
    )
    assert optim.weight_decay == 0
    assert optim.warmup_steps == 0
    held_out = config.eval.pictures
    assert config.batch_size == 128
    assert config.run.steps == 40 * ((1_281_167 - held_out) // config.batch_size)
    assert (config.crop, config.crop_size, config.flip, config.bf16) == ("random", 256, True, True)
