"""The doors' own trainings, and how their weights reach a model."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.config import SiglipConfig, VQConfig
from openjanus.data.samples import Region
from openjanus.data.sources import build_source
from openjanus.model.siglip import SiglipEncoder
from openjanus.model.vq import VQTokenizer
from openjanus.presets import preset
from openjanus.processor.text import byte_tokenizer
from openjanus.train.config import JanusTrainConfig
from openjanus.train.loop import run_loop
from openjanus.train.metrics import read_metrics
from openjanus.train.optim_config import OptimConfig
from openjanus.train.parts import load_door, save_door
from openjanus.train.run_config import RunConfig
from openjanus.train.runs import init_vq, run_training
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.siglip_losses import retrieval, sigmoid_loss
from openjanus.train.siglip_regions import box_weights, join_regions, pair_of, regions_of
from openjanus.train.siglip_trainer import SiglipTrainer
from openjanus.train.source_config import SourceConfig, SourcesConfig
from openjanus.train.start import choose_init, start_encoder, start_model
from openjanus.train.vq_config import VQLossConfig, VQTrainConfig
from openjanus.train.vq_data import busiest_crop
from openjanus.train.vq_losses import vq_losses
from openjanus.train.vq_trainer import VQTrainer
from openjanus.weights.own import save_model


@pytest.fixture
def vq_door():
    door = preset("tiny").gen_tokenizer
    assert isinstance(door, VQConfig)
    return door


def vq_trainer(door, run, **options):
    config = VQTrainConfig(
        source=SourceConfig(type="toy-pictures"),
        run=run,
        optim=OptimConfig(lr=2e-3),
        batch_size=4,
        whole_batch_size=4,
        **options,
    )
    model = VQTokenizer(door)
    init_vq(model, 0)
    return VQTrainer(model, build_source("toy-pictures", {}), config)


def test_a_resumed_vq_run_is_the_uninterrupted_one(vq_door, tmp_path):
    def run(name, **changes):
        options = {"dir": str(tmp_path / name), "steps": 4, **changes}
        trainer = vq_trainer(vq_door, RunConfig(**options), restart_every=2, restart_until=4)
        run_loop(trainer, trainer.config.run, description=name)
        return trainer.model.state_dict()

    whole = run("whole")
    run("parts", stop_at=2)
    resumed = run("parts", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"crop_size": -8}, {"noise": -0.1}])
def test_wrong_numbers_are_refused_at_once(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be >="):
        VQTrainConfig(source=SourceConfig(type="toy-pictures"), **wrong)


def test_the_nearest_code_is_searched_in_fp32(vq_door):
    # The known defect: near neighbours swap in bf16.
    model = VQTokenizer(vq_door)
    z = torch.nn.functional.normalize(torch.randn(1, 500, 8), dim=-1)
    exact = model.quantize.nearest(z)
    with torch.autocast("cpu", torch.bfloat16):
        product = z @ model.quantize.normalised_codebook().T
        assert product.dtype == torch.bfloat16
        assert torch.equal(model.quantize.nearest(z), exact)


def test_gradients_pass_the_quantizer_straight_through(vq_door):
    trainer = vq_trainer(vq_door, RunConfig(dir="x", steps=1))
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    config = VQLossConfig(l1=1.0, mse=0.0, codebook=0.0, commitment=0.0)
    total, terms, ids, vectors, _ = vq_losses(trainer.model, pixels, config)
    total.backward()
    gradient = trainer.model.encoder.conv_in.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert trainer.model.quantize.embedding.weight.grad is None or (
        trainer.model.quantize.embedding.weight.grad.abs().sum() == 0
    )
    assert ids.shape == (2, 16)
    assert vectors.shape == (32, 8)
    assert total.item() == pytest.approx(terms["l1"].item())


def of_shipped_decoder(tmp_path, vq_door, **options):
    """A run on the pixel decoder of a tokenizer that was saved before."""
    door = VQTokenizer(vq_door)
    init_vq(door, 3)
    save_door(tmp_path / "vq" / "final", door, vq_door)
    run = RunConfig(dir=str(tmp_path / "pixels"), steps=options.pop("steps", 12))
    trainer = vq_trainer(vq_door, run, init="vq", decoder_only=True, **options)
    load_door(tmp_path / "vq" / "final", trainer.model, vq_door)
    return trainer, {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("tokenize", ["whole", "islands"])
def test_the_pixel_decoder_alone_learns_and_ids_stay(tokenize, vq_door, tmp_path):
    trainer, before = of_shipped_decoder(tmp_path, vq_door, tokenize=tokenize, id_noise=0.05)
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    ids = trainer.model.encode_to_ids(pixels)
    losses = [trainer.train_step(step)["l1"] for step in range(12)]
    after = trainer.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(("decoder.", "post_quant_conv."))}
    assert torch.equal(trainer.model.encode_to_ids(pixels), ids)
    assert sum(losses[-3:]) < sum(losses[:3])
    trainer.sample(tmp_path / "samples", 12)
    assert [*(tmp_path / "samples").glob("*.png")]


def test_noise_replaces_its_share_of_ids_and_repeats(vq_door, tmp_path):
    trainer, _ = of_shipped_decoder(tmp_path, vq_door, id_noise=0.25)
    ids = torch.arange(4 * 1000).view(4, 1000)
    noisy = trainer._noisy(ids, 7)
    assert (noisy != ids).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert noisy.max() < 4000
    assert torch.equal(noisy, trainer._noisy(ids, 7))
    assert not torch.equal(noisy, trainer._noisy(ids, 8))


def test_a_run_of_the_pixel_decoder_starts_from_the_named_tokenizer(vq_door, tmp_path):
    door = VQTokenizer(vq_door)
    init_vq(door, 3)
    save_door(tmp_path / "vq" / "final", door, vq_door)
    config = VQTrainConfig(
        source=SourceConfig(type="toy-pictures"),
        init="vq",
        decoder_only=True,
        batch_size=2,
        run=RunConfig(dir=str(tmp_path / "pixels"), steps=1),
    )
    run_training(config)
    found = VQTokenizer(vq_door)
    load_door(tmp_path / "pixels", found, vq_door)
    for name, value in door.encoder.state_dict().items():
        assert torch.equal(value, found.encoder.state_dict()[name])


@pytest.mark.parametrize(
    "wrong",
    [
        {"init": None},
        {"restart_until": 10},
        {"crop_size": 16},
        {"compile": True},
        {"loss": VQLossConfig(entropy=0.1)},
    ],
)
def test_what_would_move_ids_is_refused_with_decoder_only(wrong):
    options = {"init": "vq", "decoder_only": True} | wrong
    with pytest.raises(ValueError, match="decoder_only leaves the ids"):
        VQTrainConfig(source=SourceConfig(type="toy-pictures"), **options)


@pytest.mark.parametrize("wrong", [{"id_noise": 0.1}, {"tokenize": "islands"}])
def test_options_of_the_pixel_decoder_alone_are_refused_without_it(wrong):
    with pytest.raises(ValueError, match="belong to decoder_only"):
        VQTrainConfig(source=SourceConfig(type="toy-pictures"), **wrong)


def test_packaged_weights_go_by_a_name_of_their_own(tmp_path):
    # A preset of the same name has fresh weights: the two were taken for each other once.
    run = str(tmp_path / "run")
    assert choose_init(["nano-v0"], run) == "nano-v0"
    folder = choose_init(["shipped/nano-v0"], run)
    assert isinstance(folder, Path)
    assert (folder / "model.safetensors").is_file()
    with pytest.raises(ValueError, match=r"no packaged model is called 'nano-w0'.*nano-v0"):
        choose_init(["shipped/nano-w0"], run)


def test_crops_look_at_what_is_drawn():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[40:, 40:] = np.random.default_rng(0).integers(0, 255, (24, 24, 3))
    piece = busiest_crop(picture, 32, np.random.default_rng(1))
    assert piece.shape == (32, 32, 3)
    assert piece.any()


# the understanding encoder


def siglip_trainer(run, batch_size=16, source=None, muon=False):
    config = SiglipTrainConfig(
        source=SourceConfig(type="toy-pairs", options={"length": 200}),
        run=run,
        optim=OptimConfig(lr=2e-3, name="muon" if muon else "adamw"),
        batch_size=batch_size,
        embed_size=32,
        text_layers=1,
        text_heads=2,
        eval_pairs=32,
        eval_every=4,
    )
    preset_config = preset("tiny")
    assert isinstance(preset_config.und_encoder, SiglipConfig)
    return SiglipTrainer(
        SiglipEncoder(preset_config.und_encoder),
        byte_tokenizer(preset_config.processor),
        source or build_source("toy-pairs", {"length": 200}),
        preset_config.processor,
        config,
    )


def test_the_sigmoid_loss_is_its_definition():
    # Two regions, three captions: the sum over captions, the mean over regions.
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    true_of = torch.tensor([[True, False, True], [False, True, False]])
    terms = [
        math.log1p(math.exp(-(1 if true_of[i, j] else -1) * logits[i, j].item()))
        for i in range(2)
        for j in range(3)
    ]
    assert sigmoid_loss(logits, true_of).item() == pytest.approx(sum(terms) / 2, abs=1e-5)


def test_identical_captions_are_no_false_negatives():
    pictures = [[Region(captions=(text,))] for text in ("a cat", "a dog", "a cat")]
    batch = join_regions(pictures)
    assert batch.captions == ("a cat", "a dog")
    assert batch.true_of.tolist() == [[True, False], [False, True], [True, False]]
    found = retrieval(torch.tensor([[0.0, 1.0], [6.0, 3.0], [5.0, 1.0]]), batch.true_of)
    assert found == pytest.approx({"image_to_text": 1 / 3, "text_to_image": 1 / 2})
    # Towers that tell nothing apart find nothing.
    assert retrieval(torch.zeros(3, 2), batch.true_of)["image_to_text"] == 0


def test_what_is_true_of_one_region_is_false_of_the_next():
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    both = [
        Region(captions=("cat", "red thing"), box=left),
        Region(captions=("dog",), box=right),
    ]
    batch = join_regions([both, [Region(captions=("dog", "red thing"))]])
    assert batch.owners.tolist() == [0, 0, 1]
    assert batch.boxes.tolist() == [list(left), list(right), [0, 0, 1, 1]]
    assert batch.captions == ("cat", "red thing", "dog")
    assert batch.true_of.int().tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 1]]
    # Of the five true captions all but the first region's second are above every false one.
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    assert retrieval(logits, batch.true_of)["image_to_text"] == pytest.approx(4 / 5)


def test_a_box_is_the_mean_of_what_it_covers():
    boxes = torch.tensor(
        [[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 0.5], [0.25, 0.5, 0.625, 0.75], [0.0, 0.9, 0.1, 1]]
    )
    weights = box_weights(boxes, 4).unflatten(1, (4, 4))
    assert torch.allclose(weights[0], torch.full((4, 4), 1 / 16))
    assert torch.allclose(weights[1, :2, 2:], torch.full((2, 2), 1 / 4))
    assert torch.allclose(weights[2, 2], torch.tensor([0.0, 2 / 3, 1 / 3, 0.0]))
    assert weights[3, 3, 0] == 1
    # Boxes of whole patches, by another way: the mean of a slice.
    features = torch.randn(8, 8, 5, generator=torch.Generator().manual_seed(0))
    for x0, y0, x1, y1 in ((0, 0, 8, 8), (2, 1, 3, 8), (5, 4, 8, 6)):
        weights = box_weights(torch.tensor([[x0, y0, x1, y1]]) / 8, 8)
        sliced = features[y0:y1, x0:x1].mean((0, 1))
        assert torch.allclose(weights[0] @ features.flatten(0, 1), sliced, atol=1e-6)


def test_a_region_must_lie_in_its_picture_and_say_something():
    boxes = (
        *((0.5, 0.0, 0.5, 1.0), (1.0, 0.0, 1.5, 1.0), (0.0, -1.0, 1.0, 0.0), (0, 0, 40, 30)),
        (0.5, 0.0, 0.5 + 1e-9, 1.0),
    )
    for box in boxes:
        with pytest.raises(ValueError, match="divide pixels by the picture's sides"):
            Region(captions=("cat",), box=box)
    wrong: list[Any] = [(), "cat", ("cat", "")]
    for captions in wrong:
        with pytest.raises(ValueError, match="tuple of phrases"):
            Region(captions=captions)
    with pytest.raises(ValueError, match="none of 2 pictures has a region"):
        join_regions([(), ()])
    with pytest.raises(ValueError, match=r"list \['a cat'\]: take a source such as emoji-pairs"):
        regions_of(["a cat"])


def test_features_learn_what_their_own_place_shows():
    # Two squares side by side: told apart by their places alone, never by the picture.
    class Sides:
        def __len__(self):
            return 400

        def __getitem__(self, index):
            names = [("red", "blue"), ("blue", "red"), ("red", "red"), ("blue", "blue")][index % 4]
            picture = np.full((32, 32, 3), 250, np.uint8)
            colours = {"red": (220, 40, 40), "blue": (50, 80, 220)}
            for place, name in enumerate(names):
                picture[8:24, 16 * place + 4 : 16 * place + 12] = colours[name]
            boxes = ((0.0, 0.25, 0.5, 0.75), (0.5, 0.25, 1.0, 0.75))
            return picture, tuple(
                Region(captions=(name,), box=box) for name, box in zip(names, boxes, strict=True)
            )

    trainer = siglip_trainer(RunConfig(dir="x", steps=60), source=Sides(), muon=True)
    _, muon = trainer.optimizers.optimizers
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    names = {name for name, p in trainer.towers.named_parameters() if id(p) in taken}
    of_encoder = {name for name in names if name.startswith("encoder.blocks.")}
    assert len(of_encoder) == 4 * trainer.encoder.config.num_hidden_layers
    assert len(names - of_encoder) == 7
    assert all(name.startswith("text.decoder.layers.") for name in names - of_encoder)
    for step in range(60):
        trainer.train_step(step)
    assert trainer.evaluate()["image_to_text"] > 0.95


def test_an_encoder_goes_on_from_a_trained_janus(make_model, tiny_config, tmp_path, processor):
    model = make_model(tiny_config)
    save_model(tmp_path / "stage" / "final", model, processor.tokenizer)

    def config(name, **changes):
        options: dict[str, Any] = {
            "init": ["missing/final", "stage/final"],
            "run": RunConfig(dir=str(tmp_path / name), steps=4),
            "optim": OptimConfig(name="muon", lr=1e-6, muon_lr=1e-6),
            "source": SourceConfig(type="emoji-regions", options={"size": 32, "length": 60}),
        }
        needed: dict[str, Any] = {
            "batch_size": 4,
            "text_layers": 1,
            "eval_pairs": 8,
            "eval_every": 2,
        }
        return SiglipTrainConfig(**(needed | options | changes))

    def encoder_of(name):
        encoder = SiglipEncoder(tiny_config.und_encoder)
        load_door(tmp_path / name, encoder, tiny_config.und_encoder)
        return encoder.state_dict()

    run_training(config("whole"))
    before, after = model.und_encoder.state_dict(), encoder_of("whole")
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)
    assert not all(torch.equal(before[name], after[name]) for name in before)

    run = config("parts").run
    run_training(config("parts", run=dataclasses.replace(run, stop_at=2)))
    run_training(config("parts", run=dataclasses.replace(run, resume=True)))
    assert all(torch.equal(after[name], tensor) for name, tensor in encoder_of("parts").items())

    other = SiglipEncoder(dataclasses.replace(tiny_config.und_encoder, num_hidden_layers=1))
    with pytest.raises(ValueError, match="use the same preset"):
        start_encoder(config("x"), other)
    with pytest.raises(ValueError, match="must be a trained Janus, got the preset 'tiny'"):
        run_training(config("x", init=["tiny"]))
    with pytest.raises(ValueError, match="gives no pictures with what they show"):
        run_training(config("x", source=SourceConfig(type="toy-pictures")))
    (tmp_path / "stage" / "step-00000001").mkdir()
    shutil.rmtree(tmp_path / "stage" / "final")
    with pytest.raises(ValueError, match="is not complete: finish it"):
        run_training(config("x"))


def test_nearly_all_pairs_start_as_no():
    trainer = siglip_trainer(RunConfig(dir="x", steps=1))
    assert trainer.towers.log_scale.exp().item() == pytest.approx(10)
    assert trainer.towers.bias.item() == -10


def test_padding_does_not_reach_a_caption():
    trainer = siglip_trainer(RunConfig(dir="x", steps=1))
    short, both = ["a red circle"], ["a red circle", "a yellow square on black and so on"]
    with torch.no_grad():
        alone = trainer.towers.embed_texts(*trainer._texts(short))
        beside = trainer.towers.embed_texts(*trainer._texts(both))
    assert torch.allclose(alone[0], beside[0], atol=1e-5)
    assert not torch.allclose(beside[0], beside[1], atol=1e-2)


def test_a_resumed_encoder_run_is_the_uninterrupted_one(tmp_path):
    def run(name, **changes):
        options = {"dir": str(tmp_path / name), "steps": 4, **changes}
        trainer = siglip_trainer(RunConfig(**options))
        run_loop(trainer, trainer.config.run, description=name)
        return trainer.towers.state_dict()

    whole = run("whole")
    run("parts", stop_at=2)
    resumed = run("parts", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert "image_to_text" in json.loads(lines[3])
    assert (
        "pictures that were never trained on"
        in next((tmp_path / "whole" / "samples").iterdir()).read_text()
    )


def test_too_short_a_source_is_told():
    with pytest.raises(ValueError, match="too few"):
        siglip_trainer(RunConfig(dir="x", steps=1), batch_size=500)


@pytest.mark.parametrize("face", ["gen", "und"])
def test_an_encoder_is_trained_on_a_file_of_captions(tmp_path, capsys, face):
    """Of either face: the caption is what is said last."""
    lines = []
    for number in range(6):
        Image.new("RGB", (20, 30), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "caption": f"red {number}"}))
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    options = {"path": str(path), "face": face}
    item = build_source("caption-jsonl", options)[2]
    assert pair_of(item)[1] == regions_of("red 2") and pair_of(item)[0][0, 0, 0] == 80
    for number in (0, 3, 5):  # what is looked at first, trained on, held back
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    config = SiglipTrainConfig(
        source=SourceConfig(type="caption-jsonl", options=options),
        run=RunConfig(dir=str(tmp_path / "run"), steps=3),
        batch_size=2,
        embed_size=8,
        text_layers=1,
        text_heads=2,
        eval_pairs=2,
    )
    run_training(config)
    assert (tmp_path / "run" / "final").is_dir()
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["bad_samples"] == 2, "broken ones are replaced, and counted"
    assert "skipped caption-jsonl/5" in capsys.readouterr().err


# weights on disk


def test_a_door_comes_back_as_it_was(vq_door, tmp_path):
    one, other = VQTokenizer(vq_door), VQTokenizer(vq_door)
    save_door(tmp_path / "run" / "final", one, vq_door)
    for path in (tmp_path / "run" / "final", tmp_path / "run"):
        load_door(path, other, vq_door)
        states = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in states)
        other = VQTokenizer(vq_door)


def test_a_door_is_read_from_a_runs_checkpoint(vq_door, tmp_path):
    trainer = vq_trainer(vq_door, RunConfig(dir=str(tmp_path), steps=4, stop_at=1))
    run_loop(trainer, trainer.config.run, description="x")
    other = VQTokenizer(vq_door)
    with pytest.raises(ValueError, match=r"not complete.*step-00000001"):
        load_door(tmp_path, other, vq_door)
    load_door(tmp_path / "step-00000001", other, vq_door)
    assert torch.equal(other.quant_conv.weight, trainer.model.quant_conv.weight)


def test_another_door_is_refused(vq_door, tmp_path):
    save_door(tmp_path, VQTokenizer(vq_door), vq_door)
    larger = VQConfig(image_size=32, base_channels=32, codebook_size=128)
    with pytest.raises(ValueError, match="use the same preset"):
        load_door(tmp_path, VQTokenizer(larger), larger)
    with pytest.raises(FileNotFoundError, match="run the recipe that trains this door"):
        load_door(tmp_path / "nothing", VQTokenizer(vq_door), vq_door)
    record = json.loads((tmp_path / "door.json").read_text())
    (tmp_path / "door.json").write_text(json.dumps(record | {"format_version": 99}))
    with pytest.raises(ValueError, match="newer"):
        load_door(tmp_path, VQTokenizer(vq_door), vq_door)


def test_a_checkpoint_of_other_weights_is_refused(vq_door, tmp_path):
    trainer = vq_trainer(vq_door, RunConfig(dir=str(tmp_path), steps=4, stop_at=1))
    run_loop(trainer, trainer.config.run, description="x")
    smaller = VQConfig(image_size=32, base_channels=32, channel_multipliers=(1, 1, 2, 2))
    with pytest.raises(ValueError, match="does not fit"):
        load_door(tmp_path / "step-00000001", VQTokenizer(smaller), smaller)


def janus_config(**options):
    needed = {"stage": 2, "sources": SourcesConfig(), "ratio": (0, 0, 1)}
    return JanusTrainConfig(**(needed | options))


def test_the_first_weights_that_exist_are_taken(tmp_path):
    run = RunConfig(dir=str(tmp_path / "runs" / "stage2"))
    final = tmp_path / "runs" / "stage1" / "final"
    config = janus_config(init=["stage1/final", "tiny"], run=run)
    assert choose_init(config.init, config.run.dir) == "tiny"
    final.mkdir(parents=True)
    (final / "config.json").write_text("{}")
    assert choose_init(config.init, config.run.dir) == final


def test_a_door_put_in_brings_its_codebook(vq_door, tmp_path):
    door = VQTokenizer(vq_door)
    save_door(tmp_path / "vq" / "final", door, vq_door)
    config = janus_config(init=["tiny"], vq="vq", run=RunConfig(dir=str(tmp_path / "run")))
    model, _ = start_model(config)
    assert isinstance(model.vq, VQTokenizer)
    assert torch.equal(model.vq.quant_conv.weight, door.quant_conv.weight)
    assert torch.equal(model.get_parameter("gen_embed.weight"), door.quantize.normalised_codebook())
