"""Validation: on fixed samples that are never trained on, and without a trace in the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openjanus.data.collate import collate
from openjanus.data.samples import DRAW_MARK, Sample, Turn
from openjanus.data.toy import ToyScenes
from openjanus.eval.task import TASKS, Request
from openjanus.processor.prompt import Processor
from openjanus.train.best import best_steps, ended_early
from openjanus.train.checkpoint import checkpoint_steps, load_checkpoint
from openjanus.train.loop import run_loop
from openjanus.train.losses import compute_losses
from openjanus.train.metrics import read_metrics
from openjanus.train.parallel import World
from openjanus.train.runs import run_training
from openjanus.train.source_config import SourcesConfig
from openjanus.train.trainer import JanusTrainer
from openjanus.train.watch_config import BestConfig, ValConfig, ValSourceConfig, ValTaskConfig
from openjanus.weights.formats import load_model

CLOCKS = ("seconds", "data_wait", "tokens_per_second", "supervised_tokens_per_second", "mfu")
OTHER = {"length": 50, "seed": 7}


def lines_of(folder):
    lines = read_metrics(Path(folder) / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def toy(kind, **options):
    return ValSourceConfig(type="toy", options={"kind": kind, **options})


def indices(trainer, kind):
    return [int(one.key.split("/")[-1]) for one in trainer.validation.samples[kind]]


def test_without_sources_of_its_own_it_takes_what_is_held_back(make_config, make_trainer, capsys):
    trainer = make_trainer(make_config(held_back=9, val=ValConfig(every=1, samples=4)))
    for kind in ("und", "text", "gen"):
        assert indices(trainer, kind) == [55, 57, 59, 61]
    assert "validation gen: 4 held back of toy" in capsys.readouterr().err


def test_a_source_that_is_trained_on_is_validated_on_what_it_holds_back(make_config, make_trainer):
    same = ValSourceConfig(type="toy", options={"kind": "gen", "length": 64})
    val = ValConfig(every=1, samples=6, gen=[same, toy("gen", **OTHER)])
    trainer = make_trainer(make_config(held_back=2, val=val))
    keys = [one.key for one in trainer.validation.samples["gen"]]
    assert keys == [
        *("toy-gen-chat/0/62", "toy-gen-chat/0/63"),
        *(f"toy-gen-chat/7/{index}" for index in (0, 16, 33)),
    ]


def test_training_on_what_is_validated_on_is_refused(make_config, make_trainer):
    val = ValConfig(every=1, samples=64, text=[toy("text", length=32)])  # the same scenes
    trainer = make_trainer(make_config(val=val))
    order = [[s.key for s in trainer.stream.step(step).samples] for step in range(8)]
    first = next(n for n, keys in enumerate(order) if trainer.validation.keys & set(keys))
    for step in range(first):
        trainer.train_step(step)
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(ValueError, match=r"sample toy-text-chat/0/\d+ is validated on and would"):
        trainer.train_step(first)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_broken_samples_are_left_out_and_named_and_none_is_too_few(
    make_config, make_trainer, capsys
):
    class Breaking(ToyScenes):
        broken_from = 64

        def __getitem__(self, index):
            if index >= self.broken_from:
                raise OSError("unreadable")
            return super().__getitem__(index)

    source = Breaking(kind="text", length=64)
    options = {"ratio": (0, 1, 0), "sources": SourcesConfig(), "held_back": 4}
    config = make_config(**options, val=ValConfig(every=1, samples=4))
    source.broken_from = 62
    trainer = make_trainer(config, sources={"text": [source]})
    assert indices(trainer, "text") == [60, 61]
    told = capsys.readouterr().err
    assert "text item 62 held back of Breaking: OSError: unreadable" in told
    source.broken_from = 60
    with pytest.raises(ValueError, match="no sample of kind 'text' can be validated on"):
        make_trainer(config, sources={"text": [source]})


def test_prompts_are_never_hidden_and_captions_never_cut(make_config, make_trainer):
    val = ValConfig(every=1, samples=8, gen=[toy("gen", **OTHER)])
    losses = []
    for options in ({}, {"cond_drop": 1.0, "first_sentence": 1.0}):
        trainer = make_trainer(make_config(val=val, **options))
        losses.append(trainer.validate(Path("unused"), 1))
        assert trainer.model.training
    assert losses[0] == losses[1]
    assert set(losses[0]) == {"val_loss", "val_loss_und", "val_loss_text", "val_loss_gen"}


def test_the_forward_is_the_runs_own_without_gradients(make_config, make_trainer):
    for bf16 in (True, False):
        trainer = make_trainer(make_config(bf16=bf16, val=ValConfig(every=1, samples=2)))
        (run, encoder), seen = trainer._module._instead, []

        def spy(embeds, run=run, seen=seen, **options):
            seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
            return run(embeds, **options)

        trainer._module._instead = (spy, encoder)
        trainer.validate(Path("unused"), 1)
        assert set(seen) == {(False, bf16)}


def test_the_loss_is_the_mean_over_supervised_tokens_whatever_the_batches(
    make_config, make_trainer
):
    found = []
    for size in (1, 3, 16):
        val = ValConfig(every=1, samples=8, batch_size=size)
        trainer = make_trainer(make_config(val=val, held_back=8, bf16=False))
        found.append(trainer.validation.losses())
        counts = {
            "gen": 8 * 16,
            **{
                k: sum(sum(s.loss_mask) for s in trainer.validation.samples[k])
                for k in ("und", "text")
            },
        }
        total = sum(found[-1][f"val_loss_{kind}"] * count for kind, count in counts.items())
        assert found[-1]["val_loss"] == pytest.approx(total / sum(counts.values()), abs=1e-5)
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=2e-5)


class Documents:
    """Each draws a picture between its words; one is longer than another."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        words = ["one", "two", "three", "four", "five", "six", "seven"][: 2 + index % 5]
        picture = np.full((32, 32, 3), 20 * index, np.uint8)
        text = f"{' '.join(words)} {DRAW_MARK} and so it is"
        return Sample(
            key=f"document/{index}",
            kind="gen",
            turns=(Turn(role="assistant", text=text),),
            targets=(picture,),
            form="plain",
        )


