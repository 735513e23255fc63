"""transformers' layout, ``janus``: what deepseek-community publishes and what AutoModel opens.

It renames the towers, splits the fused qkv of the understanding encoder, and knows one number of
image tokens for both doors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from openjanus.config import (
    UND_SYSTEM_PROMPT,
    DrawingConfig,
    JanusConfig,
    ProcessorConfig,
    SiglipConfig,
    VQConfig,
)
from openjanus.processor.templates import with_template
from openjanus.processor.text import TextTokenizer
from openjanus.rules import require
from openjanus.weights import llama, published
from openjanus.weights.jinja import chat_template
from openjanus.weights.keys import KeyTable
from openjanus.weights.shards import open_tensors

MODEL_TYPE = "janus"

_UND = "model.vision_model."
_UND_LAYER = _UND + "encoder.layers.{}."
_VQ = "model.vqmodel."

TABLE = KeyTable(
    owner="transformers' checkpoints",
    rules=(
        ("language_model.lm_head.", "lm_head."),
        ("language_model.model.", "model.language_model."),
        ("und_encoder.patch_embed.proj.", _UND + "embeddings.patch_embedding."),
        ("und_encoder.pos_embed", _UND + "embeddings.position_embedding.weight"),
        ("und_encoder.norm.", _UND + "post_layernorm."),
        ("und_encoder.blocks.{}.norm1.", _UND_LAYER + "layer_norm1."),
        ("und_encoder.blocks.{}.norm2.", _UND_LAYER + "layer_norm2."),
        ("und_encoder.blocks.{}.mlp.", _UND_LAYER + "mlp."),
        ("und_encoder.blocks.{}.attn.proj.", _UND_LAYER + "self_attn.projection_layer."),
        (
            "und_encoder.blocks.{}.attn.qkv.",
            (
                _UND_LAYER + "self_attn.q_proj.",
                _UND_LAYER + "self_attn.k_proj.",
                _UND_LAYER + "self_attn.v_proj.",
            ),
        ),
        ("und_aligner.layers.0.", "model.aligner.fc1."),
        ("und_aligner.layers.2.", "model.aligner.hidden_layers.0."),
        ("gen_aligner.layers.0.", "model.generation_aligner.fc1."),
        ("gen_aligner.layers.2.", "model.generation_aligner.hidden_layers.0."),
        ("gen_embed.", "model.generation_embeddings."),
        ("gen_head.output_mlp_projector.", "model.generation_head.proj_out."),
        ("gen_head.vision_head.", "model.generation_head.vision_head."),
        ("vq.encoder.mid.0.", _VQ + "encoder.mid.block_1."),
        ("vq.encoder.mid.1.", _VQ + "encoder.mid.attn_1."),
        ("vq.encoder.mid.2.", _VQ + "encoder.mid.block_2."),
        ("vq.encoder.conv_blocks.{}.res.", _VQ + "encoder.down.{}.block."),
        ("vq.encoder.conv_blocks.", _VQ + "encoder.down."),
        ("vq.decoder.mid.0.", _VQ + "decoder.mid.block_1."),
        ("vq.decoder.mid.1.", _VQ + "decoder.mid.attn_1."),
        ("vq.decoder.mid.2.", _VQ + "decoder.mid.block_2."),
        ("vq.decoder.conv_blocks.{}.res.", _VQ + "decoder.up.{}.block."),
        ("vq.decoder.conv_blocks.", _VQ + "decoder.up."),
        ("vq.", _VQ),
    ),
    unbatched=("und_encoder.pos_embed",),
    dropped=(
        r"model\.vision_model\.embeddings\.position_ids",  # a buffer of older versions
        r"model\.language_model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    ),
)

_VISION_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
_VISION_FIXED: Mapping[str, tuple[Any, ...]] = {
    "num_channels": (3,),
    "hidden_act": ("gelu",),
    "attention_bias": (True,),
    "use_qk_norm": (False,),
    "depth": (2,),
}
_VISION_READ = {"mlp_ratio", "projection_dim", "num_image_tokens", "model_type"}
_MAX_RATIO = 1000
_VISION_TRAINING = {"hidden_dropout_rate", "projection_dropout"}

_VQ_DEFAULTS: Mapping[str, Any] = {
    "base_channels": 128,
    "channel_multiplier": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
    "latent_channels": 256,
    "num_embeddings": 16384,
    "embed_dim": 8,
}
_VQ_FIXED: Mapping[str, tuple[Any, ...]] = {
    "double_latent": (False,),
    "in_channels": (3,),
    "out_channels": (3,),
    "num_hidden_layers": (2,),
    "hidden_act": ("gelu",),
    "depth": (2,),
}
_VQ_READ = {"projection_dim", "image_token_embed_dim", "num_patches", "dropout"}


def read(folder: Path) -> tuple[JanusConfig, TextTokenizer]:
    """A folder's configuration and tokenizer, as its own files say.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is broken, of another model, or asks for what we have not.
        KeyError: The tokenizer lacks a special token.
    """
    path = folder / published.CONFIG_FILE
    # The class has tied embeddings and the published files do not say otherwise: the head does.
    has_head = TABLE.names("language_model.lm_head.weight")[0] in open_tensors(folder).shapes
    config = parse_config(published.read_json(path), where=str(path), has_head=has_head)
    vocabulary = published.read_vocabulary(folder)
    processor = _read_processor(folder, config, vocabulary)
    config = dataclasses.replace(config, processor=processor, drawing=_read_drawing(folder))
    name = str(folder / published.TOKENIZER_FILE)
    tokenizer = TextTokenizer(vocabulary, config.processor, name=name)
    said = {"image_token_id": 100581} | published.read_json(path)
    _check_id(said, "image_token_id", tokenizer.image_pad_id, path)
    generation = folder / published.GENERATION_FILE
    data = published.read_json_if_there(generation)
    more = data.get("generation_kwargs")
    said = data | (more if isinstance(more, dict) else {})
    for name in ("bos", "eos", "boi"):
        _check_id(said, f"{name}_token_id", getattr(tokenizer, f"{name}_id"), generation)
    return config, tokenizer


def _check_id(data: Mapping[str, Any], key: str, expected: int, path: Path) -> None:
    found = data.get(key, expected)
    ids = found if isinstance(found, list) else [found]  # a model may end in several ways
    require(
        expected in ids,
        f"{path}: {key} is {found!r}, and the tokenizer's own is {expected}: put the files of one "
        "model together",
    )


def parse_config(data: Mapping[str, Any], where: str, *, has_head: bool) -> JanusConfig:
    """The sizes of a ``config.json``; what it leaves out is filled as transformers does.

    Args:
        data: Its plain data.
        where: For messages.
        has_head: Whether the weights hold ``lm_head``.

    Raises:
        ValueError: Parts that do not fit each other, or that we have not.
    """
    fixed = {
        "model_type": (MODEL_TYPE,),
        "quantization_config": (None,),
        "tie_word_embeddings": (True, False),
    }
    published.check_fixed(data, fixed, where)
    sections = {"text_config", "vision_config", "vq_config", "image_token_id"}
    published.warn_unknown(data, {*fixed, *sections}, where)
    tied = data.get("tie_word_embeddings", True) and not has_head
    place = f"{where}: text_config"
    language = llama.parse_llama(section(data, "text_config"), place, tied=tied)
    width = language.hidden_size
    und_encoder = _parse_vision(section(data, "vision_config"), width, f"{where}: vision_config")
    gen_tokenizer = _parse_vq(
        section(data, "vq_config"), width, und_encoder.num_image_tokens, f"{where}: vq_config"
    )
    return JanusConfig(language=language, und_encoder=und_encoder, gen_tokenizer=gen_tokenizer)


def section(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of the configuration; one that is left out has the class's defaults."""
    value = data.get(name)
    require(value is None or isinstance(value, dict), f"{name} must be a mapping, got {value!r}")
    return value or {}


