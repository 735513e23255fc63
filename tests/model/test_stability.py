"""Chameleon's options of stability: what each computes, and that off is as it was."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F

from openjanus.model.attention import KVCache, rotate
from openjanus.model.decoder import DecoderLayer
from openjanus.model.dropout import DropoutKey, drop
from openjanus.train.fast_forward import run_decoder
from openjanus.weights.formats import export_model, load_model
from openjanus.weights.own import save_model

ALL = {"qk_norm": True, "norm_order": "post", "dropout": 0.2}
KEY = DropoutKey(seed=3, step=7)


def with_options(config, **options):
    return dataclasses.replace(config, language=dataclasses.replace(config.language, **options))


def lively(model, seed=0):
    """Weights of every kind away from their first values, so that each one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise * parameter.shape[1] ** -0.5)
    return model


def embeds_of(rows=2, length=12):
    return torch.randn(rows, length, 64, generator=torch.Generator().manual_seed(0))


def llama_layer(layer, x, rotary):
    """The layer as it was before it had options."""
    attention = layer.self_attn
    normed = layer.input_layernorm(x)
    q = rotate(attention._split(attention.q_proj(normed), attention.num_heads), *rotary)
    k = rotate(attention._split(attention.k_proj(normed), attention.num_key_value_heads), *rotary)
    v = attention._split(attention.v_proj(normed), attention.num_key_value_heads)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    x = x + attention.o_proj(out.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.post_attention_layernorm(x))


def test_without_options_a_layer_is_llamas_to_the_bit(make_model, tiny_config):
    model = lively(make_model(tiny_config))
    x, angles = embeds_of(), torch.randn(1, 1, 12, 16, generator=torch.Generator().manual_seed(1))
    rotary = (angles.cos(), angles.sin())
    layer = model.language_model.model.layers[0]
    out = layer(x, rotary, mask=None, cache=None, positions=torch.arange(12)[None], runs=None)
    assert torch.equal(out, llama_layer(layer, x, rotary))


def test_without_options_there_are_no_further_parameters(make_model, tiny_config):
    plain = make_model(tiny_config).state_dict()
    assert not [name for name in plain if "q_norm" in name or "k_norm" in name]
    more = make_model(with_options(tiny_config, qk_norm=True)).state_dict()
    layers = tiny_config.language.num_hidden_layers
    assert len(more) == len(plain) + 4 * layers
    assert all(torch.equal(plain[name], more[name]) for name in plain)


def test_post_norms_stand_where_chameleon_has_them(make_model, tiny_config):
    model = lively(make_model(with_options(tiny_config, norm_order="post")))
    layer = model.language_model.model.layers[1]
    assert isinstance(layer, DecoderLayer)
    x, places = embeds_of(), torch.arange(12)[None]
    zero = torch.zeros(1, 1, 12, 16)
    rotary = (zero.cos(), zero.sin())
    h = x + layer.input_layernorm(layer.self_attn(x, rotary))
    wanted = h + layer.post_attention_layernorm(layer.mlp(h))
    out = layer(x, rotary, mask=None, cache=None, positions=places, runs=None)
    assert torch.allclose(out, wanted, atol=1e-6)


def test_each_head_is_normed_by_itself_before_it_is_rotated(make_model, tiny_config):
    model = lively(make_model(with_options(tiny_config, qk_norm=True)))
    attention = model.language_model.model.layers[0].self_attn
    q = torch.randn(2, 4, 12, 16, generator=torch.Generator().manual_seed(2))
    k = torch.randn(2, 2, 12, 16, generator=torch.Generator().manual_seed(3))
    angles = torch.randn(1, 1, 12, 16, generator=torch.Generator().manual_seed(4))
    rotary = (angles.cos(), angles.sin())
    placed = attention.place(q, k, rotary)
    for given, norm, found in zip(
        (q, k), (attention.q_norm, attention.k_norm), placed, strict=True
    ):
        for head in range(given.shape[1]):
            here = slice(16 * head, 16 * head + 16)
            normed = F.layer_norm(given[:, head], (16,), norm.weight[here], norm.bias[here], 1e-5)
            wanted = rotate(normed[:, None], *rotary)[:, 0]
            assert torch.allclose(found[:, head], wanted, atol=1e-5)


