"""Any layout in, any layout out, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from openjanus.config import UND_SYSTEM_PROMPT, DecoderConfig, JanusConfig
from openjanus.model.janus import JanusModel, build_model
from openjanus.presets import preset
from openjanus.processor.text import TextTokenizer, byte_tokenizer
from openjanus.weights import deepseek
from openjanus.weights.card import Origin
from openjanus.weights.formats import (
    FORMATS,
    detect_format,
    export_model,
    load_model,
    open_checkpoint,
)


def small() -> JanusConfig:
    """``tiny``, answering with the released system prompt, which every layout has a place for."""
    tiny = preset("tiny")
    names = dataclasses.replace(tiny.processor, und_system_prompt=UND_SYSTEM_PROMPT)
    return dataclasses.replace(tiny, processor=names)


def wide() -> JanusConfig:
    """The released towers, which the authors' layout has in one size, around a small decoder."""
    language = DecoderConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return dataclasses.replace(preset("janus-pro-1b"), language=language)


@pytest.fixture(
    scope="module",
    params=[small, pytest.param(wide, marks=pytest.mark.long)],
    ids=["small", "wide"],
)
def model(request: pytest.FixtureRequest) -> JanusModel:
    """In bf16; do not change it."""
    noise = torch.randn(1 << 16, generator=torch.Generator().manual_seed(5)).bfloat16()
    made = build_model(request.param(), dtype=torch.bfloat16).to_empty(device="cpu")
    with torch.no_grad():
        for index, parameter in enumerate(made.parameters()):
            repeated = noise.roll(index).repeat(parameter.numel() // len(noise) + 1)
            parameter.copy_(repeated[: parameter.numel()].view_as(parameter))
        rows = made.state_dict()["vq.quantize.embedding.weight"]
        rows.copy_(torch.nn.functional.normalize(rows.float(), dim=-1))
    return made.eval()


@pytest.fixture(scope="module")
def words() -> TextTokenizer:
    return byte_tokenizer(small().processor)


def same(first: JanusModel, second: JanusModel) -> bool:
    """Whether two models are equal in every bit, name and dtype."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name])
        for name, value in one.items()
    )


def export(
    model: JanusModel, words: TextTokenizer, folder: Path, layout: str, **options: Any
) -> None:
    """Without a warning, and with the sizes of the authors' code where the model has them."""
    any_size = layout == "deepseek" and model.config.und_image_size != 384
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_model(folder, model, words, layout=layout, any_size=any_size, **options)


@pytest.mark.parametrize("layout", list(FORMATS))
def test_what_is_saved_comes_back(
    layout: str, model: JanusModel, words: TextTokenizer, tmp_path: Path
) -> None:
    size = sum(parameter.nbytes for parameter in model.parameters())
    export(model, words, tmp_path / "x", layout, max_shard_bytes=size // 3)
    assert detect_format(tmp_path / "x").name == layout
    assert len(list((tmp_path / "x").glob("*.safetensors"))) > 1
    loaded, tokenizer = load_model(tmp_path / "x", device="cpu", dtype=None)
    assert same(loaded, model)
    assert loaded.config == model.config
    assert not loaded.training
    text = "Röda äpplen: <|User|> 3"
    assert tokenizer.encode(text) == words.encode(text)


def test_round_the_world(model: JanusModel, words: TextTokenizer, tmp_path: Path) -> None:
    way = ("deepseek", "openjanus", "transformers", "openjanus", "deepseek")
    for step, layout in enumerate(way):
        export(model, words, tmp_path / str(step), layout)
        model, words = load_model(tmp_path / str(step), device="cpu", dtype=None)
    first, last = tmp_path / "0", tmp_path / str(len(way) - 1)
    for path in first.iterdir():
        assert path.read_bytes() == (last / path.name).read_bytes(), path.name


def test_the_authors_leftovers_are_dropped_and_nothing_else(
    model: JanusModel, words: TextTokenizer, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    export(model, words, folder, "deepseek")
    tensors = load_file(folder / "model.safetensors")
    tensors["vision_model.vision_tower.attn_pool.latent"] = torch.zeros(1, 1, 1024)
    tensors["gen_vision_model.quantize.codebook_used"] = torch.zeros(65536)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert same(load_model(folder, device="cpu", dtype=None)[0], model)
    tensors["vision_model.attn_pool.latent"] = torch.zeros(1)
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"1 unexpected \(vision_model\.attn_pool\.latent \(1,\)\)"
    ):
        load_model(folder, device="cpu", dtype=None)


@pytest.fixture
def tiny(tiny_model: JanusModel, tokenizer: TextTokenizer, tmp_path: Path) -> Path:
    """The tiny model in transformers' layout."""
    export_model(tmp_path / "tiny", tiny_model, tokenizer, layout="transformers")
    return tmp_path / "tiny"


def test_every_dtype_at_load(tiny: Path, tiny_model: JanusModel) -> None:
    model, _ = load_model(tiny, device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.bfloat16())


@pytest.mark.parametrize("layout", list(FORMATS))
def test_changes_of_a_loaded_model_do_not_reach_its_files(
    layout: str, model: JanusModel, words: TextTokenizer, tmp_path: Path
) -> None:
    """Tensors that need no copy are those of the file."""
    export(model, words, tmp_path / "x", layout)
    loaded, _ = load_model(tmp_path / "x", device="cpu", dtype=None)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    assert same(load_model(tmp_path / "x", device="cpu", dtype=None)[0], model)
    for path in (tmp_path / "x").iterdir():
        path.unlink()  # what is loaded does not need them any more
    assert not same(loaded, model)


@pytest.mark.parametrize("letter", "qkv")
def test_a_missing_part_is_named_as_it_is_stored(tiny: Path, letter: str) -> None:
    tensors = load_file(tiny / "model.safetensors")
    name = f"model.vision_model.encoder.layers.0.self_attn.{letter}_proj.weight"
    del tensors[name]
    save_file(tensors, tiny / "model.safetensors")
    with pytest.raises(ValueError, match=rf"1 missing \({name} \(32, 32\)\)"):
        load_model(tiny, device="cpu", dtype=None)


def test_a_tied_head_that_is_stored_as_well_is_read_over(
    tokenizer: TextTokenizer, tmp_path: Path, make_model: Any
) -> None:
    tiny = preset("tiny")
    language = dataclasses.replace(tiny.language, tie_word_embeddings=True)
    model = make_model(dataclasses.replace(tiny, language=language))
    for layout in FORMATS:
        folder = tmp_path / layout
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the layouts have no place for
            export_model(folder, model, tokenizer, layout=layout, any_size=True)
        assert not any("lm_head" in name for name in load_file(folder / "model.safetensors"))
        loaded = load_model(folder, device="cpu", dtype=None)[0].language_model
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        if layout == "transformers":
            continue  # there a head in the file means that it is not tied
        tensors = load_file(folder / "model.safetensors")
        tensors["language_model.lm_head.weight"] = tensors[
            "language_model.model.embed_tokens.weight"
        ].clone()
        save_file(tensors, folder / "model.safetensors")
        assert same(load_model(folder, device="cpu", dtype=None)[0], model)
        tensors["language_model.lm_head.weight"][3, 3] += 1
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(ValueError, match=r"tie_word_embeddings.*lm_head differs"):
            load_model(folder, device="cpu", dtype=None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"model_type": "llama"}, "of model_type 'llama': a Janus has 'multi_modality' or 'janus'"),
        ({}, "of model_type 'None'"),
        ({"model_type": "janus", "text_config": 3}, "text_config must be a mapping, got 3"),
        ({"model_type": "multi_modality"}, "missing language_config"),
    ],
)
def test_the_config_of_another_model_is_refused(
    tiny: Path, data: dict[str, Any], message: str
) -> None:
    (tiny / "config.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_model(tiny, device="cpu", dtype=None)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_broken_config_is_refused(tiny: Path, text: str) -> None:
    (tiny / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json (is not valid JSON|must hold a JSON obj)"):
        open_checkpoint(tiny)


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn, torch.complex64, torch.bool])
def test_weights_that_need_a_scale_are_refused(tiny: Path, kind: torch.dtype) -> None:
    tensors = load_file(tiny / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(kind)
    save_file(tensors, tiny / "model.safetensors")
    for dtype in (None, torch.float32):
        with pytest.raises(ValueError, match=rf"lm_head\.weight is {kind}: weights are of"):
            load_model(tiny, device="cpu", dtype=dtype)


def test_a_codebook_that_transformers_reads_otherwise_is_warned_of(
    tiny_model: JanusModel, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="64 of 64 codebook rows have not norm 1"):
        export_model(tmp_path / "x", tiny_model, tokenizer, layout="transformers")


def test_what_somebody_keeps_beside_is_left_alone(
    tiny_model: JanusModel, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    for name in ("x.partial", ".x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    export_model(tmp_path / "x", tiny_model, tokenizer, layout="openjanus")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x", "x", "x.partial"]
    assert (tmp_path / "x.partial" / "mine").exists()
    assert (tmp_path / "x").stat().st_mode == (tmp_path / ".x").stat().st_mode


def test_a_link_to_an_empty_folder_is_filled(
    tiny_model: JanusModel, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export_model(tmp_path / "link", tiny_model, tokenizer, layout="openjanus")
    assert same(load_model(tmp_path / "real", device="cpu", dtype=None)[0], tiny_model)


def test_a_folder_that_holds_something_is_left_alone(
    tiny: Path, tiny_model: JanusModel, tokenizer: TextTokenizer
) -> None:
    before = {path.name: path.read_bytes() for path in tiny.iterdir()}
    with pytest.raises(ValueError, match="is not empty: give a new folder"):
        export_model(tiny, tiny_model, tokenizer, layout="openjanus")
    assert {path.name: path.read_bytes() for path in tiny.iterdir()} == before


def test_nothing_is_left_of_what_went_wrong(
    tiny_model: JanusModel, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="export it as 'transformers'"):
        export_model(tmp_path / "x", tiny_model, tokenizer, layout="deepseek")
    with pytest.raises(ValueError, match="max_shard_bytes"):
        export_model(
            tmp_path / "x", tiny_model, tokenizer, layout="transformers", max_shard_bytes=0
        )
    with pytest.raises(ValueError, match="no weights"):
        export_model(tmp_path / "x", build_model(preset("tiny")), tokenizer, layout="transformers")
    with pytest.raises(ValueError, match="unknown format 'transformer'; did you mean"):
        export_model(tmp_path / "x", tiny_model, tokenizer, layout="transformer")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(
    tiny_model: JanusModel, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    export_model(tmp_path, tiny_model, tokenizer, layout="openjanus")
    assert same(load_model(tmp_path, device="cpu", dtype=None)[0], tiny_model)


def test_a_small_model_in_the_authors_layout_says_its_sizes_beside(
    tiny_model: JanusModel, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="no place for und_system_prompt ''"):
        export_model(tmp_path / "x", tiny_model, tokenizer, layout="deepseek", any_size=True)
    loaded = load_model(tmp_path / "x", device="cpu", dtype=None)[0]
    assert same(loaded, tiny_model)
    assert loaded.config.und_encoder == tiny_model.config.und_encoder
    data = json.loads((tmp_path / "x" / "config.json").read_text(encoding="utf-8"))
    assert data["model_type"] == deepseek.MODEL_TYPE
    del data["openjanus"]["gen_tokenizer"]
    (tmp_path / "x" / "config.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match="missing gen_tokenizer"):
        open_checkpoint(tmp_path / "x")


def test_the_card_says_where_it_is_from_and_under_what_licence(
    tiny_model: JanusModel, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "LICENSE").write_text("terms", encoding="utf-8")
    origin = Origin(
        source="deepseek-ai/Janus-Pro-1B",
        card={"license": "mit", "license_name": "deepseek", "license_link": "LICENSE"},
        licence_files=(tmp_path / "LICENSE",),
    )
    folder = tmp_path / "x"
    export_model(folder, tiny_model, tokenizer, layout="transformers", origin=origin)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license_name: deepseek\nlicense_link: LICENSE\n" in card
    assert "from `deepseek-ai/Janus-Pro-1B`" in card
    assert "states: deepseek" in card
    assert "passed on with every copy" in card
    assert (folder / "LICENSE").read_text(encoding="utf-8") == "terms"
    again = open_checkpoint(folder)
    assert again.config == tiny_model.config
