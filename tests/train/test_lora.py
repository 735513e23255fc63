"""LoRA runs: what is trained, what is kept, and that a resume is the uninterrupted run."""

from __future__ import annotations

import builtins
import re
from pathlib import Path

import pytest
import torch

import openjanus
from openjanus.train.checkpoint import load_checkpoint, newest_checkpoint
from openjanus.train.config import JanusTrainConfig
from openjanus.train.fast_forward import run_decoder
from openjanus.train.loop import run_loop
from openjanus.train.lora import add_lora, take_adapter
from openjanus.train.lora_config import LoraConfig
from openjanus.train.metrics import read_metrics
from openjanus.train.runs import run_training
from openjanus.train.source_config import SourcesConfig
from openjanus.train.start import fresh_model, start_model
from openjanus.train.trainer import JanusTrainer
from openjanus.weights.adapters import merge_adapter, read_adapter
from openjanus.weights.own import save_model

pytest.importorskip("peft")

VISION_HEAD = "gen_head.vision_head.weight"
THIN = re.compile(r"language_model\.model\.layers\.\d+\..*\.lora_[AB]\.default\.weight")


def lora_config(make_config, **changes):
    lora = LoraConfig(**({"rank": 4, "alpha": 8.0} | changes.pop("lora", {})))
    return make_config(stage=3, lora=lora, **changes)


@pytest.mark.parametrize(
    ("options", "whole"),
    [
        ({}, set()),
        ({"train_doors": "full", "faces": "und"}, {"und_aligner"}),
        ({"train_doors": "full", "faces": "gen"}, {"gen_aligner", "gen_head"}),
        ({"train_doors": "full"}, {"und_aligner", "gen_aligner", "gen_head"}),
    ],
)
def test_adapters_and_chosen_doors_move_and_nothing_else(make_config, make_trainer, options, whole):
    config = lora_config(make_config, lora=options, ratio=(1, 1, 1), batch_size=3)
    trainer = make_trainer(config)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for step in range(2):  # B is 0 at first, and A moves after it
        trainer.train_step(step)
    thin = 0
    for name, parameter in trainer.model.named_parameters():
        wanted = THIN.fullmatch(name) is not None or name.partition(".")[0] in whole
        thin += THIN.fullmatch(name) is not None
        assert torch.equal(before[name], parameter) != wanted, name
    assert thin == 2 * 7 * trainer.model.config.language.num_hidden_layers


def test_doors_by_lora_and_chosen_projections(make_config, make_trainer):
    options = {"train_doors": "lora", "faces": "gen", "targets": ["q_proj", "down_proj"]}
    trainer = make_trainer(lora_config(make_config, lora=options))
    modules = {
        name.partition(".lora_")[0]
        for name, p in trainer.model.named_parameters()
        if p.requires_grad
    }
    doors = {name for name in modules if not name.startswith("language_model.")}
    assert doors == {
        *("gen_aligner.layers.0", "gen_aligner.layers.2"),
        *("gen_head.output_mlp_projector", "gen_head.vision_head"),
    }
    assert {name.rpartition(".")[2] for name in modules - doors} == {"q_proj", "down_proj"}


def test_adapters_begin_as_nothing_by_the_seed_alone(tiny_config):
    bare, *models = [fresh_model(tiny_config, 0) for _ in range(4)]
    torch_state = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        add_lora(model, LoraConfig(rank=4), seed=seed)
    assert torch.equal(torch.get_rng_state(), torch_state)
    name = "language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    one, same, other = (dict(model.named_parameters())[name] for model in models)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    embeds = torch.randn(
        2, 5, tiny_config.language.hidden_size, generator=torch.Generator().manual_seed(0)
    )
    decoders = [model.language_model.model for model in (bare, models[0])]
    assert torch.equal(decoders[0](embeds), decoders[1](embeds))


