"""Several processes train a door as one does: tokenizers and encoder, each whole in all of them."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from openjanus.config import VQConfig
from openjanus.data.sources import build_source
from openjanus.model.vq import VQTokenizer
from openjanus.presets import preset
from openjanus.train.checkpoint import (
    checkpoint_path,
    checkpoint_steps,
    load_checkpoint,
    newest_checkpoint,
)
from openjanus.train.metrics import read_metrics
from openjanus.train.optim_config import OptimConfig
from openjanus.train.parallel import World
from openjanus.train.replicas import BatchNorm2d, check_batch, own_part
from openjanus.train.run_config import RunConfig
from openjanus.train.runs import _pictures, run_training
from openjanus.train.semantic_config import SemanticTrainConfig
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.source_config import SourceConfig
from openjanus.train.text_tokenizer_config import TokenizerTrainConfig
from openjanus.train.vq_config import GanConfig, VQEvalConfig, VQLossConfig, VQTrainConfig
from openjanus.train.vq_trainer import VQTrainer

EVERYTHING: dict[str, Any] = {
    "gan": GanConfig(weight=0.5, start=1, layers=2, width=8, adaptive=True, lr=1e-5),
    "loss": VQLossConfig(entropy=0.1, edge=0.5),
    "ema_decay": 0.8,
    "eval": VQEvalConfig(every=2, pictures=5, batch_size=2),  # batches of 2, 2 and 1
    "crop": "random",
    "crop_size": 32,
    "flip": True,
    "quantize_from": 2,
    "restart_every": 2,
    "restart_until": 6,
}
"""Every part of the VQ's training that is no mean over pictures, and every other one."""

VQ_PARTS = ("model", "ema", "adversary", "optimizers")


def run_config(folder, **run):
    return RunConfig(**({"dir": str(folder), "steps": 6, "sample_every": 3, "save_every": 3} | run))


def vq_config(folder, options=EVERYTHING, **run):
    return VQTrainConfig(
        source=SourceConfig(type="toy-pictures"),
        run=run_config(folder, **run),
        optim=OptimConfig(lr=1e-4),
        batch_size=4,
        bf16=False,
        process_timeout_s=300,
        **options,
    )


def siglip_config(folder, **run):
    return SiglipTrainConfig(
        source=SourceConfig(type="toy-pairs", options={"length": 100}),
        run=run_config(folder, **run),
        optim=OptimConfig(lr=1e-3),
        batch_size=12,
        embed_size=32,
        text_layers=1,
        text_heads=2,
        eval_pairs=70,  # chunks of 32, 32 and 6
        eval_every=3,
        bf16=False,
        process_timeout_s=300,
    )


def train(config, size, run_processes):
    """One process needs no starting: that is the code path of every other test."""
    if size == 1:
        run_training(config)
        return []
    return run_processes(config, size)


def check_same(one, other, *, steps, parts):
    """The same metrics, and last checkpoints that agree.

    Of each part of the state, what the runs differ by is small beside what training moved since an
    earlier checkpoint. Not element by element: where a gradient is 0 but for rounding, Adam's step
    is of full length, either way.
    """
    lines = [read_metrics(Path(folder) / "metrics.jsonl") for folder in (one, other)]
    assert [line["step"] for line in lines[1]] == list(range(1, steps + 1))
    for line, same in zip(*lines, strict=True):
        assert line.keys() == same.keys()
        for name in line.keys() - {"seconds"}:
            wanted = pytest.approx(line[name], rel=2e-3, abs=1e-4)
            assert same[name] == wanted, (line["step"], name)
    began = checkpoint_steps(Path(one))[0]
    first = load_checkpoint(checkpoint_path(Path(one), began))["task"]
    last, same = (load_checkpoint(newest_checkpoint(Path(f)))["task"] for f in (one, other))
    assert last.keys() == same.keys()
    for part in parts:
        begun, ended, got = (floats(state[part]) for state in (first, last, same))
        assert len(begun) == len(ended) == len(got) > 0
        moved, apart = distance(begun, ended), distance(ended, got)
        assert apart < 0.02 * moved, (part, apart, moved)
    for name in ("next_index", "code_counts", "teacher"):
        if name in last:
            compare(last[name], same[name], name)


