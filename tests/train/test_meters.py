from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from openjanus.train.flops import FlopCounter, measure_peak
from openjanus.train.loop import run_loop
from openjanus.train.losses import compute_losses
from openjanus.train.meters import GradientNorms, codebook_use, count_codes, join_facts
from openjanus.train.metrics import read_metrics
from openjanus.train.parallel import World
from openjanus.train.stages import part_of
from openjanus.train.vq_trainer import VQTrainer
from openjanus.train.watch import Watch


def batches_of(trainer):
    return trainer._batches(trainer._samples())


def test_norms_by_part_are_those_of_the_gradients_and_make_up_the_whole(make_config, make_trainer):
    trainer = make_trainer(make_config(stage=3, bf16=False))
    trainer.gradients.add(0, batches_of(trainer))
    found = trainer._norms.read()
    parts = {part_of(n) for n, p in trainer.model.named_parameters() if p.grad is not None}
    assert set(found) == {f"grad_norm_{part}" for part in parts}
    assert "grad_norm_und_encoder" in found and "grad_norm_vq" not in found
    head = [p.grad for p in trainer.model.gen_head.parameters()]
    by_hand = math.sqrt(sum(float(g.double().pow(2).sum()) for g in head))
    assert found["grad_norm_gen_head"] == pytest.approx(by_hand, rel=1e-4)
    whole, _ = trainer.optimizers.step(0, 8)
    assert math.hypot(*found.values()) == pytest.approx(whole, rel=1e-4)
    assert GradientNorms(trainer.model.named_parameters()).read() == {}  # cleared


def test_norms_are_taken_where_a_line_is_written_and_change_no_bit(
    make_config, make_trainer, tmp_path
):
    models = []
    for every in (1, 3):
        folder = tmp_path / str(every)
        config = make_config(run={"dir": str(folder), "steps": 5, "log_every": every})
        trainer = make_trainer(config)
        run_loop(trainer, config.run, description="x")
        lines = read_metrics(folder / "metrics.jsonl")
        assert all("grad_norm_gen_head" in line for line in lines)
        models.append((trainer.model.state_dict(), {line["step"]: line["loss"] for line in lines}))
    (one, losses), (other, fewer) = models
    assert list(fewer) == [3, 5]
    assert fewer.items() <= losses.items()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_codebook_that_a_step_uses(make_config, make_trainer, tmp_path):
    trainer = make_trainer(make_config(ratio=(0, 0, 1), batch_size=2))
    (batch,) = batches_of(trainer)
    size = trainer.model.config.codebook_size
    batch.image_ids[:] = 3
    once = codebook_use(count_codes([batch], size))
    assert once == {"codebook_usage": 1 / size, "codebook_entropy": 0.0}
    batch.image_ids[0] = 4
    found = codebook_use(count_codes([batch], size))
    assert found["codebook_usage"] == 2 / size
    assert found["codebook_entropy"] == pytest.approx(math.log(2), abs=1e-4)
    words = make_trainer(make_config(ratio=(0, 1, 0)))
    assert codebook_use(count_codes(batches_of(words), size)) == {}


def test_tokens_are_counted_by_kind_over_the_run_and_rows_by_their_fill(
    make_config, make_trainer, tmp_path
):
    config = make_config(run={"steps": 4, "stop_at": 2}, pack_length=256)
    run_loop(make_trainer(config), config.run, description="x")
    again = make_config(run={"steps": 4, "resume": True}, pack_length=256)
    resumed = make_trainer(again)
    run_loop(resumed, again.run, description="x")
    whole = make_trainer(make_config(run={"steps": 4}, pack_length=256))
    total = dict.fromkeys(("und", "text", "gen"), 0)
    for step in range(4):
        for sample in whole.stream.step(step).samples:
            total[sample.kind] += len(sample.input_ids)
    assert resumed.seen_tokens == total
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["tokens"] == total
    (batch,) = batches_of(whole)
    real = int((batch.document_ids >= 0).sum())
    facts = whole._facts(whole.stream.step(0), [batch])
    assert facts.fill == pytest.approx(real / batch.input_ids.numel())


