"""A model that is cut before it has weights has those of one that was cut with them, to the bit."""

from __future__ import annotations

import dataclasses
import os
import pickle
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from openjanus.model.janus import build_model
from openjanus.presets import preset
from openjanus.train import start as start_room
from openjanus.train.late_weights import LateWeights, Places, can_come_late
from openjanus.train.lora_config import LoraConfig
from openjanus.train.parts import save_door
from openjanus.train.runs import run_training
from openjanus.train.start import fresh_model, start_model, start_shapes
from openjanus.weights.formats import export_model
from openjanus.weights.own import save_model

COMPARE = """
import gc, pickle, sys
from pathlib import Path
import torch
from torch.distributed.tensor import DTensor
from openjanus.train.checkpoint import load_checkpoint, newest_checkpoint
from openjanus.train.parallel import open_world
from openjanus.train.start import start_model, start_shapes
from openjanus.train.trained import hash_frozen
from openjanus.train.trainer import JanusTrainer

def parts_of(trainer):
    found = {n: (p.to_local() if isinstance(p, DTensor) else p) for n, p in
             trainer.model.named_parameters()}
    found |= {f"optim/{n}": (t.to_local() if isinstance(t, DTensor) else t)
              for n, t in trainer.optimizers.named_state().items()}
    return {n: t.detach() for n, t in found.items()}

def resume(trainer, config, world):
    if config.run.resume:
        folder = Path(config.run.dir)
        trainer.load_state_dict(load_checkpoint(newest_checkpoint(folder), world=world)["task"])

def compare(cases, world):
    for name, config in cases.items():
        model, processor = start_model(config, tell=False)
        whole = {n: p.detach().clone() for n, p in model.named_parameters()}
        early = JanusTrainer(model, processor, config, world=world)
        shapes, processor, weights = start_shapes(config, tell=False)
        assert all(p.is_meta for p in shapes.parameters()), name
        late = JanusTrainer(shapes, processor, config, world=world, weights=weights)
        for trainer in (early, late):
            resume(trainer, config, world)
        wanted, found = parts_of(early), parts_of(late)
        assert list(wanted) == list(found), name
        for key, part in wanted.items():
            assert part.dtype == found[key].dtype, (name, key)
            assert torch.equal(part, found[key]), (name, key)
        sharded = [p for p in late.model.parameters() if isinstance(p, DTensor)]
        own = sum(p.to_local().numel() for p in sharded)
        assert 0.3 < own / sum(p.numel() for p in sharded) < 0.7, name
        gathered = {n.replace(".base_layer", ""): p.full_tensor() if isinstance(p, DTensor) else p
                    for n, p in late.model.named_parameters()}
        if not config.run.resume:
            assert all(torch.equal(whole[n], gathered[n]) for n in whole), name
        assert early.trained.frozen_hash == late.trained.frozen_hash, name
        print(name, late.trained.frozen_hash)
        world.barrier()

with open(sys.argv[1], "rb") as file:
    cases = pickle.load(file)
with open_world("cpu", name="compare", timeout_s=300) as world:
    compare(cases, world)
    gc.collect()  # what uses the groups of processes goes before they do
"""


