"""A Chameleon is trained by the same trainer, with its own loss."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

import openjanus
from openjanus.data.collate import collate
from openjanus.presets import preset
from openjanus.processor.prompt import Processor
from openjanus.train.losses import compute_hidden_states, compute_losses
from openjanus.train.recipes import run_recipe
from openjanus.train.start import fresh_model
from openjanus.train.trainer import JanusTrainer


@pytest.fixture(scope="module")
def quiet():
    """Without dropout, in evaluation mode."""
    config = preset("tiny-chameleon")
    language = dataclasses.replace(config.language, dropout=0.0)
    return fresh_model(dataclasses.replace(config, language=language), 0).eval()


@pytest.fixture
def a_batch(quiet, tokenizer, make_config):
    processor = Processor(quiet.config, tokenizer)
    trainer = JanusTrainer(quiet, processor, make_config(prefetch=False, stage=3))
    quiet.eval()
    return collate(trainer._with_image_ids(trainer.stream.take({})), processor)


def test_every_place_is_one_softmax_over_words_and_codes(quiet, a_batch):
    with torch.no_grad():
        losses = compute_losses(quiet, a_batch, und_images=True)
        hidden = compute_hidden_states(quiet, a_batch).flatten(0, 1)
        und_ids = quiet.vq.encode_to_ids(a_batch.pixel_values).flatten()
        logits = quiet.language_model.lm_head(hidden)  # of all places
    # The ids that a Chameleon reads, written out as one sequence.
    sequence = a_batch.input_ids.clone()
    sequence[a_batch.und_slots] = und_ids + 384
    sequence[a_batch.gen_slots] = a_batch.image_ids.flatten() + 384
    with torch.no_grad():
        read = quiet.language_model.model(quiet.embed_text(sequence), positions=a_batch.positions)
    assert torch.allclose(read.flatten(0, 1), hidden, atol=1e-5)
    every = F.cross_entropy(logits[:-1], sequence.flatten()[1:], reduction="none")
    und_places = a_batch.und_slots.flatten().nonzero()[:, 0] - 1
    places = {
        "gen": a_batch.image_places,
        "und_image": und_places,
        "und": a_batch.text_places[a_batch.text_is_und],
        "text": a_batch.text_places[~a_batch.text_is_und],
    }
    for kind, mean in losses.means().items():
        assert mean == pytest.approx(float(every[places[kind]].mean()), rel=1e-4)
    assert set(losses.sums) == set(places)
    chosen = torch.cat(list(places.values()))
    assert losses.total.item() == pytest.approx(float(every[chosen].mean()), rel=1e-5)
    assert len(chosen.unique()) == len(chosen)


def test_pictures_that_are_understood_are_learnt_where_asked(quiet, a_batch):
    with torch.no_grad():
        plain, more = (compute_losses(quiet, a_batch, und_images=asked) for asked in (False, True))
    assert "und_image" not in plain.counts
    assert more.counts["und_image"] == a_batch.und_slots.sum()
    assert {k: v for k, v in more.means().items() if k != "und_image"} == pytest.approx(
        plain.means()
    )


def test_a_janus_has_no_ids_of_pictures_to_understand(tiny_model, a_batch, make_config, processor):
    with pytest.raises(ValueError, match=r"und_images .* is for a model of one vocabulary"):
        compute_losses(tiny_model, a_batch, und_images=True)
    with pytest.raises(ValueError, match="und_image_loss is for a model of one vocabulary"):
        JanusTrainer(tiny_model, processor, make_config(und_image_loss=True))


def test_the_first_stage_has_nothing_to_train(quiet, tokenizer, make_config):
    processor = Processor(quiet.config, tokenizer)
    config = make_config(stage=1, ratio=(1, 0, 1))
    with pytest.raises(ValueError, match="nothing to train"):
        JanusTrainer(quiet, processor, config)


SHORT = ["--run.steps", "6", "--batch_size", "8", "--ratio", "[1, 1, 2]", "--run.save_every", "2"]


def test_the_recipe_trains_resumes_and_its_model_is_used_like_any(tmp_path):
    def run(name, *options):
        run_recipe("tiny/chameleon", ["--run.dir", str(tmp_path / name), *SHORT, *options])
        return tmp_path / name

    whole = run("whole")
    run("parts", "--run.stop_at", "3")
    parts = run("parts", "--run.resume", "true")
    from openjanus.train.metrics import read_metrics

    lines = [read_metrics(folder / "metrics.jsonl") for folder in (whole, parts)]
    assert [m["loss"] for m in lines[0]] == [m["loss"] for m in lines[1]]
    assert len(lines[0]) == 6
    assert lines[0][0]["loss_und_image"] == pytest.approx(math.log(448), abs=0.1)
    janus, again = (openjanus.load(str(folder / "final")) for folder in (whole, parts))
    state = again.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in janus.model.state_dict().items())

    drawing = janus.draw("a red circle on white", n=2, seed=1)
    assert drawing.image_ids.shape == (2, 16)
    assert drawing.images[0].size == (32, 32)
    reply = janus.chat("What is this?", images=[drawing.images[0]], max_new_tokens=5)
    assert len(reply.token_ids) <= 5
    assert janus.encode_image(drawing.images[0]).shape == (16,)
    assert janus.score_image("a red circle", drawing.image_ids[0]).shape == (16,)
