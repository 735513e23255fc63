"""The semantic tokenizer: causal, cached == full, and both faces through it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from openjanus.config import (
    JanusConfig,
    SemanticConfig,
    SharedEncoderConfig,
    SiglipConfig,
    VQConfig,
)
from openjanus.model.attention import Run, runs_of
from openjanus.model.doors import (
    CausalTokenizer,
    ImageTokenizer,
    TokenizerEncoder,
    TokenizerEntrance,
    UndEncoder,
)
from openjanus.model.janus import JanusModel, build_model
from openjanus.model.semantic import SemanticTokenizer
from openjanus.model.vq import VQTokenizer
from openjanus.presets import preset


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def config() -> JanusConfig:
    return preset("tiny-semantic")


@pytest.fixture(scope="module")
def model(config: JanusConfig, make_model: Any) -> JanusModel:
    """Weights so large that every id and place shows; do not change it."""
    model = make_model(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.vq.semantic.named_parameters():
            if parameter.ndim >= 2:
                std = 1.0 if name == "pos_embed" else parameter.shape[1] ** -0.5
                parameter.normal_(0.0, std, generator=generator)
    return model


@pytest.fixture(scope="module")
def tokenizer(model: JanusModel) -> SemanticTokenizer:
    assert isinstance(model.vq, SemanticTokenizer)
    return model.vq


@pytest.fixture
def ids(config: JanusConfig) -> Tensor:
    shape = (3, config.num_gen_image_tokens)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.codebook_size, shape, generator=generator)


@pytest.fixture
def pictures(config: JanusConfig) -> Tensor:
    size = config.und_image_size
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_it_keeps_every_protocol(tokenizer: SemanticTokenizer) -> None:
    assert isinstance(tokenizer, ImageTokenizer)
    assert isinstance(tokenizer, CausalTokenizer)
    assert isinstance(tokenizer, UndEncoder)
    plain = VQTokenizer(VQConfig(image_size=32, base_channels=32))
    assert isinstance(plain, ImageTokenizer)
    assert not isinstance(plain, CausalTokenizer)


def test_pictures_go_through_it_as_through_its_vq(
    tokenizer: SemanticTokenizer, pictures: Tensor
) -> None:
    door = preset("tiny").gen_tokenizer
    assert isinstance(door, VQConfig)
    plain = VQTokenizer(door)
    state = {k: v for k, v in tokenizer.state_dict().items() if not k.startswith("semantic.")}
    plain.load_state_dict(state, strict=True)
    found = tokenizer.encode_to_ids(pictures)
    assert torch.equal(found, plain.encode_to_ids(pictures))
    assert torch.equal(tokenizer.decode_ids(found), plain.decode_ids(found))


@pytest.mark.parametrize("changed", [0, 5, 15])
def test_a_feature_depends_on_its_own_id_and_those_before(
    tokenizer: SemanticTokenizer, ids: Tensor, changed: int
) -> None:
    other = ids.clone()
    other[:, changed] = (ids[:, changed] + 1) % 64
    before, after = tokenizer.embed_ids(ids), tokenizer.embed_ids(other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.isclose(before[:, changed:], after[:, changed:]).all(-1).any()


def test_the_same_id_means_another_thing_elsewhere(tokenizer: SemanticTokenizer) -> None:
    features = tokenizer.embed_ids(torch.full((1, 4), 7))
    assert not torch.isclose(features[0, 1:], features[0, :1]).all(-1).any()


def test_one_id_at_a_time_is_the_whole_row(tokenizer: SemanticTokenizer, ids: Tensor) -> None:
    full = tokenizer.embed_ids(ids)
    cache = tokenizer.allocate_cache(len(ids))
    cache.keys.fill_(torch.nan)  # what no id has left is never read
    cache.values.fill_(torch.nan)
    for place in range(ids.shape[1]):
        runs = runs_of([place] * len(ids))
        step = tokenizer.embed_ids(ids[:, place : place + 1], cache=cache, runs=runs)
        torch.testing.assert_close(step[:, 0], full[:, place], atol=2e-6, rtol=0)


def test_rows_may_stand_at_different_places(tokenizer: SemanticTokenizer, ids: Tensor) -> None:
    full = tokenizer.embed_ids(ids)
    cache = tokenizer.allocate_cache(5)
    first = [Run(slice(0, 1), slice(4, 5), 0)]
    started = tokenizer.embed_ids(ids[:1, :6], cache=cache, runs=first)
    torch.testing.assert_close(started, full[:1, :6], atol=2e-6, rtol=0)
    step = torch.stack([ids[1, 0], ids[2, 0], ids[0, 6]])[:, None]
    features = tokenizer.embed_ids(step, cache=cache, runs=runs_of([0, None, 6], [1, 2, 4]))
    torch.testing.assert_close(features[0, 0], full[1, 0], atol=2e-6, rtol=0)
    torch.testing.assert_close(features[2, 0], full[0, 6], atol=2e-6, rtol=0)
    assert features.isfinite().all()  # the idle row as well


def test_more_ids_than_a_picture_has_are_refused(tokenizer: SemanticTokenizer) -> None:
    with pytest.raises(ValueError, match="17 ids an image, and the semantic decoder has learned"):
        tokenizer.embed_ids(torch.zeros(1, 17, dtype=torch.int64))


def test_both_faces_see_the_same(
    model: JanusModel, tokenizer: SemanticTokenizer, pictures: Tensor
) -> None:
    # Exp-B: a picture understood, and the same picture's ids drawn, are the same features.
    assert isinstance(model.und_encoder, TokenizerEncoder)
    assert isinstance(model.gen_embed, TokenizerEntrance)
    found = tokenizer.encode_to_ids(pictures)
    features = tokenizer.embed_ids(found)
    assert features.shape == (2, 16, 48)
    assert torch.equal(model.und_encoder(pictures), features)
    assert torch.equal(model.gen_embed(found), features)
    assert torch.equal(model.embed_und(pictures), model.und_aligner(features))
    assert torch.equal(model.embed_gen(found), model.gen_aligner(features))


def test_the_entrance_holds_no_weights_of_its_own(model: JanusModel) -> None:
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert not [name for name in names if name.startswith(("gen_embed.", "und_encoder."))]
    assert [name for name in names if name.startswith("vq.semantic.blocks.1.")]
    assert len(names) == len(set(names))


def test_a_plain_janus_has_no_entrance_cache(tiny_model: JanusModel, model: JanusModel) -> None:
    assert tiny_model.allocate_gen_cache(4) is None
    cache = model.allocate_gen_cache(4)
    assert cache is not None
    assert cache.keys.shape == (2, 4, 4, 16, 12)  # layers, rows, heads, places, width of a head


def test_a_copy_reads_ids_by_its_own_weights(
    model: JanusModel, ids: Tensor, pictures: Tensor
) -> None:
    other = copy.deepcopy(model)
    drawn, seen = model.embed_gen(ids), model.embed_und(pictures)
    assert isinstance(other.vq, SemanticTokenizer)
    other.vq.semantic.norm.bias.fill_(3.0)
    assert torch.equal(model.embed_gen(ids), drawn)
    assert not torch.allclose(other.embed_gen(ids), drawn)
    assert not torch.allclose(other.embed_und(pictures), seen)


def test_a_semantic_tokenizer_for_understanding_alone(
    config: JanusConfig, tiny_config: JanusConfig, make_model: Any, pictures: Tensor
) -> None:
    # Exp-C: und_encoder is a tokenizer of its own, drawing keeps the plain one.
    model = make_model(dataclasses.replace(tiny_config, und_encoder=config.gen_tokenizer))
    assert isinstance(model.und_encoder, SemanticTokenizer)
    assert type(model.vq) is VQTokenizer
    assert model.config.num_und_image_tokens == 16
    assert model.config.und_image_size == 32
    encoder = model.und_encoder
    expected = encoder.embed_ids(encoder.encode_to_ids(pictures))
    assert torch.equal(model.embed_und(pictures), model.und_aligner(expected))
    assert model.allocate_gen_cache(2) is None


def test_a_semantic_tokenizer_for_drawing_alone(config: JanusConfig, make_model: Any) -> None:
    siglip = preset("tiny").und_encoder
    assert isinstance(siglip, SiglipConfig)
    model = make_model(dataclasses.replace(config, und_encoder=siglip))
    assert model.und_encoder.output_size == siglip.hidden_size
    assert isinstance(model.gen_embed, TokenizerEntrance)


def test_a_plain_vq_on_both_sides_is_still_its_codebook(
    tiny_config: JanusConfig, make_model: Any, pictures: Tensor
) -> None:
    # Exp-A.
    model = make_model(dataclasses.replace(tiny_config, und_encoder=SharedEncoderConfig()))
    vectors = model.vq.quantize.lookup(model.vq.encode_to_ids(pictures))
    assert torch.equal(model.und_encoder(pictures), vectors)
    assert isinstance(model.gen_embed, torch.nn.Embedding)


def test_the_papers_sizes_are_the_defaults() -> None:
    model = build_model(preset("janus-1.3b-semantic"))
    door, siglip = model.config.gen_tokenizer, preset("janus-1.3b").und_encoder
    assert isinstance(door, SemanticConfig) and isinstance(siglip, SiglipConfig)
    assert (door.num_hidden_layers, door.num_attention_heads, door.hidden_size) == (12, 12, 768)
    assert (door.teacher_size, door.num_image_tokens) == (siglip.hidden_size, 576)
    assert siglip.num_image_tokens == 576
    assert isinstance(model.vq, SemanticTokenizer)
    count = sum(p.numel() for p in model.vq.semantic.blocks.parameters())
    assert count == 12 * (12 * 768**2 + 13 * 768)  # a ViT-Base's


@pytest.mark.parametrize("wrong", [{"num_attention_heads": 5}, {"hidden_size": 0}])
def test_wrong_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SemanticConfig(image_size=32, **wrong)  # pyright: ignore[reportArgumentType]
