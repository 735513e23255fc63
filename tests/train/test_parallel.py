"""Several processes train what one does. Each is ``openjanus train``, started as by torchrun."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from openjanus.data.stream import Share
from openjanus.data.toy import ToyScenes
from openjanus.train.best import best_steps
from openjanus.train.checkpoint import load_checkpoint, newest_checkpoint
from openjanus.train.metrics import read_metrics
from openjanus.train.optim import Optimizers
from openjanus.train.optim_config import OptimConfig
from openjanus.train.parallel import OtherProcessFailed, World
from openjanus.train.recipes import _tell
from openjanus.train.runs import run_training
from openjanus.train.watch_config import BestConfig, ValConfig, ValTaskConfig

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


EQUAL = ("samples", "tokens", "tokens_und", "tokens_text", "tokens_gen", "lr", "keys", "flops")
EQUAL += ("codebook_usage", "codebook_entropy")


def check_same(one, other, *, steps, equal=EQUAL):
    for line, same in zip(lines_of(one), lines_of(other), strict=True):
        for name in equal:
            assert line.get(name) == same.get(name), (line["step"], name)
        held_out = [name for name in line if name.startswith("val_")]
        assert held_out == [name for name in same if name.startswith("val_")]
        for name in held_out:
            assert same[name] == pytest.approx(line[name], abs=2e-4)
        assert same["loss"] == pytest.approx(line["loss"], abs=1e-4)
        assert same["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-3)
    assert len(lines_of(one)) == steps
    weights = weights_of(other)
    for name, tensor in weights_of(one).items():
        torch.testing.assert_close(weights[name], tensor, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("options", [PACKS, {"pack_length": 256, "micro_batch": 2}])
def test_two_processes_train_what_one_does(make_config, run_processes, tmp_path, options):
    for size in (1, 2):
        config = make_config(
            run={"dir": str(tmp_path / str(size)), "steps": 4},
            stage=3,
            bf16=False,
            id_cache=None,
            log_keys=True,
            **options,
        )
        train(config, size, run_processes)
    equal = (*EQUAL, "fill") if options is PACKS else EQUAL
    check_same(tmp_path / "1", tmp_path / "2", steps=4, equal=equal)
    for line in lines_of(tmp_path / "2"):
        assert line["keys"] and line["codebook_usage"] > 0
        # Rows of a process hold its own samples: fewer fit well.
        assert 0 < line["fill"] <= lines_of(tmp_path / "1")[line["step"] - 1]["fill"]


ENTRY = """
import sys
from openjanus.cli import main
from openjanus.eval.task import Request, register_task


class Weigh:
    rules = "test v1"
    batch_size = 4

    def settings(self, janus):
        return {}

    def requests(self, *, limit, seed):
        return [Request(key="0", group="g", prompt="0")]

    def answer(self, janus, batch, folder):
        drawing = janus.draw("a red circle", seed=0)
        assert len(drawing.images) == 1
        return [{"key": request.key} for request in batch]

    def summarise(self, janus, predictions, folder, *, seed):
        head = janus.model.gen_head.vision_head.weight.detach().double().abs().sum()
        return {"head": float(head)}


