"""The two faces: what goes in, what comes out, and which head is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from openjanus.config import JanusConfig, SharedEncoderConfig
from openjanus.model.janus import JanusModel, build_model
from openjanus.model.vq import VQTokenizer

MakeModel = Callable[..., JanusModel]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sequence(config: JanusConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Ids of two rows, the mask of their image slots, and pictures: one in row 0, two in row 1."""
    n = config.num_und_image_tokens
    ids = torch.arange(2 * (2 * n + 5)).view(2, -1) % 90
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[0, 3 : 3 + n] = True
    mask[1, 1 : 1 + n] = True
    mask[1, 2 + n : 2 + 2 * n] = True
    return ids, mask, random(3, 3, config.und_image_size, config.und_image_size)


def test_embeddings_fill_their_slots_in_order(
    tiny_model: JanusModel, tiny_config: JanusConfig
) -> None:
    ids, mask, pixels = sequence(tiny_config)
    values = tiny_model.embed_und(pixels)
    embeds = tiny_model.embed_sequence(ids, {"und": (mask, values)})
    n = tiny_config.num_und_image_tokens
    assert torch.equal(embeds[0, 3 : 3 + n], values[0])
    assert torch.equal(embeds[1, 1 : 1 + n], values[1])
    assert torch.equal(embeds[1, 2 + n : 2 + 2 * n], values[2])
    assert torch.equal(embeds[~mask], tiny_model.embed_text(ids)[~mask])


def test_both_doors_in_one_sequence(tiny_model: JanusModel, tiny_config: JanusConfig) -> None:
    ids, mask, pixels = sequence(tiny_config)
    image_ids = torch.tensor([[1, 2], [3, 4]])
    gen_mask = torch.zeros_like(mask)
    gen_mask[:, -2:] = True
    slots = {
        "und": (mask, tiny_model.embed_und(pixels)),
        "gen": (gen_mask, tiny_model.embed_gen(image_ids)),
    }
    embeds = tiny_model.embed_sequence(ids, slots)
    assert torch.equal(embeds[:, -2:], tiny_model.embed_gen(image_ids))
    assert torch.equal(embeds[0, 3], slots["und"][1][0, 0])


def test_embed_sequence_leaves_its_inputs(tiny_model: JanusModel, tiny_config: JanusConfig) -> None:
    ids, mask, pixels = sequence(tiny_config)
    values = tiny_model.embed_und(pixels)
    table = tiny_model.language_model.model.embed_tokens.weight
    before = [x.clone() for x in (ids, mask, values, table)]
    tiny_model.embed_sequence(ids, {"und": (mask, values)})
    for x, kept in zip((ids, mask, values, table), before, strict=True):
        assert torch.equal(x, kept)


@pytest.mark.parametrize("pictures", [2, 4])
def test_slots_and_pictures_must_agree(
    tiny_model: JanusModel, tiny_config: JanusConfig, pictures: int
) -> None:
    ids, mask, _ = sequence(tiny_config)
    n = tiny_config.num_und_image_tokens
    values = random(pictures, n, tiny_config.language.hidden_size)
    with pytest.raises(ValueError, match=f"und: {3 * n} slots for {pictures * n} embeddings"):
        tiny_model.embed_sequence(ids, {"und": (mask, values)})


