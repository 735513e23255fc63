"""The authors' layout: their files as they are released, and what they leave out."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from openjanus.config import JanusConfig, ProcessorConfig, SiglipConfig, VQConfig
from openjanus.model.janus import build_model
from openjanus.presets import preset
from openjanus.processor.templates import with_template
from openjanus.processor.text import TextTokenizer, byte_tokenizer
from openjanus.weights import deepseek, published

FILES = "released_files"


@pytest.fixture
def released(read_vector: Callable[[str], Any]) -> dict[str, Any]:
    """The released files by name; a copy, to be changed."""
    return copy.deepcopy(read_vector(FILES))


@pytest.mark.parametrize("name", ["Janus-Pro-1B", "Janus-Pro-7B"])
def test_a_released_config_is_its_preset(released: dict[str, Any], name: str) -> None:
    config = deepseek.parse_config(released[f"config.json of {name}"], where="config.json")
    assert config == preset(name.lower())


@pytest.mark.parametrize("name", ["Janus-Pro-1B", "Janus-Pro-7B"])
def test_our_config_says_what_theirs_says(released: dict[str, Any], name: str) -> None:
    theirs = released[f"config.json of {name}"]
    ours = deepseek.config_to_dict(preset(name.lower()), torch.bfloat16)
    for part, value in theirs.items():
        if part == "transformers_version":
            continue
        for key in value if isinstance(value, dict) else ():
            if key != "torch_dtype":
                assert ours[part][key] == value[key], (part, key)
        assert isinstance(value, dict) or ours[part] == value


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("language_config", "hidden_act", "gelu", r"language_config: hidden_act = 'gelu' is not"),
        ("language_config", "rope_parameters", {"type": "linear"}, "rope_parameters .* not supp"),
        ("language_config", "rope_parameters", {"factor": 8.0}, "rope_parameters .* are not supp"),
        ("language_config", "hidden_size", 64.0, "hidden_size must be int, got 64.0"),
        ("language_config", "num_attention_heads", None, "num_attention_heads must be int"),
        ("language_config", "rms_norm_eps", "1e-6", "rms_norm_eps must be float, got '1e-6'"),
        ("language_config", "attention_bias", 0, "attention_bias = 0 is not supported"),
        ("language_config", "rope_scaling", {"factor": 2}, "rope_scaling = .* is not supported"),
        ("language_config", "attention_bias", True, "attention_bias = True is not supported"),
        ("language_config", "num_attention_heads", 15, "must be a multiple of"),
        ("language_config", "hidden_size", 1024, r"aligner_config\.params: n_embed = 2048 is not"),
        ("vision_config.params", "model_name", "siglip_base", "model_name = 'siglip_base' is not"),
        ("vision_config.params", "image_size", 385, "must be a multiple of patch_size"),
        ("vision_config.params", "image_size", None, "image_size must be a whole number"),
        ("vision_config", "cls", "HybridVisionTower", "cls = 'HybridVisionTower' is not supported"),
        ("gen_vision_config", "cls", "VQ-8", "cls = 'VQ-8' is not supported"),
        ("gen_vision_config.params", "n_embed", 16, "n_embed = 16 is not supported"),
        ("gen_head_config.params", "image_token_size", 4096, "image_token_size = 4096 is not"),
        ("aligner_config.params", "depth", 3, "depth = 3 is not supported"),
        ("gen_aligner_config.params", "projector_type", "linear", "projector_type = 'linear'"),
    ],
)
def test_what_would_need_other_code_is_refused(
    released: dict[str, Any], part: str, key: str, value: object, message: str
) -> None:
    data = released["config.json of Janus-Pro-1B"]
    place = data
    for name in part.split("."):
        place = place[name]
    place[key] = value
    with pytest.raises(ValueError, match=message):
        deepseek.parse_config(data, where="config.json")


@pytest.mark.parametrize(
    "part", ["language_config", "vision_config", "aligner_config", "gen_head_config"]
)
def test_a_missing_part_is_named(released: dict[str, Any], part: str) -> None:
    data = released["config.json of Janus-Pro-1B"]
    del data[part]
    with pytest.raises(ValueError, match=f"config.json: missing {part}"):
        deepseek.parse_config(data, where="config.json")


@pytest.mark.parametrize(
    "part", ["language_config", "vision_config.params", "aligner_config.params", ""]
)
def test_a_key_that_nobody_knows_is_warned_of(released: dict[str, Any], part: str) -> None:
    data = place = released["config.json of Janus-Pro-1B"]
    for name in part.split(".") if part else ():
        place = place[name]
    place |= {"sliding_window": 7, "use_cache": True}
    where = f"config.json: {part}" if part else "config.json"
    with pytest.warns(UserWarning, match=rf"^{where}: not read: sliding_window$"):
        deepseek.parse_config(data, where="config.json")


@pytest.mark.parametrize(("select_layer", "layers"), [(-1, 24), (-2, 23), (0, 24), (20, 20)])
def test_select_layer_is_how_many_layers_there_are(
    released: dict[str, Any], select_layer: int, layers: int
) -> None:
    data = released["config.json of Janus-Pro-1B"]
    data["vision_config"]["params"]["select_layer"] = select_layer
    config = deepseek.parse_config(data, where="config.json")
    encoder = config.und_encoder
    assert isinstance(encoder, SiglipConfig)
    assert (encoder.num_hidden_layers, encoder.select_layer) == (layers, -1)
    again = deepseek.config_to_dict(config, torch.bfloat16)
    assert deepseek.parse_config(again, where="config.json") == config


def write_files(folder: Path, released: dict[str, Any], tokenizer: TextTokenizer) -> Path:
    """All but the weights of a folder as it is released."""
    files = {name: data for name, data in released.items() if name.endswith(".json")}
    files["config.json"] = released["config.json of Janus-Pro-1B"]
    for name, data in files.items():
        (folder / name).write_text(json.dumps(data), encoding="utf-8")
    tokenizer.save(folder / "tokenizer.json")
    return folder


OLD = ProcessorConfig(user_role="User", assistant_role="Assistant")


@pytest.mark.parametrize("names", [ProcessorConfig(), OLD], ids=["Pro", "1.3B"])
def test_roles_and_pixels_come_from_the_files(
    released: dict[str, Any], names: ProcessorConfig, tmp_path: Path
) -> None:
    released["preprocessor_config.json"] |= {"image_mean": [0.4, 0.5, 0.6], "min_size": 7}
    released["preprocessor_config.json"]["background_color"] = [102, 127, 153]
    folder = write_files(tmp_path, released, byte_tokenizer(names))
    config, tokenizer = deepseek.read(folder)
    expected = dataclasses.replace(names, image_mean=(0.4, 0.5, 0.6), min_size=7)
    assert config.processor == expected
    assert tokenizer.to_json() == byte_tokenizer(names).to_json()


def test_the_authors_code_does_not_read_the_tokenizers_template(
    released: dict[str, Any], tmp_path: Path
) -> None:
    """Base models leave one behind; the special tokens of that file are read."""
    folder = write_files(tmp_path, released, byte_tokenizer(ProcessorConfig()))
    settings = {"chat_template": "{{'User: '}}", "bos_token": {"content": OLD.bos_token}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert deepseek.read(folder)[0].processor == ProcessorConfig()


def test_a_folder_called_after_the_first_model_has_its_roles(
    released: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "models--deepseek-ai--Janus-1.3B" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    write_files(folder, released, byte_tokenizer(ProcessorConfig()))
    names = deepseek.read(folder)[0].processor
    assert (names.user_role, names.assistant_role) == published.OLD_ROLES


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("processor_config.json", {"sft_format": "plain"}, "sft_format = 'plain' is not"),
        ("processor_config.json", {"num_image_tokens": 144}, "num_image_tokens = 144 is not"),
        ("processor_config.json", {"add_special_token": True}, "add_special_token = True"),
        ("preprocessor_config.json", {"image_size": 224}, "pictures of .*224.* for an encoder"),
        ("preprocessor_config.json", {"do_normalize": False}, "do_normalize = False is not"),
        ("preprocessor_config.json", {"resample": 2}, "resample = 2 is not supported"),
        ("preprocessor_config.json", {"do_center_crop": True}, "do_center_crop = True is not"),
        ("preprocessor_config.json", {"background_color": [0, 0, 0]}, "is not .127, 127, 127."),
        ("preprocessor_config.json", {"image_std": [0, 0.5, 0.5]}, "image_std > 0"),
        ("preprocessor_config.json", {"min_size": 0}, "min_size must be > 0"),
        ("preprocessor_config.json", {"min_size": "x"}, "min_size must be int, got 'x'"),
        ("preprocessor_config.json", {"image_mean": ["a", "b", "c"]}, "image_mean must be"),
        ("preprocessor_config.json", {"rescale_factor": None}, "rescale_factor must be 1/255"),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, "rescale_factor must be 1/255"),
        ("preprocessor_config.json", {"image_mean": None}, "image_mean must be three numbers"),
        ("tokenizer_config.json", {"bos_token": 7}, "a special token must be text, got 7"),
    ],
)
def test_other_preprocessing_is_refused(
    released: dict[str, Any], file: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    released[file] = released.get(file, {}) | change
    folder = write_files(tmp_path, released, byte_tokenizer(ProcessorConfig()))
    with pytest.raises(ValueError, match=message):
        deepseek.read(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(released: dict[str, Any], name: str, tmp_path: Path) -> None:
    folder = write_files(tmp_path, released, byte_tokenizer(ProcessorConfig()))
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {name} in .*put all files"):
        deepseek.read(folder)


def test_a_missing_special_token_is_named(released: dict[str, Any], tmp_path: Path) -> None:
    released["processor_config.json"]["image_tag"] = "<image>"
    folder = write_files(tmp_path, released, byte_tokenizer(ProcessorConfig()))
    with pytest.raises(KeyError, match="no token '<image>'"):
        deepseek.read(folder)


def test_only_what_the_authors_code_builds_is_written() -> None:
    deepseek.check(preset("janus-1.3b"))
    config = preset("janus-pro-1b")
    assert isinstance(config.und_encoder, SiglipConfig)
    assert isinstance(config.gen_tokenizer, VQConfig)
    wrong: dict[str, JanusConfig] = {
        "VQ-16 with num_res_blocks 2 alone": dataclasses.replace(
            config, gen_tokenizer=dataclasses.replace(config.gen_tokenizer, num_res_blocks=1)
        ),
        "hidden_size 1024 alone, and this model has 512": dataclasses.replace(
            config, und_encoder=dataclasses.replace(config.und_encoder, hidden_size=512)
        ),
        "no roles 'You' and 'Me'": dataclasses.replace(
            config, processor=ProcessorConfig(user_role="You", assistant_role="Me")
        ),
        "no layers after the one that is used": dataclasses.replace(
            config, und_encoder=dataclasses.replace(config.und_encoder, select_layer=-2)
        ),
        "the template 'deepseek' alone, and this model has 'paper': export it as": (
            dataclasses.replace(config, processor=with_template(config.processor, "paper"))
        ),
    }
    for message, changed in wrong.items():
        with pytest.raises(ValueError, match=message):
            deepseek.check(changed)


def test_no_size_lets_another_template_through() -> None:
    tiny = preset("tiny")
    paper = dataclasses.replace(tiny, processor=with_template(tiny.processor, "paper"))
    with pytest.raises(ValueError, match="template 'deepseek' alone"):
        deepseek.check(paper, any_size=True)


def both(*names: str) -> set[str]:
    """A weight and a bias of each."""
    return {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}


def res_names(place: str, *, shortcut: bool = False) -> set[str]:
    parts = ["norm1", "conv1", "norm2", "conv2", *(["nin_shortcut"] if shortcut else [])]
    return both(*(f"{place}.{part}" for part in parts))


def attn_names(place: str) -> set[str]:
    return both(*(f"{place}.{part}" for part in ("norm", "q", "k", "v", "proj_out")))


def vq_half_names(
    half: str, *, blocks: int, attended: int, resize: str, wider: tuple[str, ...]
) -> set[str]:
    """Encoder or decoder of VQ-16."""
    names = both(*(f"{half}.{name}" for name in ("conv_in", "conv_out", "norm_out")))
    names |= res_names(f"{half}.mid.0") | attn_names(f"{half}.mid.1") | res_names(f"{half}.mid.2")
    for level in range(5):
        place = f"{half}.conv_blocks.{level}"
        for block in range(blocks):
            names |= res_names(f"{place}.res.{block}", shortcut=f"{level}.res.{block}" in wider)
            names |= attn_names(f"{place}.attn.{block}") if level == attended else set()
        names |= both(f"{place}.{resize}.conv") if level < 4 else set()
    return names


def released_names() -> set[str]:
    """The names in the authors' files, written out from their modules' structure."""
    tower, llama, vq = "vision_model.vision_tower", "language_model.model", "gen_vision_model"
    names = {f"{tower}.pos_embed", "gen_embed.weight", f"{vq}.quantize.embedding.weight"}
    names |= both(f"{tower}.patch_embed.proj", f"{tower}.norm")
    for index in range(24):
        parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        names |= both(*(f"{tower}.blocks.{index}.{part}" for part in parts))
    names |= both("aligner.layers.0", "aligner.layers.2")
    names |= both("gen_aligner.layers.0", "gen_aligner.layers.2")
    names |= both("gen_head.output_mlp_projector", "gen_head.vision_head")
    names |= both(f"{vq}.quant_conv", f"{vq}.post_quant_conv")
    names |= vq_half_names(
        f"{vq}.encoder",
        blocks=2,
        attended=4,
        resize="downsample",
        wider=("2.res.0", "4.res.0"),
    )
    names |= vq_half_names(
        f"{vq}.decoder", blocks=3, attended=0, resize="upsample", wider=("1.res.0", "3.res.0")
    )
    names |= {f"{llama}.embed_tokens.weight", f"{llama}.norm.weight"}
    names.add("language_model.lm_head.weight")
    for index in range(24):
        parts = [f"self_attn.{letter}_proj" for letter in "qkvo"]
        parts += [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
        parts += ["input_layernorm", "post_attention_layernorm"]
        names |= {f"{llama}.layers.{index}.{part}.weight" for part in parts}
    return names


def test_the_released_names_are_ours_renamed() -> None:
    model = build_model(preset("janus-pro-1b"))
    assert {deepseek.TABLE.names(key)[0] for key in model.state_dict()} == released_names()