def test_parts_of_a_step_are_put_back_as_they_were_dealt(make_config, make_trainer):
    """Of three processes each second one's sample lies between those of its neighbours."""
    whole = make_trainer(make_config(batch_size=6, ratio=(1, 1, 1), prefetch=False))
    step = whole.stream.take({})
    batches = whole._batches(step)
    parts = []
    for rank in range(3):
        part = replace(step, draws=step.draws[rank::3], samples=step.samples[rank::3])
        parts.append(whole._facts(part, whole._batches(part)))
    facts, joined = whole._facts(step, batches), join_facts(parts)
    assert joined.keys == facts.keys == [sample.key for sample in step.samples]
    assert replace(joined, places=facts.places) == facts
    assert joined.places == sum(part.places for part in parts)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_operations_are_those_that_torch_counts(make_config, make_trainer, stage):
    """Without padding, one sample a row; attention apart, which torch counts in full squares."""
    ratio = {0: (0, 1, 0), 1: (1, 0, 1), 2: (1, 1, 1), 3: (1, 1, 1)}[stage]
    trainer = make_trainer(make_config(stage=stage, ratio=ratio, batch_size=3, bf16=False))
    model = trainer.model
    batches = [batch for sample in batches_of_one(trainer) for batch in sample]
    counter = FlopCounter(model)
    pairs = sum(int((b.positions + 1)[b.attention_mask].sum()) for b in batches)
    pictures = sum(0 if b.pixel_values is None else len(b.pixel_values) for b in batches)
    ours = counter.count(batches)
    ours -= pairs * counter._per_pair + pictures * counter._per_picture
    theirs = 0
    for batch in batches:
        padded = batch.input_ids.numel() - batch.num_tokens
        with FlopCounterMode(display=False) as mode:
            compute_losses(model, batch).total.backward()
        counts = mode.get_flop_counts()["Global"]
        theirs += sum(n for op, n in counts.items() if "attention" not in str(op))
        theirs -= padded * counter._per_token["language_model"]
    assert ours == pytest.approx(theirs, rel=0.02)


def batches_of_one(trainer):
    from openjanus.data.collate import collate

    for sample in trainer._with_image_ids(trainer._samples()):
        yield [collate([sample], trainer.processor)]


def test_pairs_are_those_within_documents(make_config, make_trainer):
    config = make_config(ratio=(0, 1, 0), pack_length=256)
    trainer = make_trainer(config)
    step = trainer._samples()
    batch = trainer._batches(step)[0]
    lengths = [len(sample.input_ids) for sample in step.samples]
    pairs = int((batch.positions + 1)[batch.attention_mask].sum())
    assert pairs == sum(n * (n + 1) // 2 for n in lengths)


def test_the_share_of_a_measured_peak_is_logged_where_it_is_wanted(
    make_config, make_trainer, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        "openjanus.train.watch.measure_peak", lambda *where: asked.append(where) or 1e9
    )
    config = make_config(run={"steps": 2, "measure_peak": True})
    run_loop(make_trainer(config), config.run, description="x")
    assert asked == [(torch.device("cpu"), torch.bfloat16)]
    for line in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        share = line["flops"] / line["seconds"] / 1e9
        assert line["mfu"] == pytest.approx(share, rel=1e-2)


class Unequal(World):
    """The first of two processes; the other one's numbers are three times its own."""

    def gather(self, value: Any) -> list[Any]:
        return [value, value if value is None else 3 * value]


def test_the_share_is_of_the_peaks_of_all_processes(
    make_config, make_trainer, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("openjanus.train.watch.measure_peak", lambda *where: 1e9)
    trainer = make_trainer(make_config())
    run = make_config(run={"measure_peak": True}).run
    watch = Watch(trainer, run, start=0, state=None, world=Unequal(rank=0, size=2))
    assert watch.utilisation({"flops": 8e9}, 2.0) == {"mfu": 1.0}
    assert capsys.readouterr().err == "peak: 0.004 TFLOP/s in torch.bfloat16 on cpu, 2 processes\n"
    Watch(trainer, run, start=0, state=None, world=Unequal(rank=1, size=2))
    assert capsys.readouterr().err == ""


def test_the_peak_is_a_plausible_number(monkeypatch):
    monkeypatch.setattr("openjanus.train.flops.PEAK_SIDE", {"cpu": 256})
    assert 1e8 < measure_peak(torch.device("cpu"), torch.float32) < 1e15


def test_a_peak_for_what_counts_no_operations_is_refused(make_config, tmp_path):
    run = make_config(run={"measure_peak": True}).run
    task = object.__new__(VQTrainer)
    with pytest.raises(ValueError, match=r"run\.measure_peak is for runs of kind janus"):
        run_loop(task, run, description="x")
