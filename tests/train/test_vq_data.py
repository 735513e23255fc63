"""Pictures of the tokenizer's training: orders, held-out ones, crops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.config import VQConfig
from openjanus.data.fetching import TooManyBadSamples
from openjanus.data.samples import Sample, Turn
from openjanus.data.sources import build_source
from openjanus.model.vq import VQTokenizer
from openjanus.presets import preset
from openjanus.train.loop import run_loop
from openjanus.train.metrics import read_metrics
from openjanus.train.run_config import RunConfig
from openjanus.train.runs import _pictures, init_vq
from openjanus.train.source_config import SourceConfig
from openjanus.train.vq_config import VQEvalConfig, VQLossConfig, VQTrainConfig
from openjanus.train.vq_data import HELD_OUT_FIRST, EpochPictures, centre, random_crop
from openjanus.train.vq_trainer import VQTrainer


def plain(value, height=40, width=50):
    return np.full((height, width, 3), value, np.uint8)


class Folder:
    """A picture of one grey each, of different sizes, as samples to draw."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        turns = (Turn(role="user", text="x"),)
        target = plain(index, 30 + index, 60)
        return Sample(key=str(index), kind="gen", turns=turns, target=target)


def greys(source, indices):
    return [int(source.picture(index)[0, 0, 0]) for index in indices]


def test_every_epoch_has_every_picture_but_the_held_out_once():
    source = EpochPictures(Folder(), seed=0, held_out=3)
    held = greys(source, range(HELD_OUT_FIRST, HELD_OUT_FIRST + 3))
    first, second = greys(source, range(7)), greys(source, range(7, 14))
    assert sorted(first + held) == sorted(second + held) == list(range(10))
    assert first != second
    assert held != [7, 8, 9]
    other = EpochPictures(Folder(), seed=1, held_out=3)
    assert greys(other, range(HELD_OUT_FIRST, HELD_OUT_FIRST + 3)) == held
    assert greys(other, range(7)) != first
    assert source.key(0) == f"item {first[0]}"


def test_sources_without_pictures_or_with_too_few_are_refused():
    with pytest.raises(ValueError, match="has no pictures"):
        EpochPictures(build_source("toy", {"kind": "text", "length": 9}), seed=0, held_out=2)
    with pytest.raises(ValueError, match=r"10 pictures and eval\.pictures holds 10"):
        EpochPictures(Folder(), seed=0, held_out=10)


def test_a_random_crop_shows_at_least_its_share():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 200, 3))
    spans = []
    for index in range(50):
        piece = random_crop(ramp, 64, 0.5, np.random.default_rng(index))
        assert piece.shape == (64, 64, 3)
        spans.append(int(piece[-1, 0, 0]) - int(piece[0, 0, 0]))
    assert min(spans) > 90
    assert max(spans) > 180
    assert len(set(spans)) > 10


def test_the_centre_is_cut_out():
    assert centre(plain(3), 32).shape == (32, 32, 3)
    picture = plain(3, 32, 32)
    assert centre(picture, 32) is picture


def make_trainer(source=None, **options):
    config = VQTrainConfig(
        source=SourceConfig(type="toy-pictures"),
        batch_size=8,
        **{"run": RunConfig(dir="x", steps=4), **options},
    )
    door = preset("tiny").gen_tokenizer
    assert isinstance(door, VQConfig)
    model = VQTokenizer(door)
    init_vq(model, 0)
    return VQTrainer(model, source or build_source("toy-pictures", {}), config)


def test_augmentation_depends_on_the_picture_alone():
    one, other = make_trainer(flip=True, crop="random"), make_trainer(flip=True, crop="random")
    other.next_index = 4
    assert torch.equal(one._batch(0)[4:], other._batch(3)[:4])


def test_flips_mirror_some_and_leave_some():
    as_is, flipped = make_trainer()._batch(0), make_trainer(flip=True)._batch(0)
    same = (as_is == flipped).flatten(1).all(1)
    mirrored = (as_is.flip(3) == flipped).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 0 < same.sum() < 8


