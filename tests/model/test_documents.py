"""Attention within documents: every way gives what the plain mask gives."""

from __future__ import annotations

import pytest
import torch

from openjanus.model.attention import document_mask
from openjanus.model.documents import attend_documents, choose_backend

LENGTHS = ((70, 30, 200), (300,), (1, 5, 32, 33, 129))
ROWS, WIDTH = len(LENGTHS), 320
CPU = torch.device("cpu")


def spans_of(lengths=LENGTHS):
    spans = []
    for row, members in enumerate(lengths):
        start = 0
        for length in members:
            spans.append((row, start, start + length))
            start += length
    return spans


def ids_of(spans, rows=ROWS, width=WIDTH):
    ids = torch.full((rows, width), -1)
    for number, (row, start, stop) in enumerate(spans):
        ids[row, start:stop] = number
    return ids


def make(heads=4, key_heads=2, rows=ROWS, width=WIDTH):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(rows, count, width, 16, generator=generator)
        for count in (heads, key_heads, key_heads)
    ]


@pytest.mark.parametrize("backend", ["rectangles", "flex"])
def test_every_way_gives_what_the_plain_mask_gives(backend):
    spans = spans_of()
    ids = ids_of(spans)
    real = (ids >= 0)[:, None, :, None]
    needs_gradients = backend != "flex"  # FlexAttention has no backward on a CPU
    found = []
    for way in ("dense", backend):
        tensors = [t.requires_grad_(needs_gradients) for t in make()]
        out = attend_documents(way, ids, spans)(*tensors) * real
        if needs_gradients:
            (out * torch.arange(WIDTH)[:, None]).sum().backward()
        found.append((out.detach(), [t.grad for t in tensors if needs_gradients]))
    (expected, gradients), (out, others) = found
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-4)


def test_branches_by_flex_are_those_of_the_mask():
    spans = [(0, 0, 100)]
    ids, branches = ids_of(spans, 1, 128), torch.zeros(1, 128, dtype=torch.int64)
    branches[0, 40:70], branches[0, 70:100] = 1, 2
    tensors = make(rows=1, width=128)
    out = attend_documents("flex", ids, spans, branches)(*tensors)
    expected = attend_documents("dense", ids, spans, branches)(*tensors)
    torch.testing.assert_close(out[:, :, :100], expected[:, :, :100], atol=1e-5, rtol=1e-5)
    without = attend_documents("flex", ids, spans)(*tensors)
    assert not torch.allclose(out[:, :, 70:100], without[:, :, 70:100])


@pytest.mark.parametrize("backend", ["dense", "rectangles"])
def test_no_document_changes_a_bit_of_another(backend):
    """Nor does where it lies, or how long the others are."""
    spans = spans_of()
    attention = attend_documents(backend, ids_of(spans), spans)
    tensors = make()
    before = attention(*tensors)
    for t in tensors:
        t[0, :, 70:100] += 1
    after = attention(*tensors)
    assert not torch.equal(after[0, :, 70:100], before[0, :, 70:100])
    others = torch.ones(len(LENGTHS), WIDTH, dtype=torch.bool)
    others[0, 70:100] = False
    others &= ids_of(spans) >= 0
    picked = [x.transpose(1, 2)[others] for x in (before, after)]
    assert torch.equal(*picked)


def test_a_document_in_other_company_keeps_its_bits():
    tensors = make()
    found = []
    for lengths in (
        ((70, 30, 200), (300,), (1, 5)),
        ((70, 130), (20, 280), (250,)),
        ((70, 30), (20, 60), (50,)),
    ):
        spans = spans_of(lengths)
        out = attend_documents("rectangles", ids_of(spans), spans)(*tensors)
        found.append(out[0, :, :70])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_the_way_is_chosen_by_device_and_shape():
    def choose(spans, rows, width, device=CPU, dtype=torch.float32, branched=False):
        return choose_backend(device, dtype, spans, rows, width, branched=branched)

    many = [(0, start, start + 100) for start in range(0, 1000, 100)]
    assert choose(many, 1, 1000) == "rectangles"
    assert choose([(0, 0, 900)], 1, 1000) == "dense"  # nothing to be gained
    assert choose(many, 1, 1000, branched=True) == "dense"
    cuda = torch.device("cuda")
    assert choose(many, 1, 1000, cuda, torch.bfloat16) == "varlen"
    assert choose(many, 1, 1000, cuda) == "flex"  # the kernel takes 16 bits alone
    assert choose(many, 1, 1000, cuda, torch.bfloat16, branched=True) == "flex"
    assert choose(many, 1, 1000, torch.device("mps")) == "dense"


def test_a_way_without_branches_says_so():
    spans, ids = [(0, 0, 8)], torch.zeros(1, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match="rectangles knows no branches: take dense or flex"):
        attend_documents("rectangles", ids, spans, torch.zeros_like(ids))


def test_dense_is_the_document_mask():
    spans = spans_of()
    ids = ids_of(spans)
    q, k, v = make(4, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=document_mask(ids)
    )
    assert torch.equal(attend_documents("dense", ids, spans)(q, k, v), expected)
