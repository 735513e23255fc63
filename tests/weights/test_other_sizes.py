"""A Janus of other sizes: another SigLIP, a grouped-query decoder with a tied head, other grids."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

import openjanus
from openjanus.config import DecoderConfig, JanusConfig, ProcessorConfig, SiglipConfig, VQConfig
from openjanus.model.janus import JanusModel
from openjanus.pipeline import Janus
from openjanus.processor.text import byte_tokenizer
from openjanus.weights.formats import export_model

LANGUAGE = DecoderConfig(
    vocab_size=300,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    rms_norm_eps=1e-5,
    rope_theta=100_000.0,
    max_position_embeddings=192,
    tie_word_embeddings=True,
)
SIGLIP = SiglipConfig(
    image_size=48,
    patch_size=12,
    hidden_size=24,
    intermediate_size=56,
    num_hidden_layers=3,
    num_attention_heads=3,
)
VQ = VQConfig(
    image_size=24,
    base_channels=32,
    channel_multipliers=(1, 2, 2),
    num_res_blocks=1,
    z_channels=16,
    codebook_size=48,
    codebook_dim=4,
)
UNEQUAL = JanusConfig(language=LANGUAGE, und_encoder=SIGLIP, gen_tokenizer=VQ)
EQUAL = dataclasses.replace(UNEQUAL, gen_tokenizer=dataclasses.replace(VQ, image_size=16))
PICTURE = Image.radial_gradient("L").resize((33, 21))
OPTIONS: dict[str, Any] = {"guidance_scale": 3.0, "seed": 3}


@pytest.fixture(scope="module", params=[UNEQUAL, EQUAL], ids=["unequal grids", "equal grids"])
def janus(request: pytest.FixtureRequest, make_model: Any) -> Janus:
    """Do not change it."""
    config = dataclasses.replace(request.param, processor=ProcessorConfig(und_system_prompt=""))
    model = make_model(config)
    # Far from flat logits: otherwise a wrong weight would hardly be seen.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and not name.startswith(("vq.", "und_encoder.")):
                parameter.mul_(20 if "embed" in name else 7)
    return Janus(model, byte_tokenizer(config.processor))


def told(janus: Janus) -> tuple[torch.Tensor, tuple[int, ...]]:
    """A drawing's ids and an answer's."""
    drawing = janus.draw("a cat", n=2, **OPTIONS)
    options: dict[str, Any] = {"system": "", "max_new_tokens": 8, "temperature": 1.0, "seed": 3}
    reply = janus.chat("What?", images=[PICTURE], **options)
    return drawing.image_ids, tuple(reply.token_ids)


def test_every_shape_follows_the_config() -> None:
    model = openjanus.build(UNEQUAL)
    sizes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    expected = {
        "language_model.model.embed_tokens.weight": (300, 48),
        "language_model.model.layers.2.self_attn.q_proj.weight": (48, 48),
        "language_model.model.layers.2.self_attn.k_proj.weight": (16, 48),
        "und_encoder.pos_embed": (1, 16, 24),
        "und_encoder.blocks.2.mlp.fc1.weight": (56, 24),
        "und_aligner.layers.0.weight": (48, 24),
        "gen_embed.weight": (48, 4),
        "gen_aligner.layers.0.weight": (48, 4),
        "gen_head.vision_head.weight": (48, 48),
        "vq.quantize.embedding.weight": (48, 4),
    }
    assert {name: sizes[name] for name in expected} == expected
    assert "language_model.lm_head.weight" not in sizes
    assert (UNEQUAL.num_und_image_tokens, UNEQUAL.num_gen_image_tokens) == (16, 36)
    assert EQUAL.num_und_image_tokens == EQUAL.num_gen_image_tokens == 16


def test_it_draws_and_answers(janus: Janus) -> None:
    drawing = janus.draw("a cat", n=2, **OPTIONS)
    assert drawing.image_ids.shape == (2, janus.config.num_gen_image_tokens)
    assert [image.size for image in drawing.images] == [(janus.config.gen_image_size,) * 2] * 2
    assert not torch.equal(*drawing.image_ids)
    alone = janus.draw("a cat", **OPTIONS)
    assert torch.equal(alone.image_ids[0], drawing.image_ids[0])
    reply = janus.chat("What?", images=[PICTURE], max_new_tokens=8, seed=3)
    words = len(janus.processor.tokenizer.encode("<|User|>: \nWhat?\n\n<|Assistant|>:"))
    # BOS, then begin and end of the picture around its features.
    assert reply.usage.prompt_tokens == 3 + SIGLIP.num_image_tokens + words
    assert 0 < reply.usage.completion_tokens <= 8
    ids = janus.encode_image(PICTURE)
    assert janus.decode_image(ids).size == (janus.config.gen_image_size,) * 2


def test_an_earlier_layer_of_the_encoder_may_be_used(janus: Janus, tmp_path: Path) -> None:
    encoder = dataclasses.replace(SIGLIP, select_layer=-2)
    config = dataclasses.replace(janus.config, und_encoder=encoder)
    other = JanusModel(config).eval()
    other.load_state_dict(janus.model.state_dict(), strict=True)
    pixels = janus.processor.und_pixels([PICTURE])
    with torch.no_grad():
        assert not torch.allclose(other.embed_und(pixels), janus.model.embed_und(pixels))
    Janus(other, janus.processor.tokenizer).save(tmp_path)
    assert openjanus.load(tmp_path).config == config


def test_it_comes_back_as_it_was(janus: Janus, tmp_path: Path) -> None:
    janus.save(tmp_path / "saved")
    loaded = openjanus.load(tmp_path / "saved", device="cpu")
    check_same(loaded, janus)


def check_same(loaded: Janus, janus: Janus) -> None:
    assert loaded.config == janus.config
    check_same_weights(loaded, janus)


def check_same_weights(loaded: Janus, janus: Janus) -> None:
    language_model = loaded.model.language_model
    assert language_model.lm_head.weight is language_model.model.embed_tokens.weight
    expected = janus.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in loaded.model.state_dict().items())
    (ids, answer), (ids_before, answer_before) = told(loaded), told(janus)
    assert torch.equal(ids, ids_before)
    assert answer == answer_before


def test_each_layout_takes_what_it_can_hold(janus: Janus, tmp_path: Path) -> None:
    words = janus.processor.tokenizer
    with pytest.warns(UserWarning, match="no place for und_system_prompt"):
        export_model(tmp_path / "d", janus.model, words, layout="deepseek", any_size=True)
    loaded = openjanus.load(tmp_path / "d", device="cpu")
    names = dataclasses.replace(loaded.config.processor, und_system_prompt="")
    assert dataclasses.replace(loaded.config, processor=names) == janus.config
    check_same_weights(loaded, janus)
    with pytest.raises(ValueError, match="siglip_large_patch16_384 with patch_size 16 alone"):
        janus.export(tmp_path / "strict", "deepseek")
    grids = (janus.config.num_und_image_tokens, janus.config.num_gen_image_tokens)
    if grids[0] == grids[1]:
        janus.export(tmp_path / "t", "transformers")
        check_same(openjanus.load(tmp_path / "t", device="cpu"), janus)
    else:
        with pytest.raises(ValueError, match=r"one number of image tokens .* has 16 and 36"):
            janus.export(tmp_path / "t", "transformers")


def test_its_decoder_is_transformers_llama(janus: Janus) -> None:
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=LANGUAGE.vocab_size,
            hidden_size=LANGUAGE.hidden_size,
            intermediate_size=LANGUAGE.intermediate_size,
            num_hidden_layers=LANGUAGE.num_hidden_layers,
            num_attention_heads=LANGUAGE.num_attention_heads,
            num_key_value_heads=LANGUAGE.num_key_value_heads,
            rms_norm_eps=LANGUAGE.rms_norm_eps,
            rope_parameters={"rope_theta": LANGUAGE.rope_theta, "rope_type": "default"},
            tie_word_embeddings=True,
        )
    ).eval()
    theirs.load_state_dict(janus.model.language_model.state_dict(), strict=True)
    ids = torch.randint(300, (2, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = janus.model.language_model.model(janus.model.embed_text(ids))
        torch.testing.assert_close(
            janus.model.text_logits(hidden), theirs(input_ids=ids).logits, atol=1e-3, rtol=1e-5
        )