def floats(value) -> list[torch.Tensor]:
    """All tensors of numbers in nested data, in order, but for how many steps Adam has done."""
    if isinstance(value, dict):
        return [tensor for name in value if name != "step" for tensor in floats(value[name])]
    if isinstance(value, list):
        return [tensor for item in value for tensor in floats(item)]
    return [value] if torch.is_tensor(value) and value.is_floating_point() else []


def distance(one, other) -> float:
    pairs = zip(one, other, strict=True)
    return math.sqrt(sum(float((a.double() - b.double()).square().sum()) for a, b in pairs))


def compare(one, other, where="task"):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            compare(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, pair in enumerate(zip(one, other, strict=True)):
            compare(*pair, f"{where}.{place}")
    elif torch.is_tensor(one) and one.is_floating_point():
        torch.testing.assert_close(
            other, one, atol=2e-4, rtol=1e-3, msg=lambda said: f"{where}: {said}"
        )
    elif torch.is_tensor(one):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def test_two_processes_train_the_vq_that_one_does(run_processes, tmp_path):
    for size in (1, 2):
        train(vq_config(tmp_path / str(size)), size, run_processes)
    check_same(tmp_path / "1", tmp_path / "2", steps=6, parts=VQ_PARTS)
    lines = read_metrics(tmp_path / "2" / "metrics.jsonl")
    assert {"gan_weight", "gan_discriminator", "entropy"} <= lines[-1].keys()
    assert lines[-1]["gan_weight"] != 0.5
    assert lines[-1]["codebook_restarts"] > 0
    assert "frechet_random_encoder" in lines[-1]
    state = load_checkpoint(newest_checkpoint(tmp_path / "2"))["task"]
    assert {"adversary", "ema", "code_counts"} <= state.keys()
    final = load_file(tmp_path / "2" / "final" / "door.safetensors")
    assert all(torch.equal(final[name], tensor) for name, tensor in state["ema"].items())
    written = [sorted(path.name for path in (tmp_path / name).rglob("*")) for name in "12"]
    assert written[0] == written[1]
    sheets = [Image.open(tmp_path / name / "samples" / "step-00000006.png") for name in "12"]
    assert sheets[0].size == sheets[1].size


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        pytest.param(vq_config, VQ_PARTS, id="vq"),
        pytest.param(siglip_config, ("towers", "optimizers"), id="siglip", marks=pytest.mark.long),
    ],
)
def test_a_door_goes_on_in_another_number_of_processes(make, parts, run_processes, tmp_path):
    train(make(tmp_path / "whole"), 1, run_processes)
    train(make(tmp_path / "parts", stop_at=2), 2, run_processes)
    train(make(tmp_path / "parts", stop_at=4, resume=True), 1, run_processes)
    train(make(tmp_path / "parts", resume=True), 2, run_processes)
    check_same(tmp_path / "whole", tmp_path / "parts", steps=6, parts=parts)


def test_two_processes_train_the_siglip_that_one_does(run_processes, tmp_path):
    for size in (1, 2):
        train(siglip_config(tmp_path / str(size)), size, run_processes)
    check_same(tmp_path / "1", tmp_path / "2", steps=6, parts=("towers", "optimizers"))
    assert "image_to_text" in read_metrics(tmp_path / "2" / "metrics.jsonl")[-1]
    said = [(tmp_path / name / "samples" / "step-00000006.txt").read_text() for name in "12"]
    assert said[0] == said[1]


def test_two_processes_train_the_semantic_tokenizer_that_one_does(run_processes, tmp_path):
    for size in (1, 2):
        config = SemanticTrainConfig(
            source=SourceConfig(type="toy-pictures"),
            run=run_config(tmp_path / str(size), steps=4, save_every=2),
            teacher="nano",
            optim=OptimConfig(lr=1e-3),
            batch_size=4,
            bf16=False,
            process_timeout_s=300,
        )
        train(config, size, run_processes)
    check_same(tmp_path / "1", tmp_path / "2", steps=4, parts=("model", "optimizers"))
    said = [(tmp_path / name / "samples" / "step-00000004.txt").read_text() for name in "12"]
    figures = [float(text.rsplit(" ", 1)[1]) for text in said]
    assert figures[1] == pytest.approx(figures[0], abs=2e-4)