def test_transformers_chameleon_computes_the_same(make_model, tiny_config):
    """The decoder with qk_norm and post norms is transformers' Chameleon with swin_norm."""
    from transformers import ChameleonConfig, ChameleonModel

    config = with_options(tiny_config, qk_norm=True, norm_order="post")
    decoder = lively(make_model(config)).language_model.model
    own = config.language
    theirs = ChameleonModel(
        ChameleonConfig(
            vocab_size=own.vocab_size,
            hidden_size=own.hidden_size,
            intermediate_size=own.intermediate_size,
            num_hidden_layers=own.num_hidden_layers,
            num_attention_heads=own.num_attention_heads,
            num_key_value_heads=own.num_key_value_heads,
            rms_norm_eps=own.rms_norm_eps,
            swin_norm=True,
            vocabulary_map={"<image>": 0, **{f"IMGIMG{c}Z": i for i, c in enumerate("AB", 1)}},
            vq_config={"base_channels": 32, "num_embeddings": 2, "resolution": 16},
        )
    ).eval()
    state = {}
    for name, tensor in decoder.state_dict().items():
        is_head = "q_norm" in name or "k_norm" in name
        state[name] = tensor.view(-1, own.head_size) if is_head else tensor
    found = theirs.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(name.startswith("vqmodel.") for name in found.missing_keys)
    embeds = embeds_of()
    with torch.no_grad():
        wanted = theirs(inputs_embeds=embeds, use_cache=False).last_hidden_state
        assert torch.allclose(decoder(embeds), wanted, atol=1e-4)


