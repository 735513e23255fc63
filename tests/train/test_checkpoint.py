"""Checkpoints: whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from openjanus.processor.prompt import Processor
from openjanus.train.checkpoint import (
    Shards,
    checkpoint_path,
    checkpoint_steps,
    keep_checkpoint,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from openjanus.train.loop import run_loop
from openjanus.train.metrics import MetricsFile, read_metrics
from openjanus.train.start import fresh_model
from openjanus.train.trainer import JanusTrainer

FORMAT_2 = Path(__file__).parent / "format_2"
"""Written by the last openjanus that saved a run in one file, with the losses of its four steps."""


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step, "x": torch.arange(step)}, keep=2)
    assert checkpoint_steps(tmp_path) == [2, 3]
    assert load_checkpoint(newest_checkpoint(tmp_path))["x"].tolist() == [0, 1, 2]


def test_what_a_kill_left_behind_is_no_checkpoint(tmp_path):
    (tmp_path / "writing-00000007").mkdir()
    (tmp_path / "writing-00000007" / "state.pt").write_bytes(b"half")
    assert checkpoint_steps(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        newest_checkpoint(tmp_path)
    save_checkpoint(tmp_path, 8, {"step": 8}, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000008"]


def test_a_newer_format_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"step": 1}, keep=1)
    (path / "checkpoint.json").write_text(json.dumps({"format_version": 99, "step": 1}))
    with pytest.raises(ValueError, match="newer"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="step-NNNNNNNN"):
        load_checkpoint(checkpoint_path(tmp_path, 2))


def test_metrics_past_the_checkpoint_are_forgotten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, start_step=0)
    for step in range(1, 5):
        file.write({"step": step})
    file.close()
    path.write_text(path.read_text() + '{"step": 5, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4]
    MetricsFile(path, start_step=2).close()
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


def save_shards(folder, step, *, keep=3):
    shards = Shards({"a/b": torch.arange(6.0).view(2, 3) * step, "c": torch.tensor(float(step))})
    state = {"step": step, "task": {"shards": shards, "seen": {"und": step}}}
    return save_checkpoint(folder, step, state, keep=keep)


def test_named_tensors_come_back_into_their_places(tmp_path):
    path = save_shards(tmp_path, 2)
    state = load_checkpoint(path)
    assert state["step"] == 2 and state["task"]["seen"] == {"und": 2}
    shards = state["task"]["shards"]
    assert shards.shapes() == {"a/b": (2, 3), "c": ()}
    place = torch.zeros(2, 3)
    shards.read_into({"a/b": place})
    assert torch.equal(place, torch.arange(6.0).view(2, 3) * 2)


@pytest.mark.parametrize("name", ["state.pt", "shards/__0_0.distcp", "shards/.metadata"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, name):
    save_shards(tmp_path, 1)
    path = save_shards(tmp_path, 2)
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name} is damaged .*delete .* go on from step-0+1$"):
        load_checkpoint(path)
    (path / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        load_checkpoint(path)
    assert load_checkpoint(checkpoint_path(tmp_path, 1))["step"] == 1


def test_a_damaged_record_is_named(tmp_path):
    path = save_shards(tmp_path, 1)
    (path / "checkpoint.json").write_text("{")
    with pytest.raises(ValueError, match=r"checkpoint\.json is damaged.*start the run anew$"):
        load_checkpoint(path)


def test_a_kept_checkpoint_outlives_the_newest(tmp_path):
    for step in (1, 2):
        keep_checkpoint(save_shards(tmp_path, step, keep=1), "best")
    save_shards(tmp_path, 3, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step-00000003"]
    assert load_checkpoint(tmp_path / "best")["step"] == 2


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_of_an_older_format_goes_on(tmp_path, make_config, tiny_config, tokenizer, version):
    smallest = dataclasses.replace(
        tiny_config,
        language=dataclasses.replace(
            tiny_config.language,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        ),
        und_encoder=dataclasses.replace(
            tiny_config.und_encoder, hidden_size=8, intermediate_size=16, num_hidden_layers=1
        ),
        gen_tokenizer=dataclasses.replace(
            tiny_config.gen_tokenizer, base_channels=4, z_channels=4, norm_groups=4
        ),
    )
    shutil.copytree(FORMAT_2, tmp_path / "run")
    folder = tmp_path / "run" / "step-00000002"
    if version == 1:  # which had no name for where the data stood
        state = torch.load(folder / "state.pt", weights_only=True)
        assert state["task"].pop("data") == {"step": 2}
        torch.save(state, folder / "state.pt")
        (folder / "checkpoint.json").write_text('{"format_version": 1, "step": 2}')
    config = make_config(run={"steps": 4, "resume": True}, bf16=False, pack_length=256)
    processor = Processor(smallest, tokenizer)
    trainer = JanusTrainer(fresh_model(smallest, 0), processor, config)
    assert run_loop(trainer, config.run, description="x") == 4
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    whole = json.loads((FORMAT_2 / "losses.json").read_text())
    assert losses == pytest.approx(whole[2:], abs=1e-5)
    assert trainer.optimizers.optimizers[0].state_dict()["state"][0]["step"] == 4
    assert (
        json.loads((newest_checkpoint(tmp_path / "run") / "checkpoint.json").read_text())[
            "format_version"
        ]
        == 3
    )
