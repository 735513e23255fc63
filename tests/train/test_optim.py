"""Schedules and optimizers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from openjanus.train.optim import Optimizers, lr_factor
from openjanus.train.optim_config import OptimConfig


def test_warm_up_then_constant():
    config = OptimConfig(warmup_steps=4)
    factors = [lr_factor(config, step, 10) for step in range(10)]
    assert factors == [0.25, 0.5, 0.75, *[1.0] * 7]


def test_warm_up_then_cosine_to_its_end():
    config = OptimConfig(warmup_steps=2, schedule="cosine", final_lr_ratio=0.1)
    factors = [lr_factor(config, step, 12) for step in range(13)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[7] == pytest.approx(0.55)
    assert factors[12] == pytest.approx(0.1)
    assert factors[2:] == sorted(factors[2:], reverse=True)


def test_weight_decay_is_used_and_on_matrices_alone():
    # The known defect: declared and never passed on.
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.bias.fill_(1.0)
    weight = layer.weight.detach().clone()
    optimizers = Optimizers(layer.named_parameters(), OptimConfig(lr=0.1, weight_decay=0.5))
    layer.weight.grad, layer.bias.grad = torch.zeros(4, 4), torch.zeros(4)
    optimizers.step(0, 10)
    assert torch.allclose(layer.weight, weight * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias, torch.ones(4))


def test_the_gradient_is_clipped_as_one():
    layer = nn.Linear(2, 1)
    optimizers = Optimizers(layer.named_parameters(), OptimConfig(lr=0.1, grad_clip=1.0))
    layer.weight.grad, layer.bias.grad = torch.full((1, 2), 30.0), torch.full((1,), 40.0)
    clipped = {}

    def note(*_):
        gradients = [p.grad.flatten() for p in layer.parameters() if p.grad is not None]
        clipped["norm"] = torch.cat(gradients).norm().item()

    optimizers.optimizers[0].register_step_pre_hook(note)
    norm, lr = optimizers.step(0, 10)
    assert norm == pytest.approx((30**2 * 2 + 40**2) ** 0.5)
    assert clipped["norm"] == pytest.approx(1.0, abs=1e-4)
    assert lr == 0.1
    assert layer.weight.grad is None


def test_muon_takes_the_decoders_matrices_and_adamw_the_rest(make_model, tiny_config):
    model = make_model(tiny_config)
    optimizers = Optimizers(model.named_parameters(), OptimConfig(name="muon"))
    adamw, muon = (
        {id(p) for group in optimizer.param_groups for p in group["params"]}
        for optimizer in optimizers.optimizers
    )
    assert adamw & muon == set()
    assert adamw | muon == {id(p) for p in model.parameters()}
    names = {name for name, p in model.named_parameters() if id(p) in muon}
    assert len(names) == 2 * 7
    assert all(name.startswith("language_model.model.layers.") for name in names)


def test_muon_with_nothing_to_take_is_told():
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="none of what is trained here is for it"):
        Optimizers(layer.named_parameters(), OptimConfig(name="muon"))


def test_state_of_other_optimizers_is_refused():
    layer = nn.Linear(2, 2)
    optimizers = Optimizers(layer.named_parameters(), OptimConfig())
    with pytest.raises(ValueError, match=r"keep optim\.name"):
        optimizers.load_state_dict([])


def test_nothing_to_train_is_told():
    layer = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        Optimizers(layer.named_parameters(), OptimConfig())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": 0.0}, r"optim\.lr must be > 0"),
        ({"weight_decay": -1.0}, ">= 0"),
        ({"weight_decay": math.nan}, r"weight_decay must be finite and >= 0 .* got nan"),
        ({"weight_decay": math.inf}, r"weight_decay must be finite"),
        ({"final_lr_ratio": 1.5}, r"\[0, 1\]"),
    ],
)
def test_wrong_options_are_told(options, says):
    with pytest.raises(ValueError, match=says):
        OptimConfig(**options)
