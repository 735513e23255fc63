"""Forwards as a training step on a CPU wants them: the same numbers, sooner.

``model.decoder`` and ``model.siglip`` are written to be read, and the decoder to be stepped with a
cache. Here, under bf16 autocast: each norm's output is cast once and not once a projection,
projections that share an input are one product, and what has slow gradients on a CPU goes through
``cpu_ops``. An encoder attends in fp32, whose backward is sooner done than bf16's, and exact.
A test holds each against the model's own; ``benchmarks/train_forwards.py`` measures what is gained,
and ``benchmarks/training.py`` what of the machine's peak is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.model.attention import Attention, Mask, attend, rotary_table
from openjanus.model.decoder import Decoder, DecoderLayer, SwiGLU
from openjanus.model.documents import DocumentAttention, Rectangles
from openjanus.model.dropout import DropoutKey, require_key
from openjanus.model.siglip import SiglipAttention, SiglipBlock, SiglipEncoder
from openjanus.train.cpu_ops import attend_documents, product


def run_decoder(
    decoder: Decoder,
    inputs_embeds: Tensor,
    *,
    positions: Tensor,
    mask: Mask = None,
    dropout: DropoutKey | None = None,
    observe: Callable[[Tensor], None] | None = None,
    compiled: bool = False,
) -> Tensor:
    """What ``decoder(inputs_embeds, positions=positions, mask=mask)`` gives.

    Args:
        decoder: Of the model.
        inputs_embeds: (R, T, D).
        positions: (R, T) rotary positions.
        mask: Who sees whom.
        dropout: Names what is dropped.
        observe: Called with the last layer's output (R, T, D).
        compiled: Whether a layer is compiled: once for all layers, where there are gradients.

    Returns:
        (R, T, D) after the final norm.

    Raises:
        ValueError: As ``decoder`` does.
    """
    require_key(decoder.config.dropout, dropout, training=decoder.training)
    rotary = rotary_table(positions, decoder.config.head_size, decoder.config.rope_theta)
    if _is_narrow(inputs_embeds):
        attention = _attention_by_rows(mask, inputs_embeds.shape, compiled)
    else:
        attention = partial(_attend_wide, mask=mask)
    # Without gradients it would be compiled for once more, and few variants are kept.
    run = _compiled_layer() if compiled and torch.is_grad_enabled() else _run_layer
    hidden = inputs_embeds
    for layer in decoder.layers:
        assert isinstance(layer, DecoderLayer)
        hidden = run(layer, hidden, rotary, attention, dropout)
    if observe is not None:
        observe(hidden)
    return decoder.norm(hidden)


def _run_layer(
    layer: DecoderLayer,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    attention: Callable[[Tensor, Tensor, Tensor], Tensor],
    dropout: DropoutKey | None,
) -> Tensor:
    """(R, T, D) -> (R, T, D)."""
    attend = partial(_attend, layer.self_attn, rotary=rotary, attention=attention)
    return layer.join(hidden, attend, partial(_feed, layer.mlp), dropout, _cast_once)


@cache
def _compiled_layer() -> Callable[..., Tensor]:
    return torch.compile(_run_layer)


def _is_narrow(x: Tensor) -> bool:
    """Whether products are done in 16 bits."""
    kind = x.device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind).itemsize == 2


def _attention_by_rows(
    mask: Mask, shape: Sequence[int], compiled: bool
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Attention where products are done in 16 bits."""
    if mask is None:  # each row is a document
        ids = torch.arange(shape[0])[:, None].expand(*shape[:2])
        rectangles = Rectangles.of([(row, 0, shape[1]) for row in range(shape[0])], ids)
    else:
        rectangles = mask.run if isinstance(mask, DocumentAttention) else None
    if not isinstance(rectangles, Rectangles):
        return partial(_attend_wide, mask=mask)
    layout = rectangles.flat()
    if compiled:
        torch._dynamo.mark_dynamic(layout, 0)  # or each batch would be compiled for
    return partial(_attend_narrow, layout=layout, compiled=compiled)


def _attend_narrow(q: Tensor, k: Tensor, v: Tensor, layout: Tensor, compiled: bool) -> Tensor:
    """Attention in bf16, whatever comes in."""
    out, _ = attend_documents(q.bfloat16(), k.bfloat16(), v.bfloat16(), layout, compiled)
    return out


def _attend_wide(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """Attention in fp32, whatever comes in."""
    with torch.autocast(q.device.type, enabled=False):
        return attend(q.float(), k.float(), v.float(), mask).to(q.dtype)


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
    weight = torch.cat([layer.weight.to(x.dtype) for layer in layers])
    out = product(x, weight) if x.dtype is torch.bfloat16 else F.linear(x, weight)
    return out.split([layer.out_features for layer in layers], dim=-1)


def _feed(mlp: SwiGLU, x: Tensor) -> Tensor:
    """(R, T, D) -> (R, T, D)."""
    gate, up = _project(x, mlp.gate_proj, mlp.up_proj)
    (out,) = _project(F.silu(gate) * up, mlp.down_proj)
    return out


def _attend(
    layer: Attention,
    x: Tensor,
    rotary: tuple[Tensor, Tensor],
    attention: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """(R, T, D) -> (R, T, D)."""
    heads, kv_heads = layer.num_heads, layer.num_key_value_heads
    q, k, v = (  # `unflatten` would break a compiled layer in pieces within `QuickProducts`
        part.view(*part.shape[:-1], count, -1).transpose(1, 2)  # (R, heads, T, K)
        for part, count in zip(
            _project(x, layer.q_proj, layer.k_proj, layer.v_proj),
            (heads, kv_heads, kv_heads),
            strict=True,
        )
    )
    q, k = layer.place(q.float(), k.float(), rotary)
    attended = attention(q, k, v).to(x.dtype)  # (R, H, T, K)
    (out,) = _project(attended.transpose(1, 2).flatten(2), layer.o_proj)
    return out
