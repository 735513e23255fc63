"""What the two published layouts share: tokenizer files, role names, pixels; `llama` the decoder.

Published files say more than a model needs. What is read here is either used or checked: a value
that would change the numbers and that we do not have is refused, and a key that nobody knows is
warned of.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import Tokenizer, processors

from openjanus.config import (
    LLAMA_LAYERS,
    UND_SYSTEM_PROMPT,
    DrawingConfig,
    JanusConfig,
    ProcessorConfig,
    SiglipConfig,
    VQConfig,
)
from openjanus.config_file import parse_dataclass
from openjanus.processor.text import TextTokenizer
from openjanus.rules import require

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"
GENERATION_FILE = "generation_config.json"

NEW_ROLES = ("<|User|>", "<|Assistant|>")
"""Roles of Janus-Pro, whose tokenizer has a token for each."""
OLD_ROLES = ("User", "Assistant")
"""Roles of Janus-1.3B: plain words."""

_FIRST_MODEL = "janus-1.3b"

_NO_MATTER = {
    *(
        "_name_or_path",
        "architectures",
        "torch_dtype",
        "dtype",
        "transformers_version",
        "use_cache",
    ),
    *("bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout", "initializer_range"),
    *("_attn_implementation", "_attn_implementation_autoset", "return_dict", "output_attentions"),
    *("output_hidden_states", "tie_word_embeddings", "rope_theta", "rope_parameters", "auto_map"),
    *("model_type", "problem_type", "id2label", "label2id", "chunk_size_feed_forward"),
}
"""Keys that say nothing about the numbers, or that are read elsewhere."""


_PIXEL_KEYS = {
    *("size", "image_size", "rescale_factor", "image_mean", "image_std", "min_size"),
    *("background_color", "image_processor_type", "processor_class", "do_convert_rgb"),
    *(
        "crop_size",
        "data_format",
        "default_to_square",
        "device",
        "disable_grouping",
        "feature_extractor_type",
    ),
    *(
        "input_data_format",
        "pad_size",
        "return_tensors",
        "size_divisor",
        "image_seq_length",
    ),
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not JSON, or not an object.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}: put all files of the checkpoint into the folder"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): fetch it again") from error
    require(isinstance(data, dict), f"{path} must hold a JSON object: fetch it again")
    return data


def read_json_if_there(path: Path) -> dict[str, Any]:
    """``read_json``, or nothing where there is no such file."""
    return read_json(path) if path.is_file() else {}


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """Write a JSON object as the published ones are written."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def section(data: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """A part of a configuration.

    Raises:
        ValueError: It is missing, or no mapping.
    """
    require(name in data, f"{where}: missing {name}: this is not the config of a whole Janus")
    value = data[name]
    require(isinstance(value, dict), f"{where}: {name} must be a mapping, got {value!r}")
    return value


def check_fixed(data: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], where: str) -> None:
    """Keys whose value our modules have built in.

    Raises:
        ValueError: One has another value.
    """
    for key, allowed in fixed.items():
        # 1 is no True: a number where a switch belongs is somebody's mistake.
        if key in data and not any(data[key] == a and type(data[key]) is type(a) for a in allowed):
            raise ValueError(
                f"{where}: {key} = {data[key]!r} is not supported (only {allowed[0]!r}): these "
                "weights need other code than a Janus"
            )


def warn_unknown(data: Mapping[str, Any], known: set[str], where: str) -> None:
    """Say once which keys nobody reads."""
    unknown = sorted(set(data) - known - _NO_MATTER)
    if unknown:
        warnings.warn(f"{where}: not read: {', '.join(unknown)}", stacklevel=2)


_Config = TypeVar("_Config")


def build(cls: type[_Config], values: Mapping[str, Any], where: str) -> _Config:
    """One of our configurations from a file's values, whose types are checked.

    Raises:
        ValueError: A value has the wrong type or breaks a rule; the message names the place.
    """
    try:
        return parse_dataclass(cls, values, where)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(where) else f"{where}: {message}") from error


def read_vocabulary(folder: Path) -> Tokenizer:
    """The checkpoint's own fast tokenizer, bare: it says what tokens there are.

    Raises:
        FileNotFoundError: No ``tokenizer.json``.
        ValueError: A broken file.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no {TOKENIZER_FILE} in {folder}: put all files of the checkpoint into the folder"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception, nothing narrower
        raise ValueError(f"{path} is not a tokenizer.json ({error}): fetch it again") from error


