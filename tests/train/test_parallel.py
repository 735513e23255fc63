"""Several processes train what one does. Each is ``openjanus train``, started as by torchrun."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openjanus.train.metrics import read_metrics

PACKS = {"batch_unit": "packs", "batch_size": 2, "pack_length": 256, "ratio_unit": "tokens"}
"""One pack a process: often without a kind that the other one has."""


def lines_of(folder):
    return read_metrics(Path(folder) / "metrics.jsonl")


def column(folder, name):
    return [line[name] for line in lines_of(folder)]


def weights_of(folder):
    return load_file(Path(folder) / "final" / "model.safetensors")


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
            ema_decay=0.9,
            id_cache=None,
            **options,
        )
        run_processes(config, size)
    check_same(tmp_path / "1", tmp_path / "2", steps=4)
