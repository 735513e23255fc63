"""Each part of the model against transformers' port, in fp32, on the same random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from openjanus.model.attention import KVCache, padding_causal_mask
from openjanus.model.janus import JanusModel

TOLERANCE = 1e-5
BOS, BOI, PAD = 1, 2, 3


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_ids(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def pictures(model: JanusModel, size: int) -> Tensor:
    return random(3, 3, size, size).clamp(-1, 1)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def test_every_parameter_is_carried_over(pair: Any) -> None:
    count = sum(p.numel() for p in pair.ours.parameters())
    assert count == sum(p.numel() for p in pair.theirs.parameters())


def test_decoder(pair: Any) -> None:
    embeds = random(2, 11, 48)
    theirs = pair.theirs.model.language_model(inputs_embeds=embeds).last_hidden_state
    assert_close(pair.ours.language_model.model(embeds), theirs)


def test_decoder_with_cache(pair: Any) -> None:
    embeds = random(2, 11, 48)
    language_model = pair.theirs.model.language_model
    out = language_model(inputs_embeds=embeds[:, :7], use_cache=True)
    cache = KVCache.allocate(pair.ours.config.language, 2, 16, device="cpu", dtype=torch.float32)
    decoder = pair.ours.language_model.model
    assert_close(decoder(embeds[:, :7], cache=cache), out.last_hidden_state)
    for position in range(7, 11):
        step = embeds[:, position : position + 1]
        out = language_model(
            inputs_embeds=step, past_key_values=out.past_key_values, use_cache=True
        )
        positions = torch.full((2, 1), position)
        assert_close(decoder(step, positions=positions, cache=cache), out.last_hidden_state)


def test_siglip_features(pair: Any) -> None:
    pixels = pictures(pair.ours, pair.ours.config.und_image_size)
    assert_close(
        pair.ours.und_encoder(pixels), pair.theirs.model.vision_model(pixels).last_hidden_state
    )


def test_und_aligner(pair: Any) -> None:
    features = random(2, 5, 32)
    assert_close(pair.ours.und_aligner(features), pair.theirs.model.aligner(features))


def test_gen_embed_and_aligner(pair: Any) -> None:
    ids = random_ids(40, 2, 16)
    assert_close(pair.ours.embed_gen(ids), pair.theirs.prepare_embeddings_for_image_generation(ids))


def test_heads(pair: Any) -> None:
    hidden_states = random(2, 5, 48)
    assert_close(pair.ours.text_logits(hidden_states), pair.theirs.lm_head(hidden_states))
    assert_close(
        pair.ours.image_logits(hidden_states), pair.theirs.model.generation_head(hidden_states)
    )


def test_vq_decoding(pair: Any) -> None:
    ids = random_ids(40, 3, 16)
    grid = pair.ours.config.gen_tokenizer.grid_size
    vectors = pair.ours.vq.quantize.lookup(ids).transpose(1, 2).unflatten(2, (grid, grid))
    theirs = pair.theirs.model.vqmodel.decode(ids)
    assert_close(pair.ours.vq.decode_vectors(vectors), theirs)
    assert_close(pair.ours.vq.decode_ids(ids), theirs.clamp(-1, 1))


def test_vq_ids(pair: Any) -> None:
    pixels = pictures(pair.ours, pair.ours.config.gen_image_size)
    theirs = pair.theirs.model.vqmodel.encode(pixels, return_dict=True).image_tokens
    ours = pair.ours.vq.encode_to_ids(pixels)
    assert len(ours.unique()) > 1, "a constant answer would agree with anything"
    assert torch.equal(ours, theirs.view(3, -1))


def test_understanding_logits_of_a_left_padded_batch(pair: Any) -> None:
    ours, theirs = pair.ours, pair.theirs
    num_slots = ours.config.num_und_image_tokens
    image_token = theirs.config.image_token_id
    lengths = (num_slots + 9, num_slots + 4)
    input_ids = torch.full((2, max(lengths)), PAD)
    attention_mask = torch.zeros(2, max(lengths), dtype=torch.bool)
    for row, length in enumerate(lengths):
        words = random_ids(250, length - num_slots, seed=row)
        ids = torch.cat([words[:2], torch.full((num_slots,), image_token), words[2:]])
        input_ids[row, -length:] = ids
        attention_mask[row, -length:] = True
    pixels = pictures(ours, ours.config.und_image_size)[:2]
    positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)

    expected = theirs(
        input_ids=input_ids,
        pixel_values=pixels,
        attention_mask=attention_mask.long(),
        position_ids=positions,
    ).logits
    slots = {"und": (input_ids == image_token, ours.embed_und(pixels))}
    hidden_states = ours.language_model.model(
        ours.embed_sequence(input_ids, slots),
        positions=positions,
        mask=padding_causal_mask(attention_mask),
    )
    assert_close(ours.text_logits(hidden_states)[attention_mask], expected[attention_mask])


def draw_greedily(model: JanusModel, prompts: Tensor, guidance_scale: float) -> Tensor:
    """The loop of the papers, written out: [cond, uncond] rows, one id for both."""
    uncond = torch.full_like(prompts, PAD)
    uncond[:, 0], uncond[:, -1] = prompts[:, 0], prompts[:, -1]
    rows, length = 2 * len(prompts), prompts.shape[1]
    num_tokens = model.config.num_gen_image_tokens
    cache = KVCache.allocate(
        model.config.language, rows, length + num_tokens, device="cpu", dtype=torch.float32
    )
    decoder = model.language_model.model
    hidden_states = decoder(model.embed_text(torch.cat([prompts, uncond])), cache=cache)
    ids: list[Tensor] = []
    for index in range(num_tokens):
        cond, uncond_logits = model.image_logits(hidden_states[:, -1]).chunk(2)
        ids.append((uncond_logits + guidance_scale * (cond - uncond_logits)).argmax(-1))
        embeds = model.embed_gen(torch.cat([ids[-1], ids[-1]])[:, None])
        positions = torch.full((rows, 1), length + index)
        if index + 1 < num_tokens:
            hidden_states = decoder(embeds, positions=positions, cache=cache)
    return torch.stack(ids, dim=1)


@pytest.mark.parametrize("guidance_scale", [1.5, 5.0])
def test_greedy_guided_drawing(pair: Any, guidance_scale: float) -> None:
    prompts = random_ids(250, 2, 6) + 4
    prompts[:, 0], prompts[:, -1] = BOS, BOI
    theirs = pair.theirs
    theirs.generation_config.generation_kwargs = {"boi_token_id": BOI}
    expected = theirs.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        generation_mode="image",
        guidance_scale=guidance_scale,
        do_sample=False,
        bos_token_id=BOS,
        pad_token_id=PAD,
        max_length=64,
    )
    ids = draw_greedily(pair.ours, prompts, guidance_scale)
    assert ids.shape == (2, pair.ours.config.num_gen_image_tokens)
    assert len(ids.unique()) > 2, "a constant answer would agree with anything"
    assert torch.equal(ids, expected)


def test_the_authors_rule_on_other_rows_is_kept_where_the_port_departs(pair: Any) -> None:
    """Both z and the codebook are normalised; the port compares raw vectors."""
    quantize = pair.ours.vq.quantize
    scales = torch.linspace(0.2, 3.0, 40)[:, None]
    rows = quantize.embedding.weight * scales
    z = random(200, 8, seed=3)
    raw = torch.cdist(z, rows).argmin(-1)
    unit = torch.cdist(
        torch.nn.functional.normalize(z, dim=-1), torch.nn.functional.normalize(rows, dim=-1)
    ).argmin(-1)
    kept = quantize.embedding.weight.clone()
    try:
        quantize.embedding.weight.copy_(rows)
        assert torch.equal(quantize.nearest(z), unit)
        assert not torch.equal(unit, raw)
    finally:
        quantize.embedding.weight.copy_(kept)