def choose_roles(
    folder: Path, vocabulary: Tokenizer, templates: Sequence[str] = ()
) -> tuple[str, str]:
    """Role names by the model's generation, which is told by its own files.

    What was trained without a token for each role cannot have used Janus-Pro's. Where there are
    such tokens, a chat template that writes plain words decides, or a folder that is called
    Janus-1.3B (whether the released one has these tokens is not verified); else it is a Janus-Pro.

    Args:
        folder: Of the checkpoint.
        vocabulary: Its tokenizer.
        templates: Chat templates of a layout whose readers use them.
    """
    said = next(
        (roles for text in templates for roles in (NEW_ROLES, OLD_ROLES) if f"{roles[0]}:" in text),
        None,
    )
    if any(vocabulary.token_to_id(role) is None for role in NEW_ROLES):
        if said == NEW_ROLES:
            warnings.warn(
                f"{folder}: the chat template writes {NEW_ROLES[0]}, which its tokenizer has no "
                f"token for: the roles are {' and '.join(OLD_ROLES)}, as in Janus-1.3B",
                stacklevel=2,
            )
        return OLD_ROLES
    if said is not None:
        return said
    is_first = any(_FIRST_MODEL in part.lower() for part in folder.absolute().parts[-3:])
    return OLD_ROLES if is_first else NEW_ROLES


def token_text(value: Any, where: str) -> str:
    """A special token of a tokenizer's configuration: its text, or an object around it."""
    text = value.get("content") if isinstance(value, dict) else value
    require(isinstance(text, str), f"{where}: a special token must be text, got {value!r}")
    return str(text)


def parse_pixels(
    data: Mapping[str, Any], size: int, config: ProcessorConfig, where: str
) -> ProcessorConfig:
    """What a preprocessor's configuration says of pictures, checked against the encoder's side.

    Raises:
        ValueError: Another size, or a preprocessing that is not this family's.
    """
    sides = data.get("size", data.get("image_size", size))
    sides = [sides.get("height"), sides.get("width")] if isinstance(sides, dict) else [sides]
    require(
        all(side == size for side in sides),
        f"{where}: pictures of {sides} pixels for an encoder of {size}: put the files of one model "
        "together",
    )
    steps = {f"do_{step}": (True, None) for step in ("normalize", "rescale", "resize", "pad")}
    fixed: dict[str, tuple[Any, ...]] = {
        **steps,
        "do_center_crop": (False, None),
        "resample": (3, None),  # bicubic
    }
    check_fixed(data, fixed, where)
    warn_unknown(data, {*fixed, *_PIXEL_KEYS}, where)
    factor = data.get("rescale_factor", 1 / 255)
    require(
        isinstance(factor, float) and abs(factor * 255 - 1) < 1e-6,
        f"{where}: rescale_factor must be 1/255, got {factor!r}",
    )
    values = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    for key in ("image_mean", "image_std"):
        require(
            isinstance(data.get(key), list),
            f"{where}: {key} must be three numbers, got {data.get(key)!r}",
        )
        values[key] = data[key]
    values["min_size"] = data.get("min_size", config.min_size)
    config = build(ProcessorConfig, values, where)
    ground = [int(mean * 255) for mean in config.image_mean]
    require(
        data.get("background_color", ground) in (ground, tuple(ground)),
        f"{where}: background_color {data.get('background_color')!r} is not {ground}, the mean "
        "colour, which a Janus pads with",
    )
    return config


