"""Operations of a CPU's training step against plain ones."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from openjanus.model.documents import Rectangles
from openjanus.model.documents import attend_documents as plain_attention
from openjanus.train import cpu_ops, fast_forward
from openjanus.train.cpu_ops import QuickProducts, attend_documents, product, turn
from openjanus.train.host_memory import keep_freed_memory


def normal(*shape, seed=0, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def error(found, expected):
    """Relative to the largest number."""
    return ((found.float() - expected.float()).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("shape", [(1, 1), (64, 3), (130, 65)])
def test_a_turned_matrix_is_the_transposed_one(shape):
    x = normal(*shape)
    turned = turn(x)
    assert torch.equal(turned, x.t())
    assert turned.is_contiguous()


@pytest.mark.parametrize("width", [24, 1024])  # on either side of what is worth turning
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_has_a_linear_layers_values_and_gradients(width, has_bias):
    tensors = [normal(2, 5, width), normal(16, width, seed=1)]
    tensors += [normal(16, seed=2)] if has_bias else []
    upstream = normal(2, 5, 16, seed=3)
    found = [x.clone().requires_grad_() for x in tensors]
    exact = [x.float().requires_grad_() for x in tensors]
    out, expected = product(*found), F.linear(*exact)
    assert error(out, expected) < 0.01
    out.backward(upstream)
    expected.backward(upstream.float())
    for mine, its in zip(found, exact, strict=True):
        assert error(mine.grad, its.grad) < 0.01


def test_frozen_weights_get_no_gradient_and_pass_one_on():
    x, weight = normal(3, 8).requires_grad_(), normal(4, 8, seed=1)
    product(x, weight).float().sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    assert torch.allclose(x.grad.float(), weight.float().sum(0).expand(3, 8), rtol=0.02)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 4, 64), (4, 2, 64), (6, 2, 16)])
def test_attention_of_documents_has_plain_values_and_gradients(compiled, heads, kv_heads, size):
    spans = [(0, 0, 20), (0, 20, 330), (1, 0, 32), (1, 32, 90)]  # the second one in two parts
    ids = torch.full((2, 340), -1)
    for number, (row, start, stop) in enumerate(spans):
        ids[row, start:stop] = number
    real = (ids >= 0)[:, None, :, None]
    layout = Rectangles.of(spans, ids).flat()
    tensors = [
        normal(2, n, 340, size, seed=n + i) for i, n in enumerate((heads, kv_heads, kv_heads))
    ]
    upstream = normal(2, heads, 340, size, seed=7) * real
    found = [x.clone().requires_grad_() for x in tensors]
    exact = [x.float().requires_grad_() for x in tensors]
    out, _ = attend_documents(*found, layout, compiled)
    expected = plain_attention("dense", ids, spans)(*exact) * real
    assert error(out, expected) < 0.02
    out.backward(upstream)
    expected.backward(upstream.float())
    for mine, its in zip(found, exact, strict=True):
        assert error(mine.grad, its.grad) < 0.02
    assert (out * ~real).abs().max() == 0


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 4, 64), (4, 2, 64), (4, 2, 16)])
def test_operations_give_what_they_promise_to_a_compiler(
    compiled, heads, kv_heads, size, monkeypatch
):
    """Compiled code reads an output by the promised dtype and strides, whatever it is."""
    monkeypatch.setattr(cpu_ops, "_compiled", lambda function: function)  # it takes a while
    spans = [(0, 0, 20), (0, 20, 100), (1, 0, 32)]
    ids = torch.full((2, 110), -1)
    for number, (row, start, stop) in enumerate(spans):
        ids[row, start:stop] = number
    layout = Rectangles.of(spans, ids).flat()
    q, k, v = (normal(2, n, 110, size, seed=n) for n in (heads, kv_heads, kv_heads))
    out, divisors = attend_documents(q, k, v, layout, compiled)
    ops = torch.ops.openjanus
    checks = [
        (ops.attend_documents, (q, k, v, layout, compiled)),
        (ops.attend_documents_gradients, (out, q, k, v, out, divisors, layout, compiled)),
        (ops.product, (normal(2, 5, size), normal(3, size, seed=1), normal(3, seed=2))),
        (ops.product_of_columns, (normal(9, 3), normal(9, size, seed=1))),
    ]
    for op, args in checks:
        torch.library.opcheck(op.default, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.long
def test_compiled_code_around_attention_has_its_gradients():
    spans = [(0, 0, 20), (0, 20, 100), (1, 0, 32)]
    ids = torch.full((2, 110), -1)
    for number, (row, start, stop) in enumerate(spans):
        ids[row, start:stop] = number
    layout, real = Rectangles.of(spans, ids).flat(), (ids >= 0)[:, None, :, None]

    def attend(q, k, v):
        out, _ = attend_documents(*((x * 1.5).bfloat16() for x in (q, k, v)), layout, True)
        return out.float() * 2

    tensors = [normal(2, 4, 110, 64, seed=i).float() for i in range(3)]
    upstream = normal(2, 4, 110, 64, seed=7).float() * real
    found = [x.clone().requires_grad_() for x in tensors]
    exact = [x.clone().requires_grad_() for x in tensors]
    torch.compile(attend)(*found).backward(upstream)
    (2 * real * plain_attention("dense", ids, spans)(*(x * 1.5 for x in exact))).backward(upstream)
    for mine, its in zip(found, exact, strict=True):
        assert error(mine.grad, its.grad) < 0.02


@pytest.mark.long
def test_a_compiled_layer_serves_every_batch_and_is_as_close_to_fp32(tiny_config, make_model):
    decoder = make_model(tiny_config).language_model.model
    upstream = normal(1, 160, 64, seed=9, dtype=torch.float32)
    embeds = normal(1, 160, 64, dtype=torch.float32).requires_grad_()
    torch._dynamo.reset()
    counted = CompileCounterWithBackend("aot_eager")
    with pytest.MonkeyPatch.context() as patch:
        layer = torch.compile(fast_forward._run_layer, backend=counted)
        patch.setattr(fast_forward, "_compiled_layer", lambda: layer)
        for lengths in ([100, 40], [30, 30, 50, 20, 10], [160], [32] * 5):
            ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
            spans = [(0, end - n, end) for n, end in zip(lengths, ends, strict=True)]
            ids = torch.full((1, 160), -1)
            positions = torch.zeros(1, 160, dtype=torch.long)
            for number, (_, start, stop) in enumerate(spans):
                ids[0, start:stop] = number
                positions[0, start:stop] = torch.arange(stop - start)
            real = (ids >= 0)[..., None]
            mask = plain_attention("rectangles", ids, spans)

            def gradient(narrow, compiled, mask=mask, positions=positions, real=real):
                # As in a step: what stands in for products must not break the layer in pieces.
                with torch.autocast("cpu", torch.bfloat16, enabled=narrow), QuickProducts():
                    out = fast_forward.run_decoder(
                        decoder, embeds, positions=positions, mask=mask, compiled=compiled
                    )
                (found,) = torch.autograd.grad((out * upstream * real).sum(), embeds)
                return found

            exact, plain = gradient(False, False), gradient(True, False)
            assert error(gradient(True, True), exact) < max(0.01, 1.5 * error(plain, exact))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            fast_forward.run_decoder(decoder, embeds, positions=positions, mask=mask, compiled=True)
    assert counted.frame_count == 1


def test_linear_layers_of_a_step_are_products_where_they_are_trained_in_bf16(monkeypatch):
    layer, x = nn.Linear(8, 4), torch.ones(2, 8)
    calls = []
    own = torch.ops.openjanus.product.default
    monkeypatch.setattr(
        "openjanus.train.cpu_ops.product", lambda *a: calls.append(a[1].dtype) or own(*a)
    )
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        with QuickProducts():
            assert torch.allclose(layer(x), expected)
            with torch.no_grad():
                layer(x)
    with QuickProducts():
        assert layer(x).dtype == torch.float32
    assert calls == [torch.bfloat16]


@pytest.mark.parametrize("shape", [(8,), (0, 8), (2, 0, 8), (3, 8)])
@pytest.mark.parametrize("named", [False, True])
def test_a_door_may_call_a_product_as_it_likes(shape, named):
    """By names, of one vector, of nothing."""
    grads = []
    for mode in (torch.enable_grad, QuickProducts):
        x = normal(*shape, dtype=torch.float32).requires_grad_()
        weight = normal(4, 8, seed=1, dtype=torch.float32).requires_grad_()
        bias = normal(4, seed=2, dtype=torch.float32).requires_grad_()
        with mode(), torch.autocast("cpu", torch.bfloat16):
            out = (
                F.linear(input=x, weight=weight, bias=bias) if named else F.linear(x, weight, bias)
            )
        out.float().square().sum().backward()
        grads.append([out, x.grad, weight.grad, bias.grad])
    for its, mine in zip(*grads, strict=True):
        assert mine.dtype == its.dtype
        assert torch.allclose(mine, its, rtol=0.02, atol=0.1)


def test_a_products_gradients_are_those_of_autocast():
    x, upstream = normal(6, 8, dtype=torch.float32), normal(6, 4, seed=1)
    grads = []
    for mode in (torch.enable_grad, QuickProducts):
        layer = nn.Linear(8, 4)
        with torch.no_grad():
            layer.weight.copy_(normal(4, 8, seed=2))
            layer.bias.copy_(normal(4, seed=3))
        with mode(), torch.autocast("cpu", torch.bfloat16):
            layer(x).backward(upstream)
        grads.append((layer.weight.grad, layer.bias.grad))
    for its, mine in zip(*grads, strict=True):
        assert mine.dtype == torch.float32
        assert error(mine, its) < 0.01


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_kept():
    code = """
import resource
from openjanus.train.host_memory import keep_freed_memory
assert keep_freed_memory()
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(32 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
assert faults() < 100, "pages were cleared again"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