@torch.no_grad()
def test_the_fast_forward_runs_adapters(tiny_config):
    model = fresh_model(tiny_config, 0)
    add_lora(model, LoraConfig(rank=4), seed=0)
    generator = torch.Generator().manual_seed(1)
    bare = {n: p.clone() for n, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0, 0.1, generator=generator)
    embeds = torch.randn(2, 5, tiny_config.language.hidden_size, generator=generator)
    positions = torch.arange(5).expand(2, 5)
    decoder = model.language_model.model
    fast = run_decoder(decoder, embeds, positions=positions)
    torch.testing.assert_close(fast, decoder(embeds, positions=positions), rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        parameter.copy_(bare[name])
    assert (fast - decoder(embeds, positions=positions)).abs().max() > 1e-3


def test_a_resumed_run_is_the_uninterrupted_one_and_its_checkpoints_are_small(
    make_config, make_trainer, tmp_path
):
    def run(name, **options):
        config = lora_config(
            make_config,
            lora={"train_doors": "full", "faces": "gen"},
            run={"dir": str(tmp_path / name), "steps": 6, **options},
            optim={"schedule": "cosine", "warmup_steps": 2},
        )
        trainer = make_trainer(config)
        run_loop(trainer, config.run, description=name)
        return trainer

    whole = run("whole")
    run("parts", stop_at=3)
    resumed = run("parts", resume=True)
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
    assert len(lines[0]) == 6
    pairs = zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    saved = load_checkpoint(newest_checkpoint(tmp_path / "whole"))["task"]["shards"].shapes()
    trained = {f"model/{name}" for name, p in whole.model.named_parameters() if p.requires_grad}
    assert {name for name in saved if name.startswith("model/")} == trained


def test_two_processes_train_the_adapters_that_one_does(make_config, run_processes, tmp_path):
    """And go on in another number of processes; what is written is whole, and loads."""

    def run(name, size, **options):
        config = lora_config(
            make_config,
            lora={"train_doors": "full", "faces": "gen"},
            run={"dir": str(tmp_path / name), "steps": 4, "sample_every": 2, **options},
            batch_size=4,
            ratio=(1, 1, 2),
            bf16=False,
            id_cache=None,
        )
        if size == 1:
            run_training(config)
        else:
            run_processes(config, size)

    run("whole", 1)
    run("parts", 2, stop_at=2)
    run("parts", 1, stop_at=3, resume=True)
    run("parts", 2, resume=True)
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    assert len(lines[1]) == 4
    for one, other in zip(*lines, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    finals = [tmp_path / name / "final" for name in ("whole", "parts")]
    for layout in ("adapter", "transformers-adapter"):
        one, other = (read_adapter(final / layout) for final in finals)
        assert one.pairs.keys() == other.pairs.keys() and one.whole.keys() == other.whole.keys()
        assert {key.partition(".")[0] for key in other.whole} == {"gen_aligner", "gen_head"}
        for module, halves in one.pairs.items():
            for half, same in zip(halves, other.pairs[module], strict=True):
                torch.testing.assert_close(same, half, atol=2e-4, rtol=1e-3)
        for key, tensor in one.whole.items():
            torch.testing.assert_close(other.whole[key], tensor, atol=2e-4, rtol=1e-3)
        assert all(b.abs().max() > 1e-4 for _, b in other.pairs.values())
    states = [load_checkpoint(newest_checkpoint(final.parent))["task"] for final in finals]
    assert states[0]["frozen_hash"] == states[1]["frozen_hash"]
    assert states[0]["shards"].shapes() == states[1]["shards"].shapes()
    samples = [{path.name for path in (f.parent / "samples").iterdir()} for f in finals]
    assert {"step-00000002.png", "step-00000004.png"} <= samples[0] <= samples[1]
    janus = openjanus.load(
        make_base(tmp_path / "base"), adapter=tmp_path / "parts" / "final" / "adapter"
    )
    merged = janus.model.state_dict()[VISION_HEAD]
    assert torch.equal(merged, read_adapter(finals[1] / "adapter").whole[VISION_HEAD])


def make_base(folder):
    model, processor = start_model(
        JanusTrainConfig(stage=3, init=["tiny"], sources=SourcesConfig(), ratio=(1, 1, 1)),
        tell=False,
    )
    save_model(folder, model, processor.tokenizer)
    return folder


def test_a_resume_beside_other_weights_or_with_other_adapters_is_refused(
    make_config, make_trainer, tiny_config, processor
):
    state = make_trainer(lora_config(make_config)).state_dict()
    other = JanusTrainer(
        fresh_model(tiny_config, 1), processor, lora_config(make_config, id_cache=None)
    )
    with pytest.raises(ValueError, match=r"other frozen weights .*resume with the init"):
        other.load_state_dict(state)
    narrower = make_trainer(lora_config(make_config, lora={"targets": ["q_proj"]}))
    with pytest.raises(ValueError, match="other frozen weights"):
        narrower.load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dropout": 0.1}, r"lora\.dropout must be 0, got 0\.1"),
        ({"rank": 0}, r"lora\.rank must be >= 1, got 0"),
        ({"alpha": 0.0}, r"lora\.alpha must be > 0"),
        ({"targets": ["qkv"]}, r"lora\.targets must be some of q_proj, .*got \['qkv'\]"),
        ({"targets": []}, r"lora\.targets must be some of"),
    ],
)
def test_options_are_checked(options, says):
    with pytest.raises(ValueError, match=says):
        LoraConfig(**options)


def test_what_does_not_go_together_is_refused(make_config):
    with pytest.raises(ValueError, match="stage must be 3, got 2"):
        make_config(stage=2, lora=LoraConfig())
    with pytest.raises(ValueError, match="muon is for whole matrices"):
        make_config(stage=3, lora=LoraConfig(), optim={"name": "muon"})


def test_without_peft_the_error_names_the_extra(tiny_config, monkeypatch):
    really = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "peft":
            raise ImportError(name)
        return really(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install openjanus\[lora\]"):
        add_lora(fresh_model(tiny_config, 0), LoraConfig(), seed=0)


def test_a_finished_run_holds_adapters_that_are_its_model(make_config, tmp_path):
    config = lora_config(
        make_config, lora={"train_doors": "full"}, run={"steps": 2, "dir": str(tmp_path / "r")}
    )
    run_training(config)
    final = Path(config.run.dir) / "final"
    assert sorted(path.name for path in final.iterdir()) == ["adapter", "transformers-adapter"]
    ours, theirs = (read_adapter(final / name) for name in ("adapter", "transformers-adapter"))
    assert set(ours.pairs) == set(theirs.pairs)
    assert set(ours.whole) == set(theirs.whole)
    assert ours.base == "tiny"


@torch.no_grad()
def test_merged_is_unmerged(tiny_config):
    config = LoraConfig(rank=4, alpha=8.0, train_doors="lora")
    model = fresh_model(tiny_config, 0)
    add_lora(model, config, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0, 0.1, generator=generator)
    adapter = take_adapter(model, config, base="tiny")
    merged, bare = fresh_model(tiny_config, 0), fresh_model(tiny_config, 0)
    merge_adapter(merged, adapter, "here")
    ids = torch.randint(tiny_config.codebook_size, (2, 6), generator=generator)
    outputs = [
        it.image_logits(it.language_model.model(it.embed_gen(ids))) for it in (model, merged, bare)
    ]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert (outputs[0] - outputs[2]).abs().max() > 1e-3
