"""Forwards as a training step on a CPU wants them: the same numbers, sooner.

``model.decoder`` and ``model.siglip`` are written to be read, and the decoder to be stepped with a
cache. Here, under bf16 autocast: attention runs in fp32, whose backward is sooner done than bf16's
on a CPU, and exact; and in the decoder, each norm's output is cast once and not once a projection,
and projections that share an input are one product. A test holds each against the model's own,
``benchmarks/train_forwards.py`` measures what is gained.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.model.attention import Attention, Mask, attend, rotary_table
from openjanus.model.decoder import Decoder, DecoderLayer, SwiGLU
from openjanus.model.dropout import DropoutKey, require_key
from openjanus.model.siglip import SiglipAttention, SiglipBlock, SiglipEncoder


def run_decoder(
    decoder: Decoder,
    inputs_embeds: Tensor,
    *,
    positions: Tensor,
    mask: Mask = None,
    dropout: DropoutKey | None = None,
    observe: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """What ``decoder(inputs_embeds, positions=positions, mask=mask)`` gives.

    Args:
        decoder: Of the model.
        inputs_embeds: (R, T, D).
        positions: (R, T) rotary positions.
        mask: Who sees whom.
        dropout: Names what is dropped.
        observe: Called with the last layer's output (R, T, D).

    Returns:
        (R, T, D) after the final norm.

    Raises:
        ValueError: As ``decoder`` does.
    """
    require_key(decoder.config.dropout, dropout, training=decoder.training)
    rotary = rotary_table(positions, decoder.config.head_size, decoder.config.rope_theta)
    hidden = inputs_embeds
    for layer in decoder.layers:
        assert isinstance(layer, DecoderLayer)
        attend = partial(_attend, layer.self_attn, rotary=rotary, mask=mask)
        hidden = layer.join(hidden, attend, partial(_feed, layer.mlp), dropout, _cast_once)
    if observe is not None:
        observe(hidden)
    return decoder.norm(hidden)


def run_encoder(encoder: nn.Module, pixel_values: Tensor) -> Tensor:
    """What ``encoder(pixel_values)`` gives.

    Any other class than `SiglipEncoder` runs as it is, and so does any elsewhere than on a CPU,
    whose attention in bf16 is the one that is slow.

    Args:
        encoder: Of the model.
        pixel_values: (B, 3, S, S).

    Returns:
        (B, N, C) features.
    """
    if type(encoder) is not SiglipEncoder or pixel_values.device.type != "cpu":
        return encoder(pixel_values)
    x = encoder.embed_patches(pixel_values)
    for block in encoder.used_blocks():
        assert isinstance(block, SiglipBlock)
        x = x + _look(block.attn, block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    return encoder.norm(x)


def _look(attention: SiglipAttention, x: Tensor) -> Tensor:
    """(B, N, C) -> (B, N, C)."""
    qkv = attention.qkv(x).float().unflatten(-1, (3, attention.num_heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, K)
    with torch.autocast(x.device.type, enabled=False):
        attended = F.scaled_dot_product_attention(q, k, v)
    return attention.proj(attended.transpose(1, 2).flatten(2).to(x.dtype))


def _cast_once(x: Tensor) -> Tensor:
    """To the dtype that autocast would cast to in every product that follows."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _project(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """Several bias-free layers on one input, as one product; layers with adapters each alone."""
    if any(type(layer) is not nn.Linear for layer in layers):
        return tuple(layer(x) for layer in layers)
    weight = torch.cat([layer.weight for layer in layers])
    return F.linear(x, weight).split([layer.out_features for layer in layers], dim=-1)


def _feed(mlp: SwiGLU, x: Tensor) -> Tensor:
    """(R, T, D) -> (R, T, D)."""
    gate, up = _project(x, mlp.gate_proj, mlp.up_proj)
    return mlp.down_proj(F.silu(gate) * up)


def _attend(attention: Attention, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Mask) -> Tensor:
    """(R, T, D) -> (R, T, D)."""
    heads, kv_heads = attention.num_heads, attention.num_key_value_heads
    q, k, v = _project(x, attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (
        part.float().unflatten(-1, (count, -1)).transpose(1, 2)  # (R, heads, T, K)
        for part, count in ((q, heads), (k, kv_heads), (v, kv_heads))
    )
    with torch.autocast(x.device.type, enabled=False):
        q, k = attention.place(q, k, rotary)
        attended = attend(q, k, v, mask)  # (R, H, T, K)
    return attention.o_proj(attended.transpose(1, 2).flatten(2).to(x.dtype))
