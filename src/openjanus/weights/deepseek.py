"""The authors' layout, ``multi_modality``: deepseek-ai/Janus-1.3B, Janus-Pro-1B, Janus-Pro-7B.

Their code knows one understanding encoder by name and one generation tokenizer by class; only the
decoder's sizes are free. A small model of ours can be written in this layout for other engines to
be tested with (``any_size``): its sizes then stand under the key ``openjanus``, which the authors'
code ignores and then refuses the tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from openjanus.config import JanusConfig, ProcessorConfig, SiglipConfig, VQConfig
from openjanus.config_file import door_to_dict, parse_door
from openjanus.presets import preset
from openjanus.processor.text import TextTokenizer
from openjanus.rules import require
from openjanus.weights import llama, published
from openjanus.weights.keys import KeyTable

MODEL_TYPE = "multi_modality"

TABLE = KeyTable(
    owner="the authors' checkpoints",
    rules=(
        ("und_encoder.", "vision_model.vision_tower."),
        ("und_aligner.", "aligner."),
        ("vq.", "gen_vision_model."),
        ("gen_embed.", "gen_embed."),
        ("gen_aligner.", "gen_aligner."),
        ("gen_head.", "gen_head."),
        ("language_model.", "language_model."),
    ),
    dropped=(
        r"vision_model\.vision_tower\.attn_pool\..*",  # SigLIP's pooling, which Janus never uses
        r"gen_vision_model\.quantize\.codebook_used",  # a buffer of the tokenizer's training
        r"language_model\.model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",  # old buffers
    ),
)

_EXTENSION = "openjanus"
_SECTIONS = {
    *("language_config", "vision_config", "aligner_config", "gen_vision_config"),
    *("gen_aligner_config", "gen_head_config", _EXTENSION),
}
_PROCESSOR_KEYS = {
    *("image_tag", "image_start_tag", "image_end_tag", "pad_tag", "ignore_id", "mask_prompt"),
    "processor_class",
}
_SIGLIP_NAME = "siglip_large_patch16_384"
_VQ_NAME = "VQ-16"


def _siglip() -> SiglipConfig:
    """The encoder that the authors' code builds under ``siglip_large_patch16_384``."""
    encoder = preset("janus-pro-1b").und_encoder
    assert isinstance(encoder, SiglipConfig)
    return encoder


def _num_layers(select_layer: int) -> int:
    """Their ``select_layer`` is how many layers are built, from the end where not positive."""
    whole = _siglip().num_hidden_layers
    return min(whole, select_layer if select_layer > 0 else whole + select_layer + 1)


def _select_layer(num_layers: int) -> int:
    """The ``select_layer`` that builds so many layers: ``_num_layers`` reversed."""
    return min(-1, num_layers - _siglip().num_hidden_layers - 1)


def read(folder: Path) -> tuple[JanusConfig, TextTokenizer]:
    """A folder's configuration and tokenizer, as its own files say.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is broken, of another model, or asks for what we have not.
        KeyError: The tokenizer lacks a special token.
    """
    path = folder / published.CONFIG_FILE
    config = parse_config(published.read_json(path), where=str(path))
    vocabulary = published.read_vocabulary(folder)
    config = dataclasses.replace(config, processor=_read_processor(folder, config, vocabulary))
    name = str(folder / published.TOKENIZER_FILE)
    return config, TextTokenizer(vocabulary, config.processor, name=name)


def parse_config(data: Mapping[str, Any], where: str) -> JanusConfig:
    """The sizes of a released ``config.json``; how inputs are made stands in other files.

    Raises:
        ValueError: Parts that do not fit each other, or that we have not.
    """
    fixed = {"model_type": (MODEL_TYPE,), "quantization_config": (None,)}
    published.check_fixed(data, fixed, where)
    published.warn_unknown(data, {*fixed, *_SECTIONS}, where)
    language = llama.parse_llama(
        published.section(data, "language_config", where), f"{where}: language_config"
    )
    if _EXTENSION in data:
        doors = published.section(data, _EXTENSION, where)
        place = f"{where}: {_EXTENSION}"
        und_encoder, gen_tokenizer = (
            parse_door(published.section(doors, name, place), f"{place}.{name}")
            for name in ("und_encoder", "gen_tokenizer")
        )
    else:
        und_encoder = _parse_siglip(data, where)
        gen_tokenizer = _parse_vq(data, und_encoder.image_size, where)
    config = JanusConfig(language=language, und_encoder=und_encoder, gen_tokenizer=gen_tokenizer)
    _check_joints(data, config, where)
    return config


def _params(data: Mapping[str, Any], name: str, cls: str, where: str) -> dict[str, Any]:
    part = published.section(data, name, where)
    published.check_fixed(part, {"cls": (cls,)}, f"{where}: {name}")
    return published.section(part, "params", f"{where}: {name}")


