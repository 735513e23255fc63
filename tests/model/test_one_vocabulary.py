"""Chameleon: words and codes are ids of one table and one head, behind a Janus's methods."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from openjanus.config import ProcessorConfig, SharedEncoderConfig
from openjanus.config_file import config_to_dict, parse_config
from openjanus.engine.engine import Engine
from openjanus.engine.request import ChatRequest, DrawRequest, FinishedEvent
from openjanus.engine.scoring import score_answer, score_image_ids
from openjanus.model.janus import OneVocabularyModel, build_model
from openjanus.presets import preset
from openjanus.processor.prompt import Processor
from openjanus.weights.formats import export_model, load_model
from openjanus.weights.own import save_model

WORDS, CODES = 384, 64


@pytest.fixture(scope="module")
def config():
    return preset("tiny-chameleon")


@pytest.fixture(scope="module")
def model(config, make_model):
    """Logits far from flat, so that a wrong id shows."""
    model = make_model(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            if parameter.ndim == 2:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * parameter.shape[1] ** -0.5)
        model.language_model.model.embed_tokens.weight.normal_(generator=generator)
    return model


def test_there_is_one_table_one_head_and_nothing_between(model):
    assert isinstance(model, OneVocabularyModel)
    tops = {name.split(".")[0] for name in model.state_dict()}
    assert tops == {"language_model", "vq"}
    assert model.language_model.lm_head.weight.shape[0] == WORDS + CODES


def test_codes_are_ids_behind_the_words(model):
    ids = torch.tensor([[0, 5, 63]])
    table = model.language_model.model.embed_tokens.weight
    assert torch.equal(model.embed_gen(ids)[0], table[[384, 389, 447]])
    hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    whole = model.language_model.lm_head(hidden)
    assert torch.equal(model.text_logits(hidden), whole[:, :WORDS])
    assert torch.equal(model.image_logits(hidden), whole[:, WORDS:])


def test_a_picture_enters_by_both_doors_alike(model):
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ids = model.vq.encode_to_ids(pixels)
        assert len(ids.unique()) > 1
        assert torch.equal(model.embed_und(pixels), model.embed_gen(ids))


def test_a_square_picture_has_the_same_ids_by_either_doors_pixels(model, config, tokenizer):
    from PIL import Image

    processor = Processor(config, tokenizer)
    noise = torch.randint(0, 256, (48, 48, 3), generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(noise.to(torch.uint8).numpy())
    seen, drawn = processor.und_pixels([picture]), processor.gen_pixels([picture])
    with torch.no_grad():
        assert torch.equal(model.vq.encode_to_ids(seen), model.vq.encode_to_ids(drawn))


def test_the_loss_looks_at_words_and_codes_at_once(model, make_model, tiny_config):
    hidden = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([3, 9])
    for face, first in (("text", 0), ("image", WORDS)):
        logits, places = model.logits_for_loss(hidden, targets, face)
        assert torch.equal(logits, model.language_model.lm_head(hidden))
        assert places.tolist() == [first + 3, first + 9]
    janus = make_model(tiny_config)
    for face, size in (("text", 384), ("image", 64)):
        logits, places = janus.logits_for_loss(hidden, targets, face)
        assert logits.shape == (2, size)
        assert places.tolist() == [3, 9]


def test_text_is_words_and_a_picture_is_a_block_of_codes(model):
    """Weights that want the other kind everywhere: the masks alone keep them apart."""
    wanting = build_model(model.config, device="cpu").eval()
    wanting.load_state_dict(model.state_dict())
    prompt = tuple(range(10, 22))
    for face, shift in (("text", slice(WORDS, None)), ("image", slice(0, WORDS))):
        with torch.no_grad():
            wanting.language_model.lm_head.weight.copy_(model.language_model.lm_head.weight)
            wanting.language_model.lm_head.weight[shift] *= 50
        engine = Engine(wanting, image_pad_id=300)
        if face == "text":
            request = ChatRequest(input_ids=prompt, max_new_tokens=20, temperature=1.0, seed=1)
        else:
            request = DrawRequest(prompt_ids=prompt, uncond_ids=prompt, seed=1)
        engine.add(request)
        ids: tuple[int, ...] = ()
        while engine.has_work:
            for event in engine.step():
                if isinstance(event, FinishedEvent):
                    ids = event.ids
        assert len(ids) == (20 if face == "text" else 16)
        assert max(ids) < (WORDS if face == "text" else CODES)
        assert len(set(ids)) > 4


def test_what_is_drawn_scores_as_it_was_drawn(model):
    """Decoding with a cache and one pass over all are one distribution, guidance included."""
    prompt, uncond = tuple(range(10, 22)), (10, *[5] * 10, 21)
    engine = Engine(model, image_pad_id=300)
    engine.add(
        DrawRequest(
            prompt_ids=prompt, uncond_ids=uncond, seed=1, temperature=0.0, guidance_scale=2.0
        )
    )
    ids: tuple[int, ...] = ()
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, FinishedEvent):
                ids = event.ids
    scores = score_image_ids(
        model,
        torch.tensor(prompt),
        torch.tensor(ids),
        uncond_ids=torch.tensor(uncond),
        guidance_scale=2.0,
    )
    for place in range(len(ids)):  # greedy: no other id at a place scores higher
        for other in (0, 17, 63):
            changed = torch.tensor([*ids[:place], other])
            found = score_image_ids(
                model,
                torch.tensor(prompt),
                changed,
                uncond_ids=torch.tensor(uncond),
                guidance_scale=2.0,
            )
            assert found[place] <= scores[place] + 1e-4


def test_answers_are_scored_among_words(model):
    prompt, answer = torch.arange(10, 20), torch.tensor([7, 8])
    first = [
        float(score_answer(model, prompt, torch.tensor([word]))[0].exp()) for word in range(WORDS)
    ]
    assert sum(first) == pytest.approx(1, abs=1e-4)
    assert score_answer(model, prompt, answer).shape == (2,)


def test_a_prompt_holds_no_codes(model):
    engine = Engine(model, image_pad_id=300)
    with pytest.raises(ValueError, match=r"prompt id 384 is outside the vocabulary \[0, 384\)"):
        engine.add(ChatRequest(input_ids=(1, 384), max_new_tokens=1))


def test_a_tokenizer_must_leave_the_codes_their_ids(config, tokenizer):
    language = dataclasses.replace(config.language, vocab_size=300)
    with pytest.raises(ValueError, match="the model's vocab_size is 236"):
        Processor(dataclasses.replace(config, language=language), tokenizer)


def test_our_own_folder_keeps_it(model, tokenizer, tmp_path):
    save_model(tmp_path, model, tokenizer)
    again, _ = load_model(tmp_path, device="cpu", dtype=None)
    assert isinstance(again, OneVocabularyModel)
    assert again.config == model.config
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("layout", ["deepseek", "transformers"])
def test_other_layouts_refuse_it(model, tokenizer, tmp_path, layout):
    with pytest.raises(ValueError, match="this model has one vocabulary for both"):
        export_model(tmp_path / "out", model, tokenizer, layout=layout, any_size=True)


def test_a_file_says_so_only_where_it_is_so(config, tiny_config):
    assert "one_vocabulary" not in config_to_dict(tiny_config)
    data = config_to_dict(config)
    assert data["one_vocabulary"] is True
    assert parse_config(data) == config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"und_encoder": preset("tiny").und_encoder}, "und_encoder must be of type 'shared', got"),
        ({"vocab_size": 64}, r"vocab_size \(64\) of a model of one vocabulary must hold words"),
        (
            {"processor": ProcessorConfig(image_mean=(0.4, 0.5, 0.5))},
            "image_mean and image_std must be 0.5",
        ),
    ],
)
def test_what_cannot_be_one_vocabulary_is_refused(config, changes, says):
    if "vocab_size" in changes:
        changes = {"language": dataclasses.replace(config.language, **changes)}
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(config, **changes)


def test_the_published_size_is_chameleons():
    from transformers import ChameleonConfig

    ours, theirs = preset("chameleon-7b"), ChameleonConfig()
    tokenizer = theirs.to_dict()["vq_config"]
    for name in (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "rms_norm_eps"),
        "max_position_embeddings",
    ):
        assert getattr(ours.language, name) == getattr(theirs, name)
    assert ours.codebook_size == tokenizer["num_embeddings"]
    assert ours.codebook_dim == tokenizer["embed_dim"]
    assert ours.gen_image_size == tokenizer["resolution"]
    assert ours.num_gen_image_tokens == 1024
    assert isinstance(ours.und_encoder, SharedEncoderConfig)
    count = sum(p.numel() for p in build_model(ours).language_model.parameters())
    assert 6.9e9 < count < 7.2e9
