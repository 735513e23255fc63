"""Rotary positions, the static KV cache, masks, and grouped-query attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import DecoderConfig

HEAD_NORM_EPS = 1e-5
"""Of the norm of queries and keys, as in the released Chameleon."""


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, in fp32 (bf16 angles are off after a few tokens).

    Args:
        positions: (B, T) integer positions.
        head_dim: Width K of a head.
        theta: Base of the frequencies.

    Returns:
        Two (B, 1, T, K) tensors; both halves of K hold the same frequencies.
    """
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = 1.0 / theta ** (exponent / head_dim)  # (K/2,)
    angles = positions[..., None].float() * frequencies  # (B, T, K/2)
    angles = torch.cat([angles, angles], dim=-1)[:, None]  # (B, 1, T, K)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, H, T, K) queries or keys by their positions; halves are paired, not neighbours."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


def causal_mask(length: int, *, device: torch.device | None = None) -> Tensor:
    """(1, 1, T, T) bool: each token sees itself and what is before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


def padding_causal_mask(attention_mask: Tensor) -> Tensor:
    """Causal attention among real tokens.

    Args:
        attention_mask: (B, T) bool, True = a real token; padding on either side.

    Returns:
        (B, 1, T, T) bool. A padding token sees itself alone, so that no softmax is empty.
    """
    length = attention_mask.shape[1]
    causal = causal_mask(length, device=attention_mask.device)
    eye = torch.eye(length, dtype=torch.bool, device=attention_mask.device)
    return (causal & attention_mask[:, None, None, :]) | eye


def document_mask(document_ids: Tensor, branch_ids: Tensor | None = None) -> Tensor:
    """Causal attention within each document of a packed row.

    Args:
        document_ids: (B, T) integers, one value a document; padding has a value of its own.
        branch_ids: (B, T) integers: within a document a token sees those of its own branch and
            those of branch 0. None is one branch a document.

    Returns:
        (B, 1, T, T) bool.
    """
    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    if branch_ids is not None:
        seen = branch_ids[:, None, None, :]
        same &= (seen == 0) | (seen == branch_ids[:, None, :, None])
    return same & causal_mask(document_ids.shape[1], device=document_ids.device)


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of a batch that hold equally many tokens: neighbours, or equally far apart.

    Several rows of a batch may be the next tokens of one row of the cache, each in a run of its
    own: a run sees what those before it have written.
    """

    batch: slice
    """Where they stand in the batch."""
    rows: slice
    """Where they stand in the cache."""
    length: int
    """Tokens that each holds before the step."""


def runs_of(
    lengths: Sequence[int | None], rows: Sequence[int] | None = None, *, merged: bool = True
) -> list[Run]:
    """The runs of a batch.

    Args:
        lengths: Tokens that each row of the batch holds; None is an idle row, which is in no run.
        rows: Where each row of the batch stands in the cache; None is in the batch's order.
        merged: Whether neighbours that are as long share a run: fewer calls, and on a CPU with
            several threads other last bits than of a row alone.
    """
    runs: list[Run] = []
    for place, length in enumerate(lengths):
        if length is None:
            continue
        row = place if rows is None else rows[place]
        run = Run(slice(place, place + 1), slice(row, row + 1), length)
        last = runs[-1] if runs else None
        ends = None if last is None else (last.batch.stop, last.rows.stop, last.length)
        if merged and last is not None and ends == (place, row, length):
            run = Run(slice(last.batch.start, place + 1), slice(last.rows.start, row + 1), length)
            runs.pop()
        runs.append(run)
    return runs


def _follows(run: Run, after: Run) -> bool:
    """Whether the next tokens of the very same rows come next in the batch."""
    one, other = run.batch, after.batch
    return (
        after.rows == run.rows
        and after.length == run.length + 1
        and (other.start, other.stop, other.step) == (one.start + 1, one.stop + 1, one.step)
    )


