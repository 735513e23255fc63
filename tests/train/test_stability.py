"""Training with Chameleon's options: the z-loss, dropout that resumes, the output's norm."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from openjanus.engine.engine import Engine
from openjanus.engine.request import ChatRequest, DrawRequest, FinishedEvent
from openjanus.train.loop import run_loop
from openjanus.train.losses import compute_hidden_states, compute_losses
from openjanus.train.metrics import read_metrics
from openjanus.train.optim import Optimizers
from openjanus.train.optim_config import OptimConfig
from openjanus.train.start import fresh_model, start_model
from openjanus.train.trainer import JanusTrainer

ALL = {"qk_norm": True, "norm_order": "post", "dropout": 0.2}


@pytest.fixture
def stable_config(tiny_config):
    return dataclasses.replace(
        tiny_config, language=dataclasses.replace(tiny_config.language, **ALL)
    )


@pytest.fixture
def a_batch(make_config, make_trainer):
    from openjanus.data.collate import collate

    trainer = make_trainer(make_config(prefetch=False))
    samples = trainer._with_image_ids(trainer.stream.step(0))
    return collate(samples, trainer.processor)


def test_the_z_loss_is_log_z_squared_of_both_heads(tiny_model, a_batch):
    plain = compute_losses(tiny_model, a_batch)
    assert plain.z_loss is None
    with torch.no_grad():
        found = compute_losses(tiny_model, a_batch, z_loss=0.5)
        hidden = compute_hidden_states(tiny_model, a_batch).flatten(0, 1)
        words = tiny_model.text_logits(hidden[a_batch.text_places]).logsumexp(-1)
        ids = tiny_model.image_logits(hidden[a_batch.image_places]).logsumexp(-1)
        wanted = 0.5 * torch.cat([words, ids]).square().mean()
    assert found.z_loss is not None
    assert float(found.z_loss) == pytest.approx(float(wanted), rel=1e-5)
    assert float(found.total) == pytest.approx(plain.total.item() + wanted.item(), rel=1e-5)
    assert found.means() == plain.means()  # what is told by kind is the cross-entropy


def test_the_z_loss_is_told_apart_and_off_changes_nothing(make_config, make_trainer):
    plain, zero, some = (
        make_trainer(make_config(bf16=False, **options)).train_step(0)
        for options in ({}, {"z_loss": 0.0}, {"z_loss": 1e-2})
    )
    assert "z_loss" not in plain
    assert plain["loss"] == zero["loss"]
    assert some["loss"] - some["z_loss"] == pytest.approx(plain["loss"], abs=1e-5)
    assert some["z_loss"] > 0.05
    assert some["grad_norm"] != plain["grad_norm"]
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"z_loss must be finite and >= 0, got {wrong}"):
            make_config(z_loss=wrong)


def test_the_output_norm_is_of_real_tokens_before_the_final_norm(make_config, make_trainer):
    config = make_config(bf16=False, prefetch=False)
    trainer, other = make_trainer(config), make_trainer(config)
    told = trainer.train_step(0)["output_norm"]
    from openjanus.data.collate import collate

    batch = collate(other._with_image_ids(other.stream.step(0)), other.processor)
    assert not batch.attention_mask.all()
    seen = []
    decoder = other.model.language_model.model

    def watched(embeds, **options):
        return decoder(embeds, observe=seen.append, **options)

    compute_hidden_states(other.model, batch, decoder=watched)
    outputs = seen[0][batch.attention_mask]
    assert told == pytest.approx(outputs.square().mean().sqrt().item(), rel=1e-4)


def test_a_run_with_dropout_resumes_to_the_bit(make_config, processor, stable_config, tmp_path):
    def run(name, **options):
        config = make_config(
            run={"dir": str(tmp_path / name), "steps": 6, **options}, z_loss=1e-5, pack_length=256
        )
        trainer = JanusTrainer(fresh_model(stable_config, 0), processor, config)
        run_loop(trainer, config.run, description=name)
        lines = read_metrics(tmp_path / name / "metrics.jsonl")
        return trainer.model.state_dict(), [(m["loss"], m["output_norm"]) for m in lines]

    whole, losses = run("whole")
    run("parts", stop_at=3)
    resumed, resumed_losses = run("parts", resume=True)
    assert resumed_losses == losses
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_each_step_drops_other_numbers(make_config, processor, stable_config):
    config = make_config(bf16=False)
    trainer = JanusTrainer(fresh_model(stable_config, 0), processor, config)
    keys = []
    decoder, encoder = trainer._module._instead
    assert decoder is not None

    def spy(*args, dropout, **options):
        keys.append(dropout)
        return decoder(*args, dropout=dropout, **options)

    trainer._module._instead = (spy, encoder)
    for step in range(2):
        trainer.train_step(step)
    assert [(key.seed, key.step) for key in keys] == [(0, 0), (0, 1)]


def test_dropout_under_compile_is_refused(make_config, processor, stable_config):
    with pytest.raises(ValueError, match=r"dropout 0\.2 .* set compile to false"):
        JanusTrainer(fresh_model(stable_config, 0), processor, make_config(compile=True))


def test_muon_and_weight_decay_leave_the_norms_of_heads_alone(stable_config):
    model = fresh_model(stable_config, 0)
    names = {id(p): name for name, p in model.named_parameters()}
    config = OptimConfig(name="muon", weight_decay=0.1)
    adamw, muon = Optimizers(model.named_parameters(), config).optimizers
    decayed = [p for group in adamw.param_groups if group["weight_decay"] for p in group["params"]]
    taken = [p for group in muon.param_groups for p in group["params"]]
    assert taken
    assert not [names[id(p)] for p in decayed + taken if "_norm" in names[id(p)]]


def test_the_engine_draws_and_answers_with_every_option(stable_config):
    model = fresh_model(stable_config, 0).eval()
    engine = Engine(model, image_pad_id=300)
    prompt = tuple(range(10, 22))
    alone = DrawRequest(prompt_ids=prompt, uncond_ids=prompt, seed=1)
    text = ChatRequest(input_ids=prompt, max_new_tokens=4)
    ids = {engine.add(alone): 16, engine.add(text): 4}
    found = {}
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, FinishedEvent):
                found[event.request_id] = event.ids
    assert {key: len(value) for key, value in found.items()} == ids


def test_a_recipe_chooses_options_of_a_fresh_decoder_alone(make_config, tmp_path):
    model, processor = start_model(make_config(decoder=ALL))
    assert model.config.language.qk_norm
    assert processor.config.language.norm_order == "post"
    with pytest.raises(ValueError, match="decoder: unknown key 'qk_nrom'; did you mean 'qk_norm'"):
        start_model(make_config(decoder={"qk_nrom": True}))
    from openjanus.weights.own import save_model

    save_model(tmp_path / "saved", model, processor.tokenizer)
    config = make_config(decoder={"qk_norm": False}, init=[str(tmp_path / "saved")])
    with pytest.raises(ValueError, match=r"decoder \(qk_norm\) is for fresh weights"):
        start_model(config)
