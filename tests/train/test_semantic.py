"""A semantic tokenizer's own training, and a Janus that is trained on one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import JanusConfig, ProcessorConfig, SemanticConfig, SiglipConfig, VQConfig
from openjanus.data.sources import build_source
from openjanus.model.janus import build_model
from openjanus.model.semantic import SemanticTokenizer
from openjanus.model.siglip import SiglipEncoder
from openjanus.presets import preset
from openjanus.processor.prompt import Processor
from openjanus.processor.text import TextTokenizer
from openjanus.train.config import JanusTrainConfig
from openjanus.train.loop import run_loop
from openjanus.train.optim_config import OptimConfig
from openjanus.train.parts import load_door, save_door
from openjanus.train.recipes import load_recipe
from openjanus.train.run_config import RunConfig
from openjanus.train.runs import init_vq, run_training
from openjanus.train.semantic_config import SemanticLossConfig, SemanticTrainConfig
from openjanus.train.semantic_trainer import SemanticTrainer, init_semantic, semantic_loss
from openjanus.train.source_config import SourceConfig, SourcesConfig
from openjanus.train.stages import freeze_for_stage, part_of
from openjanus.train.start import fresh_model, start_model
from openjanus.train.teacher import Teacher, load_teacher
from openjanus.train.trainer import JanusTrainer
from openjanus.train.vq_trainer import vq_losses
from openjanus.weights.own import save_model


@pytest.fixture
def door() -> SemanticConfig:
    door = preset("tiny-semantic").gen_tokenizer
    assert isinstance(door, SemanticConfig)
    return dataclasses.replace(door, teacher_size=32)


def encoder_config(**changes: Any) -> SiglipConfig:
    config = preset("tiny").und_encoder
    assert isinstance(config, SiglipConfig)
    return dataclasses.replace(config, **changes)


def make_teacher(seed: int = 0, **changes: Any) -> Teacher:
    config = encoder_config(**changes)
    encoder = SiglipEncoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return Teacher(encoder, config.image_size, ProcessorConfig(), "a teacher")


def make_semantic(door: SemanticConfig, seed: int = 0) -> SemanticTokenizer:
    model = SemanticTokenizer(door)
    init_vq(model, seed)
    init_semantic(model, seed)
    return model


def semantic_config(run: RunConfig, **options: Any) -> SemanticTrainConfig:
    needed: dict[str, Any] = {
        "source": SourceConfig(type="toy-pictures"),
        "teacher": "unused",
        "optim": OptimConfig(lr=2e-3),
        "batch_size": 4,
    }
    return SemanticTrainConfig(run=run, **(needed | options))


def make_trainer(
    door: SemanticConfig, run: RunConfig, teacher: Teacher | None = None, **options: Any
) -> SemanticTrainer:
    return SemanticTrainer(
        make_semantic(door),
        make_teacher() if teacher is None else teacher,
        build_source("toy-pictures", {}),
        semantic_config(run, **options),
    )


def test_the_loss_is_one_minus_the_cosine() -> None:
    a, b = torch.tensor([[[3.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[1.0, 0.0], [5.0, 0.0]]])
    assert semantic_loss(a, b).item() == pytest.approx((0 + 1) / 2)
    assert semantic_loss(a, -7 * a).item() == pytest.approx(2)


def test_it_is_a_quarter_beside_the_vqs_losses(door: SemanticConfig) -> None:
    trainer = make_trainer(door, RunConfig(dir="x", steps=1))
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    config = SemanticLossConfig()
    whole, terms, *_ = trainer._losses(trainer.model, pixels, config, None)
    plain, others, *_ = vq_losses(trainer.model, pixels, config)
    assert set(terms) - set(others) == {"semantic"}
    assert whole.item() == pytest.approx((plain + 0.25 * terms["semantic"]).item(), rel=1e-5)
    assert terms["semantic"].item() > 0.5


def test_the_branch_is_judged_at_its_own_places(door: SemanticConfig) -> None:
    trainer = make_trainer(door, RunConfig(dir="x", steps=1))
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    model = trainer.model
    assert isinstance(model, SemanticTokenizer)
    _, terms, ids, *_ = trainer._losses(model, pixels, SemanticLossConfig(), None)
    predicted = model.semantic.predict(model.embed_ids(ids))
    encoder = trainer.teacher._encoder
    assert isinstance(encoder, nn.Module)
    features = encoder(pixels)
    cosines = F.cosine_similarity(predicted, features, dim=-1)
    assert terms["semantic"].item() == pytest.approx(1 - cosines.mean().item(), abs=1e-5)


def test_gradients_reach_what_they_should(door: SemanticConfig) -> None:
    trainer = make_trainer(door, RunConfig(dir="x", steps=1))
    model, teacher = trainer.model, trainer.teacher
    config = SemanticLossConfig(l1=0.0, mse=0.0, codebook=0.0, commitment=0.0)
    total, *_ = trainer._losses(model, torch.rand(2, 3, 32, 32) * 2 - 1, config, None)
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    reached = {name for name, gradient in gradients.items() if gradient.abs().sum() > 0}
    branch = {name for name, _ in model.named_parameters() if name.startswith("semantic.")}
    assert branch <= reached
    # Straight through the codebook to the encoder; the pixel decoder has no part in it.
    assert {"encoder.conv_in.weight", "quant_conv.weight"} <= reached
    assert not [n for n in reached if n.startswith(("decoder.", "post_quant_conv.", "quantize."))]
    encoder = teacher._encoder
    assert isinstance(encoder, nn.Module)
    assert not [p for p in encoder.parameters() if p.grad is not None or p.requires_grad]


def test_the_teacher_is_left_as_it_was(door: SemanticConfig) -> None:
    trainer = make_trainer(door, RunConfig(dir="x", steps=2))
    before = trainer.teacher.digest()
    parameters = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    for step in range(2):
        trainer.train_step(step)
    assert trainer.teacher.digest() == before
    still = [n for n, p in trainer.model.named_parameters() if torch.equal(p, parameters[n])]
    assert still == []


def test_a_branch_learns_what_its_teacher_sees(door: SemanticConfig) -> None:
    trainer = make_trainer(door, RunConfig(dir="x", steps=30))
    before = trainer.agreement()
    for step in range(30):
        trainer.train_step(step)
    assert trainer.agreement() > before + 0.3


def test_a_resumed_run_is_the_uninterrupted_one(door: SemanticConfig, tmp_path: Path) -> None:
    def run(name: str, **changes: Any) -> dict[str, Tensor]:
        options: dict[str, Any] = {"dir": str(tmp_path / name), "steps": 4, **changes}
        trainer = make_trainer(door, RunConfig(**options), restart_every=2, restart_until=4)
        run_loop(trainer, trainer.config.run, description=name)
        return trainer.model.state_dict()

    whole = run("whole")
    run("parts", stop_at=2)
    resumed = run("parts", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    told = (tmp_path / "whole" / "samples" / "step-00000004.txt").read_text()
    assert "cosine with the teacher on 24 held-out pictures" in told
    other = make_trainer(
        door, RunConfig(dir=str(tmp_path / "parts"), steps=6, resume=True), make_teacher(seed=1)
    )
    with pytest.raises(ValueError, match="not the teacher that this run began with"):
        run_loop(other, other.config.run, description="other")


# teachers


def test_patches_that_share_a_place_are_averaged() -> None:
    teacher = make_teacher(patch_size=4)
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    fine, coarse = teacher.features(pixels, 64), teacher.features(pixels, 16)
    grid = fine.unflatten(1, (8, 8))
    expected = grid[:, 2:4, 6:8].mean((1, 2))  # the second row's last place
    assert torch.allclose(coarse[:, 7], expected, atol=1e-5)


def test_pictures_are_made_the_teachers_size() -> None:
    teacher = make_teacher(image_size=48, patch_size=12)
    flat = torch.full((1, 3, 32, 32), 0.25)
    larger = torch.full((1, 3, 48, 48), 0.25)
    assert torch.allclose(teacher.features(flat, 16), teacher.features(larger, 16), atol=1e-5)


def test_pictures_are_normalised_as_the_teacher_has_them() -> None:
    config = encoder_config()
    encoder = SiglipEncoder(config).eval()
    names = ProcessorConfig(image_mean=(0.4, 0.5, 0.6), image_std=(0.2, 0.3, 0.4))
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    shown = (pixels + 1) / 2
    shown = torch.stack(
        [
            (shown[:, i] - m) / s
            for i, (m, s) in enumerate(zip(names.image_mean, names.image_std, strict=True))
        ],
        dim=1,
    )
    found = Teacher(encoder, 32, names, "it").features(pixels, 16)
    assert torch.allclose(found, encoder(shown), atol=1e-5)


def test_pieces_of_pictures_are_refused(door: SemanticConfig) -> None:
    run = RunConfig(dir="x", steps=1)
    assert make_trainer(door, run, crop_size=32).train_step(0)["images"] == 4
    with pytest.raises(ValueError, match="crop_size must be 0 or the picture's side 32, got 16"):
        make_trainer(door, run, crop_size=16)


def test_a_teacher_that_does_not_fit_is_refused(door: SemanticConfig) -> None:
    run = RunConfig(dir="x", steps=1)
    with pytest.raises(ValueError, match="features of width 16, and the tokenizer's teacher_size"):
        make_trainer(door, run, make_teacher(hidden_size=16))
    for patch_size in (16, 32):  # 2 a side where 4 are wanted; and 1
        with pytest.raises(ValueError, match="patches a picture, and the tokenizer has 16 ids"):
            make_trainer(door, run, make_teacher(patch_size=patch_size))
    with pytest.raises(ValueError, match="Identity has no output_size"):
        Teacher(nn.Identity(), 32, ProcessorConfig(), "it")


def test_teachers_come_from_a_janus_or_an_encoders_run(
    make_model: Callable[..., Any], tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    model = make_model(preset("tiny"))
    save_model(tmp_path / "janus", model, tokenizer)
    save_door(tmp_path / "encoder" / "final", model.und_encoder, encoder_config())
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = model.und_encoder(pixels)
    for name in ("janus", "encoder", "encoder/final"):
        teacher = load_teacher(str(tmp_path / "run"), name)
        assert (teacher.image_size, teacher.output_size) == (32, 32)
        assert torch.allclose(teacher.features(pixels, 16), expected, atol=1e-5)
    nano = load_teacher(str(tmp_path / "run"), "nano")
    assert nano.output_size == getattr(preset("tiny-semantic").gen_tokenizer, "teacher_size")
    with pytest.raises(FileNotFoundError, match="no teacher in"):
        load_teacher(str(tmp_path / "run"), "nothing")
    vq = preset("tiny").gen_tokenizer
    assert isinstance(vq, VQConfig)
    save_door(tmp_path / "vq", model.vq, vq)
    with pytest.raises(ValueError, match="VQTokenizer has no output_size"):
        load_teacher(str(tmp_path / "run"), "vq")


# whole runs


def test_step_two_goes_on_from_step_one(
    make_model: Callable[..., Any], tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    def run(name: str, **options: Any) -> dict[str, Tensor]:
        folder = RunConfig(dir=str(tmp_path / name), steps=2)
        run_training(semantic_config(folder, teacher="nano", **options))
        door = preset("tiny-semantic").gen_tokenizer
        model = SemanticTokenizer(door)  # pyright: ignore[reportArgumentType]
        load_door(tmp_path / name, model, door)
        return model.state_dict()

    tiny = OptimConfig(lr=1e-7)
    first = run("step1")
    second = run("step2", init="step1/final", optim=tiny)
    afresh = run("afresh", optim=tiny)
    name = "semantic.blocks.0.mlp.fc1.weight"
    assert torch.allclose(first[name], second[name], atol=1e-5)
    assert not torch.equal(first[name], second[name])
    assert not torch.allclose(first[name], afresh[name], atol=1e-5)

    config = JanusTrainConfig(
        stage=1,
        init=["tiny-semantic"],
        vq="step2",
        run=RunConfig(dir=str(tmp_path / "janus"), steps=1),
        sources=gen_and_und(),
        ratio=(1, 0, 1),
        batch_size=2,
        held_back=2,
    )
    run_training(config)
    model, _ = start_model(dataclasses.replace(config, init=["janus/final"], vq=None))
    assert torch.equal(model.vq.get_parameter(name), second[name])


def test_a_branch_is_put_on_a_trained_vq(make_model: Callable[..., Any], tmp_path: Path) -> None:
    plain = preset("tiny").gen_tokenizer
    assert isinstance(plain, VQConfig)
    vq = make_model(preset("tiny"), seed=5).vq
    save_door(tmp_path / "vq" / "final", vq, plain)
    run = RunConfig(dir=str(tmp_path / "run"), steps=1)
    run_training(semantic_config(run, teacher="nano", vq="vq", optim=OptimConfig(lr=1e-9)))
    door = preset("tiny-semantic").gen_tokenizer
    model = SemanticTokenizer(door)  # pyright: ignore[reportArgumentType]
    load_door(tmp_path / "run", model, door)
    for name, tensor in vq.state_dict().items():
        assert torch.allclose(model.state_dict()[name], tensor, atol=1e-5), name
    assert model.semantic.head.weight.std() > 0

    run = RunConfig(dir=str(tmp_path / "other"), steps=1)
    with pytest.raises(ValueError, match="has a vq with channel_multipliers"):
        run_training(semantic_config(run, teacher="nano", vq="nano"))


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    run = RunConfig(dir=str(tmp_path / "x"), steps=1)
    with pytest.raises(ValueError, match="tokenizer of type 'vq', not semantic"):
        run_training(semantic_config(run, preset="tiny", teacher="nano"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"whole_from": 3}, "whole_from must be left out, got 3"),
        ({"compile": True}, "compile must be false"),
        ({"init": "a", "quantize_from": 1}, "quantize_from must be 0 where init names"),
        ({"vq": "nano", "quantize_from": 1}, "quantize_from must be 0 where vq names"),
        ({"vq": "nano", "init": "a"}, "leave one out"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        semantic_config(RunConfig(steps=4), **wrong)


def test_the_recipes_are_the_papers_two_steps() -> None:
    first, second = (load_recipe(f"semantic/step{number}") for number in (1, 2))
    for config in (first, second):
        assert isinstance(config, SemanticTrainConfig)
        door = preset(config.preset).gen_tokenizer
        assert isinstance(door, SemanticConfig) and config.crop_size == door.image_size
        assert (config.batch_size, config.loss.semantic) == (128, 0.25)
        assert (config.optim.lr, config.optim.schedule) == (1e-4, "constant")
    assert isinstance(second, SemanticTrainConfig) and second.init == "step1/final"
    assert first.run.steps == math.ceil(40 * 1_281_167 / 128)
    assert second.run.steps == 50_000_000 // 128


# a Janus on a semantic tokenizer


def gen_and_und() -> SourcesConfig:
    def toy(kind: str) -> SourceConfig:
        return SourceConfig(type="toy", options={"kind": kind, "length": 64})

    return SourcesConfig(und=[toy("und")], text=[toy("text")], gen=[toy("gen")])


@pytest.fixture
def understands_by_ids() -> JanusConfig:
    """Exp-C."""
    return dataclasses.replace(preset("tiny"), und_encoder=preset("tiny-semantic").gen_tokenizer)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_tokenizer_is_never_trained_with_the_decoder(
    stage: Any, understands_by_ids: JanusConfig
) -> None:
    for config in (preset("tiny-semantic"), understands_by_ids):
        model = build_model(config)
        freeze_for_stage(model, stage, train_gen_embed=True)
        trained = {part_of(name) for name, p in model.named_parameters() if p.requires_grad}
        assert not trained & {"vq", "und_encoder"}
        assert trained >= ({"language_model"} if stage != 1 else {"gen_aligner", "und_aligner"})


@pytest.mark.parametrize("alone", [False, True])
def test_both_faces_learn_on_frozen_features(
    alone: bool,
    understands_by_ids: JanusConfig,
    make_config: Callable[..., JanusTrainConfig],
    tokenizer: TextTokenizer,
) -> None:
    config = understands_by_ids if alone else preset("tiny-semantic")
    trainer = JanusTrainer(
        fresh_model(config, 0),
        Processor(config, tokenizer),
        make_config(stage=3, ratio=(1, 1, 1), batch_size=6, init=["tiny-semantic"]),
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    first = trainer.train_step(0)
    assert {"loss_und", "loss_text", "loss_gen"} <= set(first)
    moved = {
        part_of(name)
        for name, p in trainer.model.named_parameters()
        if not torch.equal(before[name], p)
    }
    plain = {"gen_embed"} if alone else set()
    assert moved == {"language_model", "und_aligner", "gen_aligner", "gen_head"} | plain
    losses = [trainer.train_step(step)["loss"] for step in range(1, 8)]
    assert min(losses) < first["loss"]
