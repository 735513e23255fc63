"""Blocks that are run again in the backward."""

from __future__ import annotations

import pytest
import torch

from openjanus.data.toy import ToyScenes
from openjanus.model.decoder import SwiGLU
from openjanus.train.parallel import World
from openjanus.train.sharding import blocks_of


def test_activations_that_are_not_kept_are_computed_again(make_config, make_trainer, monkeypatch):
    own, calls = SwiGLU.forward, []
    monkeypatch.setattr(SwiGLU, "forward", lambda mlp, x: calls.append(1) or own(mlp, x))
    gradients = []
    for on in (False, True):
        trainer = make_trainer(make_config(bf16=False, stage=3, activation_checkpointing=on))
        calls.clear()
        values = trainer.gradients.add(0, trainer._batches(trainer._samples()))
        layers = len(trainer.model.language_model.model.layers)
        # Without, the fast forwards of a CPU run, which call no module of a layer.
        assert len(calls) == (2 * layers if on else 0)
        trained = trainer.trained.parameters
        gradients.append((values["loss"], {n: p.grad for n, p in trained.items()}))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-3)


class Alike(World):
    """One of several processes that all tell the same."""

    def gather(self, value):
        return [value] * self.size


@pytest.mark.parametrize("stage", [1, 2])
def test_what_is_frozen_is_so_before_it_is_cut(
    make_config, make_trainer, cut_nothing, monkeypatch, stage
):
    """FSDP gives what is trained a gradient of its own when it cuts: later is too late."""
    cut = []

    def note(module, **_):
        cut.append((module, [p.requires_grad for p in module.parameters()]))

    monkeypatch.setattr("openjanus.train.sharding.fully_shard", note)
    sources = {kind: [ToyScenes(kind=kind, length=64)] for kind in ("und", "text", "gen")}
    trainer = make_trainer(make_config(stage=stage), sources=sources, world=Alike(size=2))
    assert len(cut) == 1 + len(list(blocks_of(trainer.model)))
    for module, trained in cut:
        assert trained == [p.requires_grad for p in module.parameters()]
    assert set(cut[-1][1]) == {True, False}


def test_samples_are_drawn_without_them(make_config, make_trainer, tmp_path):
    trainer = make_trainer(make_config(activation_checkpointing=True))
    trainer.sample(tmp_path, 1)
    other = make_trainer(make_config())
    other.sample(tmp_path, 2)
    assert (tmp_path / "step-00000001.png").read_bytes() == (
        tmp_path / "step-00000002.png"
    ).read_bytes()


def test_the_blocks_of_both_towers_are_units(make_trainer, make_config):
    model = make_trainer(make_config()).model
    blocks = list(blocks_of(model))
    assert blocks == [*model.und_encoder.blocks, *model.language_model.model.layers] or blocks == [
        *model.language_model.model.layers,
        *model.und_encoder.blocks,
    ]
