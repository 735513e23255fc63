"""The kit's checkpoint: a small random Janus as both published layouts hold one.

Its sizes are such that every reader can open it (equal grids for both doors, GroupNorm(32)) and
that what is easily mixed up differs: the two picture sizes, the number of ids and of table rows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from openjanus.config import DecoderConfig, JanusConfig, ProcessorConfig, SiglipConfig, VQConfig
from openjanus.model.janus import JanusModel, build_model
from openjanus.model.vq import VQTokenizer
from openjanus.processor.text import TextTokenizer, byte_tokenizer
from openjanus.weights.formats import format_by_name, to_stored
from openjanus.weights.own import own_state
from openjanus.weights.published import NEW_ROLES, OLD_ROLES
from openjanus.weights.shards import save_shards

LAYOUTS = ("deepseek", "transformers")
VARIANT = "variant"
"""Folder of a second processor, without weights: other role names, other mean and std."""

SHARD_BYTES = 1_500_000
"""Small enough that the authors' layout is in several files with an index."""

CODEBOOK_USED = 65536
"""Size of a buffer of the tokenizer's training that released checkpoints still hold."""

CONFIG = JanusConfig(
    language=DecoderConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
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
        image_size=16,
        base_channels=32,
        channel_multipliers=(1, 1, 2),
        num_res_blocks=1,
        z_channels=24,
        codebook_size=96,
        codebook_dim=8,
    ),
    processor=ProcessorConfig(user_role=NEW_ROLES[0], assistant_role=NEW_ROLES[1]),
)

VARIANT_CONFIG = dataclasses.replace(
    CONFIG,
    processor=ProcessorConfig(
        user_role=OLD_ROLES[0],
        assistant_role=OLD_ROLES[1],
        # Times 255 each lies just below a whole number: rounding it gives another background.
        image_mean=(0.4814, 0.4578, 0.4076),
        image_std=(0.2686, 0.2613, 0.2758),
    ),
)

MERGES = (
    *("Ġ t", "Ġ a", "h e", "i n", "r e", "Ġt he", "Ġ p", "o n", "a t", "o u"),
    *("Ġ c", "i s", "Ġ o", "Ġo f", "Ġp h", "Ġph o", "t o", "Ġpho to", "W h", "Wh at"),
)
"""A little byte-pair encoding, so that ids depend on what a text is cut into."""


def build_tokenizer(config: ProcessorConfig) -> TextTokenizer:
    """A byte-level tokenizer with a few merges; its special ids come last, as the released ones."""
    data = json.loads(byte_tokenizer(config).to_json())
    vocabulary = data["model"]["vocab"]
    pairs = [merge.split(" ") for merge in MERGES]
    for pair in pairs:
        vocabulary["".join(pair)] = len(vocabulary)
    data["model"]["merges"] = pairs
    for token in data["added_tokens"]:
        token["id"] += len(pairs)
    return TextTokenizer(Tokenizer.from_str(json.dumps(data)), config, name="the kit's tokenizer")


def build_random_model(generator: torch.Generator) -> JanusModel:
    """Weights that keep signals near 1, so that a wrong rule shows, and no row of unit norm.

    Args:
        generator: Of all weights.
    """
    model = build_model(CONFIG, device="cpu")
    _randomise(model, generator)
    assert isinstance(model.vq, VQTokenizer)
    rows = model.vq.quantize.embedding.weight
    with torch.no_grad():
        rows *= torch.linspace(0.2, 3.0, len(rows))[:, None]
    return model.eval()


@torch.no_grad()
def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            noise = torch.randn(parameter.shape, generator=generator)
            if isinstance(module, nn.Embedding) or name == "pos_embed":
                parameter.copy_(noise)
            elif parameter.ndim >= 2:
                parameter.copy_(noise * parameter[0].numel() ** -0.5 * _gain(path))
            else:  # a bias, or the gain of a norm
                parameter.copy_(noise * 0.1 + (1.0 if name == "weight" else 0.0))


_LOUD = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")


def _gain(path: str) -> float:
    """Of a weight: a decoder of plain noise looks everywhere alike and says the same again."""
    return 2.0 if path.endswith(_LOUD) else 1.0


def write_checkpoint(folder: Path, model: JanusModel) -> None:
    """Write a model in both layouts, and the files of the second processor.

    Args:
        folder: There already; gets a folder a layout, and ``variant``.
        model: Of ``CONFIG``.
    """
    state = own_state(model)
    for layout in LAYOUTS:
        form = format_by_name(layout)
        place, variant = folder / layout, folder / VARIANT / layout
        place.mkdir()
        variant.mkdir(parents=True)
        tensors = dict(to_stored(state, form.table))
        if layout == "deepseek":
            tensors |= _unused_tensors()
        save_shards(tensors, place, max_shard_bytes=SHARD_BYTES)
        tokenizer = build_tokenizer(CONFIG.processor)
        form.write(place, CONFIG, tokenizer, torch.float32)
        tokenizer = build_tokenizer(VARIANT_CONFIG.processor)
        form.write(variant, VARIANT_CONFIG, tokenizer, torch.float32)


def _unused_tensors() -> Mapping[str, Tensor]:
    """What the authors' checkpoints hold and no Janus reads, here filled with NaN.

    Whoever uses one of them sees it at once.
    """
    width = 32
    pool = {
        "latent": (1, 1, width),
        "q.weight": (width, width),
        "q.bias": (width,),
        "kv.weight": (2 * width, width),
        "kv.bias": (2 * width,),
        "proj.weight": (width, width),
        "proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "mlp.fc1.weight": (2 * width, width),
        "mlp.fc1.bias": (2 * width,),
        "mlp.fc2.weight": (width, 2 * width),
        "mlp.fc2.bias": (width,),
    }
    shapes = {f"vision_model.vision_tower.attn_pool.{name}": size for name, size in pool.items()}
    shapes["gen_vision_model.quantize.codebook_used"] = (CODEBOOK_USED,)
    return {name: torch.full(size, torch.nan) for name, size in shapes.items()}
