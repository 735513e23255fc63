"""Sinks are guests: they get what a run says, and cannot end it or change it."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

from openjanus.train.checkpoint import load_checkpoint, newest_checkpoint
from openjanus.train.loop import run_loop
from openjanus.train.metrics import read_metrics
from openjanus.train.runs import run_training
from openjanus.train.sinks import flatten
from openjanus.train.watch_config import WandbConfig


class FakeWandb(ModuleType):
    """Remembers what it was given; fails when it is told to."""

    def __init__(self, *, fails_in: str = "") -> None:
        super().__init__("wandb")
        self.fails_in = fails_in
        self.inits = []
        self.logged = []
        self.finished = 0
        self.Image = lambda path: SimpleNamespace(size=Image.open(path).size)
        self.Html = lambda page, inject: page

    def init(self, **options):
        self._maybe_fail("init")
        self.inits.append(options)
        return self

    def log(self, values, *, step):
        self._maybe_fail("log")
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1

    def _maybe_fail(self, where):
        if self.fails_in == where:
            raise ConnectionError("no way\nout")


@pytest.fixture
def fake_wandb(monkeypatch):
    def make(**options):
        fake = FakeWandb(**options)
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    return make


def test_numbers_are_named_by_where_they_stand():
    values = {"loss": 2, "samples": {"und": 3, "gen": 4.5}, "words": "no", "flag": None}
    assert dict(flatten(values)) == {"loss": 2.0, "samples/und": 3.0, "samples/gen": 4.5}


def test_wandb_gets_every_line_and_what_the_samples_are(make_config, tmp_path, fake_wandb):
    fake = fake_wandb()
    wandb = WandbConfig(project="p", entity="team", mode="offline")
    run_training(make_config(run={"steps": 3, "sinks": ["wandb"], "wandb": wandb}))
    (options,) = fake.inits
    assert {key: options[key] for key in ("project", "entity", "mode", "name", "resume")} == {
        "project": "p",
        "entity": "team",
        "mode": "offline",
        "name": "run",
        "resume": "allow",
    }
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert options["config"] == config
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    numbers = [(step, values) for step, values in fake.logged if "loss" in values]
    assert [step for step, _ in numbers] == [1, 2, 3]
    assert numbers[2][1]["samples/gen"] == lines[2]["samples"]["gen"]
    assert numbers[2][1]["loss"] == lines[2]["loss"]
    shown = [values for step, values in fake.logged if step == 3 and "loss" not in values]
    assert shown[0]["samples"].size[0] > 0
    assert "toy-und-chat" in shown[1]["answers"]
    assert fake.finished == 1


def test_a_resumed_run_is_the_same_one_at_wandb(make_config, tmp_path, fake_wandb):
    fake = fake_wandb()
    run = {"steps": 4, "sinks": ["wandb"]}
    run_training(make_config(run={**run, "stop_at": 2}))
    folder = tmp_path / "run"
    run_id = json.loads((folder / "wandb.json").read_text())["id"]
    assert load_checkpoint(newest_checkpoint(folder))["watch"]["wandb"] == run_id
    (folder / "wandb.json").unlink()  # the checkpoint alone was taken along
    run_training(make_config(run={**run, "resume": True}))
    assert [options["id"] for options in fake.inits] == [run_id, run_id]
    assert json.loads((folder / "wandb.json").read_text())["id"] == run_id
    other = make_config(run={**run, "steps": 1, "dir": str(tmp_path / "other")})
    run_training(other)
    assert fake.inits[2]["id"] != run_id


@pytest.mark.parametrize("where", ["init", "log"])
def test_a_sink_that_fails_is_named_once_and_the_run_goes_on(
    make_config, make_trainer, tmp_path, fake_wandb, where
):
    fake_wandb(fails_in=where)
    config = make_config(run={"steps": 3, "sinks": ["tensorboard", "wandb"]})
    with pytest.warns(UserWarning, match="wandb failed") as told:
        assert run_loop(make_trainer(config), config.run, description="x") == 3
    ours = [str(it.message) for it in told if "run.sinks" in str(it.message)]
    (message,) = ours
    assert "wandb failed (ConnectionError: no way out) and is left out from here on" in message
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3
    assert scalars(tmp_path / "run")["loss"][0] == [1, 2, 3]


def test_sinks_change_no_bit_of_a_run(make_config, make_trainer, tmp_path, fake_wandb):
    fake_wandb()
    found = []
    for name, sinks in (("none", []), ("all", ["tensorboard", "wandb"])):
        config = make_config(
            run={"dir": str(tmp_path / name), "steps": 3, "sinks": sinks, "sample_every": 1}
        )
        trainer = make_trainer(config)
        run_loop(trainer, config.run, description="x")
        found.append(trainer.model.state_dict())
    one, other = found
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_missing_package_is_told_before_the_run_begins(make_config, make_trainer, monkeypatch):
    for module, sink, extra in (
        ("torch.utils.tensorboard", "tensorboard", "train"),
        ("wandb", "wandb", "wandb"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        config = make_config(run={"steps": 1, "sinks": [sink]})
        trainer = make_trainer(config)
        with pytest.raises(ImportError, match=rf"run\.sinks names {sink}: .*openjanus\[{extra}\]"):
            run_loop(trainer, config.run, description="x")


def test_a_sink_named_twice_is_refused(make_config):
    with pytest.raises(ValueError, match=r"run\.sinks must be some of .*each once"):
        make_config(run={"sinks": ["wandb", "wandb"]})


def scalars(run):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    found = {
        name: ([e.step for e in events.Scalars(name)], [e.value for e in events.Scalars(name)])
        for name in events.Tags()["scalars"]
    }
    return found | {"images": events.Tags()["images"], "tensors": events.Tags()["tensors"]}


def test_tensorboard_has_one_line_of_steps_after_a_kill(make_config, make_trainer, tmp_path):
    """Steps past the checkpoint were logged before the kill, and are done again."""
    run = {"steps": 6, "save_every": 2, "sinks": ["tensorboard"]}
    config = make_config(run=run)
    trainer = make_trainer(config)
    step = trainer.train_step

    def killed(number):
        if number == 3:
            raise RuntimeError("killed")
        return step(number)

    trainer.train_step = killed
    with pytest.raises(RuntimeError, match="killed"):
        run_loop(trainer, config.run, description="x")
    assert scalars(tmp_path / "run")["loss"][0] == [1, 2, 3]
    again = make_config(run={**run, "resume": True})
    run_loop(make_trainer(again), again.run, description="x")
    found = scalars(tmp_path / "run")
    steps, losses = found["loss"]
    assert steps == [1, 2, 3, 4, 5, 6]
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert losses == pytest.approx([line["loss"] for line in lines])
    assert found["samples/gen"][1] == [line["samples"]["gen"] for line in lines]
    assert found["images"] == ["samples"]
    assert found["tensors"] == ["answers/text_summary"]


@pytest.mark.long
def test_the_real_wandb_takes_a_run_offline(make_config, tmp_path):
    pytest.importorskip("wandb")
    run = {"steps": 4, "sinks": ["wandb"], "wandb": WandbConfig(mode="offline")}
    run_training(make_config(run={**run, "stop_at": 2}))
    run_training(make_config(run={**run, "resume": True}))
    folder = tmp_path / "run"
    run_id = json.loads((folder / "wandb.json").read_text())["id"]
    parts = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert all(part.name.endswith(run_id) for part in parts)
    assert all(list(part.glob("run-*.wandb")) for part in parts)
