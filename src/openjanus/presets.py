"""Architectures by name: sizes alone, no weights.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from openjanus.config import (
    DecoderConfig,
    DrawingConfig,
    JanusConfig,
    ProcessorConfig,
    SemanticConfig,
    SharedEncoderConfig,
    SiglipConfig,
    VQConfig,
)
from openjanus.rules import near


def _tiny() -> JanusConfig:
    """Random weights in a second: for tests, recipes ``tiny/*`` and a look at the interface."""
    return JanusConfig(
        language=DecoderConfig(
            vocab_size=384,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
        ),
        und_encoder=SiglipConfig(
            image_size=32,
            patch_size=8,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
        gen_tokenizer=VQConfig(
            image_size=32,
            base_channels=32,
            channel_multipliers=(1, 1, 2, 2),
            num_res_blocks=1,
            z_channels=32,
            codebook_size=64,
            codebook_dim=8,
        ),
        processor=ProcessorConfig(und_system_prompt=""),
    )


def _tiny_chameleon() -> JanusConfig:
    """``tiny`` as a Chameleon: one vocabulary, one head, and every option of stability."""
    tiny = _tiny()
    language = replace(
        tiny.language,
        vocab_size=tiny.language.vocab_size + tiny.codebook_size,
        qk_norm=True,
        norm_order="post",
        dropout=0.05,
    )
    return replace(tiny, language=language, und_encoder=SharedEncoderConfig(), one_vocabulary=True)


def _chameleon_7b() -> JanusConfig:
    """Chameleon 7B's sizes (its paper, section 2, and its published configuration).

    Words, templates and the tokenizer's unit codebook are this family's, not Chameleon's, so its
    published weights are not for this.
    """
    return JanusConfig(
        language=DecoderConfig(
            vocab_size=65536,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            rms_norm_eps=1e-5,
            max_position_embeddings=4096,
            qk_norm=True,
            dropout=0.1,
        ),
        und_encoder=SharedEncoderConfig(),
        gen_tokenizer=VQConfig(image_size=512, codebook_size=8192, codebook_dim=256),
        processor=ProcessorConfig(und_system_prompt=""),
        one_vocabulary=True,
    )


def _tiny_semantic() -> JanusConfig:
    """``tiny`` with one encoder for both faces: a semantic tokenizer (Exp-B of Janus, Table 5)."""
    return _with_semantic(
        _tiny(),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        teacher_size=160,  # the encoder of nano-v0
    )


def _with_semantic(config: JanusConfig, **sizes: Any) -> JanusConfig:
    """The same Janus, its VQ with a semantic branch that both faces share."""
    plain = config.gen_tokenizer
    assert isinstance(plain, VQConfig)
    kept: dict[str, Any] = {item.name: getattr(plain, item.name) for item in fields(plain)}
    return replace(
        config,
        und_encoder=SharedEncoderConfig(),
        gen_tokenizer=SemanticConfig(**kept, **sizes),
    )


def _nano_v0() -> JanusConfig:
    """The first Janus trained here: 96 px, 144 ids a picture, 13.5 M parameters."""
    return JanusConfig(
        language=DecoderConfig(
            vocab_size=2048,
            hidden_size=320,
            intermediate_size=896,
            num_hidden_layers=6,
            num_attention_heads=10,
            num_key_value_heads=5,
            max_position_embeddings=512,
        ),
        und_encoder=SiglipConfig(
            image_size=96,
            patch_size=8,
            hidden_size=160,
            intermediate_size=480,
            num_hidden_layers=5,
            num_attention_heads=5,
        ),
        gen_tokenizer=VQConfig(
            image_size=96,
            base_channels=32,
            channel_multipliers=(1, 1, 2, 4),
            num_res_blocks=1,
            z_channels=64,
            codebook_size=1024,
            codebook_dim=8,
        ),
        processor=ProcessorConfig(und_system_prompt=""),
        drawing=DrawingConfig(guidance_scale=1.5, temperature=0.5),
    )


def _ablation() -> JanusConfig:
    """Exp-D of ``recipes/ablation``: the doors of ``nano-v0``, a decoder that ten minutes teach."""
    nano = _nano_v0()
    language = replace(
        nano.language,
        hidden_size=256,
        intermediate_size=704,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    return replace(nano, language=language)


def _ablation_semantic() -> JanusConfig:
    """Exp-B: one semantic tokenizer for both faces, its branch as large as Exp-D's encoder."""
    return _with_semantic(
        _ablation(),
        hidden_size=160,
        intermediate_size=480,
        num_hidden_layers=5,
        num_attention_heads=5,
        teacher_size=160,
    )


def _ablation_semantic_und() -> JanusConfig:
    """Exp-C: the semantic tokenizer as the encoder alone, a plain VQ for the other face."""
    return replace(_ablation(), und_encoder=_ablation_semantic().gen_tokenizer)


def _released(
    language: DecoderConfig, user_role: str = "<|User|>", assistant_role: str = "<|Assistant|>"
) -> JanusConfig:
    """The released models: they differ in their decoder, and the first one in its role names."""
    return JanusConfig(
        language=language,
        und_encoder=SiglipConfig(
            image_size=384,
            patch_size=16,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
        ),
        gen_tokenizer=VQConfig(image_size=384),
        processor=ProcessorConfig(user_role=user_role, assistant_role=assistant_role),
    )


_DECODER_1B = DecoderConfig(
    vocab_size=102400,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=24,
    num_attention_heads=16,
    num_key_value_heads=16,
    max_position_embeddings=16384,
)
_DECODER_7B = DecoderConfig(
    vocab_size=102400,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=30,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=16384,
)

PRESETS: Mapping[str, Callable[[], JanusConfig]] = {
    "tiny": _tiny,
    "tiny-chameleon": _tiny_chameleon,
    "chameleon-7b": _chameleon_7b,
    "tiny-semantic": _tiny_semantic,
    "nano-v0": _nano_v0,
    "nano-v1": _nano_v0,  # other weights, the same sizes
    "ablation": _ablation,
    "ablation-vq": lambda: replace(_ablation(), und_encoder=SharedEncoderConfig()),
    "ablation-semantic": _ablation_semantic,
    "ablation-semantic-und": _ablation_semantic_und,
    "janus-1.3b": lambda: _released(_DECODER_1B, user_role="User", assistant_role="Assistant"),
    "janus-1.3b-semantic": lambda: _with_semantic(preset("janus-1.3b")),
    "janus-pro-1b": lambda: _released(_DECODER_1B),
    "janus-pro-7b": lambda: _released(_DECODER_7B),
}
"""Architectures by name; each value builds a ``JanusConfig``."""


def preset(name: str) -> JanusConfig:
    """An architecture by name.

    Raises:
        KeyError: Unknown name; the message names near matches.
    """
    if name not in PRESETS:
        raise KeyError(f"unknown preset {name!r}; {near(name, list(PRESETS))}")
    return PRESETS[name]()