def test_words_of_documents_count_as_what_they_draw_does(make_config, make_trainer):
    config = make_config(
        ratio=(0, 1, 1),
        cond_drop=0.0,
        held_back=4,
        bf16=False,
        val=ValConfig(every=1, samples=4, batch_size=3),
    )
    words = ToyScenes(kind="text", length=64)
    trainer = make_trainer(config, sources={"gen": [Documents()], "text": [words]})
    found = trainer.validate(Path("unused"), 1)
    assert set(found) == {"val_loss", "val_loss_text", "val_loss_gen"}
    samples = [one for some in trainer.validation.samples.values() for one in some]
    trainer.model.eval()
    with torch.no_grad():
        whole = compute_losses(trainer.model, collate(samples, trainer.processor))
    said = sum(sum(s.loss_mask) for s in trainer.validation.samples["text"])
    assert whole.counts["gen"] == 4 * 16 and whole.counts["text"] > said
    assert found["val_loss"] == pytest.approx(whole.total.item(), abs=2e-5)
    means = {f"val_loss_{kind}": mean for kind, mean in whole.means().items()}
    assert {k: v for k, v in found.items() if k != "val_loss"} == pytest.approx(means, abs=2e-5)


@pytest.mark.parametrize("decay", [None, 0.8])
def test_a_run_that_is_validated_has_the_bits_of_one_that_is_not(
    make_config, make_trainer, tmp_path, decay
):
    models, averages = [], []
    for name, val in (("plain", ValConfig()), ("watched", ValConfig(every=2, samples=2))):
        run = {"dir": str(tmp_path / name), "steps": 5}
        config = make_config(run=run, val=val, ema_decay=decay)
        trainer = make_trainer(config)
        run_loop(trainer, config.run, description=name)
        assert trainer.model.training
        assert all(p.grad is None for p in trainer.model.parameters())
        models.append(trainer.model)
        ema = trainer.trained.ema
        averages.append({} if ema is None else ema.tensors)
    assert same_weights(*models)
    assert all(torch.equal(mean, averages[1][name]) for name, mean in averages[0].items())
    assert len(averages[0]) == len(averages[1]) and bool(averages[0]) == (decay is not None)
    plain, watched = (lines_of(tmp_path / name) for name in ("plain", "watched"))
    assert [line["step"] for line in watched if "val_loss" in line] == [2, 4]
    stripped = [{k: v for k, v in line.items() if not k.startswith("val_")} for line in watched]
    assert stripped == plain