@dataclass(slots=True)
class KVCache:
    """Keys and values of every layer in memory that is allocated once.

    Row b holds the tokens at positions 0 .. its length - 1; who steps the model says where each
    new token goes, so rows of different lengths share a batch.
    """

    keys: Tensor
    """(layers, B, Hkv, capacity, K)."""
    values: Tensor
    """(layers, B, Hkv, capacity, K)."""

    @classmethod
    def allocate(
        cls,
        config: DecoderConfig,
        batch_size: int,
        capacity: int,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        zeroed: bool = True,
    ) -> KVCache:
        """Memory for ``batch_size`` rows of up to ``capacity`` tokens.

        Args:
            config: The decoder's.
            batch_size: Rows.
            capacity: Tokens a row can hold.
            device: Where it is.
            dtype: Of keys and values.
            zeroed: A mask still multiplies what it hides, so with masks memory must hold numbers.
                Runs read nothing but what was written: without zeros, unused rows take no memory.
        """
        shape = (
            config.num_hidden_layers,
            batch_size,
            config.num_key_value_heads,
            capacity,
            config.head_size,
        )
        make = torch.zeros if zeroed else torch.empty
        return cls(make(shape, device=device, dtype=dtype), make(shape, device=device, dtype=dtype))

    @property
    def capacity(self) -> int:
        """Tokens a row can hold."""
        return self.keys.shape[3]

    def update(self, layer: int, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values at their positions and return the whole rows.

        Args:
            layer: Which layer.
            positions: (B, T) where each new token of each row goes, < capacity.
            k: (B, Hkv, T, K).
            v: (B, Hkv, T, K).

        Returns:
            Keys and values (B, Hkv, capacity, K).
        """
        index = positions[:, None, :, None].expand_as(k)
        self.keys[layer].scatter_(2, index, k)
        self.values[layer].scatter_(2, index, v)
        return self.keys[layer], self.values[layer]

    def mask(self, positions: Tensor) -> Tensor:
        """(B, 1, T, capacity) bool: a token at position p sees positions 0 .. p of its row."""
        slots = torch.arange(self.capacity, device=positions.device)
        return slots <= positions[:, None, :, None]

    def attend(self, layer: int, runs: Sequence[Run], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write new keys and values and attend to all that a row then holds, and to no more.

        Unlike ``update`` and a mask it reads neither idle rows nor unused capacity. How much a row
        attends to, and so its last bits, depend on that row alone.

        Args:
            layer: Which layer.
            runs: All rows of the batch that are in use.
            q: (B, H, T, K).
            k: (B, Hkv, T, K).
            v: (B, Hkv, T, K).

        Returns:
            (B, H, T, K), zero in idle rows.
        """
        self._write(layer, runs, k, v)
        num_rows, num_heads, num_new, _ = q.shape
        attended: Tensor | None = None
        for run in runs:
            end = run.length + num_new
            keys = self.keys[layer, run.rows, :, :end]  # (rows, Hkv, end, K), in place
            values = self.values[layer, run.rows, :, :end]
            # Behind tokens that are held already, causal means from the lower right corner.
            seen = None
            if num_new > 1 and run.length > 0:
                seen = torch.ones(num_new, end, dtype=torch.bool, device=q.device).tril(run.length)
            if num_new == 1 and q.device.type == "cpu" and q.element_size() == 2:
                found = attend_widened(q[run.batch], keys, values)
            else:
                found = F.scaled_dot_product_attention(
                    q[run.batch],
                    keys,
                    values,
                    attn_mask=seen,
                    is_causal=num_new > 1 and seen is None,
                    enable_gqa=num_heads != k.shape[1],
                )
            if len(found) == num_rows:  # one drawing or reply alone
                return found
            if attended is None:
                attended = torch.zeros_like(q)
            attended[run.batch] = found
        return torch.zeros_like(q) if attended is None else attended

    def _write(self, layer: int, runs: Sequence[Run], k: Tensor, v: Tensor) -> None:
        """Put new keys and values where they belong, neighbours of a row of the cache at once."""
        num_new = k.shape[2]
        first = 0
        while first < len(runs):
            run, last = runs[first], first
            while num_new == 1 and last + 1 < len(runs) and _follows(runs[last], runs[last + 1]):
                last += 1
            if last == first:
                end = run.length + num_new
                self.keys[layer, run.rows, :, run.length : end] = k[run.batch]
                self.values[layer, run.rows, :, run.length : end] = v[run.batch]
            else:
                count = last - first + 1
                rows = range(self.keys.shape[1])[run.rows]
                places = range(len(k))[run.batch]
                for row, place in zip(rows, places, strict=True):
                    part = slice(place, place + count), slice(run.length, run.length + count)
                    self.keys[layer, row, :, part[1]] = k[part[0], :, 0].transpose(0, 1)
                    self.values[layer, row, :, part[1]] = v[part[0], :, 0].transpose(0, 1)
            first = last + 1

    def copy_row(self, source: KVCache, row: int, targets: list[int], length: int) -> None:
        """Fork: copy the first ``length`` tokens of a row of ``source`` into rows of this cache."""
        for target in targets:
            self.keys[:, target, :, :length] = source.keys[:, row, :, :length]
            self.values[:, target, :, :length] = source.values[:, row, :, :length]


@dataclass(frozen=True, slots=True)
class JoinedCaches:
    """Several caches of one model, each with its part of a batch: one step for all of them."""

    parts: Sequence[tuple[slice, KVCache, Sequence[Run]]]
    """Where each stands in the batch, and its runs, counted from there. What is in none is idle."""

    def attend(self, layer: int, runs: Sequence[Run], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``KVCache.attend`` part by part; ``runs`` are those of the parts, and are not read."""
        attended = torch.zeros_like(q)
        for batch, cache, own in self.parts:
            attended[batch] = cache.attend(layer, own, q[batch], k[batch], v[batch])
        return attended


class StepCache(Protocol):
    """What a step without a mask attends by: ``KVCache``, or what stands in its place."""

    def attend(self, layer: int, runs: Sequence[Run], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``KVCache.attend``."""
        ...


Mask = Tensor | Callable[[Tensor, Tensor, Tensor], Tensor] | None
"""Who sees whom: bool, broadcastable to (B, H, T, keys), True = attend; or what attends in its own
way, as ``documents.DocumentAttention`` does; None is causal."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """(B, H, T, K) queries on (B, Hkv, keys, K) keys and values -> (B, H, T, K)."""
    if mask is not None and not isinstance(mask, Tensor):
        return mask(q, k, v)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def attend_widened(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query a row of 16 bits, computed in fp32, one row after the other.

    For CPUs, whose kernel for 16 bits multiplies head by head: it takes 2.5 times as long. A row
    made wide fits into the caches, several do not.

    Args:
        q: (B, H, 1, K).
        k: (B, Hkv, keys, K).
        v: (B, Hkv, keys, K).

    Returns:
        (B, H, 1, K) in the dtype of ``q``, rounded once.
    """
    found = [
        F.scaled_dot_product_attention(
            q[row : row + 1].float(),
            k[row : row + 1].float(),
            v[row : row + 1].float(),
            enable_gqa=q.shape[1] != k.shape[1],
        )
        for row in range(len(q))
    ]
    return (found[0] if len(found) == 1 else torch.cat(found)).to(q.dtype)


class HeadNorm(nn.Module):
    """LayerNorm of each head's queries or keys by itself, before they are rotated (Chameleon).

    Mean and variance are of one head. In the authors' code gain and bias are of the width of a
    head, one pair for all heads of a device of the training cluster, so that a published model
    may have as many as it has heads: each head has its own here. They lie flat, as every norm's
    gain does: optimizers know a norm by that.
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.weight = nn.Parameter(torch.ones(num_heads * head_dim))
        self.bias = nn.Parameter(torch.zeros(num_heads * head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, T, K) -> (B, H, T, K)."""
        weight = self.weight.view(-1, 1, self.head_dim)  # (H, 1, K)
        bias = self.bias.view(-1, 1, self.head_dim)
        normed = F.layer_norm(x.float(), (self.head_dim,), eps=HEAD_NORM_EPS)
        return (normed * weight + bias).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (Llama's)."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_size
        self.num_heads = config.num_attention_heads
        self.num_key_value_heads = config.num_key_value_heads
        query_size = self.num_heads * self.head_dim
        key_size = self.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)
        self.qkv_proj: nn.Module | None = None  # of ``packed``, in the place of three
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            self.q_norm = HeadNorm(self.num_heads, self.head_dim)
            self.k_norm = HeadNorm(self.num_key_value_heads, self.head_dim)

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)  # (B, heads, T, K)

    def project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> queries (B, T, H * K), keys and values (B, T, Hkv * K)."""
        if self.qkv_proj is not None:
            return self.qkv_proj(hidden_states)
        return self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)

    def place(self, q: Tensor, k: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Queries (B, H, T, K) and keys (B, Hkv, T, K), normed if at all, then rotated."""
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q, *rotary), rotate(k, *rotary)

    def forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        *,
        mask: Mask = None,
        cache: StepCache | None = None,
        positions: Tensor | None = None,
        runs: Sequence[Run] | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            hidden_states: (B, T, D).
            rotary: From ``rotary_table`` at the tokens' positions.
            mask: Who sees whom.
            cache: Where keys and values are kept; then ``runs``, or ``mask`` and ``positions``, are
                needed.
            positions: (B, T) cache positions of these tokens.
            runs: Where in the cache each row stands, and how many tokens it holds.

        Returns:
            (B, T, D).
        """
        q, k, v = self.project(hidden_states)
        q = self._split(q, self.num_heads)
        k = self._split(k, self.num_key_value_heads)
        q, k = self.place(q, k, rotary)
        v = self._split(v, self.num_key_value_heads)
        if cache is not None and runs is not None:
            attended = cache.attend(self.layer, runs, q, k, v)  # (B, H, T, K)
            return self.o_proj(attended.transpose(1, 2).flatten(2))  # (B, T, D)
        if cache is not None:
            assert isinstance(cache, KVCache) and positions is not None and mask is not None
            k, v = cache.update(self.layer, positions, k, v)  # (B, Hkv, capacity, K)
        attended = attend(q, k, v, mask)  # (B, H, T, K)
        return self.o_proj(attended.transpose(1, 2).flatten(2))  # (B, T, D)
