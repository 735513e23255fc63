"""Attention within each document of packed rows, by whichever way suits the device.

All ways give the same numbers up to rounding; ``dense`` is the plain one that the others are
tested against. Which documents there are is known on the CPU, where rows are packed, so nothing is
asked of the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.model.attention import document_mask

Backend = Literal["dense", "rectangles", "varlen", "flex"]
"""``dense``: one mask of (T, T) a row. ``rectangles``: documents of about one length side by side,
so that causal attention needs no mask. ``varlen``: CUDA's kernel for sequences of any length, 16
bits alone. ``flex``: CUDA's compiled masks, for branches and for fp32. The project has no machine
with CUDA: ``varlen`` was never run, ``flex`` on a CPU without gradients.
"""

Span = tuple[int, int, int]
"""Row, first token, and the one after the last."""

_SPARE = 0.35
"""Share of the dense products below which rectangles are sooner done: gathering costs as well."""


def choose_backend(
    device: torch.device,
    dtype: torch.dtype,
    spans: Sequence[Span],
    rows: int,
    width: int,
    *,
    branched: bool,
) -> Backend:
    """The way that is soonest done.

    Args:
        device: Where attention runs.
        dtype: Of queries, keys and values.
        spans: Every document.
        rows: R of the batch.
        width: T of the batch.
        branched: Whether documents have branches.
    """
    if device.type == "cuda":
        is_narrow = dtype in (torch.bfloat16, torch.float16)
        return "varlen" if is_narrow and not branched else "flex"
    if device.type != "cpu" or branched:
        return "dense"
    needed = sum(_bucket(stop - start) ** 2 for _, start, stop in spans)
    return "rectangles" if needed < _SPARE * rows * width**2 else "dense"


@dataclass(frozen=True, slots=True)
class DocumentAttention:
    """Causal attention that never leaves a document. Takes a mask's place in the decoder."""

    backend: Backend
    run: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend.

        Args:
            q: (R, H, T, K).
            k: (R, Hkv, T, K).
            v: (R, Hkv, T, K).

        Returns:
            (R, H, T, K); at padding anything finite.
        """
        return self.run(q, k, v)


def attend_documents(
    backend: Backend,
    document_ids: Tensor,
    spans: Sequence[Span],
    branch_ids: Tensor | None = None,
) -> DocumentAttention:
    """Prepare attention for a batch of packed rows.

    Args:
        backend: Which way.
        document_ids: (R, T), on the device; padding has a value of its own.
        spans: Every document; padding is in none.
        branch_ids: (R, T), as in ``document_mask``.

    Raises:
        ValueError: Branches by a way that knows none.
    """
    if branch_ids is not None and backend in ("rectangles", "varlen"):
        raise ValueError(f"attention by {backend} knows no branches: take dense or flex")
    if backend == "rectangles":
        return DocumentAttention(backend, Rectangles.of(spans, document_ids))
    if backend == "varlen":
        return DocumentAttention(backend, _VariableLength.of(spans, document_ids))
    if backend == "flex":
        return DocumentAttention(backend, _Flex.of(document_ids, branch_ids))
    return DocumentAttention(backend, _Dense(document_mask(document_ids, branch_ids)))


@dataclass(frozen=True, slots=True)
class _Dense:
    mask: Tensor

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, enable_gqa=q.shape[1] != k.shape[1]
        )


@dataclass(frozen=True, slots=True)
class Rectangles:
    """Documents in groups of one padded length.

    A document's group depends on its length alone, so that no other changes its bits.
    """

    shapes: tuple[tuple[int, int], ...]
    """Documents and padded length (D, L) of each group; P is the sum of their products."""
    places: Tensor
    """(P,) where each token of the groups stands in R * T; short documents repeat their last."""
    repeats: Tensor
    """Which of P are no tokens."""
    inverse: Tensor
    """(R * T,) where each token stands in P; 0 for padding."""
    padding: Tensor
    """Which of R * T are no tokens."""

    @classmethod
    def of(cls, spans: Sequence[Span], document_ids: Tensor) -> Rectangles:
        """Group the documents.

        Args:
            spans: Every document.
            document_ids: (R, T), on the device.
        """
        rows, width = document_ids.shape
        groups: dict[int, list[Span]] = {}
        for span in spans:
            groups.setdefault(_bucket(span[2] - span[1]), []).append(span)
        shapes, places, kept = [], [], []
        for length, members in sorted(groups.items()):
            row, start, stop = (torch.tensor(part)[:, None] for part in zip(*members, strict=True))
            along = start + torch.arange(length)  # (D, L)
            kept.append((along < stop).flatten())
            places.append((row * width + along.clamp(max=stop - 1)).flatten())
            shapes.append((len(members), length))
        place, is_token = torch.cat(places), torch.cat(kept)
        inverse = torch.full((rows * width,), -1)
        inverse[place[is_token]] = is_token.nonzero()[:, 0]
        parts = (
            place,
            (~is_token).nonzero()[:, 0],
            inverse.clamp(min=0),
            (inverse < 0).nonzero()[:, 0],
        )
        return cls(tuple(shapes), *(part.to(document_ids.device) for part in parts))

    def gather(self, x: Tensor, *, blank: bool = True) -> Tensor:
        """(R, H, T, K) -> (P, H, K), zero where there is no token, or with ``blank`` off anything.

        What repeats a last token changes nothing: no token sees it. Of gradients it must be zero.
        """
        flat = x.transpose(1, 2).flatten(0, 1)  # (R * T, H, K)
        repeats = self.repeats if blank else self.repeats[:0]
        return _Move.apply(flat, self.places, repeats, self.inverse, self.padding)

    def scatter(self, x: Tensor, rows: int) -> Tensor:
        """(P, H, K) -> (R, H, T, K), zero where there is no token."""
        flat = _Move.apply(x, self.inverse, self.padding, self.places, self.repeats)
        return flat.unflatten(0, (rows, -1)).transpose(1, 2)

    def split(self, x: Tensor) -> list[Tensor]:
        """(P, ...) -> (D, L, ...) of each group."""
        parts = x.split([number * length for number, length in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def flat(self) -> Tensor:
        """All of it as one vector of integers on the CPU, for what takes tensors alone."""
        parts = (self.places, self.repeats, self.inverse, self.padding)
        sizes = [len(self.shapes), *(n for shape in self.shapes for n in shape), *map(len, parts)]
        return torch.cat([torch.tensor(sizes), *(part.cpu() for part in parts)])

    @classmethod
    def from_flat(cls, numbers: Tensor) -> Rectangles:
        """What ``flat`` gave."""
        end = 1 + 2 * int(numbers[0])
        shapes = tuple((number, length) for number, length in numbers[1:end].view(-1, 2).tolist())
        sizes, rest = numbers[end : end + 4].tolist(), numbers[end + 4 :]
        return cls(shapes, *rest.split(sizes))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As ``DocumentAttention``."""
        attended = []
        for group in zip(*(self.split(self.gather(x)) for x in (q, k, v)), strict=True):
            a, b, c = (x.transpose(1, 2) for x in group)  # (D, H, L, K)
            out = F.scaled_dot_product_attention(
                a, b, c, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
            )
            attended.append(out.transpose(1, 2).flatten(0, 1))
        return self.scatter(torch.cat(attended), len(q))