def _parse_vision(data: Mapping[str, Any], width: int, where: str) -> SiglipConfig:
    published.check_fixed(data, _VISION_FIXED, where)
    known = {*_VISION_DEFAULTS, *_VISION_FIXED, *_VISION_READ, *_VISION_TRAINING}
    published.warn_unknown(data, known, where)
    values = {key: data.get(key, default) for key, default in _VISION_DEFAULTS.items()}
    for key in ("image_size", "patch_size"):
        values[key] = _side(values[key], f"{where}: {key}")
    _check_width(data, "projection_dim", width, where)
    # The feed-forward's width is a ratio here: any number until the width itself is known.
    encoder = published.build(SiglipConfig, values | {"intermediate_size": 1}, where)
    ratio = data.get("mlp_ratio", 4.0)
    require(
        type(ratio) in (int, float) and 0 < ratio < _MAX_RATIO,
        f"{where}: mlp_ratio must be in (0, {_MAX_RATIO}), got {ratio!r}",
    )
    encoder = dataclasses.replace(encoder, intermediate_size=int(encoder.hidden_size * ratio))
    count = data.get("num_image_tokens", 576)
    require(
        count == encoder.num_image_tokens,
        f"{where}: num_image_tokens is {count}, and the encoder has {encoder.num_image_tokens} "
        "features an image: these weights need other code than a Janus",
    )
    return encoder


