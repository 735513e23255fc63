"""Models that share weights and differ by an adapter: equal to merged ones, and each by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import openjanus
from openjanus.model.adapted import share
from openjanus.model.janus import JanusModel
from openjanus.model.packed import can_pack
from openjanus.pipeline.load import load_beside
from openjanus.weights.adapters import (
    Adapter,
    merge_adapter,
    save_adapter,
    share_with_adapter,
)

LAYERS = "language_model.model.layers."
SEVEN = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def load(dtype: str = "float32", *, packed: bool = False) -> openjanus.Janus:
    janus = openjanus.load("tiny", device="cpu", dtype=dtype)
    if packed:
        if not can_pack(getattr(torch, dtype)):
            pytest.skip("nothing is packed on this machine")
        assert janus.pack() > 0
    return janus


def adapter_of(model: JanusModel, names: tuple[str, ...] = SEVEN, seed: int = 0) -> Adapter:
    """On both layers and a door, with another door whole."""
    generator = torch.Generator().manual_seed(seed)
    weights = dict(openjanus.build("tiny").named_parameters())
    modules = [f"{LAYERS}{layer}.{name}" for layer in range(2) for name in names]
    pairs = {}
    for module in [*modules, "gen_aligner.layers.0"]:
        out, width = weights[f"{module}.weight"].shape
        pairs[module] = (
            torch.randn(3, width, generator=generator) * 0.2,
            torch.randn(out, 3, generator=generator) * 0.2,
        )
    whole = {
        key: torch.randn(tensor.shape, generator=generator) * 0.3
        for key, tensor in weights.items()
        if key.startswith(("gen_head.vision_head.", "und_aligner."))
    }
    return Adapter(rank=3, alpha=4.5, pairs=pairs, whole=whole, base="tiny")


@torch.inference_mode()
def results(model: JanusModel) -> list[torch.Tensor]:
    """Of both faces."""
    generator = torch.Generator().manual_seed(1)
    side, kind = model.config.und_image_size, model.language_model.model.embed_tokens.weight.dtype
    ids = torch.randint(0, 64, (2, 9), generator=generator)
    pixels = torch.randn(1, 3, side, side, generator=generator).to(kind)
    codes = torch.randint(0, model.config.codebook_size, (2, 5), generator=generator)
    hidden = model.language_model.model(
        torch.cat([model.embed_text(ids), model.embed_gen(codes)], dim=1)
    )
    return [model.text_logits(hidden), model.image_logits(hidden), model.embed_und(pixels)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("names", [SEVEN, ("q_proj",), ("self_attn.v_proj", "mlp.up_proj")])
def test_beside_is_merged_but_for_the_last_bits(packed, names):
    names = tuple(name if "." in name else f"self_attn.{name}" for name in names)
    base = load(packed=packed).model
    before = results(base)
    adapter = adapter_of(base, names)
    beside = share_with_adapter(base, adapter, "x")
    merged = load().model
    merge_adapter(merged, adapter, "x")
    for found, wanted, plain in zip(results(beside), results(merged), before, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, plain, rtol=1e-2, atol=1e-2)
    assert all(map(torch.equal, results(base), before))  # which knows nothing of it


def test_in_bfloat16_it_is_no_further_from_fp32_than_merged_weights():
    exact = load().model
    adapter = adapter_of(exact)
    merge_adapter(exact, adapter, "x")
    merged = load("bfloat16").model
    merge_adapter(merged, adapter, "x")
    beside = share_with_adapter(load("bfloat16").model, adapter, "x")
    for found, other, wanted in zip(results(beside), results(merged), results(exact), strict=True):
        assert found.dtype == torch.bfloat16
        error, usual = ((one.float() - wanted).norm() for one in (found, other))
        assert error <= 1.2 * usual


@pytest.mark.parametrize("packed", [False, True])
def test_weights_are_kept_once(packed):
    base = load(packed=packed).model
    own = {id(one) for one in (*base.parameters(), *base.buffers())}
    adapter = adapter_of(base)
    beside = share_with_adapter(base, adapter, "x")
    new = [one for one in (*beside.parameters(), *beside.buffers()) if id(one) not in own]
    assert sum(one.numel() for one in new) <= adapter.num_parameters + 10_000
    assert len(own & {id(one) for one in beside.parameters()}) > 30
    assert beside.is_packed == packed


def test_a_shared_copy_is_taken_apart_by_itself(tiny_model):
    copy = share(tiny_model)
    copy.language_model.model.norm = torch.nn.Identity()
    copy.gen_head.vision_head.register_buffer("extra", torch.zeros(1))
    assert not isinstance(tiny_model.language_model.model.norm, torch.nn.Identity)
    assert not hasattr(tiny_model.gen_head.vision_head, "extra")
    assert copy.vq.quantize is not tiny_model.vq.quantize
    assert copy.vq.quantize.embedding.weight is tiny_model.vq.quantize.embedding.weight


def test_other_parts_and_other_models_are_refused(tiny_model):
    adapter = adapter_of(tiny_model)
    table = "language_model.model.embed_tokens.weight"
    shape = dict(tiny_model.named_parameters())[table].shape
    with pytest.raises(ValueError, match="serve it by itself"):
        share_with_adapter(tiny_model, replace(adapter, whole={table: torch.zeros(shape)}), "x")
    with pytest.raises(ValueError, match="the adapter in x is for another model"):
        share_with_adapter(tiny_model, replace(adapter, rank=4), "x")
    quantized = openjanus.load("tiny", device="cpu", quantize="int8")
    with pytest.raises(ValueError, match="the model is quantized"):
        share_with_adapter(quantized.model, adapter, "x")


def test_drawings_and_replies_are_those_of_load(tmp_path, picture):
    base = load()
    save_adapter(tmp_path / "a", adapter_of(base.model), layout="openjanus")
    beside = load_beside(base, tmp_path / "a")
    loaded = openjanus.load("tiny", device="cpu", adapter=tmp_path / "a")
    plain = base.draw("a cat", seed=3).image_ids
    for prompt in ("a cat", "two dogs"):
        found, wanted = (one.draw(prompt, n=2, seed=3).image_ids for one in (beside, loaded))
        assert torch.equal(found, wanted)
    said = [
        one.chat("what?", images=[picture], max_new_tokens=8).token_ids for one in (beside, loaded)
    ]
    assert said[0] == said[1]
    assert not torch.equal(plain, loaded.draw("a cat", seed=3).image_ids)
    assert torch.equal(plain, base.draw("a cat", seed=3).image_ids)
