"""``--adapter`` of the verbs that take a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import openjanus
from openjanus.cli import main
from openjanus.weights.adapters import Adapter, save_adapter

MODULE = "gen_head.vision_head"


@pytest.fixture
def adapter(tmp_path):
    """One that makes the tiny model draw something else."""
    layer = openjanus.load("tiny", device="cpu").model.gen_head.vision_head
    generator = torch.Generator().manual_seed(0)
    out, width = layer.weight.shape
    pair = (
        torch.randn(2, width, generator=generator),
        torch.randn(out, 2, generator=generator) * 10,
    )
    made = Adapter(rank=2, alpha=2.0, pairs={MODULE: pair}, whole={}, base="tiny")
    save_adapter(tmp_path / "adapter", made, layout="openjanus")
    return tmp_path / "adapter"


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def drawn(folder):
    return np.asarray(Image.open(folder / "0.png"))


def test_draw_and_convert_use_it(adapter, tmp_path, capsys):
    draw = ["draw", "a cat", "--seed", 3, "--device", "cpu", "--model"]
    run(*draw, "tiny", "--output", tmp_path / "bare")
    run(*draw, "tiny", "--adapter", adapter, "--output", tmp_path / "thin")
    run("convert", "tiny", tmp_path / "merged", "--format", "openjanus", "--adapter", adapter)
    run(*draw, tmp_path / "merged", "--output", tmp_path / "again")
    pictures = [drawn(tmp_path / name) for name in ("bare", "thin", "again")]
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[1], pictures[2])


def test_info_tells_of_it(adapter, capsys):
    run("info", "tiny", "--adapter", adapter)
    assert "rank 2 on 1 matrices, 0 tensors whole" in capsys.readouterr().out
    run("info", "tiny")
    assert "rank" not in capsys.readouterr().out


@pytest.mark.parametrize("verb", [["draw", "x"], ["chat", "x"], ["info"]])
def test_one_that_does_not_fit_or_is_not_there_is_refused(adapter, tmp_path, capsys, verb):
    model = ["nano"] if verb == ["info"] else ["--model", "nano"]
    assert main([*verb, *model, "--adapter", str(adapter)]) == 2
    said = capsys.readouterr().err
    assert f"is for another model: its {MODULE}.weight is" in said
    assert main([*verb, *model, "--adapter", str(tmp_path)]) == 2
    assert "no adapter_config.json in" in capsys.readouterr().err
