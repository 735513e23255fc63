"""Parts out of other checkpoints: a Janus in any layout, a Llama, a SigLIP, LlamaGen's file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from openjanus.config import JanusConfig, SiglipConfig
from openjanus.model.janus import build_model
from openjanus.presets import preset
from openjanus.weights.donors import Part, open_donor, parse_siglip, require_same_sizes
from openjanus.weights.formats import export_model
from openjanus.weights.own import save_model

PARTS: tuple[Part, ...] = ("language_model", "und_encoder", "vq")


@pytest.fixture
def model(tiny_config: JanusConfig, make_model: Any):
    model = make_model(tiny_config, seed=1)
    rows = model.vq.quantize.embedding.weight.data
    rows.copy_(torch.nn.functional.normalize(rows, dim=-1))
    return model


def other(config: JanusConfig, make_model: Any):
    return make_model(config, seed=2)


@pytest.mark.parametrize("layout", ["openjanus", "deepseek", "transformers"])
@pytest.mark.parametrize("part", PARTS)
def test_a_whole_janus_gives_any_part(
    model: Any, tokenizer: Any, tmp_path: Path, make_model: Any, layout: str, part: Part
) -> None:
    export_model(tmp_path / "janus", model, tokenizer, layout=layout, any_size=True)
    donor = open_donor(tmp_path / "janus", part)
    taker = other(model.config, make_model)
    before = {name: tensor.clone() for name, tensor in taker.state_dict().items()}
    require_same_sizes(
        donor,
        {
            "language_model": model.config.language,
            "und_encoder": model.config.und_encoder,
            "vq": model.config.gen_tokenizer,
        }[part],
    )
    donor.fill(taker.get_submodule(part))
    given = model.state_dict()
    for name, tensor in taker.state_dict().items():
        expected = given if name.startswith(f"{part}.") else before
        assert torch.equal(tensor, expected[name]), name
    assert not all(torch.equal(before[name], given[name]) for name in given)


def write_llama(model: Any, folder: Path, *, tied: bool = False, **changes: Any) -> Path:
    language = model.config.language
    data = {"model_type": "llama", **dataclasses.asdict(language), "tie_word_embeddings": tied}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(data | changes))
    state = {k: v.clone() for k, v in model.language_model.state_dict().items()}
    if tied:
        del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("tied", [False, True])
def test_a_llama_gives_its_decoder(model: Any, tmp_path: Path, make_model: Any, tied: bool) -> None:
    folder = write_llama(model, tmp_path / "llama", tied=tied, max_position_embeddings=99)
    taker = other(model.config, make_model)
    donor = open_donor(folder, "language_model")
    require_same_sizes(donor, model.config.language)
    donor.fill(taker.language_model)
    ours, theirs = taker.language_model.state_dict(), model.language_model.state_dict()
    head = theirs["model.embed_tokens.weight"] if tied else theirs["lm_head.weight"]
    assert torch.equal(ours.pop("lm_head.weight"), head)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_llama_of_other_sizes_is_refused(model: Any, tmp_path: Path) -> None:
    folder = write_llama(model, tmp_path / "llama", rms_norm_eps=1e-5)
    with pytest.raises(ValueError, match="rms_norm_eps 1e-05, the model wants 1e-06"):
        require_same_sizes(open_donor(folder, "language_model"), model.config.language)
    folder = write_llama(model, tmp_path / "scaled", rope_scaling={"type": "linear"})
    with pytest.raises(ValueError, match="rope_scaling"):
        open_donor(folder, "language_model")


def test_weights_that_are_not_the_configs_are_refused(
    model: Any, tmp_path: Path, make_model: Any
) -> None:
    folder = write_llama(model, tmp_path / "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.extra.weight"] = weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors")
    taker = other(model.config, make_model)
    before = taker.language_model.model.embed_tokens.weight.clone()
    with pytest.raises(ValueError, match=r"1 missing \(model\.norm.*1 unexpected"):
        open_donor(folder, "language_model").fill(taker.language_model)
    assert torch.equal(taker.language_model.model.embed_tokens.weight, before)


def test_what_is_no_donor_says_what_is(model: Any, tmp_path: Path) -> None:
    folder = write_llama(model, tmp_path / "llama")
    with pytest.raises(ValueError, match="'llama', which gives no und_encoder: a SigLIP has"):
        open_donor(folder, "und_encoder")
    with pytest.raises(ValueError, match=r"gives no vq: LlamaGen's tokenizer is a \.pt file"):
        open_donor(folder, "vq")
    with pytest.raises(FileNotFoundError, match="no vq at"):
        open_donor(tmp_path / "none", "vq")


def test_sizes_of_siglip_large() -> None:
    sizes = {
        "hidden_size": 1024,
        "image_size": 384,
        "intermediate_size": 4096,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
    }
    whole = {"model_type": "siglip", "vision_config": sizes}
    assert parse_siglip(whole, "x") == preset("janus-pro-1b").und_encoder
    assert parse_siglip(sizes, "x") == preset("janus-pro-7b").und_encoder
    with pytest.raises(ValueError, match="hidden_act = 'relu'"):
        parse_siglip(sizes | {"hidden_act": "relu"}, "x")


def test_an_encoder_of_another_side_is_refused(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "own", model, tokenizer)
    wanted = model.config.und_encoder
    assert isinstance(wanted, SiglipConfig)
    wider = dataclasses.replace(wanted, image_size=64)
    with pytest.raises(ValueError, match="image_size 32, the model wants 64"):
        require_same_sizes(open_donor(tmp_path / "own", "und_encoder"), wider)


@pytest.mark.parametrize("key", ["model", "ema", None])
def test_llamagens_file_gives_the_tokenizer(
    model: Any, tmp_path: Path, make_model: Any, key: str | None
) -> None:
    state = model.vq.state_dict() | {"quantize.codebook_used": torch.zeros(64)}
    path = tmp_path / "vq.pt"
    torch.save(state if key is None else {key: state}, path)
    taker = other(model.config, make_model)
    open_donor(path, "vq").fill(taker.vq)
    given = model.vq.state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in taker.vq.state_dict().items())
    torch.save({"model": dict(list(state.items())[1:])}, path)
    with pytest.raises(ValueError, match="1 missing"):
        open_donor(path, "vq").fill(taker.vq)
    path.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="broken or not PyTorch weights"):
        open_donor(path, "vq")


def test_the_released_tokenizer_has_the_shapes_of_vq_16() -> None:
    # LlamaGen's VQ-16 (ch 128, 1-1-2-2-4, 16384 x 8), whose names these are.
    vq = build_model(preset("janus-pro-1b")).vq
    shapes = {name: tuple(tensor.shape) for name, tensor in vq.state_dict().items()}
    assert shapes["quantize.embedding.weight"] == (16384, 8)
    assert shapes["encoder.conv_in.weight"] == (128, 3, 3, 3)
    assert shapes["encoder.conv_blocks.4.attn.0.q.weight"] == (512, 512, 1, 1)
    assert shapes["quant_conv.weight"] == (8, 256, 1, 1)
    assert shapes["decoder.conv_out.weight"] == (3, 128, 3, 3)
