"""Rotary positions, masks, the cache, and grouped queries."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from openjanus.config import DecoderConfig, JanusConfig
from openjanus.model.attention import (
    Attention,
    KVCache,
    causal_mask,
    document_mask,
    padding_causal_mask,
    rotary_table,
    rotate,
)
from openjanus.model.decoder import Decoder, RMSNorm
from openjanus.model.janus import JanusModel

ATOL = 1e-6


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def decoder(tiny_model: JanusModel) -> Decoder:
    return tiny_model.language_model.model


@pytest.fixture
def language(tiny_config: JanusConfig) -> DecoderConfig:
    return tiny_config.language


def embeds_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def table(*positions: int) -> tuple[Tensor, Tensor]:
    return rotary_table(torch.tensor([positions]), 16, 10000.0)


def test_rotation_leaves_position_zero_and_every_length() -> None:
    x = embeds_of(1, 2, 3, 16)
    turned = rotate(x, *table(0, 1, 50))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert not torch.allclose(turned[:, :, 1], x[:, :, 1])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_rotation_depends_on_the_distance_alone() -> None:
    q, k = embeds_of(1, 1, 1, 16), embeds_of(1, 1, 1, 16, seed=1)

    def product(at: int, other: int) -> float:
        return (rotate(q, *table(at)) * rotate(k, *table(other))).sum().item()

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert product(9, 4) != pytest.approx(product(9, 5), abs=1e-3)


def test_rotation_pairs_halves_by_hand() -> None:
    cos, sin = rotary_table(torch.tensor([[2]]), 4, 100.0)
    angles = torch.tensor([2.0, 0.2])  # 2 / 100 ** (0/4), 2 / 100 ** (2/4)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    first = x[..., :2] * angles.cos() - x[..., 2:] * angles.sin()
    second = x[..., 2:] * angles.cos() + x[..., :2] * angles.sin()
    torch.testing.assert_close(rotate(x, cos, sin), torch.cat([first, second], dim=-1))


def test_angles_are_fp32_whatever_the_model_is() -> None:
    cos, _ = table(4000, 4001)
    assert cos.dtype == torch.float32
    assert rotate(embeds_of(1, 1, 2, 16).bfloat16(), *table(4000, 4001)).dtype == torch.bfloat16


def test_padding_mask_by_hand() -> None:
    left = padding_causal_mask(torch.tensor([[False, True, True]]))[0, 0]
    assert left.tolist() == [[True, False, False], [False, True, False], [False, True, True]]
    right = padding_causal_mask(torch.tensor([[True, True, False]]))[0, 0]
    assert right.tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_document_mask_by_hand() -> None:
    mask = document_mask(torch.tensor([[5, 5, 7]]))[0, 0]
    assert mask.tolist() == [[True, False, False], [True, True, False], [False, False, True]]


def test_no_document_sees_another(decoder: Decoder) -> None:
    """Changing one packed document leaves the other's states, and each equals itself alone."""
    first, second, other = (
        embeds_of(1, 5, 64),
        embeds_of(1, 4, 64, seed=1),
        embeds_of(1, 5, 64, seed=2),
    )
    mask = document_mask(torch.tensor([[0] * 5 + [1] * 4]))
    positions = torch.tensor([[*range(5), *range(4)]])
    packed = decoder(torch.cat([first, second], 1), mask=mask, positions=positions)
    changed = decoder(torch.cat([other, second], 1), mask=mask, positions=positions)
    assert torch.equal(packed[:, 5:], changed[:, 5:])
    torch.testing.assert_close(packed[:, :5], decoder(first), atol=ATOL, rtol=0)
    torch.testing.assert_close(packed[:, 5:], decoder(second), atol=ATOL, rtol=0)


def test_the_future_is_not_seen(decoder: Decoder) -> None:
    embeds = embeds_of(1, 8, 64)
    changed = embeds.clone()
    changed[:, 5:] += 1
    assert torch.equal(decoder(embeds)[:, :5], decoder(changed)[:, :5])
    assert not torch.allclose(decoder(embeds)[:, 5:], decoder(changed)[:, 5:])


