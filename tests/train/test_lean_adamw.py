"""AdamW in less memory: the same numbers where it runs, a reason where it does not."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from openjanus.train.lean_adamw import OffloadedAdamW, build_adamw
from openjanus.train.loop import run_loop
from openjanus.train.metrics import read_metrics
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


class EightBit(torch.optim.Optimizer):
    """Keeps what bitsandbytes keeps: bytes, scales of other sizes, and a plain number of steps."""

    def __init__(self, groups, lr, betas, eps):
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                kept = self.state[p]
                if not kept:
                    kept |= {"step": 0, "state1": torch.zeros_like(p, dtype=torch.uint8)}
                    kept |= {"absmax1": torch.zeros(3)}
                average = kept["state1"].float() - 127 if kept["step"] > 0 else 0.0
                average = 0.9 * average / 127 * kept["absmax1"][0] + 0.1 * p.grad
                kept["absmax1"].fill_(average.abs().max().clamp_min(1e-9))
                kept["state1"].copy_((average / kept["absmax1"][0] * 127).round() + 127)
                kept["step"] += 1
                p.add_(average, alpha=-group["lr"] / kept["step"])


@pytest.mark.parametrize("lean", [{"offload": True}, {"name": "adamw8bit"}])
def test_a_run_resumes_to_the_bit(make_config, make_trainer, tmp_path, monkeypatch, lean):
    """A checkpoint knows states by name, which is not how an optimizer gives its own."""
    monkeypatch.setattr("openjanus.train.lean_adamw._require_cuda", lambda *_: None)
    bitsandbytes = SimpleNamespace(AdamW8bit=EightBit)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=bitsandbytes))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", bitsandbytes)

    def losses(name, **run):
        config = make_config(run={"dir": str(tmp_path / name), "steps": 4, **run}, optim=lean)
        run_loop(make_trainer(config), config.run, description=name)
        return [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")]

    losses("parts", stop_at=2)
    assert losses("parts", resume=True) == losses("whole")


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
