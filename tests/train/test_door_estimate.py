"""What a door's training takes: against a step with values, its bytes and its operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from openjanus.config import SemanticConfig, SiglipConfig
from openjanus.data.sources import build_source
from openjanus.model.semantic import SemanticTokenizer
from openjanus.model.siglip import SiglipEncoder
from openjanus.model.vq import VQTokenizer
from openjanus.presets import preset
from openjanus.processor.text import byte_tokenizer
from openjanus.train.door_estimate import (
    DoorConfig,
    DoorWork,
    Phase,
    advise_door,
    estimate_door,
    kept_bytes,
)
from openjanus.train.estimate import GB, LOGIT_BYTES, PartSize, siglip_layer_bytes
from openjanus.train.perceptual import PerceptualLoss
from openjanus.train.recipes import load_recipe
from openjanus.train.runs import init_vq
from openjanus.train.semantic_config import SemanticTrainConfig
from openjanus.train.semantic_trainer import SemanticTrainer, init_semantic
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.siglip_trainer import SiglipTrainer
from openjanus.train.teacher import Teacher
from openjanus.train.vq_config import VQTrainConfig
from openjanus.train.vq_trainer import VQTrainer

ACTIVATIONS_WITHIN = {"siglip": 1.15}
"""Factors by kind: towers run on a CPU by forwards of their own, which attend in fp32."""
OTHERS_WITHIN = 1.01
FLOPS_WITHIN = 0.001

Trainer = VQTrainer | SiglipTrainer
GAN = ["--gan.weight=0.5", "--gan.start=0", "--gan.layers=2", "--gan.width=16"]


def recipe(name: str, *changes: str) -> DoorConfig:
    config = load_recipe(name, ["--run.dir=x", "--run.steps=4", "--restart_until=0", *changes])
    assert isinstance(config, VQTrainConfig | SiglipTrainConfig)
    return config


class Captions:
    """Pictures whose captions are all different, and longer than is read."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        return np.full((32, 32, 3), index, np.uint8), f"{index:03d} is what it is called"