register_task("weigh", Weigh)
sys.exit(main())
"""


def test_what_is_shipped_is_measured_in_many_processes_and_the_first_one_speaks(
    make_config, run_processes, tmp_path
):
    """The average, sharded; a task in the first process, whose score all judge by."""

    def config_of(name, tasks, **run):
        return make_config(
            run={"dir": str(tmp_path / name), "steps": 4, **run},
            bf16=False,
            ema_decay=0.8,
            id_cache=None,
            val=ValConfig(every=1, samples=3, tasks=tasks),
            **PACKS,
        )

    best = BestConfig(metric="eval_weigh_head", mode="max", keep=2)
    options = {"best": best, "patience": 9, "final_from": "best", "measure_peak": True}
    config = config_of("2", [ValTaskConfig(task="weigh", every=2)], **options)
    first, second = run_processes(config, 2, entry=ENTRY)
    for words in ("validation gen: 2 held back of toy", "peak: ", "trained: ", "written: "):
        assert first.count(words) == 1, first
    said = [line for line in second.splitlines() if line and not line.startswith("[Gloo]")]
    assert said == [], second
    lines = lines_of(tmp_path / "2")
    scores = {line["step"]: line["eval_weigh_head"] for line in lines if "eval_weigh_head" in line}
    assert list(scores) == [2, 4]
    head = weights_of(tmp_path / "2")["gen_head.vision_head.weight"].double().abs().sum().item()
    assert head == pytest.approx(max(scores.values()), rel=1e-9)
    assert best_steps(tmp_path / "2")[0] == max(scores, key=lambda step: scores[step])
    found = re.search(r"peak: (\S+) TFLOP/s in torch.float32 on cpu, 2 processes", first)
    assert found is not None
    for line in lines:
        share = line["flops"] / line["seconds"] / float(found[1]) / 1e12
        assert line["mfu"] == pytest.approx(share, rel=0.02, abs=1e-4)

    # One process measures the same, and trains the same whether or not anything is measured.
    run_training(config_of("1", []))
    for line, same in zip(lines_of(tmp_path / "1"), lines, strict=True):
        for name in ("loss", *(name for name in line if name.startswith("val_"))):
            assert same[name] == pytest.approx(line[name], abs=2e-4), name
    assert all("val_loss" in line for line in lines)


def meet(beat_s: float) -> list[World]:
    """Two processes that are threads; one that waits for the other past a timeout gives up."""
    values: list[Any] = [None, None]
    barrier = threading.Barrier(2)

    class Meeting(World):
        def gather(self, value: Any) -> list[Any]:
            values[self.rank] = value
            barrier.wait(timeout=0.5)
            found = list(values)
            barrier.wait(timeout=0.5)
            return found

    return [Meeting(rank, 2, beat_s=beat_s) for rank in range(2)]


@pytest.mark.parametrize("beat_s", [0.1, 60.0])
def test_others_wait_for_the_first_as_long_as_it_says_that_it_lives(beat_s):
    def work():
        time.sleep(1.2)
        return "done"

    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(world.on_main, work) for world in meet(beat_s)]
        if beat_s < 0.5:
            assert [one.result() for one in found] == ["done", None]
        else:
            for one in found:
                with pytest.raises(threading.BrokenBarrierError):
                    one.result()


def test_a_long_work_that_fails_is_told_as_itself():
    def work():
        time.sleep(0.7)
        raise KeyError("no such picture")

    with ThreadPoolExecutor(2) as threads:
        first, second = (threads.submit(world.on_main, work) for world in meet(0.1))
        with pytest.raises(KeyError, match="no such picture"):
            first.result()
        with pytest.raises(OtherProcessFailed, match="KeyError: 'no such picture'"):
            second.result()


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
    assert first.returncode == 2, said
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


class WithAnother(World):
    """The first of two processes; the other has 100 supervised tokens at the same doors."""

    def share(self):
        return Share()

    def gather(self, value):
        if isinstance(value, tuple):
            return [value, (100, value[1])]
        return [value, [0 for _ in value]]


def test_the_mean_is_over_the_tokens_of_all_processes(make_config, make_trainer, cut_nothing):
    """The known defect: each takes its own mean, and a process with few tokens counts too much."""
    sources = {kind: [ToyScenes(kind=kind, length=64)] for kind in ("und", "text", "gen")}
    found = []
    for world in (World(), WithAnother(size=2)):
        trainer = make_trainer(make_config(bf16=False), sources=sources, world=world)
        batches = trainer._batches(trainer._samples())
        values = trainer.gradients.add(0, batches)
        gradient = trainer.model.get_parameter("gen_head.vision_head.weight").grad
        found.append((values["loss"], gradient, sum(b.num_supervised for b in batches)))
    (loss, whole, number), (share, part, _) = found
    assert share == pytest.approx(loss * number / (number + 100), rel=1e-5)
    torch.testing.assert_close(part, whole * number / (number + 100), atol=1e-6, rtol=1e-4)


class Second(World):
    """The second of two processes, who hears what the first told."""

    def gather(self, value):
        return ["ValueError: this will not do", value]


def test_a_refusal_of_the_first_process_reaches_the_others():
    with pytest.raises(OtherProcessFailed, match="process 0 of 2 stopped: ValueError: this will"):
        Second(rank=1, size=2).on_main(lambda: pytest.fail("the first alone does it"))
    with pytest.raises(ZeroDivisionError):
        World().on_main(lambda: 1 // 0)


def test_a_composite_speaks_in_the_first_process_alone(monkeypatch, capsys):
    for rank, said in (("1", ""), ("0", "stage1: complete\n")):
        monkeypatch.setenv("RANK", rank)
        _tell("stage1: complete")
        assert capsys.readouterr().err == said


def test_a_restart_by_torchrun_goes_on(make_config, monkeypatch, tmp_path):
    """It repeats the command of the start, which says nothing of a resume."""
    config = make_config(run={"steps": 3, "stop_at": 1})
    run_training(config)
    with pytest.raises(ValueError, match="holds a run already"):
        run_training(config)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run_training(make_config(run={"steps": 3}))
    assert column(tmp_path / "run", "step") == [1, 2, 3]