def test_a_text_tokenizer_is_made_by_the_first_of_two(run_processes, tmp_path):
    for size in (1, 2):
        config = TokenizerTrainConfig(
            run=RunConfig(dir=str(tmp_path / str(size))),
            sources=[SourceConfig(type="toy-pairs", options={"length": 50})],
            samples=50,
        )
        train(config, size, run_processes)
    texts = [(tmp_path / name / "final" / "tokenizer.json").read_bytes() for name in "12"]
    assert texts[0] == texts[1]


# one of them fails


def test_a_picture_that_one_process_cannot_read_is_counted_by_both(start_run, tmp_path):
    """Only the second process meets the broken file: both must stop, at the same step."""
    folder = tmp_path / "pictures" / "class"
    folder.mkdir(parents=True)
    for number in range(8):
        colour = (30 * number, 99, 200 - 20 * number)
        Image.new("RGB", (40, 40), colour).save(folder / f"{number}.png")
    source = SourceConfig(type="image-folder", options={"path": str(folder.parent), "face": "gen"})
    config = VQTrainConfig(
        source=source,
        run=run_config(tmp_path / "run", steps=4, save_every=1),
        batch_size=2,
        eval=VQEvalConfig(pictures=2),
        process_timeout_s=300,
        max_bad_samples=0,
    )
    order = trainer_of(config).source
    # The second item of step 1 is the second process's.
    name = int(order.key(3).split()[1])
    assert name != 0  # which every process reads at the start
    sorted(folder.iterdir())[name].write_bytes(b"no picture")
    first, second = start_run(config, 2)
    said = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [2, 2], said
    for one in said:
        assert f"max_bad_samples is 0; the last: item {name}" in one.strip().splitlines()[-1], one
    assert checkpoint_steps(tmp_path / "run") == [1]  # what was done before stays


def trainer_of(config, **options):
    door = preset("tiny").gen_tokenizer
    assert isinstance(door, VQConfig)
    return VQTrainer(VQTokenizer(door), _pictures(config), config, **options)


# what cannot be


def test_a_batch_that_cannot_be_dealt_is_told(tmp_path):
    world = World(rank=0, size=3)
    with pytest.raises(ValueError, match=r"batch_size \(4\) must be .* \(3\).* give 3 or 6"):
        trainer_of(vq_config(tmp_path), world=world)
    config = VQTrainConfig(
        source=SourceConfig(type="toy-pictures"), batch_size=3, crop_size=16, whole_from=1
    )
    with pytest.raises(ValueError, match=r"whole_batch_size \(16\) must be a multiple"):
        trainer_of(config, world=world)
    with pytest.raises(ValueError, match=r"for every process has as much of it: give 3$"):
        check_batch("batch_size", 2, world)
    check_batch("batch_size", 6, world)


def test_an_entropy_of_all_is_not_compiled(tmp_path):
    options = {"compile": True, "loss": VQLossConfig(entropy=0.1)}
    config = vq_config(tmp_path, options)
    with pytest.raises(ValueError, match=r"all 2 processes choose.* set compile to false"):
        trainer_of(config, world=World(rank=1, size=2))
    assert trainer_of(config).config.compile


@pytest.mark.parametrize("kind", [VQTrainConfig, SiglipTrainConfig])
def test_a_wait_of_no_time_is_refused(kind):
    with pytest.raises(ValueError, match="process_timeout_s must be > 0, got 0"):
        kind(source=SourceConfig(type="toy-pictures"), process_timeout_s=0)


def test_parts_are_neighbours_and_join_by_rank():
    parts = [own_part(range(10, 16), World(rank=rank, size=3)) for rank in range(3)]
    assert [list(part) for part in parts] == [[10, 11], [12, 13], [14, 15]]


