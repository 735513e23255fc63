"""A SigLIP and a Llama that transformers wrote: their own numbers come out of our modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from openjanus.config import JanusConfig, SiglipConfig
from openjanus.model.siglip import SiglipEncoder
from openjanus.weights.donors import open_donor, require_same_sizes

SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize("whole", [False, True])
def test_a_siglip_gives_its_vision_tower(tmp_path: Path, whole: bool) -> None:
    vision = {**SIZES, "hidden_act": "gelu"}
    if whole:
        text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
        text |= {"num_attention_heads": 2, "vocab_size": 64}
        config = transformers.SiglipConfig(vision_config=vision, text_config=text)
        theirs = transformers.SiglipModel(config)
        tower = theirs.vision_model
    else:
        theirs = tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**vision))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(0))
    theirs.eval().save_pretrained(tmp_path)
    ours = SiglipEncoder(SiglipConfig(**SIZES)).eval()
    donor = open_donor(tmp_path, "und_encoder")
    require_same_sizes(donor, ours.config)
    donor.fill(ours)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = tower(pixel_values=pixels).last_hidden_state
        assert torch.allclose(ours(pixels), expected, atol=1e-5)


def test_a_llama_gives_its_decoder(
    tmp_path: Path, tiny_config: JanusConfig, make_model: Any
) -> None:
    language = tiny_config.language
    config = transformers.LlamaConfig(
        **{name: getattr(language, name) for name in ("vocab_size", "hidden_size")},
        intermediate_size=language.intermediate_size,
        num_hidden_layers=language.num_hidden_layers,
        num_attention_heads=language.num_attention_heads,
        num_key_value_heads=language.num_key_value_heads,
        rms_norm_eps=language.rms_norm_eps,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    model = make_model(tiny_config, seed=3)
    donor = open_donor(tmp_path, "language_model")
    require_same_sizes(donor, language)
    donor.fill(model.language_model)
    ids = torch.arange(20)[None] * 7 % language.vocab_size
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        ours = model.text_logits(model.language_model.model(model.embed_text(ids)))
    assert torch.allclose(ours, expected, atol=1e-4)