def build(config: DoorConfig, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A trainer with values; a perceptual net has random ones, and a teacher too."""
    architecture = preset(config.preset)
    if isinstance(config, SiglipTrainConfig):
        door = architecture.und_encoder
        assert isinstance(door, SiglipConfig)
        tokenizer = byte_tokenizer(architecture.processor)
        return SiglipTrainer(
            SiglipEncoder(door), tokenizer, Captions(), architecture.processor, config
        )
    monkeypatch.setattr("openjanus.train.vq_trainer.load_perceptual", lambda _: PerceptualLoss())
    source, door = build_source("toy-pictures", {}), architecture.gen_tokenizer
    if isinstance(config, SemanticTrainConfig):
        assert isinstance(door, SemanticConfig)
        model = SemanticTokenizer(door)
        init_semantic(model, 0)
        init_vq(model, 0)
        seen = preset("nano-v0")
        encoder = SiglipEncoder(seen.und_encoder)  # pyright: ignore[reportArgumentType]
        teacher = Teacher(encoder, seen.und_image_size, seen.processor, "a teacher")
        return SemanticTrainer(model, teacher, source, config)
    model = VQTokenizer(door)  # pyright: ignore[reportArgumentType]
    init_vq(model, 0)
    return VQTrainer(model, source, config)


def estimated(config: DoorConfig) -> DoorWork:
    return estimate_door(config, preset("nano-v0") if config.kind == "semantic" else None)


CASES = {
    "vq": lambda: recipe("tiny/vq", "--batch_size=4"),
    "vq in fp32": lambda: recipe("tiny/vq", "--batch_size=4", "--bf16=false"),
    "gan": lambda: recipe("tiny/vq", "--batch_size=4", "--ema_decay=0.9", *GAN),
    "adaptive": lambda: recipe("tiny/vq", "--batch_size=4", "--gan.adaptive=true", *GAN),
    "perceptual": lambda: recipe(
        "tiny/vq",
        "--batch_size=2",
        "--loss.perceptual=1.0",
        "--loss.perceptual_weights=[x]",
        "--loss.edge=1.0",
        "--loss.entropy=0.1",
    ),
    "decoder": lambda: recipe("tiny/vq", "--batch_size=4", "--decoder_only=true", "--init=x"),
    "semantic": lambda: recipe("tiny/semantic", "--batch_size=4"),
    "siglip": lambda: recipe_of_siglip(),
    "muon": lambda: recipe_of_siglip("--optim.name=muon", "--optim.muon_lr=0.01"),
}


def recipe_of_siglip(*changes: str) -> DoorConfig:
    own = ["--batch_size=8", "--max_text_length=12", "--eval_pairs=8", *changes]
    config = load_recipe("tiny/encoder", ["--run.dir=x", "--run.steps=4", *own])
    assert isinstance(config, SiglipTrainConfig)
    return config


def modules_of(trainer: Trainer) -> Iterator[nn.Module]:
    if isinstance(trainer, SiglipTrainer):
        yield trainer.towers
        return
    yield trainer.model
    if trainer.adversary is not None:
        yield trainer.adversary.discriminator
    if trainer.perceptual is not None:
        yield trainer.perceptual
    if trainer.ema is not None:
        yield trainer.ema.module
    if isinstance(trainer, SemanticTrainer):
        yield trainer.teacher._encoder


def states_of(trainer: Trainer) -> int:
    found = list(trainer.optimizers.optimizers)
    if isinstance(trainer, VQTrainer) and trainer.adversary is not None:
        found.append(trainer.adversary.optimizer)
    states = [state for one in found for state in one.state.values()]
    return sum(v.nbytes for state in states for k, v in state.items() if k != "step")


@pytest.mark.parametrize("name", CASES)
def test_bytes_and_operations_are_those_of_a_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CASES[name]()
    trainer, work = build(config, monkeypatch), estimated(config)
    # So that torch counts attention, which it does not know as one operation of a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.train_step(0)
    found = counter.get_total_flops() - _flops_of_muon(trainer)
    (phase,) = work.phases
    assert sum(phase.flops.values()) == pytest.approx(found, rel=FLOPS_WITHIN)

    memory = work.memory()
    parameters = [p for module in modules_of(trainer) for p in module.parameters()]
    assert memory.weights == sum(p.nbytes for p in parameters)
    assert memory.gradients == sum(p.nbytes for p in parameters if _learns(p, trainer))
    assert memory.optimizer == states_of(trainer)

    monkeypatch.setattr(torch.Tensor, "backward", _keep)
    size, _ = kept_bytes(lambda: _forward(trainer), list(modules_of(trainer)))
    told = memory.copies + memory.activations + memory.logits
    within = ACTIVATIONS_WITHIN.get(config.kind, OTHERS_WITHIN)
    assert size / within < told < size * within


class _Enough(Exception):
    """Holds the loss of a step that goes no further, and with it what autograd keeps."""


def _keep(loss: torch.Tensor, *_: Any, **__: Any) -> None:
    raise _Enough(loss)


def _forward(trainer: Trainer) -> torch.Tensor:
    with pytest.raises(_Enough) as stopped:
        trainer.train_step(1)
    return stopped.value.args[0]


def _flops_of_muon(trainer: Trainer) -> int:
    """Its own products, which are the optimizer's and not the step's."""
    with FlopCounterMode(display=False) as counter:
        for optimizer in trainer.optimizers.optimizers[1:]:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def _learns(parameter: nn.Parameter, trainer: Trainer) -> bool:
    if isinstance(trainer, SiglipTrainer):
        return parameter.requires_grad
    frozen = [] if trainer.ema is None else list(trainer.ema.module.parameters())
    return parameter.requires_grad and all(parameter is not one for one in frozen)


def test_the_encoders_bytes_are_those_of_the_formula() -> None:
    """Of a Janus' trained encoder: the two estimates share no code there."""
    found = []
    for layers in (1, 2):
        door = preset("tiny").und_encoder
        assert isinstance(door, SiglipConfig)
        found.append(dataclasses.replace(door, num_hidden_layers=layers))
    encoders = [SiglipEncoder(door) for door in found]

    def kept(encoder: SiglipEncoder, count: int) -> int:
        def run() -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return encoder(torch.zeros(count, 3, 32, 32)).sum()

        return kept_bytes(run, [encoder])[0]

    one, two = ((kept(e, 4) - kept(e, 2)) // 2 for e in encoders)
    assert two - one == found[0].num_image_tokens * siglip_layer_bytes(found[0])


def test_devices_share_the_batch_and_not_the_weights() -> None:
    work = estimated(recipe_of_siglip("--batch_size=16"))
    (phase,) = work.phases
    one, eight = work.memory(1), work.memory(8)
    assert (one.rows, eight.rows) == (16, 2)
    assert (one.kept, one.copies) == (eight.kept, eight.copies)
    assert eight.activations == 2 * (phase.per_picture + phase.per_caption)
    assert eight.logits == LOGIT_BYTES * 2 * 16  # its pictures by all captions


def test_pieces_first_and_whole_pictures_then() -> None:
    config = recipe(
        "tiny/vq",
        "--crop_size=16",
        "--whole_from=3",
        "--batch_size=8",
        "--whole_batch_size=2",
    )
    work = estimated(config)
    assert [(p.steps, p.batch, p.side) for p in work.phases] == [(3, 8, 16), (1, 2, 32)]
    pieces, whole = (sum(phase.flops.values()) for phase in work.phases)
    assert work.flops == 3 * pieces + whole
    assert work.phases[1].per_picture > 3 * work.phases[0].per_picture
    assert work.memory().rows == 8  # two whole pictures have as many pixels as these


def test_advice_names_what_helps() -> None:
    phase = Phase(steps=1, batch=16, side=8, flops={}, fixed=0, per_picture=int(GB))
    work = DoorWork(parts={"tokenizer": PartSize(total=1, trained=1)}, optimizer=0, phases=[phase])
    assert advise_door(work, devices=1, capacity=17 * GB) == "yes, 16.0 GB"
    told = advise_door(work, devices=1, capacity=5 * GB)
    assert told == "no, 16.0 GB: 4 of them do, each with its part of the batch"
    odd = dataclasses.replace(work, phases=[dataclasses.replace(phase, batch=15)])
    told = advise_door(odd, devices=1, capacity=5 * GB)
    assert told == "no, 15.0 GB: pictures by 3 do, which is another training"
    told = advise_door(work, devices=1, capacity=GB / 2)
    assert told == "no, 16.0 GB: not with a picture a device"


def test_another_kind_of_door_is_refused() -> None:
    config = recipe("tiny/vq", "--preset=tiny-semantic")
    with pytest.raises(ValueError, match="has a tokenizer of type 'semantic': take one that kind"):
        estimate_door(config)
