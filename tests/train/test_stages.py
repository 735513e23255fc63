"""Which parameters a stage trains: the papers' table."""

from __future__ import annotations

import pytest
import torch

from openjanus.model.janus import build_model
from openjanus.presets import preset
from openjanus.train.stages import count_by_part, freeze_for_stage, part_of, trained_parts

ALIGNERS = {"und_aligner", "gen_aligner", "gen_head"}


@pytest.mark.parametrize("name", ["tiny", "nano-v0"])
def test_every_parameter_has_exactly_one_part(name):
    model = build_model(preset(name))
    counts = count_by_part(model.named_parameters())
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert {"und_encoder", "vq", "language_model", "gen_embed"} | ALIGNERS == set(counts)


def test_one_vocabulary_has_the_decoder_and_the_tokenizer_alone():
    model = build_model(preset("tiny-chameleon"))
    assert set(count_by_part(model.named_parameters())) == {"language_model", "vq"}
    freeze_for_stage(model, 3, train_gen_embed=False)
    assert {part_of(n) for n, p in model.named_parameters() if p.requires_grad} == {
        "language_model"
    }


def test_a_name_of_no_part_is_told():
    with pytest.raises(ValueError, match="exactly one part"):
        part_of("new_door.weight")


@pytest.mark.parametrize(
    ("stage", "option", "expected"),
    [
        (0, False, {"language_model"}),
        (1, False, ALIGNERS),
        (1, True, ALIGNERS | {"gen_embed"}),
        (2, False, ALIGNERS | {"gen_embed", "language_model"}),
        (3, False, ALIGNERS | {"gen_embed", "language_model", "und_encoder"}),
    ],
)
def test_the_table_is_the_papers(stage, option, expected):
    model = build_model(preset("tiny"))
    freeze_for_stage(model, stage, train_gen_embed=option)
    trained = {part_of(name) for name, p in model.named_parameters() if p.requires_grad}
    frozen = {part_of(name) for name, p in model.named_parameters() if not p.requires_grad}
    assert trained == expected
    assert trained & frozen == set()


def test_another_stage_is_told():
    with pytest.raises(ValueError, match="stage must be one of"):
        trained_parts(4, train_gen_embed=False)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_trained_parameters_move_and_frozen_ones_do_not(make_config, make_trainer, stage):
    ratio = (0, 1, 0) if stage == 0 else (1, 1, 1)
    config = make_config(stage=stage, ratio=ratio, batch_size=3, optim={"weight_decay": 0.1})
    trainer = make_trainer(config)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for step in range(2):
        trainer.train_step(step)
    parts = trained_parts(stage, train_gen_embed=False)
    for name, parameter in trainer.model.named_parameters():
        moved = not torch.equal(before[name], parameter)
        assert moved == (part_of(name) in parts), name