def test_an_explicit_causal_mask_is_the_default(decoder: Decoder) -> None:
    embeds = embeds_of(2, 8, 64)
    torch.testing.assert_close(decoder(embeds), decoder(embeds, mask=causal_mask(8)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_equals_single_rows(decoder: Decoder, side: str) -> None:
    """A mask that is accepted and never passed on would fail here."""
    rows = [embeds_of(1, 4, 64), embeds_of(1, 7, 64, seed=1)]
    batch, mask = torch.full((2, 7, 64), 9.0), torch.zeros(2, 7, dtype=torch.bool)
    for index, row in enumerate(rows):
        length = row.shape[1]
        place = slice(7 - length, 7) if side == "left" else slice(0, length)
        batch[index, place], mask[index, place] = row[0], True
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    states = decoder(batch, positions=positions, mask=padding_causal_mask(mask))
    for index, row in enumerate(rows):
        torch.testing.assert_close(states[index, mask[index]], decoder(row)[0], atol=ATOL, rtol=0)
    assert states.isfinite().all()


def test_cached_steps_equal_the_plain_forward_for_rows_of_different_lengths(
    decoder: Decoder, language: DecoderConfig
) -> None:
    prefixes, steps = (3, 6), 4
    rows = [embeds_of(1, prefix + steps, 64, seed=prefix) for prefix in prefixes]
    cache = KVCache.allocate(language, 2, 12, device="cpu", dtype=torch.float32)
    for row, prefix in enumerate(prefixes):
        alone = KVCache.allocate(language, 1, 12, device="cpu", dtype=torch.float32)
        decoder(rows[row][:, :prefix], cache=alone)
        cache.copy_row(alone, 0, [row], prefix)
    for step in range(steps):
        at = [prefix + step for prefix in prefixes]
        embeds = torch.cat([row[:, i : i + 1] for row, i in zip(rows, at, strict=True)])
        states = decoder(embeds, positions=torch.tensor(at)[:, None], cache=cache)
        for row, i in enumerate(at):
            expected = decoder(rows[row][:, : i + 1])[0, -1]
            torch.testing.assert_close(states[row, 0], expected, atol=ATOL, rtol=0)


def test_what_lies_behind_a_row_in_its_memory_is_never_seen(
    decoder: Decoder, language: DecoderConfig
) -> None:
    embeds = embeds_of(1, 5, 64)
    clean = KVCache.allocate(language, 1, 8, device="cpu", dtype=torch.float32)
    dirty = KVCache.allocate(language, 1, 8, device="cpu", dtype=torch.float32)
    dirty.keys.fill_(50.0)
    dirty.values.fill_(50.0)
    assert torch.equal(decoder(embeds, cache=clean), decoder(embeds, cache=dirty))


def test_cache_writes_where_it_is_told(language: DecoderConfig) -> None:
    cache = KVCache.allocate(language, 2, 6, device="cpu", dtype=torch.float32)
    assert cache.capacity == 6
    k = embeds_of(2, language.num_key_value_heads, 1, language.head_size)
    keys, values = cache.update(1, torch.tensor([[0], [4]]), k, 2 * k)
    assert torch.equal(keys[0, :, 0], k[0, :, 0]) and torch.equal(keys[1, :, 4], k[1, :, 0])
    assert torch.equal(values[1, :, 4], 2 * k[1, :, 0])
    assert cache.keys[0].count_nonzero() == 0
    assert keys[0, :, 1:].count_nonzero() == 0 and keys[1, :, :4].count_nonzero() == 0
    assert cache.mask(torch.tensor([[0], [4]]))[:, 0, 0].sum(-1).tolist() == [1, 5]


def test_fork_copies_only_the_prefix(language: DecoderConfig) -> None:
    source = KVCache.allocate(language, 1, 4, device="cpu", dtype=torch.float32)
    source.keys.fill_(1.0)
    source.values.fill_(2.0)
    target = KVCache.allocate(language, 3, 6, device="cpu", dtype=torch.float32)
    target.copy_row(source, 0, [0, 2], length=3)
    assert target.keys[:, [0, 2], :, :3].eq(1).all() and target.values[:, [0, 2], :, :3].eq(2).all()
    assert target.keys[:, 1].count_nonzero() == 0 and target.keys[..., 3:, :].count_nonzero() == 0


def test_grouped_queries_equal_repeated_key_value_heads(language: DecoderConfig) -> None:
    grouped = Attention(language, 0)
    assert language.num_key_value_heads < language.num_attention_heads
    full = Attention(
        dataclasses.replace(language, num_key_value_heads=language.num_attention_heads), 0
    )
    repeats = language.num_attention_heads // language.num_key_value_heads
    state = grouped.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        heads = state[name].unflatten(0, (-1, language.head_size))
        state[name] = heads.repeat_interleave(repeats, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    hidden_states = embeds_of(2, 7, language.hidden_size)
    rotary = rotary_table(torch.arange(7).expand(2, 7), language.head_size, language.rope_theta)
    torch.testing.assert_close(grouped(hidden_states, rotary), full(hidden_states, rotary))


def test_rms_norm_by_hand_and_in_fp32() -> None:
    norm = RMSNorm(2, eps=0.0)
    norm.weight.copy_(torch.tensor([1.0, 10.0]))
    torch.testing.assert_close(
        norm(torch.tensor([3.0, 4.0])), torch.tensor([3.0, 40.0]) / 12.5**0.5
    )
    large = torch.full((2,), 300.0, dtype=torch.float16)  # its square overflows fp16
    normed = norm.half()(large)
    torch.testing.assert_close(normed, torch.tensor([1.0, 10.0], dtype=torch.float16))


def test_the_callers_tensors_are_left_alone(decoder: Decoder, language: DecoderConfig) -> None:
    embeds, positions = embeds_of(2, 5, 64), torch.arange(5).expand(2, 5).clone()
    mask = padding_causal_mask(torch.ones(2, 5, dtype=torch.bool))
    before = [x.clone() for x in (embeds, positions, mask)]
    decoder(embeds, positions=positions, mask=mask)
    cache = KVCache.allocate(language, 2, 8, device="cpu", dtype=torch.float32)
    decoder(embeds, positions=positions, cache=cache)
    for x, kept in zip((embeds, positions, mask), before, strict=True):
        assert torch.equal(x, kept)
