"""The trainer and its loop: what a run may rely on."""

from __future__ import annotations

import json
import os
import signal
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

import openjanus.train.step
from openjanus.data.fetching import TooManyBadSamples
from openjanus.data.toy import ToyScenes
from openjanus.model.vq import VQTokenizer
from openjanus.train.loop import NonFiniteLoss, run_loop
from openjanus.train.loss_weights import LossWeights
from openjanus.train.metrics import read_metrics
from openjanus.train.source_config import SourceConfig, SourcesConfig
from openjanus.train.start import fresh_model
from openjanus.train.trainer import JanusTrainer

GOLDEN = Path(__file__).parent / "golden_losses.json"


def toy(kind, **options):
    return SourceConfig(type="toy", options={"kind": kind, "length": 64, **options})


def losses_of(folder):
    return [line["loss"] for line in read_metrics(Path(folder) / "metrics.jsonl")]


def same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(make_config, make_trainer, tmp_path):
    def run(name, **options):
        config = make_config(
            run={"dir": str(tmp_path / name), "steps": 8, **options},
            optim={"schedule": "cosine", "warmup_steps": 2},
            pack_length=256,
        )
        trainer = make_trainer(config)
        run_loop(trainer, config.run, description=name)
        return trainer

    whole = run("whole")
    run("parts", stop_at=3)
    resumed = run("parts", resume=True)
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    assert len(losses_of(tmp_path / "whole")) == 8
    assert same_weights(whole.model, resumed.model)
    assert resumed.seen == whole.seen
    states = [t.optimizers.state_dict()[0]["state"] for t in (whole, resumed)]
    for index, state in states[0].items():
        assert all(torch.equal(value, states[1][index][key]) for key, value in state.items())


def test_what_was_prepared_before_a_state_came_is_thrown_away(make_config, make_trainer):
    """The known defect: the loader is started, and its state restored after."""
    run = make_trainer(make_config())
    for step in range(2):
        run.train_step(step)
    state = run.state_dict()
    run.train_step(2)
    other = make_trainer(make_config())
    other.train_step(0)  # which prepares the next one
    other.load_state_dict(state)
    other.train_step(2)
    assert other.last_keys() == run.last_keys()
    assert other.seen == run.seen


@pytest.mark.parametrize(
    ("length", "message"),
    [(2, r"sources\.und\[0\] has 2 items, and held_back keeps the last 2"), (0, "is empty")],
)
def test_a_source_that_is_all_held_back_is_told(make_config, make_trainer, length, message):
    sources = {"und": [[ToyScenes(kind="und", length=64)[i] for i in range(length)]]}
    with pytest.raises(ValueError, match=message):
        make_trainer(make_config(ratio=(1, 0, 0)), sources=sources)


def test_data_that_was_changed_since_is_refused(make_config, make_trainer, tmp_path):
    """The order is a function of the length: a longer file would be another order in silence."""
    path = tmp_path / "text.jsonl"

    def run(words, **options):
        path.write_text("\n".join(json.dumps({"text": word}) for word in words), encoding="utf-8")
        source = SourceConfig(type="text-jsonl", options={"path": str(path)})
        config = make_config(
            stage=0,
            sources=SourcesConfig(text=[source]),
            ratio=(0, 1, 0),
            batch_size=2,
            run={"steps": 3, **options},
        )
        run_loop(make_trainer(config), config.run, description="x")

    words = ["one", "two", "six", "ten"]
    run(words, stop_at=1)
    with pytest.raises(ValueError, match=r"sources\.text\[0\] has 5 items now, and had 4 when"):
        run([*words, "five"], resume=True)
    with pytest.raises(ValueError, match=r"sources\.text\[0\] is of files that are not what they"):
        run(["three", *words[1:]], resume=True)
    run(words, resume=True)
    assert len(losses_of(tmp_path / "run")) == 3


PACKS = {"batch_unit": "packs", "batch_size": 4, "pack_length": 256, "ratio_unit": "tokens"}