def _parse_vq(data: Mapping[str, Any], width: int, count: int, where: str) -> VQConfig:
    published.check_fixed(data, _VQ_FIXED, where)
    published.warn_unknown(data, {*_VQ_DEFAULTS, *_VQ_FIXED, *_VQ_READ}, where)
    values = {key: data.get(key, default) for key, default in _VQ_DEFAULTS.items()}
    for key in ("projection_dim", "image_token_embed_dim"):
        _check_width(data, key, width, where)
    multipliers = values["channel_multiplier"]
    require(
        isinstance(multipliers, list) and len(multipliers) > 0,
        f"{where}: channel_multiplier must be a list of whole numbers, got {multipliers!r}",
    )
    renamed = {
        "image_size": round(count**0.5) * 2 ** (len(multipliers) - 1),
        "channel_multipliers": multipliers,
        "z_channels": values["latent_channels"],
        "codebook_size": values["num_embeddings"],
        "codebook_dim": values["embed_dim"],
        **{key: values[key] for key in ("base_channels", "num_res_blocks")},
    }
    return published.build(VQConfig, renamed, where)


def _side(value: Any, where: str) -> int:
    sides = value if isinstance(value, list) else [value]
    require(
        len(sides) > 0 and type(sides[0]) is int and all(side == sides[0] for side in sides),
        f"{where} must be square, got {value!r}",
    )
    return sides[0]


def _check_width(data: Mapping[str, Any], key: str, width: int, where: str) -> None:
    found = data.get(key, 2048)
    require(
        found == width,
        f"{where}: {key} is {found}, and the decoder's hidden_size {width}: these weights need "
        "other code than a Janus",
    )


def _read_processor(folder: Path, config: JanusConfig, vocabulary: Tokenizer) -> ProcessorConfig:
    """Tokens, roles and preprocessing, from the checkpoint's own files of any version."""
    place = folder / published.PROCESSOR_FILE
    own = published.read_json_if_there(place)
    count = own.get("num_image_tokens", 576)
    require(
        count == config.num_und_image_tokens,
        f"{place}: num_image_tokens is {count}, and the encoder has {config.num_und_image_tokens} "
        "features an image: put the files of one model together",
    )
    settings_path = folder / published.TOKENIZER_CONFIG_FILE
    settings = published.read_json_if_there(settings_path)
    names = ProcessorConfig()
    fields = ("bos_token", "eos_token", "pad_token", "boi_token", "eoi_token", "image_token")
    extra = settings.get("extra_special_tokens")
    given = {**(extra if isinstance(extra, dict) else {}), **settings}
    texts = {
        key: published.token_text(given.get(key) or getattr(names, key), str(settings_path))
        for key in fields
    }
    texts["pad_token"] = _pad_token(folder, vocabulary, names.pad_token)
    templates = _templates(folder, own, settings)
    user, assistant = published.choose_roles(folder, vocabulary, templates)
    system = UND_SYSTEM_PROMPT if own.get("use_default_system_prompt", False) else ""
    names = dataclasses.replace(
        names, user_role=user, assistant_role=assistant, und_system_prompt=system, **texts
    )
    in_paper = with_template(names, "paper")
    if templates and templates[0].strip() == chat_template(in_paper):
        names = in_paper
    path = folder / published.PREPROCESSOR_FILE
    pixels = own.get("image_processor")  # transformers 5 keeps it in the processor's file
    if isinstance(pixels, dict):
        path = place
    else:
        pixels = published.read_json(path)
    return published.parse_pixels(pixels, config.und_image_size, names, str(path))


def _pad_token(folder: Path, vocabulary: Tokenizer, default: str) -> str:
    """What the unconditional prompt is filled with, whatever the tokenizer pads a batch with."""
    path = folder / published.GENERATION_FILE
    pad_id = published.read_json_if_there(path).get("pad_token_id")
    if pad_id is None:
        return default
    is_id = type(pad_id) is int and pad_id >= 0
    token = vocabulary.id_to_token(pad_id) if is_id else None
    require(
        token is not None,
        f"{path}: pad_token_id is {pad_id!r}, which the tokenizer has no token for: put the files "
        "of one model together",
    )
    return str(token)


