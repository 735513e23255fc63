"""Adapters on disk: both names, what is refused, and adding them to a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import openjanus
from openjanus.model.janus import JanusModel, build_model
from openjanus.presets import preset
from openjanus.weights.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Adapter,
    check_adapter,
    merge_adapter,
    read_adapter,
    save_adapter,
)

MODULES = (
    "language_model.model.layers.0.self_attn.q_proj",
    "language_model.model.layers.1.mlp.down_proj",
    "gen_head.vision_head",
)


@pytest.fixture
def model() -> JanusModel:
    return openjanus.load("tiny", device="cpu").model


@pytest.fixture
def adapter(model: JanusModel) -> Adapter:
    generator = torch.Generator().manual_seed(0)
    pairs = {}
    weights = dict(model.named_parameters())
    for name in MODULES:
        out, width = weights[f"{name}.weight"].shape
        pairs[name] = (
            torch.randn(3, width, generator=generator),
            torch.randn(out, 3, generator=generator),
        )
    whole = {
        name: torch.randn(p.shape, generator=generator)
        for name, p in model.und_aligner.named_parameters(prefix="und_aligner")
    }
    return Adapter(rank=3, alpha=6.0, pairs=pairs, whole=whole, base="tiny")


@pytest.mark.parametrize("layout", ["openjanus", "transformers"])
def test_what_is_written_is_read(adapter, tmp_path, layout):
    save_adapter(tmp_path / "a", adapter, layout=layout)
    found = read_adapter(tmp_path / "a")
    assert (found.rank, found.alpha, found.base, found.scale) == (3, 6.0, "tiny", 2.0)
    assert set(found.pairs) == set(MODULES)
    for name, (a, b) in adapter.pairs.items():
        assert torch.equal(found.pairs[name][0], a)
        assert torch.equal(found.pairs[name][1], b)
    assert set(found.whole) == set(adapter.whole)
    assert all(torch.equal(found.whole[name], x) for name, x in adapter.whole.items())


def test_names_are_those_of_the_layout(adapter, tmp_path):
    for layout, root in (("openjanus", "und_aligner"), ("transformers", "model.aligner")):
        save_adapter(tmp_path / layout, adapter, layout=layout)
        data = json.loads((tmp_path / layout / CONFIG_FILE).read_text(encoding="utf-8"))
        assert data["modules_to_save"] == [root]
        ours = layout == "openjanus"
        assert data["target_modules"][2] == (
            "gen_head.vision_head" if ours else "model.generation_head.vision_head"
        )


def test_it_is_added_scaled(model, adapter):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    merge_adapter(model, adapter, "here")
    for name, parameter in model.named_parameters():
        module = name.removesuffix(".weight")
        if module in adapter.pairs:
            a, b = adapter.pairs[module]
            torch.testing.assert_close(parameter, before[name] + 2.0 * (b @ a))
        elif name in adapter.whole:
            assert torch.equal(parameter, adapter.whole[name])
        else:
            assert torch.equal(parameter, before[name])


def test_by_root_the_scale_is_another(adapter):
    assert replace(adapter, by_root=True).scale == pytest.approx(6 / 3**0.5)


def test_load_adds_it(adapter, model, tmp_path):
    save_adapter(tmp_path / "a", adapter, layout="transformers")
    loaded = openjanus.load("tiny", device="cpu", adapter=tmp_path / "a").model
    merge_adapter(model, adapter, "here")
    pairs = zip(model.state_dict().items(), loaded.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_mapped_file_is_left_alone(adapter, tmp_path):
    openjanus.load("tiny", device="cpu").save(tmp_path / "m")
    save_adapter(tmp_path / "a", adapter, layout="openjanus")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    first = openjanus.load(tmp_path / "m", device="cpu", adapter=tmp_path / "a").model
    second = openjanus.load(tmp_path / "m", device="cpu", adapter=tmp_path / "a").model
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


def test_another_model_is_told_and_left_alone(adapter, model):
    other = build_model(preset("janus-pro-1b"))
    with pytest.raises(ValueError, match=r"for another model: its language_model.*\(tiny\)"):
        check_adapter(other, adapter, "here")
    odd = replace(adapter, whole={"und_aligner.layers.9.weight": torch.zeros(1)})
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"it has no und_aligner\.layers\.9\.weight"):
        merge_adapter(model, odd, "here")
    assert all(torch.equal(x, y) for x, y in zip(before, model.parameters(), strict=True))
    wrong = replace(adapter, rank=4)
    with pytest.raises(ValueError, match="has rank 3, the configuration 4"):
        check_adapter(model, wrong, "here")


def test_missing_files_are_told(adapter, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no {CONFIG_FILE} in .*RUN/final/adapter"):
        read_adapter(tmp_path)
    save_adapter(tmp_path / "a", adapter, layout="openjanus")
    (tmp_path / "a" / WEIGHTS_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {WEIGHTS_FILE}"):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "LOHA"),
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 4}),
        ("bias", "all"),
        ("init_lora_weights", "pissa"),
    ],
)
def test_other_kinds_are_refused(adapter, tmp_path, key, value):
    save_adapter(tmp_path / "a", adapter, layout="openjanus")
    change(tmp_path / "a", key, value)
    with pytest.raises(ValueError, match=rf"{key} is .*merge it with peft"):
        read_adapter(tmp_path / "a")


def change(folder: Path, key: str, value: object) -> None:
    path = folder / CONFIG_FILE
    data = json.loads(path.read_text(encoding="utf-8")) | {key: value}
    path.write_text(json.dumps(data), encoding="utf-8")


def test_a_broken_file_is_told(adapter, tmp_path):
    save_adapter(tmp_path / "a", adapter, layout="openjanus")
    (tmp_path / "a" / WEIGHTS_FILE).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=f"{WEIGHTS_FILE} is broken .*fetch it again"):
        read_adapter(tmp_path / "a")


def test_an_unknown_layout_is_told(adapter, tmp_path):
    with pytest.raises(ValueError, match="layout must be one of openjanus, transformers"):
        save_adapter(tmp_path / "a", adapter, layout="deepseek")
