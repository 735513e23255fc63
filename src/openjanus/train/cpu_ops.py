"""Operations of a training step on a CPU whose own gradients are slow there.

Registered with torch, so that they run alike by themselves and within what ``torch.compile`` made.

- ``product``: a linear layer in bf16. The gradient of its weights is a product of two matrices of
  which one lies the wrong way; turned first, it takes half the time.
- ``attend_documents``: causal attention of documents, in bf16. Forwards it is torch's own; the
  gradient is made of products that the CPU has instructions for, where torch's has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from openjanus.model.documents import Rectangles

_STRIP = 64
"""Rows that are turned at once: they, and what they become, stay in the cache."""

_WORTH_TURNING = 1024
"""Width of the other factor from which on turning is sooner done than the slower product."""

_ROWS = 256
"""Queries whose scores are computed again at once: what they do not see is not computed."""


def turn(x: Tensor) -> Tensor:
    """(A, B) -> (B, A), contiguous."""
    out = x.new_empty(x.shape[1], x.shape[0])
    for start in range(0, len(x), _STRIP):
        out[:, start : start + _STRIP].copy_(x[start : start + _STRIP].t())
    return out


_NARROW_HEAD = 64
"""Width of a head from which on gradients in 16 bits are sooner made, where they are compiled."""


@torch.library.custom_op("openjanus::product", mutates_args=())
def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., I) times (O, I), and (O,) added -> (..., O)."""
    return F.linear(x, weight, bias)


@product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


@torch.library.custom_op("openjanus::product_of_columns", mutates_args=())
def product_of_columns(a: Tensor, b: Tensor) -> Tensor:
    """(P, O) and (P, I) -> (O, I), the sum over P."""
    return (turn(a) if b.shape[1] >= _WORTH_TURNING else a.t()) @ b


@product_of_columns.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[1], b.shape[1])


def _save_factors(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.has_bias = bias is not None and bias.requires_grad
    kept = x if weight.requires_grad else None, weight if x.requires_grad else None
    ctx.save_for_backward(*kept)


def _product_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    rows = grad.reshape(-1, grad.shape[-1])  # also of one vector, which `flatten` refuses
    of_x = None if weight is None else grad @ weight
    of_weight = None if x is None else product_of_columns(rows, x.reshape(-1, x.shape[-1]))
    return of_x, of_weight, rows.sum(0) if ctx.has_bias else None


product.register_autograd(_product_gradients, setup_context=_save_factors)


class QuickProducts(TorchFunctionMode):
    """Linear layers under bf16 autocast go through ``product``, whoever calls them."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Stand in for `F.linear`."""
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _linear(
    input: Tensor,  # noqa: A002 - its name
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    if not _is_trained_in_bf16(input):
        return F.linear(input, weight, bias)
    return product(*(x.bfloat16() for x in (input, weight, bias) if x is not None))


def _is_trained_in_bf16(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and x.dtype in (torch.float32, torch.bfloat16)
    )


@torch.library.custom_op("openjanus::attend_documents", mutates_args=())
def attend_documents(
    q: Tensor, k: Tensor, v: Tensor, layout: Tensor, compiled: bool
) -> tuple[Tensor, Tensor]:
    """Causal attention that never leaves a document.

    Args:
        q: (R, H, T, K) in bf16.
        k: (R, Hkv, T, K).
        v: (R, Hkv, T, K).
        layout: ``Rectangles.flat()`` of the documents.
        compiled: Whether what is not a product in the gradient is compiled.

    Returns:
        (R, H, T, K), zero where there is no token; and (R, H, T) the logarithm of what each
        softmax divided by, in fp32.
    """
    documents = Rectangles.from_flat(layout)
    groups = [documents.split(documents.gather(x, blank=False)) for x in (q, k, v)]
    outs, divisors = [], []
    for group in zip(*groups, strict=True):
        out, divided = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(x.transpose(1, 2) for x in group), is_causal=True
        )  # (D, H, L, K), (D, H, L)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        divisors.append(divided.transpose(1, 2).flatten(0, 1))
    logarithms = documents.scatter(torch.cat(divisors)[..., None], len(q))[..., 0]
    return documents.scatter(torch.cat(outs), len(q)), logarithms


@attend_documents.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, layout: Tensor, compiled: bool) -> tuple[Tensor, Tensor]:
    return _like(q), _like(q)[..., 0].float()


