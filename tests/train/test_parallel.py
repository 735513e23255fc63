"""Several processes train what one does. Each is ``openjanus train``, started as by torchrun."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from openjanus.train.checkpoint import load_checkpoint, newest_checkpoint
from openjanus.train.metrics import read_metrics
from openjanus.train.optim import Optimizers
from openjanus.train.optim_config import OptimConfig
from openjanus.train.parallel import OtherProcessFailed, World
from openjanus.train.runs import run_training

PACKS = {"batch_unit": "packs", "batch_size": 2, "pack_length": 256, "ratio_unit": "tokens"}
"""One pack a process: often without a kind that the other one has."""


def lines_of(folder):
    return read_metrics(Path(folder) / "metrics.jsonl")


def column(folder, name):
    return [line[name] for line in lines_of(folder)]


def weights_of(folder):
    return load_file(Path(folder) / "final" / "model.safetensors")


def train(config, size, run_processes):
    """One process needs no starting: that is the code path of every other test."""
    if size == 1:
        run_training(config)
    else:
        run_processes(config, size)


def check_same(one, other, *, steps):
    for line, same in zip(lines_of(one), lines_of(other), strict=True):
        for name in ("samples", "tokens_und", "tokens_text", "tokens_gen", "lr"):
            assert line.get(name) == same.get(name), (line["step"], name)
        assert same["loss"] == pytest.approx(line["loss"], abs=1e-4)
        assert same["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-3)
    assert len(lines_of(one)) == steps
    weights = weights_of(other)
    for name, tensor in weights_of(one).items():
        torch.testing.assert_close(weights[name], tensor, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("options", [PACKS, {"pack_length": 256, "accumulate": 5}])
def test_two_processes_train_what_one_does(make_config, run_processes, tmp_path, options):
    for size in (1, 2):
        config = make_config(
            run={"dir": str(tmp_path / str(size)), "steps": 4},
            stage=3,
            bf16=False,
            id_cache=None,
            **options,
        )
        train(config, size, run_processes)
    check_same(tmp_path / "1", tmp_path / "2", steps=4)


def test_processes_that_lack_a_door_run_it_on_nothing(make_config, run_processes, tmp_path):
    """One sample a process, so that one has a picture to draw and the other words alone."""
    for size in (1, 2):
        config = make_config(
            run={"dir": str(tmp_path / str(size)), "steps": 3},
            ratio=(1, 0, 1),
            stage=1,
            batch_size=2,
            process_timeout_s=120,
            bf16=False,
            id_cache=None,
        )
        train(config, size, run_processes)
    for line in lines_of(tmp_path / "2"):
        assert line["samples"]["und"] == line["samples"]["gen"] == line["step"]
    check_same(tmp_path / "1", tmp_path / "2", steps=3)


def test_a_run_goes_on_in_another_number_of_processes(make_config, run_processes, tmp_path):
    def run(name, size, **options):
        folder = str(tmp_path / name)
        config = make_config(
            run={"dir": folder, "steps": 6, "keep": 9, **options},
            bf16=False,
            ema_decay=0.9,
            id_cache=None,
            **PACKS,
        )
        train(config, size, run_processes)

    run("whole", 1)
    run("parts", 2, stop_at=2)
    run("parts", 1, stop_at=4, resume=True)
    run("parts", 2, resume=True)
    check_same(tmp_path / "whole", tmp_path / "parts", steps=6)
    ends = [load_checkpoint(newest_checkpoint(tmp_path / name)) for name in ("whole", "parts")]
    data, counts = ([end["task"][key] for end in ends] for key in ("data", "seen"))
    assert data[0] == data[1] and counts[0] == counts[1]
    assert [end["task"]["ema_steps"] for end in ends] == [6, 6]
    shapes = [end["task"]["shards"].shapes() for end in ends]
    assert shapes[0] == shapes[1]
    places = [{name: torch.zeros(shape) for name, shape in each.items()} for each in shapes]
    for end, place in zip(ends, places, strict=True):
        end["task"]["shards"].read_into(place)
    for name, tensor in places[0].items():
        torch.testing.assert_close(places[1][name], tensor, atol=2e-4, rtol=1e-3)


def test_a_process_that_is_gone_ends_the_others_with_a_message(make_config, start_run, tmp_path):
    config = make_config(run={"steps": 10_000, "save_every": 5})
    first, second = start_run(config, 2)
    wait_for_steps(tmp_path / "run", 3)
    second.kill()
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 2
    last = said.strip().splitlines()[-1]
    assert last.startswith("openjanus: process 0 of 2 lost another one"), said
    assert "--run.resume true" in last


def wait_for_steps(folder, number):
    deadline = time.monotonic() + 600
    while len(lines_of(folder)) < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_cannot_be_dealt_to_processes_is_told(make_config, make_trainer):
    config = make_config(batch_size=12, accumulate=2)
    with pytest.raises(ValueError, match=r"multiple of processes x accumulate \(5 x 2\).*give 10"):
        make_trainer(config, world=World(rank=0, size=5))


def test_muon_of_several_processes_is_refused():
    """Its matrices are whole, and with FSDP no process has a whole one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        part = distribute_tensor(torch.ones(4, 4), init_device_mesh("cpu", (1,)), [Shard(0)])
        named = [("language_model.model.layers.0.x", torch.nn.Parameter(part))]
        with pytest.raises(ValueError, match="muon, which needs whole matrices"):
            Optimizers(named, OptimConfig(name="muon"))
        Optimizers(named, OptimConfig(name="adamw"))
    finally:
        dist.destroy_process_group()


class Second(World):
    """The second of two processes, who hears what the first told."""

    def gather(self, value):
        return ["ValueError: this will not do", value]


def test_a_refusal_of_the_first_process_reaches_the_others():
    with pytest.raises(OtherProcessFailed, match="process 0 of 2 stopped: ValueError: this will"):
        Second(rank=1, size=2).on_main(lambda: pytest.fail("the first alone does it"))
    with pytest.raises(ZeroDivisionError):
        World().on_main(lambda: 1 // 0)


def test_a_restart_by_torchrun_goes_on(make_config, monkeypatch, tmp_path):
    """It repeats the command of the start, which says nothing of a resume."""
    config = make_config(run={"steps": 3, "stop_at": 1})
    run_training(config)
    with pytest.raises(ValueError, match="holds a run already"):
        run_training(config)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run_training(make_config(run={"steps": 3}))
    assert column(tmp_path / "run", "step") == [1, 2, 3]