def test_a_resumed_run_of_packs_is_the_uninterrupted_one(make_config, make_trainer, tmp_path):
    """Packs are filled across steps: what lies in open rows when a run stops is in no batch yet."""

    def run(name, **options):
        config = make_config(run={"dir": str(tmp_path / name), "steps": 5, **options}, **PACKS)
        trainer = make_trainer(config)
        run_loop(trainer, config.run, description=name)
        return trainer

    whole = run("whole")
    stopped = run("parts", stop_at=2)
    assert sum(len(row) for row in stopped.state_dict()["data"]["open"]) > 0
    resumed = run("parts", resume=True)
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    assert same_weights(whole.model, resumed.model)
    assert resumed.seen == whole.seen
    fills = [line["fill"] for line in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert len(fills) == 5 and max(fills) <= 1


@pytest.mark.parametrize("options", [PACKS, {"batch_size": 12, "pack_length": 256}])
@pytest.mark.parametrize("cut", [{"accumulate": 4}, {"micro_batch": 3}])
def test_accumulated_gradients_are_those_of_the_whole_batch(
    make_config, make_trainer, options, cut
):
    """One mean over all supervised tokens of the step, not a mean of the parts' means."""
    gradients = []
    # Three at a time: the last of four packs is a part by itself.
    in_threes = -(-options["batch_size"] // 3)
    for parts, how in ((1, {}), (4 if "accumulate" in cut else in_threes, cut)):
        trainer = make_trainer(make_config(bf16=False, **how, **options))
        batches = trainer._batches(trainer._samples())
        assert len(batches) == parts
        values = trainer.gradients.add(0, batches)
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        gradients.append((values["loss"], [p.grad for p in trained]))
    (loss, whole), (summed, parts) = gradients
    assert summed == pytest.approx(loss, rel=1e-6)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_weights_of_kinds_are_those_of_the_whole_step(make_config, make_trainer):
    """Accumulated, the mean is over the weights of all parts; metrics by kind do not feel them."""
    options = {"batch_size": 12, "bf16": False}
    weighed = {"loss_weights": LossWeights(und=5.0, text=0.5)}
    plain, one, parts = (
        make_trainer(make_config(**options, **more))
        for more in ({}, weighed, {"accumulate": 4, **weighed})
    )
    found = []
    for trainer in (plain, one, parts):
        values = trainer.gradients.add(0, trainer._batches(trainer._samples()))
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        found.append((values, [p.grad for p in trained]))
    (unweighed, _), (values, whole), (summed, added) = found
    kinds = {"und": 5.0, "text": 0.5, "gen": 1.0}
    counted = {kind: weight * values[f"tokens_{kind}"] for kind, weight in kinds.items()}
    mean = sum(counted[kind] * values[f"loss_{kind}"] for kind in kinds) / sum(counted.values())
    assert values["loss"] == pytest.approx(mean, abs=2e-5)
    assert summed["loss"] == pytest.approx(values["loss"], rel=1e-6)
    for key in ("loss_und", "loss_gen", "tokens_und"):
        assert values[key] == pytest.approx(unweighed[key])
    for a, b in zip(whole, added, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_workers_and_their_number_change_nothing(make_config, make_trainer, tmp_path):
    losses = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        config = make_config(
            run={"dir": str(folder), "steps": 3}, num_workers=workers, id_cache=None, **PACKS
        )
        trainer = make_trainer(config)
        run_loop(trainer, config.run, description="x")
        trainer.crew.close()
        losses.append(losses_of(folder))
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_unit": "packs"}, "no pack_length"),
        ({"ratio_unit": "tokens"}, "needs batch_unit packs"),
        ({"pack_images": 3}, "needs batch_unit packs"),
        ({"accumulate": 3}, r"batch_size \(10\) must be a multiple of accumulate \(3\)"),
        ({"micro_batch": 0}, "micro_batch must be >= 1, got 0"),
        (
            {"micro_batch": 2, "accumulate": 5},
            r"micro_batch \(2\) and accumulate \(5\) both say how a step is cut: leave accumulate",
        ),
        ({"num_workers": -1}, "num_workers must be >= 0"),
    ],
)
def test_batches_that_cannot_be_are_refused(make_config, options, message):
    with pytest.raises(ValueError, match=message):
        make_config(**options)


def test_a_resume_from_other_frozen_weights_is_refused(make_config, make_trainer):
    """They are not in the checkpoint: it is worth nothing without what it was trained on."""
    trainer = make_trainer(make_config())
    trainer.train_step(0)
    state = trainer.state_dict()
    assert not any("vq." in name for name in state["shards"].tensors if "buffer" not in name)
    other = make_trainer(make_config()).model
    with torch.no_grad():
        other.vq.quant_conv.bias += 1
    again = JanusTrainer(other, trainer.processor, make_config(id_cache=None))
    with pytest.raises(ValueError, match="other frozen weights"):
        again.load_state_dict(state)


def test_a_resume_that_trains_other_parts_is_refused(make_config, make_trainer):
    trainer = make_trainer(make_config(ema_decay=0.9))
    trainer.train_step(0)
    with pytest.raises(ValueError, match=r"do not train the same.*the first ema/"):
        make_trainer(make_config()).load_state_dict(trainer.state_dict())


def test_stop_at_never_touches_the_schedule(make_config, make_trainer, tmp_path):
    rates = []
    for name, stop_at in (("whole", None), ("stopped", 3)):
        config = make_config(
            run={"dir": str(tmp_path / name), "steps": 6, "stop_at": stop_at},
            optim={"schedule": "cosine", "warmup_steps": 2},
        )
        assert run_loop(make_trainer(config), config.run, description=name) == (stop_at or 6)
        rates.append([m["lr"] for m in read_metrics(tmp_path / name / "metrics.jsonl")])
    assert rates[1] == rates[0][:3]
    assert rates[0][-1] < rates[0][2]


def test_an_interrupted_run_saves_and_goes_on(make_config, make_trainer, tmp_path):
    config = make_config()
    trainer = make_trainer(config)
    step = trainer.train_step

    def interrupted(number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(number)

    trainer.train_step = interrupted
    handler = signal.getsignal(signal.SIGINT)
    assert run_loop(trainer, config.run, description="x") == 3
    assert signal.getsignal(signal.SIGINT) is handler
    again = make_config(run={"resume": True})
    assert run_loop(make_trainer(again), again.run, description="x") == 8
    assert len(losses_of(tmp_path / "run")) == 8


def test_a_loss_that_is_not_finite_stops_and_names_the_samples(make_config, make_trainer, tmp_path):
    config = make_config(run={"save_every": 1})
    trainer = make_trainer(config)
    step = trainer.train_step

    def broken(number):
        if number == 2:
            with torch.no_grad():
                trainer.model.gen_head.vision_head.bias[0] = float("nan")
        return step(number)

    trainer.train_step = broken
    with pytest.raises(NonFiniteLoss, match=r"loss is nan at step 3; samples: .*toy-gen-chat/0/"):
        run_loop(trainer, config.run, description="x")
    saved = sorted(path.name for path in (tmp_path / "run").glob("step-*"))
    assert saved == ["step-00000001", "step-00000002"]


def test_a_gradient_that_is_not_finite_stops_too(make_config, make_trainer):
    config = make_config()
    trainer = make_trainer(config)
    trainer.train_step = lambda step: {"loss": 1.0, "grad_norm": float("inf")}
    with pytest.raises(NonFiniteLoss, match="grad_norm is inf"):
        run_loop(trainer, config.run, description="x")


def test_an_old_run_is_not_overwritten(make_config, make_trainer):
    config = make_config(run={"stop_at": 1})
    run_loop(make_trainer(config), config.run, description="x")
    with pytest.raises(ValueError, match=r"holds a run already.*run\.resume true"):
        run_loop(make_trainer(config), config.run, description="x")


def test_resuming_nothing_is_told(make_config, make_trainer):
    config = make_config(run={"resume": True})
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        run_loop(make_trainer(config), config.run, description="x")


def test_the_ratio_is_met_in_every_step_and_logged(make_config, make_trainer, tmp_path):
    config = make_config(run={"steps": 3}, pack_length=256)
    run_loop(make_trainer(config), config.run, description="x")
    for line in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        step = line["step"]
        assert line["samples"] == {"und": 2 * step, "text": 3 * step, "gen": 5 * step}
        assert line["tokens_gen"] == 5 * 16
        counts = {kind: line[f"tokens_{kind}"] for kind in ("und", "text", "gen")}
        total = sum(line[f"loss_{kind}"] * count for kind, count in counts.items())
        assert line["loss"] == pytest.approx(total / sum(counts.values()), abs=1e-3)


def test_prompts_are_hidden_at_their_share_and_by_their_key(make_config, make_trainer, processor):
    config = make_config(
        sources=SourcesConfig(), ratio=(0, 0, 1), cond_drop=0.1, batch_size=50, id_cache=None
    )
    source = ToyScenes(kind="gen", length=1002)
    trainers = [make_trainer(config, sources={"gen": [source]}) for _ in range(2)]
    hidden = []
    for trainer in trainers:
        samples = [s for step in range(20) for s in trainer.stream.step(step).samples]
        hidden.append({s.key for s in samples if is_hidden(s, processor)})
    assert hidden[0] == hidden[1]
    assert 70 <= len(hidden[0]) <= 130
    later = [s for step in range(20, 40) for s in trainers[0].stream.step(step).samples]
    assert hidden[0] != {s.key for s in later if is_hidden(s, processor)}


def is_hidden(sample, processor):
    prompt = sample.input_ids[: sample.gen_start]
    return prompt == processor.uncond_prompt(len(prompt))


def test_captions_are_cut_to_their_first_sentence_when_asked(make_config, make_trainer):
    config = make_config(first_sentence=1.0, cond_drop=0.0)
    trainer = make_trainer(config)
    source = ToyScenes(kind="gen")
    sample = source[0]
    turn = type(sample.turns[0])(role="user", text="One thing. And more. And more.")
    long = type(sample)(key="k", kind="gen", turns=(turn,), target=sample.target)
    draw = trainer.stream.mixture.draw(0)
    cut = trainer.crew.fetcher.encode(long, draw)
    assert cut.input_ids[: cut.gen_start] == trainer.processor.gen_prompt("One thing.")


class Breaking(ToyScenes):
    def __getitem__(self, index):
        if index % 4 == 0:
            raise OSError("unreadable")
        return super().__getitem__(index)


def test_bad_samples_are_counted_and_limited(make_config, make_trainer, tmp_path):
    config = make_config(
        ratio=(0, 1, 0), max_bad_samples=4, run={"steps": 30}, sources=SourcesConfig()
    )
    trainer = make_trainer(config, sources={"text": [Breaking(kind="text", length=64)]})
    with pytest.raises(TooManyBadSamples, match=r"max_bad_samples is 4.*OSError: unreadable"):
        run_loop(trainer, config.run, description="x")
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert 0 < max(line.get("bad_samples", 0) for line in lines) <= 4


@pytest.mark.parametrize("allowed", [{"max_bad_samples": 5}, {"max_bad_share": 0.3}])
def test_a_bad_sample_that_comes_back_counts_once(make_config, make_trainer, capsys, allowed):
    """A quarter of a small file comes back with every epoch, and over a resume."""
    config = make_config(
        ratio=(0, 1, 0), sources=SourcesConfig(), **{"max_bad_samples": 0, **allowed}
    )
    sources = {"text": [Breaking(kind="text", length=20)]}
    trainer = make_trainer(config, sources=sources)
    values = [trainer.train_step(step) for step in range(6)][-1]
    assert values["bad_samples"] == 5  # of the 18 that are trained on, 60 draws
    assert capsys.readouterr().err.count("skipped text source 0 item 4:") == 1
    resumed = make_trainer(config, sources=sources)
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.train_step(6)["bad_samples"] == 5


def test_ids_are_computed_once_and_kept_between_runs(make_config, make_trainer, tmp_path):
    config = make_config(ratio=(0, 0, 1), run={"steps": 20})
    trainer = make_trainer(config)
    sizes = []
    encode = trainer._ids._tokenize
    trainer._ids._tokenize = lambda pixels: sizes.append(len(pixels)) or encode(pixels)
    first = [trainer._with_image_ids(trainer.stream.step(step)) for step in range(7)]
    assert sum(sizes) == 62  # every item but those held back, once
    trainer.state_dict()
    again = make_trainer(config)
    again._ids._tokenize = lambda pixels: pytest.fail("all ids are known")
    second = [again._with_image_ids(again.stream.step(step)) for step in range(7)]
    for a, b in zip(chain(*first), chain(*second), strict=True):
        assert np.array_equal(a.target, b.target)
    (folder,) = (tmp_path / "id-cache").iterdir()
    assert json.loads((folder / "cache.json").read_text())["num_items"] == 64


def test_ids_do_not_depend_on_the_batch_they_came_in(make_config, make_trainer):
    trainer = make_trainer(make_config())
    pictures = [ToyScenes(kind="gen").picture(i) for i in range(20)]
    pixels = trainer.processor.gen_pixels(pictures)
    together = trainer.encode_images(pixels)
    alone = torch.cat([trainer.encode_images(pixels[i : i + 1]) for i in range(20)])
    assert torch.equal(together, alone)


def test_another_tokenizers_ids_are_refused(make_config, make_trainer, tiny_config, processor):
    config = make_config()
    make_trainer(config)
    with pytest.raises(ValueError, match="another tokenizer_hash"):
        JanusTrainer(fresh_model(tiny_config, 1), processor, config)


def test_gen_embed_starts_as_the_codebook(tiny_config):
    model = fresh_model(tiny_config, 0)
    assert isinstance(model.vq, VQTokenizer)
    rows = model.vq.quantize.normalised_codebook()
    assert torch.equal(model.get_parameter("gen_embed.weight"), rows)
    assert torch.allclose(rows.norm(dim=-1), torch.ones(len(rows)), atol=1e-5)


def test_a_broken_item_among_the_samples_is_named_and_left_out(
    make_config, make_trainer, tmp_path, capsys
):
    class Broken(ToyScenes):
        def __getitem__(self, index):
            if index == 63:
                raise OSError("unreadable")
            return super().__getitem__(index)

    config = make_config(ratio=(0, 1, 0))
    trainer = make_trainer(config, sources={"text": [Broken(kind="text", length=64)]})
    trainer.sample(tmp_path, 1)
    assert "samples leave out text item 63: OSError: unreadable" in capsys.readouterr().err
    assert len((tmp_path / "step-00000001.txt").read_text().splitlines()) == 1


def test_held_back_items_are_never_trained_on(make_config, make_trainer):
    trainer = make_trainer(make_config(held_back=9))
    draws = [d for step in range(60) for d in trainer.stream.mixture.batch(step, 10)]
    assert max(draw.index for draw in draws) == 64 - 9 - 1


def test_a_length_past_the_context_is_told(make_config, make_trainer):
    with pytest.raises(ValueError, match="past the model's context of 256"):
        make_trainer(make_config(max_length=300))


def test_samples_show_drawings_and_answers(make_config, make_trainer, tmp_path):
    trainer = make_trainer(make_config())
    trainer.sample(tmp_path, 3)
    lines = (tmp_path / "step-00000003.txt").read_text().splitlines()
    assert len(lines) == 6
    assert sum(": draw: a " in line for line in lines) == 2
    first = (tmp_path / "step-00000003.png").read_bytes()
    trainer.sample(tmp_path, 3)
    assert (tmp_path / "step-00000003.png").read_bytes() == first
    assert trainer.model.training


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_twenty_steps_give_the_losses_that_they_gave(make_config, make_trainer, stage):
    """Within 0.002 on any CPU, which adds in an order of its own; to the bit on one of them."""
    form = "plain" if stage == 1 else "chat"
    sources = SourcesConfig(
        und=[toy("und", form=form)], text=[toy("text")], gen=[toy("gen", form=form)]
    )
    ratio = {0: (0, 1, 0), 1: (1, 0, 1), 2: (2, 3, 5), 3: (7, 3, 10)}[stage]
    config = make_config(
        stage=stage, ratio=ratio, sources=sources, bf16=False, run={"steps": 20}, pack_length=256
    )
    trainer = make_trainer(config)
    losses = [trainer.train_step(step)["loss"] for step in range(20)]
    golden = json.loads(GOLDEN.read_text())[str(stage)]
    assert len(golden) == 20
    assert losses == pytest.approx(golden, abs=2e-3)
    assert losses[-1] < losses[0]


def test_drawings_tokenized_by_islands_have_other_ids_and_a_cache_of_their_own(
    make_config, make_trainer, tmp_path
):
    targets = {}
    for how in ("whole", "islands"):
        config = make_config(
            ratio=(0, 0, 1), tokenize=how, run={"steps": 1, "dir": str(tmp_path / how)}
        )
        trainer = make_trainer(config)
        samples = trainer._with_image_ids(trainer.stream.step(0))
        targets[how] = [sample.target.tolist() for sample in samples]
        trainer.state_dict()  # writes the cache
    assert targets["whole"] != targets["islands"]
    assert len(list((tmp_path / "id-cache").iterdir())) == 2
    with pytest.raises(ValueError, match="tokenize must be whole or islands, got 'tiles'"):
        make_config(tokenize="tiles")


def test_on_a_cpu_the_fast_forwards_are_run(make_config, make_trainer, monkeypatch):
    calls = []

    def spy_on(name):
        own = getattr(openjanus.train.step, name)

        def spy(*args, **options):
            calls.append(name)
            return own(*args, **options)

        monkeypatch.setattr(openjanus.train.step, name, spy)

    spy_on("run_decoder")
    spy_on("run_encoder")
    config = make_config(ratio=(1, 0, 0), sources=SourcesConfig(und=[toy("und")]))
    make_trainer(config).train_step(0)
    assert sorted(calls) == ["run_decoder", "run_encoder"]