@pytest.mark.parametrize("crop", ["busiest", "random"])
@pytest.mark.parametrize("crop_size", [0, 16])
def test_pictures_of_any_size_become_batches(crop, crop_size):
    source = EpochPictures(Folder(), seed=0, held_out=2)
    side = crop_size if crop_size > 0 else 32
    pixels = make_trainer(source, crop=crop, crop_size=crop_size)._batch(0)
    assert pixels.shape == (8, 3, side, side)


def test_a_folder_of_pictures_is_gone_through_by_epochs(tmp_path):
    """The known defect: a method of sources of files was taken for that of an endless source."""
    (tmp_path / "class").mkdir()
    for number in range(6):
        Image.fromarray(plain(40 * number)).save(tmp_path / "class" / f"{number}.png")
    source = SourceConfig(type="image-folder", options={"path": str(tmp_path), "face": "gen"})
    pictures = _pictures(VQTrainConfig(source=source, eval=VQEvalConfig(pictures=2)))
    assert isinstance(pictures, EpochPictures)
    assert len(set(greys(pictures, range(4)))) == 4


@pytest.mark.parametrize("options", [{"noise": math.nan}, {"loss": {"entropy": math.nan}}])
def test_what_is_no_number_is_refused(options):
    with pytest.raises(ValueError, match=r"must be >= 0, got .*nan"):
        make_trainer(**{k: VQLossConfig(**v) if k == "loss" else v for k, v in options.items()})


def test_without_restarts_the_use_of_the_codebook_is_measured_still():
    run = RunConfig(dir="x", steps=4, log_every=2)
    trainer = make_trainer(run=run, restart_every=0, restart_until=4)
    values = [trainer.train_step(step) for step in range(2)]
    assert "codebook_usage" not in values[0] and 0 < values[1]["codebook_usage"] <= 1
    assert "codebook_restarts" not in values[1]


class Broken(Folder):
    """Some items cannot be read."""

    def __init__(self, *broken):
        self.broken = broken

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError("no picture")
        return super().__getitem__(index)


def test_a_broken_picture_is_replaced_named_and_counted_once(tmp_path, capsys):
    source = EpochPictures(Broken(0, 4), seed=0, held_out=2)
    run = RunConfig(dir=str(tmp_path / "run"), steps=4)
    trainer = make_trainer(source, run=run, eval=VQEvalConfig(every=1, pictures=2))
    assert run_loop(trainer, run, description="x") == 4  # 32 pictures of 8, and those held out
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["bad_samples"] for line in lines][1:] == [2, 2, 2]
    told = capsys.readouterr().err
    assert told.count("skipped item 0: OSError: no picture") == 1
    assert told.count("skipped item 4") == 1
    one, other = make_trainer(source), make_trainer(source)
    one._batch(0)
    other.next_index = 8
    assert torch.equal(one._batch(1), other._batch(3))
    other.load_state_dict(trainer.state_dict())
    assert other.source.count_bad() == {"bad_samples": 2}


def test_more_broken_pictures_than_the_run_allows_end_it():
    broken = Broken(0, 4)
    source = EpochPictures(broken, seed=0, held_out=2)
    with pytest.raises(TooManyBadSamples, match=r"max_bad_samples is 0; the last: item 0: OSErr"):
        make_trainer(source, max_bad_samples=0).train_step(0)
    broken.broken = tuple(range(10))
    with pytest.raises(TooManyBadSamples, match="16 items in a row cannot be used"):
        make_trainer(source).train_step(0)
    with pytest.raises(OSError, match="no picture"):
        EpochPictures(Broken(*range(10)), seed=0, held_out=2)
    with pytest.raises(ValueError, match="max_bad_samples must be >= 0, got -1"):
        make_trainer(max_bad_samples=-1)


def test_another_number_of_pictures_is_refused_on_resume():
    state = make_trainer(EpochPictures(Folder(), seed=0, held_out=2)).state_dict()
    other = make_trainer(EpochPictures([Folder()[i] for i in range(9)], seed=0, held_out=2))
    with pytest.raises(ValueError, match="source has 9 items now, and had 10"):
        other.load_state_dict(state)