def test_gradients_reach_each_door(make_model: MakeModel, tiny_config: JanusConfig) -> None:
    model = make_model(tiny_config)
    ids, mask, pixels = sequence(tiny_config)
    with torch.enable_grad():
        embeds = model.embed_sequence(ids, {"und": (mask, model.embed_und(pixels))})
        model.text_logits(model.language_model.model(embeds)).square().mean().backward()
    for name in ("und_aligner.layers.0.weight", "und_encoder.patch_embed.proj.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None and gradient.abs().sum() > 0, name
    assert model.gen_head.vision_head.weight.grad is None
    assert model.gen_embed.weight.grad is None


def spy(module: nn.Module) -> list[str]:
    """Names of the top-level parts that run, in order."""
    calls: list[str] = []
    parts = ("language_model.lm_head", "gen_head", "und_encoder", "gen_embed", "vq.encoder")
    for name in parts:
        module.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


def test_the_faces_share_the_decoder_alone(make_model: MakeModel, tiny_config: JanusConfig) -> None:
    model = make_model(tiny_config)
    calls = spy(model)
    image_ids = torch.zeros(1, 3, dtype=torch.long)
    model.image_logits(model.language_model.model(model.embed_gen(image_ids)))
    assert calls == ["gen_embed", "gen_head"]
    calls.clear()
    _, _, pixels = sequence(tiny_config)
    model.text_logits(model.language_model.model(model.embed_und(pixels)))
    assert calls == ["und_encoder", "language_model.lm_head"]


def test_logit_widths(tiny_model: JanusModel, tiny_config: JanusConfig) -> None:
    states = random(2, 3, tiny_config.language.hidden_size)
    assert tiny_model.text_logits(states).shape == (2, 3, tiny_config.language.vocab_size)
    assert tiny_model.image_logits(states).shape == (2, 3, tiny_config.codebook_size)


@pytest.mark.parametrize("tied", [False, True])
def test_tied_embeddings(make_model: MakeModel, tiny_config: JanusConfig, tied: bool) -> None:
    language = dataclasses.replace(tiny_config.language, tie_word_embeddings=tied)
    model = make_model(dataclasses.replace(tiny_config, language=language))
    table = model.language_model.model.embed_tokens.weight
    assert (model.language_model.lm_head.weight is table) == tied
    states = random(1, language.hidden_size)
    assert torch.allclose(model.text_logits(states), states @ table.T) == tied


def test_meta_build_takes_no_memory(tiny_config: JanusConfig) -> None:
    model = build_model(tiny_config)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert build_model(tiny_config, dtype=torch.bfloat16).gen_embed.weight.dtype == torch.bfloat16


def test_meta_and_real_builds_have_the_same_names(
    tiny_model: JanusModel, tiny_config: JanusConfig
) -> None:
    shapes = {name: p.shape for name, p in build_model(tiny_config).state_dict().items()}
    assert shapes == {name: p.shape for name, p in tiny_model.state_dict().items()}


def test_init_is_a_function_of_its_generator(
    make_model: MakeModel, tiny_config: JanusConfig
) -> None:
    torch.manual_seed(1)
    first = make_model(tiny_config, seed=3).state_dict()
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    again, other = make_model(tiny_config, 3).state_dict(), make_model(tiny_config, 4).state_dict()
    torch.random.set_rng_state(state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "gen_head.vision_head.weight"
    assert not torch.equal(first[name], other[name])


def test_init_fills_everything(tiny_config: JanusConfig) -> None:
    """From memory full of NaN, as after a build on the meta device."""
    model = build_model(tiny_config, device="cpu")
    for parameter in model.parameters():
        parameter.fill_(float("nan"))
    model.init_weights(torch.Generator().manual_seed(0))
    assert [name for name, p in model.named_parameters() if p.isnan().any()] == []
    weight = model.language_model.model.layers[0].get_parameter("mlp.down_proj.weight")
    depth = 2 * tiny_config.language.num_hidden_layers
    assert weight.std().item() == pytest.approx(0.02 / depth**0.5, rel=0.1)


def test_the_shared_encoder_understands_through_the_tokenizer(
    make_model: MakeModel, tiny_config: JanusConfig
) -> None:
    model = make_model(dataclasses.replace(tiny_config, und_encoder=SharedEncoderConfig()))
    config = model.config
    assert config.num_und_image_tokens == config.num_gen_image_tokens
    assert not [name for name in model.state_dict() if name.startswith("und_encoder")]
    pixels = random(2, 3, config.und_image_size, config.und_image_size)
    assert isinstance(model.vq, VQTokenizer)
    vectors = model.vq.quantize.lookup(model.vq.encode_to_ids(pixels))
    assert torch.equal(model.embed_und(pixels), model.und_aligner(vectors))
    assert model.embed_und(pixels).shape == (2, config.num_und_image_tokens, 64)


def test_an_unknown_extra_door(tiny_model: JanusModel) -> None:
    with pytest.raises(KeyError, match="no door 'sound'"):
        tiny_model.embed_extra("sound", torch.zeros(1, 4))
