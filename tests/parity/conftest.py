"""The same random weights in our model and in transformers' port, copied by name both ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import JanusConfig as TheirConfig
from transformers import (
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
)

from openjanus.config import DecoderConfig, JanusConfig, SiglipConfig, VQConfig
from openjanus.model.janus import JanusModel, build_model
from openjanus.model.vq import VQTokenizer
from openjanus.weights.formats import to_stored
from openjanus.weights.transformers import TABLE

IMAGE_TOKEN_ID = 260


def to_theirs(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under their names and shapes."""
    return dict(to_stored(state, TABLE))


def to_ours(state: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Their state dict under our ``names`` and shapes."""
    ours: dict[str, Tensor] = {}
    for name in names:
        value = torch.cat([state[part] for part in TABLE.names(name)])
        ours[name] = value[None] if name in TABLE.unbatched else value
    return ours


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Weights that keep signals near 1 and leave no bias or gain at its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in sorted(module.state_dict().items()):
        noise = torch.randn(value.shape, generator=generator)
        if "embed" in name:
            value.copy_(noise)
        elif value.ndim >= 2:
            value.copy_(noise * value[0].numel() ** -0.5)
        else:
            value.copy_(noise * 0.1 + (1.0 if name.endswith("weight") else 0.0))


@torch.no_grad()
def unit_codebook(codebook: Tensor) -> None:
    """Where the port agrees with the authors: it does not normalise when it encodes."""
    codebook.copy_(nn.functional.normalize(codebook, dim=-1))


@pytest.fixture(scope="session")
def fill() -> Callable[[JanusModel, int], None]:
    """``fill(model, seed)``: weights by ``randomise`` with a codebook of unit rows."""

    def filled(model: JanusModel, seed: int) -> None:
        randomise(model, seed)
        assert isinstance(model.vq, VQTokenizer)
        unit_codebook(model.vq.quantize.embedding.weight)

    return filled


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes that the port can express: one grid for both doors, GroupNorm(32) widths."""

    heads: int
    key_value_heads: int
    patch: int
    levels: tuple[int, ...]

    @property
    def grid(self) -> int:
        return 4

    @property
    def image_size(self) -> int:
        return self.grid * self.patch


GEOMETRIES = {
    "grouped": Geometry(heads=4, key_value_heads=2, patch=4, levels=(1, 1, 2)),
    "plain": Geometry(heads=2, key_value_heads=2, patch=8, levels=(1, 2, 2, 4)),
}


def our_config(geometry: Geometry) -> JanusConfig:
    return JanusConfig(
        language=DecoderConfig(
            vocab_size=300,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=geometry.heads,
            num_key_value_heads=geometry.key_value_heads,
            max_position_embeddings=128,
        ),
        und_encoder=SiglipConfig(
            image_size=geometry.image_size,
            patch_size=geometry.patch,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
        gen_tokenizer=VQConfig(
            image_size=geometry.grid * 2 ** (len(geometry.levels) - 1),
            base_channels=32,
            channel_multipliers=geometry.levels,
            num_res_blocks=1,
            z_channels=24,
            codebook_size=40,
            codebook_dim=8,
        ),
    )


@pytest.fixture(scope="session")
def grouped_config() -> JanusConfig:
    """A small model's sizes that every layout can hold."""
    return our_config(GEOMETRIES["grouped"])


def their_model(geometry: Geometry) -> Any:
    model = JanusForConditionalGeneration(
        TheirConfig(
            text_config=LlamaConfig(
                vocab_size=300,
                hidden_size=48,
                intermediate_size=80,
                num_hidden_layers=2,
                num_attention_heads=geometry.heads,
                num_key_value_heads=geometry.key_value_heads,
                max_position_embeddings=128,
                rms_norm_eps=1e-6,
            ),
            vision_config=JanusVisionConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=geometry.image_size,
                patch_size=geometry.patch,
                mlp_ratio=2.0,
                projection_dim=48,
                num_image_tokens=geometry.grid**2,
            ),
            vq_config=JanusVQVAEConfig(
                embed_dim=8,
                num_embeddings=40,
                latent_channels=24,
                base_channels=32,
                channel_multiplier=list(geometry.levels),
                num_res_blocks=1,
                projection_dim=48,
                image_token_embed_dim=48,
            ),
            image_token_id=IMAGE_TOKEN_ID,
            tie_word_embeddings=False,
        )
    )
    return model.eval()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two implementations with one set of weights."""

    ours: JanusModel
    theirs: Any


@pytest.fixture(
    scope="session", params=[(g, d) for g in GEOMETRIES for d in ("out", "in")], ids=str
)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Weights drawn in ours and copied out, or drawn in theirs and copied in; do not change it."""
    name, direction = request.param
    geometry = GEOMETRIES[name]
    ours, theirs = build_model(our_config(geometry), device="cpu").eval(), their_model(geometry)
    if direction == "out":
        randomise(ours, seed=1)
        assert isinstance(ours.vq, VQTokenizer)
        unit_codebook(ours.vq.quantize.embedding.weight)
        theirs.load_state_dict(to_theirs(ours.state_dict()), strict=True)
    else:
        randomise(theirs, seed=2)
        unit_codebook(theirs.model.vqmodel.quantize.embedding.weight)
        names = list(ours.state_dict())
        ours.load_state_dict(to_ours(theirs.state_dict(), names), strict=True)
    return Pair(ours, theirs)