@torch.library.custom_op("openjanus::attend_documents_gradients", mutates_args=())
def attend_documents_gradients(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    divisors: Tensor,
    layout: Tensor,
    compiled: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values; what stands for each is as in the forward."""
    documents = Rectangles.from_flat(layout)
    upstream, others = documents.gather(grad), (documents.gather(x, blank=False) for x in (q, k, v))
    tensors = [upstream, *others]
    outs = documents.gather(out, blank=False)
    if compiled and q.shape[-1] >= _NARROW_HEAD:
        way = _gradients_by_products
        tensors.append((upstream.float() * outs.float()).sum(-1))  # (P, H)
    else:
        way = _gradients_in_fp32
        tensors = [x.float() for x in (*tensors, outs)]
        tensors.append(documents.gather(divisors[..., None], blank=False))
    found = [q.new_empty(len(upstream), *x.shape[1:2], x.shape[-1]) for x in (q, k, v)]
    places = zip(*map(documents.split, found), strict=True)
    for targets, group in zip(
        places, zip(*map(documents.split, tensors), strict=True), strict=True
    ):
        for target, part in zip(targets, way(*group), strict=True):
            target.copy_(part)
    of_q, of_k, of_v = (documents.scatter(x, len(q)) for x in found)
    return of_q, of_k, of_v


@attend_documents_gradients.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *others: Any) -> tuple[Tensor, ...]:
    return _like(q), _like(k), _like(v)


def _like(x: Tensor) -> Tensor:
    """(R, H, T, K) as ``scatter`` gives it: the heads of a token are neighbours."""
    return torch.empty_like(x.transpose(1, 2), memory_format=torch.contiguous_format).transpose(
        1, 2
    )


def _save_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, layout, compiled = inputs
    ctx.compiled = compiled
    ctx.save_for_backward(q, k, v, *output, layout)


def _attention_gradients(ctx: Any, grad: Tensor, of_divisors: Any) -> tuple[Tensor | None, ...]:
    return *attend_documents_gradients(grad, *ctx.saved_tensors, ctx.compiled), None, None


attend_documents.register_autograd(_attention_gradients, setup_context=_save_attention)


def _gradients_in_fp32(*group: Tensor) -> tuple[Tensor, ...]:
    """Of one group, of the same numbers made wider: torch's in 16 bits take twice the time.

    Args:
        group: Gradient, queries, keys, values and what came out (D, L, heads, K), and the
            logarithms (D, L, H, 1) of the divisors.
    """
    *wide, divisors = (x.transpose(1, 2) for x in group)
    parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *wide, divisors[..., 0], 0.0, True
    )  # (D, heads, L, K)
    return tuple(part.transpose(1, 2) for part in parts)


def _gradients_by_products(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    drift: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one group: (D, L, heads, K) each; ``drift`` (D, L, H).

    A key serves several queries: they are rows of one product, so that its gradient is one.
    """
    number, length, heads, head_dim = k.shape
    share = q.shape[2] // heads
    score = _compiled(_score)

    def rows_of(x: Tensor) -> Tensor:
        """(D, L, H, ...) -> (D * Hkv, L * share, ...)."""
        split = x.unflatten(2, (heads, share)).transpose(1, 2)  # (D, Hkv, L, share, ...)
        return split.flatten(2, 3).flatten(0, 1)

    queries, upstream = rows_of(q), rows_of(grad)
    drifts = rows_of(drift[..., None])
    keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (k, v))  # (D * Hkv, L, K)
    of_keys, of_values = (torch.zeros_like(x, dtype=torch.float32) for x in (keys, values))
    of_queries = torch.empty_like(queries)
    for first in range(0, length, _ROWS):
        last = min(length, first + _ROWS)
        mine = slice(first * share, last * share)
        a, g, b, c = queries[:, mine], upstream[:, mine], keys[:, :last], values[:, :last]
        weights, pull = score(
            torch.bmm(a, b.transpose(1, 2)),
            torch.bmm(g, c.transpose(1, 2)),
            drifts[:, mine],
            _unseen(first, last, share),
            1 / math.sqrt(head_dim),
        )  # (D * Hkv, rows, last)
        of_queries[:, mine] = torch.bmm(pull, b)
        of_keys[:, :last] += torch.bmm(pull.transpose(1, 2), a)
        of_values[:, :last] += torch.bmm(weights.transpose(1, 2), g)
    by_token = of_queries.view(number, heads, length, share, head_dim).transpose(1, 2)
    of_keys, of_values = (
        # Of the dtype that the operation promises: compiled code reads what it was promised.
        x.view(number, heads, length, head_dim).transpose(1, 2).to(k.dtype)
        for x in (of_keys, of_values)
    )
    return by_token.flatten(2, 3), of_keys, of_values


def _score(
    scores: Tensor,
    upstream: Tensor,
    drift: Tensor,
    unseen: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The softmax again, and the gradient of what goes into it.

    Args:
        scores: (B, rows, keys) before they are scaled.
        upstream: (B, rows, keys) gradient of the softmax.
        drift: (B, rows, 1) its mean under the softmax.
        unseen: (rows, keys) minus infinity where a row does not see a key, else 0.
        scale: Of the scores.
    """
    weights = torch.softmax(scores.float() * scale + unseen, -1)
    pull = weights * (upstream.float() - drift) * scale
    return weights.to(scores.dtype), pull.to(scores.dtype)


def _unseen(first: int, last: int, share: int) -> Tensor:
    """(rows, keys) of the queries of tokens ``first`` to ``last``, ``share`` to each."""
    row = torch.arange(first, last).repeat_interleave(share)
    seen = torch.arange(last) <= row[:, None]
    return torch.zeros(seen.shape).masked_fill_(~seen, -math.inf)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)