class CountTask:
    """Scores that are a function of the weights."""

    rules = "test v1"
    batch_size = 4
    asked: list[Any]

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    def settings(self, janus):
        return {"scale": self.scale}

    def requests(self, *, limit, seed):
        number = 6 if limit is None else limit
        return [Request(key=f"{seed}/{i}", group="g", prompt=str(i)) for i in range(number)]

    def answer(self, janus, batch, folder):
        assert not janus.model.training
        return [{"key": request.key} for request in batch]

    def summarise(self, janus, predictions, folder, *, seed):
        weight = float(janus.model.gen_head.vision_head.weight.detach().double().abs().sum())
        return {"n": len(predictions), "score": {"all": weight * self.scale}, "words": "no number"}


@pytest.fixture
def count_task(monkeypatch):
    monkeypatch.setitem(TASKS._factories, "count", CountTask)


def test_tasks_run_by_their_own_clocks_with_their_limit(
    make_config, make_trainer, tmp_path, count_task
):
    task = ValTaskConfig(task="count", every=2, limit=3, seed=5, options={"scale": 2.0})
    config = make_config(run={"steps": 5}, val=ValConfig(tasks=[task]))
    trainer = make_trainer(config)
    measure, modes = trainer.validate, []
    trainer.validate = lambda *when: (measure(*when), modes.append(trainer.model.training))[0]
    run_loop(trainer, config.run, description="x")
    lines = lines_of(tmp_path / "run")
    scored = {line["step"]: line for line in lines if "eval_count_n" in line}
    assert list(scored) == [2, 4]
    assert scored[2]["eval_count_n"] == 3
    assert {k for k in scored[2] if k.startswith("eval_")} == {
        "eval_count_n",
        "eval_count_score_all",
    }
    assert scored[2]["eval_count_score_all"] != scored[4]["eval_count_score_all"]
    summary = tmp_path / "run" / "eval" / "step-00000004" / "count" / "summary.json"
    assert json.loads(summary.read_text())["seed"] == 5
    assert modes == [True] * 5


@pytest.mark.parametrize("decay", [None, 0.8])
def test_the_best_is_shipped_as_it_was_measured(make_config, tmp_path, count_task, decay):
    """With an average of the weights it is this that is measured, by losses and by tasks."""
    val = ValConfig(every=1, samples=4, tasks=[ValTaskConfig(task="count", every=1, limit=1)])
    best = BestConfig(mode="max")  # the first is the best: not what the run ends with
    config = make_config(
        run={"steps": 4, "best": best, "final_from": "best"}, bf16=False, val=val, ema_decay=decay
    )
    run_training(config)
    folder = tmp_path / "run"
    (kept,) = json.loads((folder / "best.json").read_text())["checkpoints"]
    line = lines_of(folder)[kept["step"] - 1]
    assert kept["value"] == line["val_loss"] > lines_of(folder)[-1]["val_loss"]

    model, tokenizer = load_model(folder / "final", device="cpu", dtype=torch.float32)
    plain = make_config(bf16=False, val=val)
    fresh = JanusTrainer(model, Processor(model.config, tokenizer), plain)
    assert fresh.validation is not None
    assert fresh.validation.losses()["val_loss"] == pytest.approx(kept["value"], abs=1e-6)
    head = model.gen_head.vision_head.weight.detach().double().abs().sum().item()
    assert line["eval_count_score_all"] == pytest.approx(head, rel=1e-12)

    shards = load_checkpoint(folder / f"step-{kept['step']:08d}")["task"]["shards"]
    sums = {}
    for name in ("model", "ema") if decay else ("model",):
        room = torch.empty_like(model.gen_head.vision_head.weight)
        shards.read_into({f"{name}/gen_head.vision_head.weight": room})
        sums[name] = room.double().abs().sum().item()
    assert sums["ema" if decay else "model"] == pytest.approx(head, rel=1e-12)
    assert not decay or sums["model"] != sums["ema"]