def _parse_siglip(data: Mapping[str, Any], where: str) -> SiglipConfig:
    params = _params(data, "vision_config", "CLIPVisionTower", where)
    place = f"{where}: vision_config.params"
    fixed = {
        "model_name": (_SIGLIP_NAME,),
        "select_feature": ("same", "patch"),  # their code sets "same" for every SigLIP
        "select_layers": (None,),
        "pixel_mean": (None,),
        "pixel_std": (None,),
    }
    published.check_fixed(params, fixed, place)
    published.warn_unknown(params, {*fixed, "image_size", "select_layer", "ckpt_path"}, place)
    for key in ("image_size", "select_layer"):
        require(type(params.get(key)) is int, f"{place}: {key} must be a whole number")
    sizes = {item.name: getattr(_siglip(), item.name) for item in dataclasses.fields(SiglipConfig)}
    sizes["image_size"] = params["image_size"]
    sizes["num_hidden_layers"] = _num_layers(params["select_layer"])
    return published.build(SiglipConfig, sizes, place)


def _parse_vq(data: Mapping[str, Any], image_size: int, where: str) -> VQConfig:
    params = _params(data, "gen_vision_config", _VQ_NAME, where)
    # Their code builds VQ-16 without looking at these two numbers: they are its own.
    default = VQConfig(image_size=image_size)
    fixed = {"image_token_size": (default.codebook_size,), "n_embed": (default.codebook_dim,)}
    place = f"{where}: gen_vision_config.params"
    published.check_fixed(params, fixed, place)
    published.warn_unknown(params, set(fixed), place)
    return default


def _check_joints(data: Mapping[str, Any], config: JanusConfig, where: str) -> None:
    """The aligners and the head say once more what they join: it has to agree."""
    width = config.language.hidden_size
    aligner = {"depth": (2,), "projector_type": ("mlp_gelu",), "n_embed": (width,)}
    features = published.siglip_of(config, "authors'").output_size
    joints = {
        "aligner_config": ("MlpProjector", aligner | {"input_dim": (features,)}),
        "gen_aligner_config": ("MlpProjector", aligner | {"input_dim": (config.codebook_dim,)}),
        "gen_head_config": (
            "vision_head",
            {
                "n_embed": (width,),
                "image_token_embed": (width,),
                "image_token_size": (config.codebook_size,),
            },
        ),
    }
    for name, (cls, fixed) in joints.items():
        params = _params(data, name, cls, where)
        published.check_fixed(params, fixed, f"{where}: {name}.params")
        published.warn_unknown(params, set(fixed), f"{where}: {name}.params")


def _read_processor(folder: Path, config: JanusConfig, vocabulary: Tokenizer) -> ProcessorConfig:
    """Tokens, roles and preprocessing, from the checkpoint's own files."""
    place = folder / published.PROCESSOR_FILE
    own = published.read_json_if_there(place)
    fixed = {
        "sft_format": ("deepseek",),
        "add_special_token": (False,),
        "num_image_tokens": (config.num_und_image_tokens,),
    }
    published.check_fixed(own, fixed, str(place))
    published.warn_unknown(own, {*fixed, *_PROCESSOR_KEYS}, str(place))
    settings_path = folder / published.TOKENIZER_CONFIG_FILE
    settings = published.read_json_if_there(settings_path)
    # Their code has its own template and never reads the tokenizer's.
    user, assistant = published.choose_roles(folder, vocabulary)
    names = ProcessorConfig()
    tokens = {
        "bos_token": settings.get("bos_token") or names.bos_token,
        "eos_token": settings.get("eos_token") or names.eos_token,
        # The pad of the unconditional prompt is the processor's, whatever the tokenizer pads with.
        "pad_token": own.get("pad_tag", names.pad_token),
        "boi_token": own.get("image_start_tag", names.boi_token),
        "eoi_token": own.get("image_end_tag", names.eoi_token),
        "image_token": own.get("image_tag", names.image_token),
    }
    texts = {key: published.token_text(t, str(settings_path)) for key, t in tokens.items()}
    names = dataclasses.replace(names, user_role=user, assistant_role=assistant, **texts)
    path = folder / published.PREPROCESSOR_FILE
    return published.parse_pixels(
        published.read_json(path), config.und_image_size, names, str(path)
    )


