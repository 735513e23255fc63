"""transformers' layout: what its files leave out, its versions, and what it cannot hold."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from openjanus.config import (
    UND_SYSTEM_PROMPT,
    DrawingConfig,
    JanusConfig,
    ProcessorConfig,
    SharedEncoderConfig,
    SiglipConfig,
    TemplateName,
    VQConfig,
)
from openjanus.presets import preset
from openjanus.processor.chat import Turn, render
from openjanus.processor.templates import with_template
from openjanus.processor.text import byte_tokenizer
from openjanus.weights import transformers as layout
from openjanus.weights.formats import export_model, open_checkpoint
from openjanus.weights.jinja import chat_template


def parse(data: dict[str, Any], *, has_head: bool = True) -> JanusConfig:
    return layout.parse_config(data, where="config.json", has_head=has_head)


SIZES_1B = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "vocab_size": 102400,
    "max_position_embeddings": 16384,
}


def test_what_is_left_out_is_filled_as_transformers_does() -> None:
    assert parse({"model_type": "janus", "text_config": SIZES_1B}) == preset("janus-pro-1b")
    wide = {"projection_dim": 4096, "image_token_embed_dim": 4096}
    text = {k: SIZES_1B[k] for k in ("vocab_size", "max_position_embeddings")}
    data = {
        "model_type": "janus",
        "text_config": text | {"num_hidden_layers": 30},
        "vision_config": {"projection_dim": 4096},
        "vq_config": wide,
    }
    assert parse(data) == preset("janus-pro-7b")


@pytest.mark.parametrize(
    ("has_head", "said", "tied"),
    [(True, None, False), (True, True, False), (False, None, True), (False, False, False)],
)
def test_the_head_in_the_file_decides_whether_it_is_tied(
    has_head: bool, said: bool | None, tied: bool
) -> None:
    data: dict[str, Any] = {"model_type": "janus", "text_config": SIZES_1B}
    if said is not None:
        data["tie_word_embeddings"] = said
    assert parse(data, has_head=has_head).language.tie_word_embeddings is tied


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vision_config", {"hidden_act": "gelu_pytorch_tanh"}, "hidden_act = 'gelu_pytorch_tanh'"),
        ("vision_config", {"use_qk_norm": True}, "use_qk_norm = True is not supported"),
        ("vision_config", {"num_image_tokens": 144}, "num_image_tokens is 144, and the encoder"),
        ("vision_config", {"projection_dim": 1024}, "projection_dim is 1024, and the decoder's"),
        ("vision_config", {"image_size": [384, 512]}, "image_size must be square"),
        ("vision_config", {"num_attention_heads": 7}, "must be a multiple of num_attention_heads"),
        ("vq_config", {"double_latent": True}, "double_latent = True is not supported"),
        ("vq_config", {"base_channels": 48}, "must be a multiple of norm_groups"),
        ("vq_config", {"image_token_embed_dim": 8}, "image_token_embed_dim is 8"),
        ("text_config", {"rope_parameters": {"rope_type": "llama3"}}, "'llama3'. are not supp"),
        ("text_config", {"rope_theta": 9, "rope_parameters": {"rope_theta": 8}}, "there twice"),
        ("text_config", {"rope_parameters": "x"}, "rope_parameters must be a mapping"),
        ("vision_config", {"mlp_ratio": float("inf")}, "mlp_ratio must be in"),
        ("vision_config", {"hidden_size": 64.0}, "hidden_size must be int, got 64.0"),
        ("vision_config", {"patch_size": {}}, "patch_size must be square"),
        ("vq_config", {"channel_multiplier": 3}, "channel_multiplier must be a list"),
        ("vq_config", {"channel_multiplier": [1, 0]}, "channel_multipliers must be > 0, got 0"),
        ("vq_config", {"depth": 7}, "depth = 7 is not supported"),
        ("text_config", {"model_type": "qwen2"}, "model_type = 'qwen2' is not supported"),
    ],
)
def test_what_would_need_other_code_is_refused(
    part: str, change: dict[str, Any], message: str
) -> None:
    sections = {"text_config": dict(SIZES_1B)}
    sections[part] = {**sections.get(part, {}), **change}
    data = {"model_type": "janus", **sections}
    with pytest.raises(ValueError, match=message):
        parse(data)


def test_old_and_new_ways_to_write_rope() -> None:
    for rope in ({"rope_theta": 5e5}, {"rope_parameters": {"rope_theta": 5e5}}):
        data = {"model_type": "janus", "text_config": SIZES_1B | rope}
        assert parse(data).language.rope_theta == 5e5


@pytest.fixture
def config() -> JanusConfig:
    return small_config()


def small_config(**processor: Any) -> JanusConfig:
    """``tiny`` with one grid for both doors."""
    tiny = preset("tiny")
    assert isinstance(tiny.und_encoder, SiglipConfig)
    names = dataclasses.replace(tiny.processor, **processor)
    drawing = DrawingConfig(guidance_scale=3.0, temperature=0.5)
    return dataclasses.replace(tiny, processor=names, drawing=drawing)


def export(config: JanusConfig, folder: Path, make_model: Any) -> Path:
    tokenizer = byte_tokenizer(config.processor)
    model = make_model(config)
    rows = model.vq.quantize.embedding.weight.data
    rows.copy_(torch.nn.functional.normalize(rows, dim=-1))
    export_model(folder, model, tokenizer, layout="transformers")
    return folder


@pytest.mark.parametrize(
    "processor",
    [
        {},
        {"und_system_prompt": UND_SYSTEM_PROMPT},
        {"user_role": "User", "assistant_role": "Assistant"},
        {"image_mean": (0.1, 0.2, 0.3), "image_std": (0.4, 0.5, 0.6), "min_size": 5},
        {"pad_token": "<pad>", "boi_token": "<boi>", "image_token": "<img>"},
        {"bos_token": "<bos>", "eos_token": "<eos>", "eoi_token": "<eoi>"},
    ],
)
def test_a_config_comes_back_as_it_was(
    processor: dict[str, Any], tmp_path: Path, make_model: Any
) -> None:
    config = small_config(**processor)
    folder = export(config, tmp_path / "x", make_model)
    assert open_checkpoint(folder).config == config


def test_the_files_of_other_versions_are_read(
    config: JanusConfig, tmp_path: Path, make_model: Any
) -> None:
    folder = export(config, tmp_path / "x", make_model)
    processor = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    pixels = folder / "preprocessor_config.json"
    processor["image_processor"] = json.loads(pixels.read_text(encoding="utf-8"))
    (folder / "processor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    pixels.unlink()
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": template}), encoding="utf-8"
    )
    (folder / "chat_template.jinja").unlink()
    assert open_checkpoint(folder).config == config


def test_the_tokenizer_of_another_model_is_refused(
    config: JanusConfig, tmp_path: Path, make_model: Any
) -> None:
    folder = export(config, tmp_path / "x", make_model)
    data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del data["image_token_id"]
    (folder / "config.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=r"image_token_id is 100581, and .* is 261"):
        open_checkpoint(folder)


def test_the_unconditional_prompt_is_filled_with_the_generations_pad(
    config: JanusConfig, tmp_path: Path, make_model: Any
) -> None:
    """Tokenizers pad batches with what they like."""
    folder = export(config, tmp_path / "x", make_model)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"pad_token": config.processor.eos_token}), "utf-8")
    assert open_checkpoint(folder).config == config


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "boi_token_id", "pad_token_id"])
def test_ids_that_the_tokenizer_has_otherwise_are_refused(
    key: str, config: JanusConfig, tmp_path: Path, make_model: Any
) -> None:
    folder = export(config, tmp_path / "x", make_model)
    path = folder / "generation_config.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | {"generation_kwargs": None, key: 9999}), "utf-8")
    with pytest.raises(ValueError, match=f"{key} is 9999, "):
        open_checkpoint(folder)


@pytest.mark.parametrize("pad_id", [-1, "x", 1.0, True])
def test_a_pad_that_is_no_id_is_refused(
    pad_id: object, config: JanusConfig, tmp_path: Path, make_model: Any
) -> None:
    folder = export(config, tmp_path / "x", make_model)
    path = folder / "generation_config.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | {"pad_token_id": pad_id}), "utf-8")
    with pytest.raises(ValueError, match=f"pad_token_id is {pad_id!r}, "):
        open_checkpoint(folder)


def test_a_template_with_roles_that_the_tokenizer_lacks(tmp_path: Path, make_model: Any) -> None:
    config = small_config(user_role="User", assistant_role="Assistant")
    folder = export(config, tmp_path / "x", make_model)
    names = ProcessorConfig()
    (folder / "chat_template.jinja").write_text(chat_template(names), encoding="utf-8")
    with pytest.warns(UserWarning, match="the roles are User and Assistant"):
        assert open_checkpoint(folder).config == config


def test_a_prompt_of_ones_own_cannot_be_written(tmp_path: Path, make_model: Any) -> None:
    with pytest.warns(UserWarning, match="no place for und_system_prompt 'Be brief'"):
        export(small_config(und_system_prompt="Be brief"), tmp_path / "x", make_model)


def test_what_it_cannot_hold_is_said(config: JanusConfig) -> None:
    layout.check(config)
    vq, encoder = config.gen_tokenizer, config.und_encoder
    assert isinstance(vq, VQConfig)
    assert isinstance(encoder, SiglipConfig)
    wrong = {
        "one number of image tokens for both doors, and this model has 16 and 4": (
            dataclasses.replace(config, gen_tokenizer=dataclasses.replace(vq, image_size=16))
        ),
        "GroupNorm has 32 groups, and this model has 16": dataclasses.replace(
            config, gen_tokenizer=dataclasses.replace(vq, norm_groups=16)
        ),
        "no und_encoder of type 'shared'": dataclasses.replace(
            config, und_encoder=SharedEncoderConfig()
        ),
        r"no extra doors \(sound\)": dataclasses.replace(config, extra_doors={"sound": encoder}),
    }
    for message, changed in wrong.items():
        with pytest.raises(ValueError, match=message):
            layout.check(changed)


@pytest.mark.parametrize("sizes", [(160, 480), (1024, 4096), (1152, 4304), (7, 3), (96, 131)])
def test_any_width_of_the_feed_forward_can_be_written(sizes: tuple[int, int]) -> None:
    hidden, intermediate = sizes
    tiny = preset("tiny").und_encoder
    assert isinstance(tiny, SiglipConfig)
    encoder = dataclasses.replace(
        tiny, hidden_size=hidden, intermediate_size=intermediate, num_attention_heads=1
    )
    config = dataclasses.replace(preset("tiny"), und_encoder=encoder)
    tokenizer = byte_tokenizer(config.processor)
    data = layout.config_to_dict(config, tokenizer, torch.float32)
    assert parse(data).und_encoder == encoder


@pytest.mark.parametrize("name", ["deepseek", "paper"])
@pytest.mark.parametrize(
    "turns",
    [
        [("user", " Hi. "), ("assistant", "")],
        [("user", "Hi"), ("assistant", " Ho\n"), ("user", "More?"), ("assistant", "No.")],
        [("user", "<image_placeholder>\nWhat?"), ("assistant", "A cat."), ("user", "Why?")],
    ],
)
def test_the_jinja_template_writes_what_ours_writes(
    turns: list[tuple[str, str]], name: TemplateName
) -> None:
    jinja2 = pytest.importorskip("jinja2")
    names = with_template(ProcessorConfig(), name)
    template = jinja2.Template(chat_template(names))
    messages = [{"role": role, "content": text} for role, text in turns]
    whole = [Turn(role=role, text=text) for role, text in turns]  # pyright: ignore[reportArgumentType]
    if turns[-1][0] == "user":
        whole.append(Turn(role="assistant", text=""))
    found = template.render(messages=messages, add_generation_prompt=turns[-1][0] == "user")
    assert found == render(whole, config=names, system="")
    system = [{"role": "system", "content": "Be brief."}, *messages]
    found = template.render(messages=system, add_generation_prompt=turns[-1][0] == "user")
    assert found == render(whole, config=names, system="Be brief.")


@pytest.mark.parametrize("system", ["", UND_SYSTEM_PROMPT])
def test_a_model_in_the_papers_words_comes_back_as_one(
    config: JanusConfig, tmp_path: Path, make_model: Any, system: str
) -> None:
    own = with_template(dataclasses.replace(config.processor, und_system_prompt=system), "paper")
    written = dataclasses.replace(config, processor=own)
    folder = export(written, tmp_path / "x", make_model)
    assert open_checkpoint(folder).config.processor == own
    jinja = folder / "chat_template.jinja"
    assert "'User:' + text + ' \\n '" in jinja.read_text(encoding="utf-8")
    jinja.write_text(jinja.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert open_checkpoint(folder).config.processor.template == "paper"
    older = {"chat_template": jinja.read_text(encoding="utf-8")}
    (folder / "chat_template.json").write_text(json.dumps(older), encoding="utf-8")
    jinja.unlink()
    assert open_checkpoint(folder).config.processor.template == "paper"
    jinja.write_text(chat_template(with_template(own, "deepseek")), encoding="utf-8")
    assert open_checkpoint(folder).config.processor == with_template(own, "deepseek")