def test_what_cannot_be_read_in_one_process_is_measured_in_none(make_config, make_trainer, capsys):
    class First(World):
        """The first of two processes; the other one cannot read the item 62."""

        def gather(self, value: Any) -> list[Any]:
            return [value, {(0, 62): "OSError: unreadable"}]

    trainer = make_trainer(make_config(ratio=(0, 1, 0), val=ValConfig(every=1, samples=2)))
    validation = trainer.validation
    parts = validation._parts("text", trainer.sources["text"])
    assert len(validation._read("text", parts)) == 2
    assert capsys.readouterr().err
    unread = "text item 62 held back of toy: OSError: unreadable (in process 1 of 2)"
    for rank, told in ((0, unread), (1, "")):
        validation.world = First(rank=rank, size=2)
        assert [s.key.split("/")[-1] for s in validation._read("text", parts)] == ["63"]
        said = capsys.readouterr().err
        assert told in said and bool(said) == bool(told)


def test_a_score_that_the_task_has_not_is_told(make_config, make_trainer, count_task):
    config = make_config(
        run={"steps": 2, "best": BestConfig(metric="eval_count_score_al", mode="max")},
        val=ValConfig(tasks=[ValTaskConfig(task="count", every=1, limit=1)]),
    )
    with pytest.raises(ValueError, match="did you mean 'eval_count_score_all'"):
        run_loop(make_trainer(config), config.run, description="x")


@pytest.mark.parametrize(
    ("metric", "task", "message"),
    [
        ("val_loss", {"task": "cuont"}, "unknown task 'cuont'; did you mean 'count'"),
        ("val_loss", {"task": "count", "options": {"scael": 2.0}}, "scael"),
        ("val_loss_gne", {"task": "count"}, "nothing here measures; did you mean 'val_loss_gen'"),
        ("val_loss_und_image", {"task": "count"}, "nothing here measures"),
    ],
)
def test_a_slip_is_told_before_anything_is_trained(
    make_config, make_trainer, count_task, metric, task, message
):
    config = make_config(
        run={"best": BestConfig(metric=metric)},
        val=ValConfig(every=1000, samples=2, tasks=[ValTaskConfig(**task)]),
    )
    with pytest.raises((KeyError, ValueError), match=message):
        make_trainer(config)


WATCHED = {"every": 2, "samples": 4, "und": [toy("und", **OTHER)]}


