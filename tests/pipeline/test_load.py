from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from openjanus.config import JanusConfig
from openjanus.model.janus import build_model
from openjanus.pipeline import Janus
from openjanus.pipeline.load import build, load, packaged_models
from openjanus.presets import preset
from openjanus.processor.templates import with_template
from openjanus.weights.own import save_model

load_module = import_module("openjanus.pipeline.load")  # its package has a function of that name


def test_a_saved_model_draws_and_talks_the_same(janus: Janus, tmp_path: Path) -> None:
    janus.save(tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu")
    first, second = (one.draw("a cat", seed=1) for one in (janus, loaded))
    assert torch.equal(first.image_ids, second.image_ids)
    first, second = (one.chat("hi", max_new_tokens=5, seed=1) for one in (janus, loaded))
    assert first == second
    assert load(f"{tmp_path}/model").config == janus.config


def test_a_saved_model_keeps_its_template(janus: Janus, tmp_path: Path) -> None:
    processor = with_template(janus.config.processor, "paper")
    model = build_model(dataclasses.replace(janus.config, processor=processor), device="cpu")
    model.load_state_dict(janus.model.state_dict())
    Janus(model, janus.processor.tokenizer).save(tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu")
    assert loaded.config.processor == processor
    tokenizer = loaded.processor.tokenizer
    asked = tokenizer.encode("User:hi \n Assistant:")
    reply = loaded.chat("hi", max_new_tokens=5, seed=1)
    assert reply.usage.prompt_tokens == 1 + len(asked)
    drawn = loaded.draw("a cat", seed=1).image_ids
    assert not torch.equal(drawn, janus.draw("a cat", seed=1).image_ids), "the prompt is another"
    assert not torch.equal(loaded.score("hi", "ho"), janus.score("hi", "ho"))
    assert not torch.equal(*(one.score_image("a cat", drawn[0]) for one in (loaded, janus)))


def test_tiny_is_the_same_every_time() -> None:
    first, second = load("tiny"), load("tiny")
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", torch.float32),
        ("bfloat16", torch.bfloat16),
        (torch.float16, torch.float16),
    ],
)
def test_dtypes(dtype: torch.dtype | str, expected: torch.dtype, tmp_path: Path) -> None:
    janus = load("tiny", device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in janus.model.parameters()} == {expected}
    janus.save(tmp_path)
    assert next(load(tmp_path, dtype=dtype).model.parameters()).dtype == expected


def test_auto_dtype_of_a_small_half_precision_checkpoint_is_fp32_on_a_cpu(tmp_path: Path) -> None:
    load("tiny", dtype="bfloat16").save(tmp_path)
    assert next(load(tmp_path, device="cpu").model.parameters()).dtype == torch.float32


def test_bfloat16_draws_and_talks() -> None:
    janus = load("tiny", device="cpu", dtype="bfloat16")
    assert torch.equal(janus.draw("a", seed=1).image_ids, janus.draw("a", seed=1).image_ids)
    assert janus.chat("hi", max_new_tokens=3).usage.completion_tokens <= 3