def run_cases(cases: dict[str, Any], folder: Any) -> list[list[str]]:
    path = folder / "cases.pickle"
    path.write_bytes(pickle.dumps(cases))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    own = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    own["OMP_NUM_THREADS"] = "1"
    jobs = [
        subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", COMPARE, str(path)],
            env=os.environ | own | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        said = [job.communicate(timeout=300) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(error for _, error in said)
    return [out.split("\n") for out, _ in said]


def test_every_kind_of_start_is_that_of_whole_models(make_config, tmp_path, tiny_config, tokenizer):
    model = fresh_model(tiny_config, 3)
    save_model(tmp_path / "own", model, tokenizer)
    save_door(tmp_path / "door", model.und_encoder, tiny_config.und_encoder)
    half = fresh_model(tiny_config, 4).to(torch.bfloat16)
    export_model(tmp_path / "theirs", half, tokenizer, layout="deepseek", any_size=True)
    export_model(tmp_path / "ported", half, tokenizer, layout="transformers")
    tied = dataclasses.replace(
        tiny_config, language=dataclasses.replace(tiny_config.language, tie_word_embeddings=True)
    )
    save_model(tmp_path / "tied", fresh_model(tied, 5), tokenizer)

    def case(*init: str, **changes: Any) -> Any:
        changes = {"bf16": False, "id_cache": None, "prefetch": False} | changes
        return make_config(init=list(init), **changes)

    own, theirs, ported = (str(tmp_path / name) for name in ("own", "theirs", "ported"))
    saved = {"dir": str(tmp_path / "saved"), "steps": 4, "stop_at": 2}
    run_training(case("tiny", run=saved))
    cases = {
        "fresh": case("tiny"),
        "own": case(own, stage=3),
        "deepseek": case(theirs, stage=3),
        "transformers": case(ported, stage=1),
        "tied": case(str(tmp_path / "tied")),
        "fresh and tied": case("tiny", decoder={"tie_word_embeddings": True}),
        "parts": case("tiny", language_model=ported, vq=theirs, und_encoder=own),
        "gen_embed of another codebook": case(own, vq=theirs),
        "the folder of a door": case("tiny", und_encoder=str(tmp_path / "door")),
        "resumed": case("tiny", run=saved | {"resume": True}),
        "semantic": case("tiny-semantic"),
        "one vocabulary": case("tiny-chameleon", ratio=(0, 1, 1)),
    }
    first, second = run_cases(cases, tmp_path)
    assert first == second
    hashes = dict(line.rsplit(" ", 1) for line in first if line)
    assert list(hashes) == list(cases)
    assert hashes["resumed"] == hashes["fresh"]
    assert len(set(hashes.values())) > 5


def test_adapters_come_late_too(make_config, tmp_path):
    pytest.importorskip("peft")
    lora = LoraConfig(rank=4, train_doors="lora")
    config = make_config(stage=3, lora=lora, bf16=False, id_cache=None, prefetch=False)
    run_cases({"lora": config}, tmp_path)


def test_what_is_left_empty_is_found(tiny_config):
    model = build_model(tiny_config)
    places = Places(model.to_empty(device="cpu"))
    for name, tensor in fresh_model(tiny_config, 0).state_dict().items():
        if name != "gen_head.vision_head.bias":
            places.put(name, tensor)
    with pytest.raises(AssertionError, match=r"no weights for \['gen_head.vision_head.bias'\]"):
        places.require_all()
    with pytest.raises(KeyError):
        places.put("gen_head.other", torch.zeros(1))


class OwnDoor(nn.Module):
    output_size = 8

    def init_weights(self, generator: torch.Generator) -> None:
        """Nothing to fill."""


def test_doors_that_fill_themselves_start_whole(make_config, tiny_config, monkeypatch, capsys):
    config = make_config(init=["tiny"])
    assert isinstance(start_shapes(config)[2], LateWeights)
    model = build_model(preset("tiny"))
    assert can_come_late(model)
    model.extra_encoders["own"] = OwnDoor()
    assert not can_come_late(model)
    buffered = build_model(preset("tiny"))
    buffered.vq.register_buffer("counts", torch.zeros(3))
    assert not can_come_late(buffered)

    monkeypatch.setattr(start_room, "can_come_late", lambda model: False)
    capsys.readouterr()
    started, _, weights = start_shapes(config)
    assert weights is None
    assert capsys.readouterr().err == (
        "weights: tiny\n"
        "weights: whole in every process at first: a door fills itself or has buffers\n"
    )
    whole = start_model(config)[0].state_dict()
    assert all(torch.equal(tensor, whole[n]) for n, tensor in started.state_dict().items())
