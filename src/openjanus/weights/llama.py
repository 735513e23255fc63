"""A Llama section of the published layouts: both describe their decoders by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from openjanus.config import LLAMA_LAYERS, DecoderConfig
from openjanus.rules import require
from openjanus.weights.published import build, check_fixed, warn_unknown

LLAMA_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
}
"""transformers' LlamaConfig: published files leave out what equals these."""

_LLAMA_FIXED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
    "pretraining_tp": (1,),
}
"""What would change the numbers, and the values that our decoder has."""


def parse_llama(data: Mapping[str, Any], where: str, *, tied: bool | None = None) -> DecoderConfig:
    """A Llama section; what it leaves out is filled as transformers does.

    Args:
        data: Of ``language_config`` or ``text_config``.
        where: For messages.
        tied: Whether the head is the embedding; None reads it here, where LlamaConfig says no.

    Raises:
        ValueError: Something that our decoder has not.
    """
    check_fixed(data, _LLAMA_FIXED, where)
    warn_unknown(data, {*LLAMA_DEFAULTS, *_LLAMA_FIXED}, where)
    values = {key: data.get(key, default) for key, default in LLAMA_DEFAULTS.items()}
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values["num_attention_heads"]
    values["rope_theta"] = _rope_theta(data, where)
    own_tied = data.get("tie_word_embeddings", False)
    values["tie_word_embeddings"] = own_tied if tied is None else tied
    config = build(DecoderConfig, values, where)
    # A width that follows from the others is not said twice.
    follows = config.head_dim is not None and (
        config.head_dim * config.num_attention_heads == config.hidden_size
    )
    return dataclasses.replace(config, head_dim=None) if follows else config


_ROPE_KEYS = {"rope_theta", "rope_type", "type"}


def _rope_theta(data: Mapping[str, Any], where: str) -> float:
    """The base of the rotary frequencies, which versions of transformers write in two places."""
    rope = data.get("rope_parameters") or {}
    require(isinstance(rope, dict), f"{where}: rope_parameters must be a mapping, got {rope!r}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    require(
        kind == "default" and set(rope) <= _ROPE_KEYS,
        f"{where}: rope_parameters {rope!r} are not supported (only rope_type 'default'): these "
        "weights need other code than a Janus",
    )
    found = {
        place["rope_theta"]
        for place in (rope, data)
        if isinstance(place.get("rope_theta"), int | float)
    }
    require(len(found) <= 1, f"{where}: rope_theta stands there twice, as {sorted(found)}")
    return float(found.pop()) if found else 10000.0


def llama_to_dict(config: DecoderConfig) -> dict[str, Any]:
    """A Llama section with every size written out."""
    sizes = dataclasses.asdict(config)
    return {
        "model_type": "llama",
        **{name: value for name, value in sizes.items() if name not in LLAMA_LAYERS},
        "head_dim": config.head_size,
        "hidden_act": "silu",
    }
