"""Checkpoints: whole or not at all."""

from __future__ import annotations

import json

import pytest
import torch

from openjanus.train.checkpoint import (
    checkpoint_path,
    checkpoint_steps,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from openjanus.train.metrics import MetricsFile, read_metrics


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