def test_a_key_says_what_is_dropped():
    x = torch.ones(64, 64)
    one = drop(x, 0.25, KEY, 1, "mlp")
    assert torch.equal(one, drop(x, 0.25, KEY, 1, "mlp"))
    others = [
        drop(x, 0.25, DropoutKey(seed=4, step=7), 1, "mlp"),
        drop(x, 0.25, DropoutKey(seed=3, step=8), 1, "mlp"),
        drop(x, 0.25, DropoutKey(seed=3, step=7, shard=1), 1, "mlp"),
        drop(x, 0.25, KEY, 0, "mlp"),
        drop(x, 0.25, KEY, 1, "attention"),
    ]
    assert all(not torch.equal(one, other) for other in others)
    assert one.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float((one == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert drop(x, 0.25, None, 1, "mlp") is x


def test_dropout_reads_and_moves_no_global_seed(make_model, tiny_config):
    decoder = make_model(with_options(tiny_config, **ALL)).language_model.model.train()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = decoder(embeds_of(), dropout=KEY)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(one, decoder(embeds_of(), dropout=KEY))


def test_dropout_acts_on_both_branches_and_in_training_alone(make_model, tiny_config):
    decoder = make_model(with_options(tiny_config, dropout=0.5)).language_model.model
    plain = make_model(tiny_config).language_model.model
    x = embeds_of()
    assert torch.equal(decoder(x), plain(x))
    layer = decoder.layers[0]
    zeros = torch.zeros_like(x)
    ones = torch.ones_like(x)
    for attended, fed in ((ones, zeros), (zeros, ones)):
        out = layer.join(zeros, lambda _, y=attended: y, lambda _, y=fed: y, KEY)
        assert set(out.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("run", ["own", "fast"])
def test_training_with_dropout_needs_a_key_and_using_it_none(make_model, tiny_config, run):
    decoder = make_model(with_options(tiny_config, dropout=0.1)).language_model.model
    places = torch.arange(12).expand(2, 12)

    def forward(**options):
        if run == "own":
            return decoder(embeds_of(), positions=places, **options)
        return run_decoder(decoder, embeds_of(), positions=places, **options)

    with pytest.raises(ValueError, match=r"evaluation mode: call model\.train"):
        forward(dropout=KEY)
    decoder.train()
    with pytest.raises(ValueError, match=r"dropout 0\.1 in training mode needs a key"):
        forward()


@pytest.mark.parametrize(
    "options", [{"qk_norm": True}, {"norm_order": "post"}, {"dropout": 0.2}, ALL]
)
def test_fast_and_own_forward_are_one_function(make_model, tiny_config, options):
    decoder = lively(make_model(with_options(tiny_config, **options))).language_model.model.train()
    places = torch.arange(12).expand(2, 12)
    key = KEY if "dropout" in options else None
    results = []
    for run in (decoder, lambda *a, **k: run_decoder(decoder, *a, **k)):
        decoder.zero_grad()
        seen = []
        out = run(embeds_of(), positions=places, dropout=key, observe=seen.append)
        out.square().sum().backward()
        grads = [p.grad.clone() for p in decoder.layers.parameters()]
        results.append((out, seen[0], grads))
        assert len(seen) == 1
        assert torch.allclose(decoder.norm(seen[0]), out)
    (plain, before, gradients), (fast, fast_before, fast_gradients) = results
    assert torch.allclose(plain, fast, atol=1e-4)
    assert torch.allclose(before, fast_before, atol=1e-4)
    for a, b in zip(gradients, fast_gradients, strict=True):
        assert torch.allclose(a, b, atol=2e-3, rtol=1e-3)
        assert a.abs().max() > 0


def test_stepped_with_a_cache_equals_all_at_once(make_model, tiny_config):
    config = with_options(tiny_config, **ALL)
    decoder = lively(make_model(config)).language_model.model
    embeds = embeds_of()
    with torch.no_grad():
        whole = decoder(embeds)
        cache = KVCache.allocate(config.language, 2, 12, device="cpu", dtype=torch.float32)
        parts = [decoder(embeds[:, :5], cache=cache, positions=torch.arange(5).expand(2, 5))]
        for place in range(5, 12):
            positions = torch.full((2, 1), place)
            parts.append(decoder(embeds[:, place : place + 1], cache=cache, positions=positions))
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)


def test_our_own_folder_keeps_the_options(make_model, tiny_config, tokenizer, tmp_path):
    model = lively(make_model(with_options(tiny_config, **ALL)))
    save_model(tmp_path, model, tokenizer)
    again, _ = load_model(tmp_path, device="cpu", dtype=None)
    assert again.config == model.config
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())


def test_a_plain_models_file_says_nothing_of_them(make_model, tiny_config, tokenizer, tmp_path):
    save_model(tmp_path, make_model(tiny_config), tokenizer)
    text = (tmp_path / "config.json").read_text()
    assert not [name for name in ALL if name in text]


@pytest.mark.parametrize("layout", ["deepseek", "transformers"])
@pytest.mark.parametrize(("name", "value"), ALL.items())
def test_other_layouts_refuse_them(
    make_model, tiny_config, tokenizer, tmp_path, layout, name, value
):
    model = make_model(with_options(tiny_config, **{name: value}))
    words = f"decoders with {name} .* alone, and this model has {re.escape(repr(value))}"
    with pytest.raises(ValueError, match=words):
        export_model(tmp_path / "out", model, tokenizer, layout=layout, any_size=True)
    assert not (tmp_path / "out").exists()


def test_values_that_mean_nothing_are_refused(tiny_config):
    with pytest.raises(ValueError, match="norm_order must be 'pre' or 'post', got 'swin'"):
        with_options(tiny_config, norm_order="swin")
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"dropout must be a share in \[0, 1\)"):
            with_options(tiny_config, dropout=rate)