def test_nano_is_the_newest_packaged_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, janus: Janus
) -> None:
    for name in ("nano-v2", "nano-v10"):
        janus.save(tmp_path / "assets" / name)
    (tmp_path / "assets" / "nano-vnext").mkdir()
    monkeypatch.setattr(load_module.resources, "files", lambda _: tmp_path)
    assert [(name, folder.name) for name, folder in packaged_models().items()] == [
        ("nano-v2", "nano-v2"),
        ("nano-v10", "nano-v10"),
        ("nano", "nano-v10"),
    ]
    opened: list[Path] = []
    original = load_module.open_checkpoint

    def spy(folder: Path) -> object:
        opened.append(folder)
        return original(folder)

    monkeypatch.setattr(load_module, "open_checkpoint", spy)
    load("nano")
    load("nano-v2")
    assert [folder.name for folder in opened] == ["nano-v10", "nano-v2"]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("tinny", KeyError, "no model 'tinny'.*did you mean 'tiny'"),
        ("./nowhere", FileNotFoundError, "no folder nowhere"),
        ("/no/such/folder", FileNotFoundError, "no folder /no/such/folder"),
        (Path("nowhere"), FileNotFoundError, "no folder nowhere"),
    ],
)
def test_wrong_sources(source: str | Path, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(source)


def test_a_hub_id_is_fetched_and_a_folder_of_that_name_comes_first(
    monkeypatch: pytest.MonkeyPatch, janus: Janus, tmp_path: Path
) -> None:
    janus.save(tmp_path / "cache")
    asked: list[tuple[str, str | None]] = []

    def fake(repo_id: str, *, revision: str | None) -> Path:
        asked.append((repo_id, revision))
        return tmp_path / "cache"

    monkeypatch.setattr(load_module, "fetch", fake)
    monkeypatch.chdir(tmp_path)
    assert load("somebody/some-model", revision="v2").config == janus.config
    assert load("somebody/some-model").origin.source == "somebody/some-model"
    janus.save(tmp_path / "somebody" / "some-model")
    load("somebody/some-model")
    assert asked == [("somebody/some-model", "v2"), ("somebody/some-model", None)]


@pytest.mark.parametrize("source", ["tiny", "nano", "./folder", Path("a/b")])
def test_a_revision_belongs_to_a_hub_id(source: str | Path) -> None:
    with pytest.raises(ValueError, match="revision belongs to a hub id"):
        load(source, revision="main")


def test_a_copy_keeps_what_is_known_of_the_licence(janus: Janus, tmp_path: Path) -> None:
    janus.save(tmp_path / "first")
    (tmp_path / "first" / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    (tmp_path / "first" / "LICENSE").write_text("terms", encoding="utf-8")
    load(tmp_path / "first").save(tmp_path / "second")
    assert load(tmp_path / "second").origin.licence == "mit"
    assert (tmp_path / "second" / "LICENSE").read_text(encoding="utf-8") == "terms"


def test_a_model_is_described_without_its_weights(janus: Janus, tmp_path: Path) -> None:
    janus.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    _, model, tokenizer = load_module.describe(tmp_path)
    assert model.config == janus.config
    assert next(model.parameters()).is_meta
    assert tokenizer.bos_id == janus.processor.tokenizer.bos_id


def test_home_is_found(monkeypatch: pytest.MonkeyPatch, janus: Janus, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    janus.save(tmp_path / "model")
    assert load("~/model").config == janus.config


def test_keep_leaves_every_tensor_its_dtype(tmp_path: Path) -> None:
    load("tiny", dtype="bfloat16").save(tmp_path)
    assert (
        next(load(tmp_path, device="cpu", dtype="keep").model.parameters()).dtype == torch.bfloat16
    )


@pytest.mark.parametrize("name", ["janus-1.3b", "janus-pro-1b", "janus-pro-7b"])
def test_a_released_architecture_says_where_its_weights_are(name: str) -> None:
    with pytest.raises(KeyError, match=r"load\('deepseek-ai/Janus-.*'\) fetches"):
        load(name)


def test_an_architecture_without_weights_points_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "packaged_models", dict)
    with pytest.raises(KeyError, match=r"build\('nano-v0'\) makes its architecture"):
        load("nano-v0")


def test_a_folder_without_separator_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyError, match=r"or give a folder as \./mine"):
        load("mine")


@pytest.mark.parametrize("device", ["cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match=f"this machine has no device '{device}'"):
        load("tiny", device=device)


def test_wrong_device_and_dtype() -> None:
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        load("tiny", device="gpu")
    with pytest.raises(ValueError, match=r"unknown dtype 'bfloat'.*'bfloat16'"):
        load("tiny", dtype="bfloat")
    with pytest.raises(ValueError, match=r"unknown dtype torch\.int8; known: auto"):
        load("tiny", dtype=torch.int8)
    nothing: Any = None
    with pytest.raises(ValueError, match="unknown dtype None; known: auto"):
        load("tiny", dtype=nothing)


def test_a_tokenizer_larger_than_the_model_is_refused(
    tiny_config: JanusConfig, make_model, tokenizer, tmp_path: Path
) -> None:
    language = dataclasses.replace(tiny_config.language, vocab_size=100)
    save_model(tmp_path, make_model(dataclasses.replace(tiny_config, language=language)), tokenizer)
    with pytest.raises(ValueError, match="vocab_size is 100"):
        load(tmp_path)


def test_build() -> None:
    model = build("nano-v0")
    assert all(parameter.is_meta for parameter in model.parameters())
    small = build(preset("tiny"), device="cpu", dtype=torch.bfloat16)
    assert next(small.parameters()).dtype == torch.bfloat16
    with pytest.raises(KeyError, match="did you mean 'nano-v1' or 'nano-v0'"):
        build("nano-v")