def require_llama(config: JanusConfig, layout: str) -> None:
    """These layouts know Llama's layers alone.

    Raises:
        ValueError: The decoder has an option that Llama has not, codes in its vocabulary, or
            quantized weights.
    """
    require(
        not config.one_vocabulary,
        f"the {layout} layout has a head for words and one for codes, and this model has one "
        "vocabulary for both: save it in our own format",
    )
    require(
        config.quantization is None,
        f"the {layout} layout has no place for quantized weights: export the model that this one "
        "was made from, or save it in our own format",
    )
    for name, theirs in LLAMA_LAYERS.items():
        ours = getattr(config.language, name)
        require(
            ours == theirs,
            f"the {layout} layout has decoders with {name} {theirs!r} alone, and this model has "
            f"{ours!r}: save it in our own format",
        )


def siglip_of(config: JanusConfig, layout: str) -> SiglipConfig:
    """The understanding encoder, which these layouts know in one kind alone.

    Raises:
        ValueError: Another kind, further doors, or layers that are not used.
    """
    encoder = config.und_encoder
    require(
        isinstance(encoder, SiglipConfig),
        f"the {layout} layout has no und_encoder of type {encoder.type!r}, only 'siglip': save it "
        "in our own format",
    )
    require(
        not config.extra_doors,
        f"the {layout} layout has no extra doors ({', '.join(config.extra_doors)}): save it in "
        "our own format",
    )
    assert isinstance(encoder, SiglipConfig)
    require(
        encoder.select_layer % encoder.num_hidden_layers == encoder.num_hidden_layers - 1,
        f"the {layout} layout has no layers after the one that is used, and select_layer is "
        f"{encoder.select_layer} of {encoder.num_hidden_layers}: save it in our own format",
    )
    return encoder


def vq_of(config: JanusConfig, layout: str) -> VQConfig:
    """The generation tokenizer, which these layouts know in one kind alone.

    Raises:
        ValueError: Another kind.
    """
    tokenizer = config.gen_tokenizer
    require(
        type(tokenizer) is VQConfig,  # a semantic one is a VQ and more
        f"the {layout} layout has no gen_tokenizer of type {tokenizer.type!r}, only 'vq': save it "
        "in our own format",
    )
    assert isinstance(tokenizer, VQConfig)
    return tokenizer


def warn_lost(config: JanusConfig, layout: str, *, keeps_drawing: bool) -> None:
    """Say what a layout has no place for and what its readers will therefore do."""
    system = config.processor.und_system_prompt
    if system not in ("", UND_SYSTEM_PROMPT) or (not system and not keeps_drawing):
        warnings.warn(
            f"the {layout} layout has no place for und_system_prompt {system!r}: its readers put "
            "the released models' one before every question",
            stacklevel=3,
        )
    if not keeps_drawing and config.drawing != DrawingConfig():
        warnings.warn(
            f"the {layout} layout has no place for guidance_scale {config.drawing.guidance_scale} "
            f"and temperature {config.drawing.temperature}: give them when you draw",
            stacklevel=3,
        )


def write_tokenizer(
    folder: Path, tokenizer: TextTokenizer, config: JanusConfig, more: Mapping[str, Any]
) -> None:
    """``tokenizer.json``, which puts BOS before a text, its configuration and its special tokens.

    Args:
        folder: There already.
        tokenizer: The model's own.
        config: The model's.
        more: Further keys of ``tokenizer_config.json``.
    """
    names = config.processor
    copy = Tokenizer.from_str(tokenizer.to_json())
    copy.post_processor = processors.TemplateProcessing(
        single=f"{names.bos_token} $A",
        pair=f"{names.bos_token} $A {names.bos_token} $B:1",
        special_tokens=[(names.bos_token, tokenizer.bos_id)],
    )
    copy.save(str(folder / TOKENIZER_FILE))
    tokens = {
        "bos_token": names.bos_token,
        "eos_token": names.eos_token,
        "pad_token": names.pad_token,
    }
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.language.max_position_embeddings,
    }
    write_json(settings | tokens | dict(more), folder / TOKENIZER_CONFIG_FILE)
    roles = [r for r in (names.user_role, names.assistant_role) if not r.isalpha()]
    additional = [names.image_token, names.boi_token, names.eoi_token, *roles]
    write_json(tokens | {"additional_special_tokens": additional}, folder / SPECIAL_TOKENS_FILE)