def test_a_resumed_run_has_the_lines_and_the_list_of_the_uninterrupted_one(
    make_config, make_trainer, tmp_path, count_task
):
    """Stopped between two measurements, in the middle of patience; lines are not every step's."""
    task = ValTaskConfig(task="count", every=3, limit=1)

    def run(name, **options):
        best = BestConfig(metric="val_loss", mode="max", keep=2)  # the first is the best
        config = make_config(
            run={
                "dir": str(tmp_path / name),
                "steps": 12,
                "log_every": 4,
                "save_every": 5,
                "best": best,
                "patience": 4,
                **options,
            },
            val=ValConfig(**WATCHED, tasks=[task]),
        )
        trainer = make_trainer(config)
        return run_loop(trainer, config.run, description=name), trainer

    assert run("whole")[0] == 10  # the best is step 2, and four more measurements
    for stop_at in (3, 7):
        assert run("parts", stop_at=stop_at, resume=stop_at > 3)[0] == stop_at
    stale = tmp_path / "parts" / "eval" / "step-00000009" / "count" / "settings.json"
    stale.parent.mkdir(parents=True)  # a step past the checkpoint was measured before a kill
    stale.write_text('{"checkpoint_sha256": "of other weights"}')
    done, _ = run("parts", resume=True)
    assert done == 10
    assert run("parts", resume=True)[0] == 10  # it stays complete
    whole, parts = (lines_of(tmp_path / name) for name in ("whole", "parts"))
    assert parts == whole
    assert [line["step"] for line in whole] == [2, 3, 4, 6, 8, 9, 10]
    texts = [(tmp_path / name / "best.json").read_text() for name in ("whole", "parts")]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["ended_at"] == 10
    assert best_steps(tmp_path / "parts") == [2, 4]
    assert {2, 4, 10} <= set(checkpoint_steps(tmp_path / "parts"))


def test_patience_at_its_end_makes_the_run_complete_with_the_best_or_the_last(
    make_config, tmp_path
):
    for final_from, step in (("last", 4), ("best", 1)):
        folder = tmp_path / final_from
        config = make_config(
            run={
                "dir": str(folder),
                "steps": 9,
                "best": BestConfig(mode="max"),
                "patience": 3,
                "final_from": final_from,
            },
            val=ValConfig(every=1, samples=2),
        )
        run_training(config)
        assert ended_early(folder)
        assert checkpoint_steps(folder) == [1, 4]
        model, _ = load_model(folder / "final", device="cpu", dtype=torch.float32)
        own = {f"model/{name}": torch.empty_like(p) for name, p in model.named_parameters()}
        shards = load_checkpoint(folder / f"step-{step:08d}")["task"]["shards"]
        own = {name: own[name] for name in shards.shapes() if name in own}
        shards.read_into(own)
        assert len(own) > 10
        assert all(
            torch.equal(model.get_parameter(name.removeprefix("model/")), value)
            for name, value in own.items()
        )


def test_a_list_of_an_earlier_run_in_the_folder_is_not_taken_over(
    make_config, make_trainer, tmp_path
):
    (tmp_path / "run").mkdir()
    stale = {"format_version": 1, "checkpoints": [{"step": 1, "value": 0}], "ended_at": 1}
    (tmp_path / "run" / "best.json").write_text(json.dumps(stale))
    config = make_config(run={"steps": 1})
    run_loop(make_trainer(config), config.run, description="x")
    assert not (tmp_path / "run" / "best.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val": {"every": -1}}, r"val\.every must be >= 0"),
        ({"val": {"samples": 0}}, r"val\.samples must be >= 1"),
        ({"tasks": {"every": 0}}, r"every of a task of val\.tasks must be >= 1"),
        ({"tasks": {"limit": 0}}, r"limit of a task of val\.tasks must be >= 1"),
        ({"run": {"patience": 2}}, r"run\.patience needs run\.best"),
        ({"run": {"final_from": "best"}}, r"run\.final_from needs run\.best"),
        ({"run": {"best": BestConfig()}}, r"val\.every is 0: add --val\.every"),
        (
            {"run": {"best": BestConfig(metric="eval_emoji_all")}},
            r"val\.tasks does not name it: its scores are none",
        ),
        ({"run": {"best": BestConfig(), "patience": -1}}, r"run\.patience must be >= 0"),
    ],
)
def test_watching_that_cannot_be_is_refused(make_config, changes, message):
    def make():
        if "tasks" in changes:
            ValTaskConfig(task="count", **changes["tasks"])
        make_config(run=changes.get("run", {}), val=ValConfig(**changes.get("val", {})))

    with pytest.raises(ValueError, match=message):
        make()