# what crosses processes, piece by piece

PROBE = """
import sys
import numpy as np
import torch
from openjanus.presets import preset
from openjanus.data.samples import Region
from openjanus.model.siglip import SiglipEncoder
from openjanus.processor.text import byte_tokenizer
from openjanus.train.optim_config import OptimConfig
from openjanus.train.run_config import RunConfig
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.source_config import SourceConfig
from openjanus.train.gan import PatchDiscriminator, adaptive_weight, hinge_generator_loss
from openjanus.train.parallel import open_world
from openjanus.train.replicas import all_rows, own_part, sum_gradients
from openjanus.train.siglip_trainer import SiglipTrainer
from openjanus.train.vq_losses import entropy_loss


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def discriminator(world):
    model = PatchDiscriminator(2, 8, processes=world.size)
    model.init_weights(torch.Generator().manual_seed(1))
    whole = randn(4, 3, 32, 32) * torch.tensor([0.1, 0.5, 1.0, 3.0]).view(4, 1, 1, 1)
    shift = torch.nn.Parameter(torch.full((3, 1, 1), 0.3))
    pixels = own_part(whole, world) + shift
    out = model(pixels)
    loss = hinge_generator_loss(torch.tanh(out))
    wanted = pixels.square().mean() + pixels.mean()
    weight = adaptive_weight(wanted, loss, shift, world)
    (loss / world.size).backward()
    parameters = [shift, *model.parameters()]
    sum_gradients(parameters, world)
    return {
        "verdicts": all_rows(out.detach(), world.size).flatten(0, 1),
        "weight": weight,
        "gradients": [p.grad for p in parameters],
    }


def entropy(world):
    # What the first half chooses, the second does not: the means of the parts are other ones.
    rows = torch.nn.functional.normalize(randn(8, 4), dim=-1)
    near = rows[torch.tensor([0, 0, 1, 1, 2, 6, 7, 7])] + 0.1 * randn(8, 4, seed=1)
    weight = torch.nn.Parameter(torch.eye(4))
    vectors = torch.nn.functional.normalize(own_part(near, world) @ weight, dim=-1)
    loss = entropy_loss(vectors, rows, 0.1, processes=world.size) / world.size
    loss.backward()
    sum_gradients([weight], world)
    return {"loss": torch.tensor(world.sum([loss.item()])), "gradient": weight.grad}


class Pictures:
    # Pictures of no, one and several regions; captions that several tell, in both processes.
    def __len__(self):
        return 24

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
        words = ("cat", "dog", "red thing", f"number {index}", "a much longer phrase of words")
        told = [
            (),
            (Region(captions=(words[index % 3],)),),
            (
                Region(captions=(words[0], words[3]), box=left),
                Region(captions=(words[1],), box=right),
                Region(captions=(words[4], words[2])),
            ),
        ][index % 3]
        if index >= 16 and not told:  # held out: of each something is asked
            told = (Region(captions=(f"held {index}",)),)
        return rng.integers(0, 255, (32, 32, 3), dtype=np.uint8), told


class One(Pictures):
    # A caption for all, and a region in the first picture of each batch: all the first process's.
    asked = frozenset(range(16, 24))

    def __getitem__(self, index):
        picture, _ = super().__getitem__(index)
        return picture, (Region(captions=("cat",)),) if index in self.asked else ()


def siglip(world, source, name):
    config = preset("tiny")
    trainer = SiglipTrainer(
        SiglipEncoder(config.und_encoder),
        byte_tokenizer(config.processor),
        source,
        config.processor,
        SiglipTrainConfig(
            source=SourceConfig(type="toy-pairs"),
            run=RunConfig(dir="x", steps=3),
            optim=OptimConfig(lr=1e-3, name=name),
            batch_size=4 if isinstance(source, One) else 6,
            embed_size=32, text_layers=1, text_heads=2, eval_pairs=8, bf16=False,
        ),
        world=world,
    )
    before = {name: tensor.clone() for name, tensor in trainer.towers.state_dict().items()}
    if isinstance(source, One):
        source.asked |= {trainer.mixture.batch(step, 4)[0].index for step in range(3)}
    values = [trainer.train_step(step) for step in range(3)]
    return {
        "values": [{k: torch.tensor(v) for k, v in value.items()} for value in values],
        "evaluation": {k: torch.tensor(v) for k, v in trainer.evaluate().items()},
        "keys": trainer.last_keys(),
        "before": before,
        "towers": trainer.towers.state_dict(),
    }


with open_world("cpu", name="probe", timeout_s=300) as world:
    found = {
        "discriminator": discriminator(world),
        "entropy": entropy(world),
        "regions": siglip(world, Pictures(), "adamw"),
        "muon": siglip(world, Pictures(), "muon"),
        "one": siglip(world, One(), "adamw"),
    }
    torch.save(found, f"{sys.argv[1]}-{world.rank}")
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `PROBE` found: in one process, and in each of two."""
    folder = tmp_path_factory.mktemp("probe")
    for size in (1, 2):
        own = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        started = [
            subprocess.Popen(
                [sys.executable, "-c", PROBE, str(folder / str(size))],
                env=os.environ
                | own
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        try:
            said = [process.communicate(timeout=300)[1] for process in started]
        finally:
            for process in started:
                process.kill()
        assert [process.returncode for process in started] == [0] * size, "\n".join(said)
    return [torch.load(folder / name, weights_only=True) for name in ("1-0", "2-0", "2-1")]


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return str(held.getsockname()[1])


@pytest.mark.parametrize("name", ["discriminator", "entropy", "regions", "one"])
def test_what_crosses_processes_is_of_the_whole_batch(found, name):
    """Verdicts under batch norm, the adaptive weight, the entropy, SigLIP's pairs: with gradients.

    Regions are dealt unevenly, captions are told in both processes, and a process may have no
    region or no caption to read.
    """
    one, first, second = (each[name] for each in found)
    compare(one, first)
    assert torch.equal(leaves(first), leaves(second))


def test_muon_has_whole_matrices_in_every_process(found):
    one, first, second = (each["muon"] for each in found)
    compare(one["values"][0], first["values"][0])
    # It works in bf16, so a rounding of a gradient is seen: what it moves is the same in norm.
    moved = distance(floats(one["before"]), floats(one["towers"]))
    assert 0 < distance(floats(one["towers"]), floats(first["towers"])) < 0.1 * moved
    assert torch.equal(leaves(first), leaves(second))


def leaves(value) -> torch.Tensor:
    """The sum of each tensor."""
    return torch.stack([tensor.double().sum() for tensor in floats(value)])


def test_what_is_compared_is_not_nothing(found):
    one = found[0]
    assert 0 < one["discriminator"]["weight"] < 1e4
    assert all(gradient.abs().sum() > 0 for gradient in one["discriminator"]["gradients"])
    assert one["entropy"]["gradient"].abs().sum() > 0.01
    assert all(math.isfinite(value["loss"]) for value in one["one"]["values"])
    assert len(one["regions"]["keys"]) == 6


def test_the_norm_of_one_process_is_pytorchs():
    norm = BatchNorm2d(5)
    assert isinstance(norm, torch.nn.BatchNorm2d)
    plain = torch.nn.BatchNorm2d(5, track_running_stats=False)
    assert norm.state_dict().keys() == plain.state_dict().keys()
    pixels = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(norm(pixels), plain(pixels))


def test_pictures_are_dealt_and_keys_are_of_all(tmp_path):
    config = vq_config(tmp_path, {"crop": "random", "crop_size": 32})
    source = build_source("toy-pictures", {})
    door = preset("tiny").gen_tokenizer
    assert isinstance(door, VQConfig)
    alone = VQTrainer(VQTokenizer(door), source, config)
    batch = alone._batch(0)
    for rank in range(2):
        trainer = VQTrainer(VQTokenizer(door), source, config, world=World(rank=rank, size=2))
        assert torch.equal(trainer._batch(0), batch[2 * rank : 2 * rank + 2])
        assert trainer.last_keys() == alone.last_keys()
        assert trainer.next_index == 4
