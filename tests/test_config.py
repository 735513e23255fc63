"""Configurations: strict in, the same out, and errors that teach."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openjanus.config import (
    DecoderConfig,
    DrawingConfig,
    JanusConfig,
    ProcessorConfig,
    SharedEncoderConfig,
    SiglipConfig,
    VQConfig,
)
from openjanus.config_file import (
    FORMAT_VERSION,
    MIGRATIONS,
    config_to_dict,
    load_config,
    parse_config,
    save_config,
)
from openjanus.presets import PRESETS, preset
from openjanus.processor.templates import with_template


@pytest.fixture
def data(tiny_config: JanusConfig) -> dict[str, Any]:
    """The plain data of a config, free to be spoilt."""
    return json.loads(json.dumps(config_to_dict(tiny_config)))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_the_file(name: str, tmp_path: Path) -> None:
    config = preset(name)
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config
    assert config_to_dict(load_config(tmp_path / "config.json")) == config_to_dict(config)


def test_a_config_that_is_nothing_like_the_preset_survives(tiny_config: JanusConfig) -> None:
    config = JanusConfig(
        language=dataclasses.replace(
            tiny_config.language, head_dim=8, rope_theta=5e5, tie_word_embeddings=True
        ),
        und_encoder=SharedEncoderConfig(),
        gen_tokenizer=tiny_config.gen_tokenizer,
        processor=ProcessorConfig(user_role="User", image_mean=(0.1, 0.2, 0.3), min_size=3),
    )
    assert parse_config(json.loads(json.dumps(config_to_dict(config)))) == config


def test_a_template_is_written_where_it_is_not_the_released_one(tiny_config: JanusConfig) -> None:
    assert "template" not in config_to_dict(tiny_config)["processor"], "older readers know it not"
    paper = with_template(tiny_config.processor, "paper")
    config = dataclasses.replace(tiny_config, processor=paper)
    data = json.loads(json.dumps(config_to_dict(config)))
    assert data["processor"]["template"] == "paper"
    assert parse_config(data) == config
    data["processor"]["template"] = "deepseek"
    assert parse_config(data).processor == with_template(paper, "deepseek")


def test_doors_are_chosen_by_type(data: dict[str, Any]) -> None:
    assert data["und_encoder"]["type"] == "siglip" and data["gen_tokenizer"]["type"] == "vq"
    assert isinstance(parse_config(data).und_encoder, SiglipConfig)
    data["und_encoder"] = {"type": "shared", "shared_with": "vq"}
    assert isinstance(parse_config(data).und_encoder, SharedEncoderConfig)


def test_missing_keys_take_their_defaults(data: dict[str, Any]) -> None:
    del data["language"]["rope_theta"], data["processor"]
    config = parse_config(data)
    assert config.language.rope_theta == 10000.0 and config.processor == ProcessorConfig()


def test_a_file_of_version_1_draws_as_the_papers_do() -> None:
    fixture = Path(__file__).parent / "vectors" / "config-v1.json"
    assert json.loads(fixture.read_text(encoding="utf-8"))["format_version"] == 1
    config = load_config(fixture)
    assert config == dataclasses.replace(preset("tiny"), drawing=DrawingConfig())
    assert (config.drawing.guidance_scale, config.drawing.temperature) == (5.0, 1.0)
    assert set(MIGRATIONS) == set(range(1, FORMAT_VERSION))
    migrated = MIGRATIONS[1]({"language": {}})
    assert migrated == {"language": {}, "drawing": {"guidance_scale": 5.0, "temperature": 1.0}}


def test_a_file_of_version_1_cannot_have_what_came_later(data: dict[str, Any]) -> None:
    data["format_version"] = 1
    with pytest.raises(ValueError, match=r"config.json: drawing belongs to format_version 2"):
        parse_config(data)


def test_parsing_leaves_the_callers_data(data: dict[str, Any]) -> None:
    kept = copy.deepcopy(data)
    parse_config(data)
    assert data == kept


SPOILT = [
    ((), "format_version", FORMAT_VERSION + 1, "is newer than .*: install a newer openjanus"),
    ((), "format_version", None, "missing format_version"),
    ((), "format_version", 0, "missing format_version"),
    ((), "langauge", {}, "unknown key 'langauge'; did you mean 'language'"),
    (("language",), "hiden_size", 64, "language: unknown key 'hiden_size'; did you mean 'hidden_s"),
    (("language",), "hidden_size", "64", "hidden_size must be int, got '64'"),
    (("language",), "hidden_size", True, "hidden_size must be int, got True"),
    (("language",), "hidden_size", 64.0, "hidden_size must be int, got 64.0"),
    (("language",), "hidden_size", 66, r"hidden_size \(66\) must be a multiple of num_attention"),
    (("language",), "hidden_size", 0, "DecoderConfig.hidden_size must be > 0, got 0"),
    (("language",), "num_key_value_heads", 3, r"multiple of num_key_value_heads \(3\)"),
    (("language",), "head_dim", 7, "head_dim must be even"),
    (("und_encoder",), "type", "siglyp", "unknown type 'siglyp'; did you mean 'siglip'"),
    (("und_encoder",), "patch_size", 7, r"image_size \(32\) must be a multiple of patch_size \(7"),
    (("und_encoder",), "num_attention_heads", 3, "must be a multiple of num_attention_heads"),
    (("gen_tokenizer",), "norm_groups", 24, r"multiple of norm_groups \(24\), got 32"),
    (("gen_tokenizer",), "image_size", 36, r"image_size \(36\) must be a multiple of 8"),
    (("gen_tokenizer",), "channel_multipliers", [1, "2"], "channel_multipliers must be tuple"),
    (("gen_tokenizer",), "channel_multipliers", [], "must name a level"),
    (("gen_tokenizer",), "channel_multipliers", 3, "channel_multipliers must be tuple"),
    (("processor",), "image_mean", [0.5, 0.5], "image_mean must be tuple"),
    (("processor",), "template", "papers", "unknown template 'papers'; did you mean 'paper'"),
    (("processor",), "template", 3, "unknown template 3; known: deepseek, paper"),
    (("processor",), "template", None, "unknown template None"),
    (("processor",), "template", "paper", "has the roles 'User' and 'Assistant', got '<|User|>'"),
    (("processor",), "usr_role", "User", "unknown key 'usr_role'; did you mean 'user_role'"),
    (("drawing",), "temperature", -0.5, "temperature must be finite and >= 0"),
    (("drawing",), "guidance_scale", float("nan"), "guidance_scale must be finite"),
    (("drawing",), "guidance_scale", 5000, "guidance_scale must be finite and within"),
    (("drawing",), "guidance", 3.0, "unknown key 'guidance'; did you mean 'guidance_scale'"),
    ((), "language", [], "language must be a mapping, got list"),
    ((), "und_encoder", "siglip", "und_encoder must be a mapping, got str"),
]


@pytest.mark.parametrize(("path", "key", "value", "message"), SPOILT, ids=lambda x: str(x)[:24])
def test_mistakes_are_named(
    data: dict[str, Any], path: tuple[str, ...], key: str, value: Any, message: str
) -> None:
    place = data
    for name in path:
        place = place[name]
    place[key] = value
    with pytest.raises(ValueError, match=message):
        parse_config(data)


@pytest.mark.parametrize(
    ("path", "key"),
    [((), "language"), (("language",), "vocab_size"), (("und_encoder",), "type")],
)
def test_what_has_no_default_is_required(
    data: dict[str, Any], path: tuple[str, ...], key: str
) -> None:
    place = data
    for name in path:
        place = place[name]
    del place[key]
    with pytest.raises(ValueError, match=f"missing key '{key}'"):
        parse_config(data)


def test_whole_numbers_are_numbers(data: dict[str, Any]) -> None:
    data["language"]["rope_theta"] = 10000
    assert parse_config(data).language.rope_theta == 10000


def test_doors_in_the_wrong_place(tiny_config: JanusConfig) -> None:
    with pytest.raises(ValueError, match="gen_tokenizer of type 'siglip' lacks codebook_size"):
        dataclasses.replace(tiny_config, gen_tokenizer=tiny_config.und_encoder)


def test_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(FileNotFoundError, match=r"no config\.json at"):
        load_config(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_config(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json must be a mapping, got list"):
        load_config(path)
    path.write_text('{"model_type": "multi_modality"}')
    with pytest.raises(ValueError, match=r"not a config\.json written by openjanus"):
        load_config(path)


def test_an_unknown_preset_is_told_its_neighbours() -> None:
    with pytest.raises(KeyError, match="unknown preset 'tinny'; did you mean 'tiny'"):
        preset("tinny")


def test_sizes_are_derived() -> None:
    vq = VQConfig(image_size=384)
    siglip = SiglipConfig(
        image_size=384,
        patch_size=16,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
    )
    language = DecoderConfig(
        vocab_size=102400,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    config = JanusConfig(language=language, und_encoder=siglip, gen_tokenizer=vq)
    assert vq.downsample_factor == 16 and vq.grid_size == 24 and language.head_size == 128
    assert config.num_und_image_tokens == config.num_gen_image_tokens == 576
    assert (config.codebook_size, config.codebook_dim) == (16384, 8)
    shared = dataclasses.replace(config, und_encoder=SharedEncoderConfig())
    assert (shared.num_und_image_tokens, shared.und_image_size) == (576, 384)


def test_configs_are_frozen(tiny_config: JanusConfig) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_config.language.hidden_size = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_configurations_need_no_torch() -> None:
    code = "import sys, openjanus.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
