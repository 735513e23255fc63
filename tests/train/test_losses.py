"""The loss: what it counts, from where, and what it must not depend on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from openjanus.data.collate import collate
from openjanus.data.encoding import encode_sample, with_image_ids
from openjanus.data.toy import ToyScenes
from openjanus.train.loss_weights import LossWeights
from openjanus.train.losses import compute_hidden_states, compute_losses, supervised_weight
from openjanus.train.start import fresh_model


@pytest.fixture
def model(tiny_config):
    return fresh_model(tiny_config, 0)


@pytest.fixture
def encoded(model, processor):
    """``encoded("und", "gen", ...)``: one toy sample each."""

    def encode(*kinds):
        samples = [
            encode_sample(ToyScenes(kind=kind)[i], processor, max_length=256)
            for i, kind in enumerate(kinds)
        ]
        return with_image_ids(samples, processor, model.vq.encode_to_ids)

    return encode


def test_an_untrained_model_knows_nothing(model, encoded, processor):
    losses = compute_losses(model, collate(encoded("gen", "gen"), processor))
    assert losses.means()["gen"] == pytest.approx(math.log(64), abs=0.1)


def test_it_is_one_mean_over_all_supervised_tokens(model, encoded, processor):
    # The known defect: a mean of the means of the kinds.
    batch = collate(encoded("und", "text", "gen"), processor)
    losses = compute_losses(model, batch)
    hidden = compute_hidden_states(model, batch)
    logits = model.text_logits(hidden).flatten(0, 1)
    image_logits = model.image_logits(hidden).flatten(0, 1)
    every = [
        F.cross_entropy(logits[place], target)
        for place, target in zip(batch.text_places, batch.text_targets, strict=True)
    ]
    assert batch.image_ids is not None
    every += [
        F.cross_entropy(image_logits[place], target)
        for place, target in zip(batch.image_places, batch.image_ids.flatten(), strict=True)
    ]
    assert losses.total.item() == pytest.approx(torch.stack(every).mean().item(), abs=1e-5)
    assert sum(losses.counts.values()) == len(every)
    total = sum(float(part) for part in losses.sums.values())
    assert losses.total.item() == pytest.approx(total / len(every), abs=1e-5)


def test_a_weight_is_what_a_token_of_its_kind_counts(model, encoded, processor):
    batch = collate(encoded("und", "text", "gen"), processor)
    plain = compute_losses(model, batch)
    weights = LossWeights(und=3.0, text=0.0, gen=0.5)
    found = compute_losses(model, batch, weights=weights)
    sums = {kind: float(total) for kind, total in plain.sums.items()}
    whole = 3.0 * plain.counts["und"] + 0.5 * plain.counts["gen"]
    wanted = (3.0 * sums["und"] + 0.5 * sums["gen"]) / whole
    assert supervised_weight(batch, weights) == whole
    assert found.total.item() == pytest.approx(wanted, rel=1e-6)
    assert found.counts == plain.counts  # what is told of each kind is as without weights
    assert {kind: float(total) for kind, total in found.sums.items()} == sums
    doubled = compute_losses(model, batch, weights=LossWeights(und=2, text=2, gen=2))
    assert doubled.total.item() == pytest.approx(plain.total.item(), rel=1e-6)


def test_the_z_loss_is_weighed_too(model, encoded, processor):
    batch = collate(encoded("und", "gen"), processor)
    only_und = LossWeights(gen=0.0)
    found = compute_losses(model, batch, z_loss=0.5, weights=only_und)
    alone = compute_losses(model, collate(encoded("und"), processor), z_loss=0.5)
    assert found.z_loss is not None and alone.z_loss is not None
    assert float(found.z_loss) == pytest.approx(float(alone.z_loss), rel=1e-5)


@pytest.mark.parametrize("weights", [{"und": -1.0}, {"gen": math.inf}, {"text": math.nan}])
def test_a_weight_that_is_none_is_refused(weights):
    (name,) = weights
    with pytest.raises(ValueError, match=f"loss_weights.{name} must be finite and >= 0, got"):
        LossWeights(**weights)


def test_weights_that_count_nothing_are_told(model, encoded, processor):
    with pytest.raises(ValueError, match="loss_weights are all 0"):
        LossWeights(und=0, text=0, gen=0, und_image=0)
    batch = collate(encoded("text"), processor)
    with pytest.raises(ValueError, match=r"no supervised token in .* that loss_weights count"):
        compute_losses(model, batch, weights=LossWeights(text=0.0))


def test_the_state_at_boi_learns_the_first_id_and_the_last_ids_state_nothing(
    model, encoded, processor
):
    # The known defect: image logits shifted twice.
    batch = collate(encoded("gen"), processor)
    states = []

    def decoder(embeds, *, positions, mask):
        hidden = model.language_model.model(embeds, positions=positions, mask=mask)
        hidden.retain_grad()
        states.append(hidden)
        return hidden

    compute_losses(model, batch, decoder=decoder).total.backward()
    assert len(states) == 1  # one parallel pass: never through the sampling loop
    gradient = states[0].grad[0].abs().sum(-1)
    boi = batch.input_ids[0].tolist().index(processor.tokenizer.boi_id)
    taught = gradient.nonzero().flatten().tolist()
    assert taught == list(range(boi, boi + 16))


def test_what_comes_back_in_are_the_ids_that_are_taught(model, encoded, processor):
    # The known defect: training through the sampling loop, on ids that the model drew itself.
    (sample,) = encoded("gen")
    states = []
    for step in (0, 1):
        target = sample.target.copy()
        target[9] = (target[9] + step) % 64
        batch = collate([replace(sample, target=target)], processor)
        states.append(compute_hidden_states(model, batch)[0])
    same = (states[0] == states[1]).all(-1).tolist()
    slot = sample.gen_start + 9
    assert same[:slot] == [True] * slot
    assert same[slot : sample.gen_start + 16] == [False] * 7


@pytest.mark.parametrize("kinds", [("gen",), ("und",), ("text",), ("text", "gen"), ("und", "und")])
def test_a_missing_kind_leaves_no_trace(model, encoded, processor, kinds):
    losses = compute_losses(model, collate(encoded(*kinds), processor))
    assert set(losses.counts) == set(kinds)
    assert math.isfinite(losses.total.item())
    losses.total.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("gen_head") and "gen" not in kinds:
            assert parameter.grad is None


def test_heads_run_on_supervised_places_alone(model, encoded, processor):
    batch = collate(encoded("und", "text", "gen"), processor)
    seen = {}
    model.gen_head.register_forward_pre_hook(lambda _, x: seen.update(gen=len(x[0])))
    model.language_model.lm_head.register_forward_pre_hook(lambda _, x: seen.update(text=len(x[0])))
    compute_losses(model, batch)
    assert seen == {"gen": 16, "text": len(batch.text_targets)}


@pytest.mark.parametrize("pack_length", [128, 160, 250])
def test_packed_is_unpacked(model, encoded, processor, pack_length):
    samples = encoded("und", "gen", "text", "gen", "und", "text")
    plain = compute_losses(model, collate(samples, processor))
    packed = compute_losses(model, collate(samples, processor, pack_length=pack_length))
    assert packed.counts == plain.counts
    assert packed.total.item() == pytest.approx(plain.total.item(), abs=1e-5)
    for kind, total in plain.sums.items():
        assert float(packed.sums[kind]) == pytest.approx(float(total), abs=1e-3)


def test_documents_of_a_row_do_not_see_each_other(model, encoded, processor):
    drawing, text = encoded("gen", "text")
    other = replace(text, input_ids=(text.input_ids[0], *text.input_ids[:0:-1]))
    states = []
    for neighbour in (text, other):
        batch = collate([drawing, neighbour], processor, pack_length=256)
        assert batch.document_ids is not None and len(batch.input_ids) == 1
        mine = batch.document_ids == batch.document_ids.flatten()[batch.image_places[0]]
        states.append(compute_hidden_states(model, batch)[mine])
    assert other.input_ids != text.input_ids
    assert torch.equal(states[0], states[1])


def test_padding_changes_nothing(model, encoded, processor):
    short, long = encoded("text", "gen")
    alone = compute_losses(model, collate([short], processor))
    beside = compute_losses(model, collate([short, long], processor))
    assert beside.means()["text"] == pytest.approx(alone.means()["text"], abs=1e-5)


def test_a_frozen_encoder_keeps_no_activations(model, encoded, processor):
    batch = collate(encoded("und"), processor)
    model.und_encoder.requires_grad_(False)
    compute_losses(model, batch).total.backward()
    assert all(p.grad is None for p in model.und_encoder.parameters())
    assert all(p.grad is not None for p in model.und_aligner.parameters())
    model.und_encoder.requires_grad_(True)
    compute_losses(model, batch).total.backward()
    assert all(p.grad is not None for p in model.und_encoder.parameters())


def test_nothing_to_learn_is_told(model, encoded, processor):
    batch = collate(encoded("text"), processor)
    empty = batch.text_places[:0]
    object.__setattr__(batch, "text_places", empty)
    object.__setattr__(batch, "text_targets", empty)
    with pytest.raises(ValueError, match=r"no supervised token in toy-text"):
        compute_losses(model, batch)


def test_another_way_to_run_the_encoder_is_taken(model, encoded, processor):
    batch, calls = collate(encoded("und"), processor), []

    def encoder(pixel_values):
        calls.append(pixel_values)
        return model.und_encoder(pixel_values)

    losses = compute_losses(model, batch, encoder=encoder)
    assert calls[0] is batch.pixel_values
    assert torch.equal(losses.total, compute_losses(model, batch).total)
