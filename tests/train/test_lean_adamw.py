"""AdamW in less memory: the same numbers where it runs, a reason where it does not."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from openjanus.train.lean_adamw import OffloadedAdamW, build_adamw
from openjanus.train.optim_config import OptimConfig


def groups(model):
    return [{"params": list(model.parameters()), "weight_decay": 0.1}]


def train(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step + 1)
        model(torch.randn(4, 3, generator=generator)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def layer():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6.0).view(2, 3) / 6)
        model.bias.fill_(0.5)
    return model


def test_offloaded_is_plain_adamw():
    plain, offloaded = layer(), layer()
    train(plain, build_adamw(groups(plain), OptimConfig()), 4)
    train(offloaded, OffloadedAdamW(groups(offloaded), lr=1e-4, betas=(0.9, 0.95)), 4)
    assert torch.equal(plain.weight, offloaded.weight)
    assert torch.equal(plain.bias, offloaded.bias)
    assert not torch.equal(plain.weight, layer().weight)


def test_offloaded_resumes_to_the_bit():
    whole, parts = layer(), layer()
    train(whole, OffloadedAdamW(groups(whole), lr=1e-4, betas=(0.9, 0.95)), 4)
    first = OffloadedAdamW(groups(parts), lr=1e-4, betas=(0.9, 0.95))
    train(parts, first, 2)
    resumed = layer()
    second = OffloadedAdamW(groups(resumed), lr=1e-4, betas=(0.9, 0.95))
    resumed.load_state_dict(parts.state_dict())
    second.load_state_dict(first.state_dict())
    train(resumed, second, 2, start=2)
    assert torch.equal(resumed.weight, whole.weight)


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="takes no closure"):
        OffloadedAdamW(groups(layer()), lr=1e-4, betas=(0.9, 0.95)).step(lambda: 0.0)


def test_without_a_gpu_offload_is_refused():
    with pytest.raises(ValueError, match=r"optim\.offload saves memory of a GPU.* is on cpu"):
        build_adamw(groups(layer()), OptimConfig(offload=True))
    with pytest.raises(ValueError, match=r"optim\.offload is for name adamw, got muon"):
        OptimConfig(offload=True, name="muon")


def test_without_bitsandbytes_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ImportError, match=r"pip install openjanus\[adamw8bit\]"):
        build_adamw(groups(layer()), OptimConfig(name="adamw8bit"))