def check(config: JanusConfig, *, any_size: bool = False) -> None:
    """Whether this layout can hold a model.

    Args:
        config: The model's.
        any_size: Whether sizes that the authors' code has not are fine.

    Raises:
        ValueError: It cannot; the message says what does not fit.
    """
    layout = "authors'"
    published.require_llama(config, layout)
    encoder, tokenizer = published.siglip_of(config, layout), published.vq_of(config, layout)
    names = config.processor
    require(
        (names.user_role, names.assistant_role) in (published.NEW_ROLES, published.OLD_ROLES),
        f"the authors' code has no roles {names.user_role!r} and {names.assistant_role!r}: save "
        "the model in our own format",
    )
    require(
        names.template == "deepseek",
        f"the authors' code writes dialogues in the template 'deepseek' alone, and this model has "
        f"{names.template!r}: export it as 'transformers', or save it in our own format",
    )
    if any_size:
        return
    layers = _num_layers(_select_layer(encoder.num_hidden_layers))
    built = dataclasses.asdict(_siglip()) | {"num_hidden_layers": layers}
    for found, fixed, name in (
        (encoder, built, _SIGLIP_NAME),
        (tokenizer, dataclasses.asdict(VQConfig(image_size=_siglip().image_size)), _VQ_NAME),
    ):
        for key, theirs in fixed.items():
            ours = getattr(found, key)
            is_free = key in ("image_size", "select_layer")
            require(
                is_free or ours == theirs,
                f"the authors' code has {name} with {key} {theirs} alone, and this model has "
                f"{ours}: export it as 'transformers', or save it in our own format",
            )
    require(
        encoder.image_size == tokenizer.image_size,
        f"the authors' code has one side of pictures, and this model has {encoder.image_size} and "
        f"{tokenizer.image_size}: save it in our own format",
    )


def write(folder: Path, config: JanusConfig, tokenizer: TextTokenizer, dtype: torch.dtype) -> None:
    """All files but the weights, into a folder that is there. ``check`` comes before it."""
    published.warn_lost(config, "authors'", keeps_drawing=False)
    data = config_to_dict(config, dtype)
    try:
        check(config)
    except ValueError:
        data[_EXTENSION] = {
            "und_encoder": door_to_dict(config.und_encoder),
            "gen_tokenizer": door_to_dict(config.gen_tokenizer),
        }
    published.write_json(data, folder / published.CONFIG_FILE)
    names = config.processor
    published.write_tokenizer(
        folder,
        tokenizer,
        config,
        {"tokenizer_class": "LlamaTokenizerFast", "processor_class": "VLChatProcessor"},
    )
    pixels = {
        "background_color": [int(mean * 255) for mean in names.image_mean],
        "do_normalize": True,
        "image_mean": list(names.image_mean),
        "image_processor_type": "VLMImageProcessor",
        "image_size": config.und_image_size,
        "image_std": list(names.image_std),
        "min_size": names.min_size,
        "processor_class": "VLChatProcessor",
        "rescale_factor": 1 / 255,
    }
    published.write_json(pixels, folder / published.PREPROCESSOR_FILE)
    processor = {
        "add_special_token": False,
        "ignore_id": -100,
        "image_tag": names.image_token,
        "image_start_tag": names.boi_token,
        "image_end_tag": names.eoi_token,
        "pad_tag": names.pad_token,
        "mask_prompt": True,
        "num_image_tokens": config.num_und_image_tokens,
        "processor_class": "VLChatProcessor",
        "sft_format": "deepseek",
    }
    published.write_json(processor, folder / published.PROCESSOR_FILE)


def config_to_dict(config: JanusConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The released ``config.json`` of a model, with every size of its decoder written out."""
    width = config.language.hidden_size
    encoder = published.siglip_of(config, "authors'")

    def part(kind: str, cls: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"cls": cls, "model_type": kind, "params": dict(params)}

    def aligner(kind: str, input_size: int) -> dict[str, Any]:
        sizes = {"depth": 2, "input_dim": input_size, "n_embed": width}
        return part(kind, "MlpProjector", sizes | {"projector_type": "mlp_gelu"})

    return {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": MODEL_TYPE,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "aligner_config": aligner("aligner", encoder.output_size),
        "gen_aligner_config": aligner("gen_aligner", config.codebook_dim),
        "gen_head_config": part(
            "gen_head",
            "vision_head",
            {
                "image_token_embed": width,
                "image_token_size": config.codebook_size,
                "n_embed": width,
            },
        ),
        "gen_vision_config": part(
            "gen_vision",
            _VQ_NAME,
            {"image_token_size": config.codebook_size, "n_embed": config.codebook_dim},
        ),
        "language_config": llama.llama_to_dict(config.language),
        "vision_config": part(
            "vision",
            "CLIPVisionTower",
            {
                "image_size": encoder.image_size,
                "model_name": _SIGLIP_NAME,
                "select_feature": "same",
                "select_layer": _select_layer(encoder.num_hidden_layers),
            },
        ),
    }
