from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openjanus.config import JanusConfig
from openjanus.model.janus import JanusModel, build_model
from openjanus.processor.text import TextTokenizer
from openjanus.weights.formats import load_model
from openjanus.weights.own import save_model


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_model: JanusModel, tokenizer) -> Path:
    """Do not change it: copy it."""
    folder = tmp_path_factory.mktemp("saved") / "deep" / "model"
    save_model(folder, tiny_model, tokenizer)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def load(folder: Path, dtype: torch.dtype | None = None) -> tuple[JanusModel, TextTokenizer]:
    return load_model(folder, device="cpu", dtype=dtype)


def test_round_trip_keeps_every_bit(
    saved: Path, tiny_model: JanusModel, tokenizer: TextTokenizer
) -> None:
    model, loaded_tokenizer = load(saved)
    expected, found = tiny_model.state_dict(), model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert model.config == tiny_model.config
    assert not model.training
    assert loaded_tokenizer.to_json() == tokenizer.to_json()
    assert sorted(file.name for file in saved.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_a_loaded_model_can_be_trained_and_saved_over_itself(
    copied: Path, tokenizer: TextTokenizer
) -> None:
    model, _ = load(copied)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        model.gen_head.vision_head.bias.fill_(0.5)
    save_model(copied, model, tokenizer)
    assert bool((load(copied)[0].gen_head.vision_head.bias == 0.5).all())


def test_dtype_is_given_at_load(saved: Path) -> None:
    model, _ = load(saved, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_file_has_the_authors_names(saved: Path) -> None:
    names = set(load_file(saved / "model.safetensors"))
    assert {
        "vision_model.vision_tower.blocks.1.attn.qkv.weight",
        "vision_model.vision_tower.pos_embed",
        "aligner.layers.0.weight",
        "gen_vision_model.quantize.embedding.weight",
        "gen_vision_model.decoder.conv_blocks.0.res.1.norm1.bias",
        "gen_vision_model.post_quant_conv.weight",
        "gen_embed.weight",
        "gen_aligner.layers.2.bias",
        "gen_head.output_mlp_projector.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
    } <= names
    assert not any(name.startswith(("und_", "vq.")) for name in names)


def test_a_tied_head_is_written_once_and_tied_again(
    tiny_config: JanusConfig, make_model, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    language = dataclasses.replace(tiny_config.language, tie_word_embeddings=True)
    model = make_model(dataclasses.replace(tiny_config, language=language))
    save_model(tmp_path, model, tokenizer)
    assert "language_model.lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load(tmp_path)[0].language_model
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded.lm_head.weight, model.language_model.lm_head.weight)


def test_one_renamed_key_raises(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    tensors["gen_embeds.weight"] = tensors.pop("gen_embed.weight")
    save_file(tensors, copied / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=r"1 missing \(gen_embed.weight \(64, 8\)\), 1 unexpected \(gen_embeds.weight",
    ):
        load(copied)


def test_a_wrong_shape_says_what_was_expected(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    tensors["gen_embed.weight"] = torch.zeros(64, 9)
    save_file(tensors, copied / "model.safetensors")
    with pytest.raises(ValueError, match=r"gen_embed.weight is \(64, 9\), expected \(64, 8\)"):
        load(copied)


def test_the_config_of_another_model_is_one_clear_error(copied: Path) -> None:
    data = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    data["language"] |= {"hidden_size": 32, "num_hidden_layers": 3}
    (copied / "config.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match="does not hold the model") as raised:
        load(copied)
    message = str(raised.value)
    assert "missing" in message
    assert "of another shape" in message
    assert len(message) < 1500
    assert "put the files of one model together" in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load(copied)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_broken_weights_file_is_refused(copied: Path, content: bytes) -> None:
    (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="is broken or not a safetensors file"):
        load(copied)


def test_a_truncated_weights_file_is_refused(copied: Path) -> None:
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is broken or not a safetensors file"):
        load(copied)


def test_whoever_may_read_one_file_may_read_them_all(saved: Path) -> None:
    modes = {path.stat().st_mode for path in saved.iterdir()}
    assert len(modes) == 1  # safetensors itself lets none but the owner read


def test_a_model_without_weights_is_not_saved(
    tiny_config: JanusConfig, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no weights"):
        save_model(tmp_path / "new", build_model(tiny_config), tokenizer)
    assert not (tmp_path / "new").exists()
