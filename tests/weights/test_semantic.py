"""A semantic tokenizer on disk: in our own layout, and in no other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from openjanus.config import JanusConfig
from openjanus.presets import preset
from openjanus.processor.text import TextTokenizer
from openjanus.weights import own
from openjanus.weights.formats import export_model, load_model
from openjanus.weights.own import save_model


def semantic_for_understanding() -> JanusConfig:
    """Exp-C."""
    door = preset("tiny-semantic").gen_tokenizer
    return dataclasses.replace(preset("tiny"), und_encoder=door)


@pytest.mark.parametrize("make", [lambda: preset("tiny-semantic"), semantic_for_understanding])
@pytest.mark.parametrize("write", ["save", "export"])
def test_the_round_trip_keeps_every_bit(
    make: Any, write: str, make_model: Any, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    model = make_model(make())
    folder = tmp_path / "model"
    if write == "save":
        save_model(folder, model, tokenizer)
    else:
        export_model(folder, model, tokenizer, layout="openjanus")
    found, _ = load_model(folder, device="cpu", dtype=None)
    assert found.config == model.config
    expected, state = model.state_dict(), found.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    ids = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.equal(found.embed_gen(ids), model.embed_gen(ids))


def test_every_name_is_in_the_table_once(make_model: Any) -> None:
    for config in (preset("tiny-semantic"), semantic_for_understanding()):
        keys = list(make_model(config).state_dict())
        assert any(".semantic.blocks.0.attn.qkv." in key for key in keys)
        names = [own.TABLE.names(key) for key in keys]
        assert [own.TABLE.key(name) for (name,) in names] == [(key, 0) for key in keys]
        assert not any(own.TABLE.is_dropped(name) for (name,) in names)


def test_a_renamed_weight_of_the_branch_is_missed(
    make_model: Any, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    save_model(tmp_path, make_model(preset("tiny-semantic")), tokenizer)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["gen_vision_model.semantic.position"] = tensors.pop(
        "gen_vision_model.semantic.pos_embed"
    )
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"1 missing \(gen_vision_model\.semantic\.pos_embed"):
        load_model(tmp_path, device="cpu", dtype=None)


@pytest.mark.parametrize("layout", ["deepseek", "transformers"])
def test_other_layouts_say_that_they_cannot(
    layout: str, make_model: Any, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    for_drawing = dataclasses.replace(
        preset("tiny-semantic"), und_encoder=preset("tiny").und_encoder
    )
    cases = {
        "no und_encoder of type 'shared'": preset("tiny-semantic"),
        "no und_encoder of type 'semantic'": semantic_for_understanding(),
        "no gen_tokenizer of type 'semantic', only 'vq': save it in our own": for_drawing,
    }
    for message, config in cases.items():
        model = make_model(config)
        for any_size in (False, True):
            with pytest.raises(ValueError, match=message):
                export_model(tmp_path / "x", model, tokenizer, layout=layout, any_size=any_size)
    assert not (tmp_path / "x").exists()
