"""Rows of a cache attend to what they hold, in runs of equal length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openjanus.config import DecoderConfig, JanusConfig
from openjanus.model.attention import KVCache, Run, attend_widened, runs_of
from openjanus.model.decoder import Decoder
from openjanus.model.janus import JanusModel

ATOL = 1e-5


@pytest.fixture
def decoder(tiny_model: JanusModel) -> Decoder:
    return tiny_model.language_model.model


@pytest.fixture
def language(tiny_config: JanusConfig) -> DecoderConfig:
    return tiny_config.language


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def embeds_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(language: DecoderConfig, rows: int, capacity: int) -> KVCache:
    """A cache whose memory was used before."""
    cache = KVCache.allocate(language, rows, capacity, device="cpu", dtype=torch.float32)
    cache.keys.copy_(embeds_of(*cache.keys.shape, seed=7))
    cache.values.copy_(embeds_of(*cache.values.shape, seed=8))
    return cache


def same(cache: KVCache) -> KVCache:
    return KVCache(cache.keys.clone(), cache.values.clone())


def test_neighbours_of_one_length_are_a_run() -> None:
    assert runs_of([]) == []
    assert runs_of([None, None]) == []
    assert runs_of([3, 3, None, 3, 4, 4]) == [
        Run(slice(0, 2), slice(0, 2), 3),
        Run(slice(3, 4), slice(3, 4), 3),
        Run(slice(4, 6), slice(4, 6), 4),
    ]
    assert runs_of([0, 0]) == [Run(slice(0, 2), slice(0, 2), 0)]
    assert runs_of([5, 5, 5, 5], rows=[0, 1, 8, 9]) == [
        Run(slice(0, 2), slice(0, 2), 5),
        Run(slice(2, 4), slice(8, 10), 5),
    ]


def test_a_step_in_runs_equals_a_step_with_a_mask(
    decoder: Decoder, language: DecoderConfig
) -> None:
    lengths = [3, None, 5, 5, 0]
    embeds = embeds_of(5, 1, 64)
    positions = torch.tensor([[0 if n is None else n] for n in lengths])
    cache = filled(language, 5, 9)
    masked = same(cache)
    states = decoder(embeds, positions=positions, cache=cache, runs=runs_of(lengths))
    expected = decoder(embeds, positions=positions, cache=masked)
    used = [row for row, n in enumerate(lengths) if n is not None]
    torch.testing.assert_close(states[used], expected[used], atol=ATOL, rtol=0)
    assert states.isfinite().all()
    for row in used:
        torch.testing.assert_close(cache.keys[:, row], masked.keys[:, row], atol=ATOL, rtol=0)
        torch.testing.assert_close(cache.values[:, row], masked.values[:, row], atol=ATOL, rtol=0)


def test_a_prefill_in_runs_equals_one_with_a_mask(
    decoder: Decoder, language: DecoderConfig
) -> None:
    embeds = embeds_of(2, 6, 64)
    cache = filled(language, 2, 8)
    masked = same(cache)
    states = decoder(embeds, cache=cache, runs=runs_of([0, 0]))
    torch.testing.assert_close(states, decoder(embeds, cache=masked), atol=ATOL, rtol=0)
    torch.testing.assert_close(states, decoder(embeds), atol=ATOL, rtol=0)
    torch.testing.assert_close(cache.keys, masked.keys, atol=ATOL, rtol=0)


def test_idle_rows_and_what_lies_behind_are_neither_read_nor_written(
    decoder: Decoder, language: DecoderConfig
) -> None:
    lengths = [2, None, 4]
    positions = torch.tensor([[2], [0], [4]])
    embeds = embeds_of(3, 1, 64)
    clean = filled(language, 3, 8)
    dirty = same(clean)
    dirty.keys[:, 1], dirty.values[:, 1] = torch.nan, torch.nan
    dirty.keys[:, 0, :, 3:], dirty.values[:, 0, :, 3:] = torch.nan, torch.nan
    step = [
        decoder(embeds, positions=positions, cache=cache, runs=runs_of(lengths))
        for cache in (clean, dirty)
    ]
    assert torch.equal(step[0], step[1])
    assert dirty.keys[:, 1].isnan().all() and dirty.keys[:, 0, :, 3:].isnan().all()


def test_a_batch_of_some_rows_equals_a_batch_of_all(
    decoder: Decoder, language: DecoderConfig
) -> None:
    rows, lengths = [1, 4], [3, 6]
    embeds = embeds_of(2, 1, 64)
    cache = filled(language, 5, 9)
    whole = same(cache)
    positions = torch.tensor(lengths)[:, None]
    states = decoder(embeds, positions=positions, cache=cache, runs=runs_of(lengths, rows))
    all_embeds, all_positions = torch.zeros(5, 1, 64), torch.zeros(5, 1, dtype=torch.int64)
    all_embeds[rows], all_positions[rows] = embeds, positions
    all_lengths = [None, 3, None, None, 6]
    expected = decoder(all_embeds, positions=all_positions, cache=whole, runs=runs_of(all_lengths))
    torch.testing.assert_close(states, expected[rows], atol=ATOL, rtol=0)
    torch.testing.assert_close(cache.keys, whole.keys, atol=ATOL, rtol=0)


def test_64_bits_stay_64_bits(language: DecoderConfig) -> None:
    heads, kv_heads, size = (
        language.num_attention_heads,
        language.num_key_value_heads,
        language.head_size,
    )
    q = embeds_of(1, heads, 1, size).double()
    k, v = (embeds_of(1, kv_heads, 1, size, seed=seed).double() for seed in (1, 2))
    base = filled(language, 1, 40)
    cache = KVCache(base.keys.double(), base.values.double())
    found = cache.attend(0, runs_of([33]), q, k, v)
    keys, values = (
        part[0, :, :, :34].repeat_interleave(heads // kv_heads, 1)
        for part in (cache.keys, cache.values)
    )
    exact = (q @ keys.transpose(2, 3) / size**0.5).softmax(-1) @ values
    torch.testing.assert_close(found, exact, atol=1e-13, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_in_any_run(language: DecoderConfig, dtype: torch.dtype) -> None:
    heads, kv_heads, size = (
        language.num_attention_heads,
        language.num_key_value_heads,
        language.head_size,
    )
    q = embeds_of(6, heads, 1, size).to(dtype)
    k, v = (embeds_of(6, kv_heads, 1, size, seed=seed).to(dtype) for seed in (1, 2))
    base = filled(language, 6, 40)
    cache = KVCache(base.keys.to(dtype), base.values.to(dtype))
    together = cache.attend(0, runs_of([33] * 6), q, k, v)
    apart = cache.attend(0, [Run(slice(i, i + 1), slice(i, i + 1), 33) for i in range(6)], q, k, v)
    assert torch.equal(together, apart)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_query_of_16_bits_is_computed_in_fp32_and_rounded_once(
    kv_heads: int, dtype: torch.dtype
) -> None:
    q = embeds_of(3, 4, 1, 32).to(dtype)
    k, v = (embeds_of(3, kv_heads, 41, 32, seed=seed).to(dtype) for seed in (1, 2))
    found = attend_widened(q, k, v)
    wide = [part.double().repeat_interleave(4 // part.shape[1], 1) for part in (k, v)]
    scores = (q.double() @ wide[0].transpose(2, 3) / 32**0.5).softmax(-1)
    exact = scores @ wide[1]
    # Half a step of the dtype, and what fp32 may add to it.
    bound = exact.abs() * torch.finfo(dtype).eps * 0.51 + 1e-6
    assert found.dtype == dtype
    assert ((found.double() - exact).abs() <= bound).all()
    assert torch.equal(found[1:2], attend_widened(q[1:2], k[1:2], v[1:2]))


def test_runs_are_apart_where_they_are_not_merged() -> None:
    merged = runs_of([5, 5, None, 5], [0, 1, 7, 4])
    apart = runs_of([5, 5, None, 5], [0, 1, 7, 4], merged=False)
    assert [run.rows for run in merged] == [slice(0, 2), slice(4, 5)]
    assert [run.rows for run in apart] == [slice(0, 1), slice(1, 2), slice(4, 5)]
    assert [run.batch for run in apart] == [slice(0, 1), slice(1, 2), slice(3, 4)]