def _templates(
    folder: Path, processor: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[str]:
    """Chat templates, from wherever a version of transformers has put them."""
    jinja = folder / "chat_template.jinja"
    found = [jinja.read_text(encoding="utf-8", errors="replace")] if jinja.is_file() else []
    older = published.read_json_if_there(folder / "chat_template.json")
    found += [d["chat_template"] for d in (older, processor, settings) if d.get("chat_template")]
    return [template for template in found if isinstance(template, str)]


def _read_drawing(folder: Path) -> DrawingConfig:
    """How the checkpoint draws where nothing else is asked for."""
    path = folder / published.GENERATION_FILE
    data = published.read_json_if_there(path)
    values = {
        key: data[key] for key in ("guidance_scale", "temperature") if data.get(key) is not None
    }
    return published.build(DrawingConfig, values, str(path))


def check(config: JanusConfig) -> None:
    """Whether this layout can hold a model.

    Raises:
        ValueError: It cannot; the message says what does not fit.
    """
    layout = "transformers"
    published.require_llama(config, layout)
    encoder, tokenizer = published.siglip_of(config, layout), published.vq_of(config, layout)
    require(
        encoder.num_image_tokens == tokenizer.num_image_tokens,
        f"transformers has one number of image tokens for both doors, and this model has "
        f"{encoder.num_image_tokens} and {tokenizer.num_image_tokens}: save it in our own format",
    )
    require(
        tokenizer.norm_groups == 32,
        f"transformers' GroupNorm has 32 groups, and this model has {tokenizer.norm_groups}: save "
        "it in our own format",
    )


def write(folder: Path, config: JanusConfig, tokenizer: TextTokenizer, dtype: torch.dtype) -> None:
    """All files but the weights, into a folder that is there. ``check`` comes before it."""
    published.warn_lost(config, "transformers", keeps_drawing=True)
    names = config.processor
    published.write_json(config_to_dict(config, tokenizer, dtype), folder / published.CONFIG_FILE)
    image_tokens = {
        "image_token": names.image_token,
        "boi_token": names.boi_token,
        "eoi_token": names.eoi_token,
    }
    published.write_tokenizer(
        folder,
        tokenizer,
        config,
        {
            "extra_special_tokens": image_tokens,
            "padding_side": "left",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "JanusProcessor",
            **image_tokens,
        },
    )
    size = config.und_image_size
    pixels = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(names.image_mean),
        "image_processor_type": "JanusImageProcessor",
        "image_std": list(names.image_std),
        "min_size": names.min_size,
        "processor_class": "JanusProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": size, "width": size},
    }
    published.write_json(pixels, folder / published.PREPROCESSOR_FILE)
    processor = {
        "num_image_tokens": config.num_und_image_tokens,
        "processor_class": "JanusProcessor",
        "use_default_system_prompt": bool(names.und_system_prompt),
    }
    published.write_json(processor, folder / published.PROCESSOR_FILE)
    (folder / "chat_template.jinja").write_text(chat_template(names), encoding="utf-8")
    generation = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "generation_kwargs": {"boi_token_id": tokenizer.boi_id},
        "guidance_scale": config.drawing.guidance_scale,
        "temperature": config.drawing.temperature,
    }
    published.write_json(generation, folder / published.GENERATION_FILE)


def config_to_dict(
    config: JanusConfig, tokenizer: TextTokenizer, dtype: torch.dtype
) -> dict[str, Any]:
    """The ``config.json`` of a model, with every size written out."""
    encoder = published.siglip_of(config, "transformers")
    vq = published.vq_of(config, "transformers")
    width = config.language.hidden_size
    count = config.num_und_image_tokens
    text = llama.llama_to_dict(config.language)
    text |= {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "rope_parameters": {"rope_theta": config.language.rope_theta, "rope_type": "default"},
    }
    return {
        "architectures": ["JanusForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "dtype": str(dtype).removeprefix("torch."),
        "image_token_id": tokenizer.image_pad_id,
        "tie_word_embeddings": config.language.tie_word_embeddings,
        "text_config": text,
        "vision_config": {
            "model_type": "janus_vision_model",
            **{key: getattr(encoder, key) for key in _VISION_DEFAULTS},
            "mlp_ratio": _ratio(encoder),
            "num_image_tokens": count,
            "projection_dim": width,
        },
        "vq_config": {
            "model_type": "janus_vqgan",
            "base_channels": vq.base_channels,
            "channel_multiplier": list(vq.channel_multipliers),
            "num_res_blocks": vq.num_res_blocks,
            "latent_channels": vq.z_channels,
            "num_embeddings": vq.codebook_size,
            "embed_dim": vq.codebook_dim,
            "num_patches": vq.grid_size,
            "projection_dim": width,
            "image_token_embed_dim": width,
        },
    }


def _ratio(encoder: SiglipConfig) -> float:
    """``mlp_ratio``, of which transformers takes the whole part of ``hidden_size * ratio``."""
    ratio = encoder.intermediate_size / encoder.hidden_size
    if int(encoder.hidden_size * ratio) != encoder.intermediate_size:
        ratio = (encoder.intermediate_size + 0.5) / encoder.hidden_size
    assert int(encoder.hidden_size * ratio) == encoder.intermediate_size
    return ratio