class _Move(torch.autograd.Function):
    """Rows of a tensor in another order; both ways only read, and write each row once.

    The gradient of ``index_select`` adds to a tensor of zeros. Here each row that counts goes to
    one place, so that the gradient is a selection as well.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, blank: Tensor, *back: Tensor) -> Tensor:
        ctx.save_for_backward(*back)
        return _select(x, index, blank)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad,) = grads
        return _select(grad, *ctx.saved_tensors), None, None, None, None


def _select(x: Tensor, index: Tensor, blank: Tensor) -> Tensor:
    chosen = x.index_select(0, index)
    return chosen.index_fill_(0, blank, 0) if len(blank) > 0 else chosen


@dataclass(frozen=True, slots=True)
class _VariableLength:
    edges: Tensor
    """(documents + 1,) int32: where each begins in R * T, what padding there is among them."""
    longest: int

    @classmethod
    def of(cls, spans: Sequence[Span], document_ids: Tensor) -> _VariableLength:
        rows, width = document_ids.shape
        edges = {row * width + at for row, *ends in spans for at in ends}
        edges = sorted(edges | {row * width for row in range(rows + 1)})
        longest = max(stop - start for start, stop in pairwise(edges))
        return cls(torch.tensor(edges, dtype=torch.int32, device=document_ids.device), longest)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        rows, heads, width, _ = q.shape
        queries, keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        out: Any = varlen_attn(
            queries,
            keys,
            values,
            self.edges,
            self.edges,
            self.longest,
            self.longest,
            window_size=(-1, 0),  # causal
            enable_gqa=heads != k.shape[1],
        )
        return out.unflatten(0, (rows, width)).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class _Flex:
    block_mask: Any

    @classmethod
    def of(cls, document_ids: Tensor, branch_ids: Tensor | None) -> _Flex:
        from torch.nn.attention.flex_attention import (
            create_block_mask,
        )

        def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            del head
            same = (document_ids[row, query] == document_ids[row, key]) & (key <= query)
            if branch_ids is not None:
                seen = branch_ids[row, key]
                same = same & ((seen == 0) | (seen == branch_ids[row, query]))
            return same

        rows, width = document_ids.shape
        mask = create_block_mask(sees, rows, None, width, width, device=document_ids.device)
        return cls(mask)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _flex_kernel(q.device.type)(
            q, k, v, block_mask=self.block_mask, enable_gqa=q.shape[1] != k.shape[1]
        )


@cache
def _flex_kernel(device: str) -> Any:
    """Compiled where it is fast, and as it is on a CPU, where it is there to be tested."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if device == "cpu" else torch.compile(flex_attention)


def _bucket(length: int) -> int:
    """The padded length of a document."""
    return max(32, -(-length // 64) * 64) if length > 32 else 32
