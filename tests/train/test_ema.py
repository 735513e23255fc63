"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from openjanus.train.checkpoint import load_checkpoint, newest_checkpoint
from openjanus.train.ema import Ema
from openjanus.train.runs import run_training
from openjanus.train.stages import part_of, trained_parts


def test_it_follows_the_weights_sooner_at_first():
    weight = torch.nn.Parameter(torch.zeros(3))
    ema = Ema([("x", weight)], 0.25)
    expected = 0.0
    for step, decay in ((1, 2 / 11), (2, 0.25), (3, 0.25)):
        with torch.no_grad():
            weight.fill_(float(step))
        ema.update()
        expected = decay * expected + (1 - decay) * step
        assert ema.tensors["x"].tolist() == pytest.approx([expected] * 3)
    assert ema.steps == 3
    assert weight.tolist() == [3.0] * 3


def test_weights_and_average_change_places_and_come_back_to_the_bit():
    weights = torch.nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    ema = Ema([("x", weights)], 0.9)
    with torch.no_grad():
        weights.mul_(3)
    ema.update()
    before = weights.detach().clone(), ema.tensors["x"].clone()
    ema.swap()
    assert torch.equal(weights, before[1]) and torch.equal(ema.tensors["x"], before[0])
    assert not torch.equal(*before)
    ema.swap()
    assert torch.equal(weights, before[0]) and torch.equal(ema.tensors["x"], before[1])


def test_the_result_of_a_run_is_the_average_and_a_resume_keeps_it(make_config, tmp_path):
    for name, stops in (("whole", (None,)), ("parts", (2, None))):
        for number, stop in enumerate(stops):
            run = {"dir": str(tmp_path / name), "steps": 4, "stop_at": stop, "resume": number > 0}
            run_training(make_config(run=run, ema_decay=0.9))
    finals = [load_file(tmp_path / n / "final" / "model.safetensors") for n in ("whole", "parts")]
    assert all(torch.equal(tensor, finals[1][name]) for name, tensor in finals[0].items())
    task = load_checkpoint(newest_checkpoint(tmp_path / "whole"))["task"]
    name = "gen_head.vision_head.weight"
    places = {key: torch.zeros_like(finals[0][name]) for key in (f"ema/{name}", f"model/{name}")}
    task["shards"].read_into(places)
    assert torch.equal(finals[0][name], places[f"ema/{name}"])
    assert not torch.equal(finals[0][name], places[f"model/{name}"])
    assert task["ema_steps"] == 4


def test_it_is_in_the_same_parts_as_the_weights():
    """A copy of the whole in every process is what a large model has no room for."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        part = distribute_tensor(torch.ones(4, 4), init_device_mesh("cpu", (1,)), [Shard(0)])
        ema = Ema([("x", torch.nn.Parameter(part))], 0.9)
        ema.update()
        average = ema.tensors["x"]
        assert isinstance(average, DTensor)
        assert average.placements == part.placements
    finally:
        dist.destroy_process_group()


def test_what_is_frozen_has_no_copy(make_config, make_trainer):
    ema = make_trainer(make_config(stage=1, ema_decay=0.9)).trained.ema
    assert ema is not None
    assert {part_of(name) for name in ema.tensors} == trained_parts(1, train_gen_embed=False) - {
        "extra_aligners"
    }


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_that_is_none_is_refused(make_config, decay):
    with pytest.raises(ValueError, match=r"ema_decay must be in \(0, 1\)"):
        make_config(ema_decay=decay)
