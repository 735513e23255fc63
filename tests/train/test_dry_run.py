"""A dry run reads neither weights nor data, and says what there is to know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openjanus.cli import main
from openjanus.train.dry_run import describe_recipe
from openjanus.train.recipes import read_recipe, recipe_names
from openjanus.weights.own import save_model


@pytest.mark.parametrize("name", [n for n in recipe_names() if "/" in n])
def test_every_recipe_has_a_dry_run(name: str, tmp_path: Path) -> None:
    changes = ["--run.dir", str(tmp_path / "run")]
    if name.startswith("finetune/"):  # of any model
        changes += ["--preset", "janus-pro-1b"]
    told = describe_recipe(name, changes)
    members = read_recipe(name).get("recipes", {name: None})
    assert len(told.split("told from shapes")) - 1 + told.count("nothing runs on a device") == len(
        members
    )
    assert told.count("fits\n  1 x 24 GB  ") == told.count("told from shapes")
    assert told.count("\nFLOPs      at most ") == told.count("told from shapes")
    assert not (tmp_path / "run").exists()


def test_what_a_stage_of_the_papers_takes() -> None:
    told = describe_recipe("janus-pro-1b/stage2")
    for line in (
        "language_model  1,652,656,128  1,652,656,128",
        "all             2,076,636,811  1,701,064,704",
        "steps      270,000, then complete, of a schedule of 360,000",
        "batch      512 packs of 4,096 tokens, und : text : gen 2 : 3 : 5 in samples",
        "tokens     at most 2,097,152 a step, 566,231,040,000 in all",
        "peak                    48.33    38.23  20.94       10.84",
        "1 x 80 GB  yes, 48.3 GB",
    ):
        assert line in told
    assert "an estimate, at 40% of 312 TFLOP/s: 1 device 513.2 days, 8 devices 64.2 days" in told
    faster = describe_recipe("janus-pro-1b/stage2", peak_tflops=624.0, mfu=0.8)
    assert "an estimate, at 80% of 624 TFLOP/s: 1 device 128.3 days" in faster


def test_the_docs_show_what_it_prints() -> None:
    docs = Path(__file__).parents[2] / "docs" / "recipes.md"
    assert describe_recipe("janus-pro-1b/stage2") in docs.read_text(encoding="utf-8")


def test_supervised_tokens_where_they_are_known() -> None:
    # Ten of twenty samples are drawings of 16 ids.
    assert "16 a drawing, 160 a step in drawings" in describe_recipe("tiny/stage2")
    assert "a drawing" not in describe_recipe("tiny/text")
    packed = describe_recipe("janus-pro-7b/stage1")
    assert "576 a drawing" in packed and "a step in drawings" not in packed


def test_what_the_papers_tokenizer_takes() -> None:
    told = describe_recipe("vq16/imagenet256", ["--run.dir=x"])
    for line in (
        "tokenizer        71,883,403  71,883,403",
        "moving average   71,883,403           0",
        "discriminator     2,765,633   2,765,633",
        "batch      128 pictures of 256 pixels",
        "pictures   51,205,120 in all",
        "pictures at a time       128     16",
        "gradients, fp32         0.30   0.30",
    ):
        assert line in told
    fewer = describe_recipe("vq16/imagenet256", ["--run.dir=x", "--gan.weight=0"])
    assert "discriminator" not in fewer


def test_a_semantic_tokenizer_is_told_with_its_teacher(tmp_path: Path) -> None:
    changes = ["--run.dir", str(tmp_path / "run")]
    told = describe_recipe("semantic/step1", changes)
    assert "teacher          303,688,704            0" in told
    assert "weights/janus-1.3b, is not there: taken for the preset of that name" in told
    assert "teacher 10%" in told
    unknown = describe_recipe("tiny/semantic", [*changes, "--teacher=somewhere"])
    assert "left out   the teacher: nothing says of which architecture somewhere is" in unknown
    own = describe_recipe("tiny/semantic", changes)
    assert "teacher    nano, as it lies there" in own
    with pytest.raises(ValueError, match="has features of width 1024, and the tokenizer's"):
        describe_recipe("tiny/semantic", [*changes, "--teacher=weights/janus-1.3b"])


def test_pieces_and_whole_pictures_are_told_apart(tmp_path: Path) -> None:
    told = describe_recipe("nano/vq", ["--run.dir", str(tmp_path / "run")])
    assert "3,600 steps of 64 pictures of 48 pixels and then 1,400 steps of 16 pictures" in told


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("tiny/vq", "--crop_size=30", "crop_size must be a multiple of 8, at most"),
        ("tiny/vq-gan", "--gan.layers=6", "gan.layers needs pictures of 192 pixels a side"),
        ("tiny/semantic", "--crop_size=16", "crop_size must be 0 or the picture's side"),
    ],
)
def test_what_the_run_of_a_tokenizer_refuses(name: str, change: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        describe_recipe(name, ["--run.dir=x", change])


def test_a_batch_that_many_cannot_share_does_not_fit_them() -> None:
    told = describe_recipe("tiny/vq", ["--run.dir=x", "--batch_size=12"])
    assert "8 x 80 GB  no: a batch of 12 is not shared evenly by 8" in told
    assert "1 x 80 GB  yes, " in told
    assert "of 8" not in told and "8 devices" not in told
    shared = describe_recipe("tiny/vq", ["--run.dir=x", "--batch_size=16"])
    assert "8 x 80 GB  yes, " in shared and "of 8" in shared and "8 devices" in shared


def test_overrides_count(tmp_path: Path) -> None:
    told = describe_recipe("janus-pro-7b/all", ["--stage2.run.early_stop=1000"])
    assert "steps      1,000, then complete, of a schedule of 360,000" in told
    assert told.count("fits\n") == 3
    with pytest.raises(ValueError, match=r"unknown key run\.stops"):
        describe_recipe("janus-pro-7b/stage1", ["--run.stops=1"])
    with pytest.raises(ValueError, match=r"mfu must be in \(0, 1\]"):
        describe_recipe("janus-pro-7b/stage1", mfu=40)


def test_the_architecture_is_that_of_what_is_there(
    tmp_path: Path, tiny_model: Any, tokenizer: Any
) -> None:
    changes = ["--run.dir", str(tmp_path / "stage2"), "--init=[stage1/final]"]
    with pytest.raises(FileNotFoundError, match="add --preset, one of tiny, "):
        describe_recipe("tiny/stage2", changes)
    save_model(tmp_path / "stage1" / "final", tiny_model, tokenizer)
    assert "1,277,067" in describe_recipe("tiny/stage2", changes)


def test_the_command_prints_it(capsys: Any, monkeypatch: Any) -> None:
    from openjanus.train import runs

    monkeypatch.setattr(runs, "run_training", None)
    command = ["train", "--config", "janus-1.3b/stage3", "--dry-run"]
    assert main([*command, "--mfu", "0.5", "--run.steps", "7"]) == 0
    told = capsys.readouterr().out
    assert "steps      7\n" in told and "at 50% of 312 TFLOP/s" in told


def test_of_adapters_only_what_is_trained_is_counted(tmp_path: Path) -> None:
    told = describe_recipe(
        "finetune/lora", ["--run.dir", str(tmp_path / "lora"), "--preset", "janus-pro-1b"]
    )
    assert "adapters of rank" in told
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines() if line.strip()}
    total, trained = (int(number.replace(",", "")) for number in rows["language_model"])
    assert 0 < trained < total / 20
    weights, gradients = (float(rows[name][2]) for name in ("weights,", "gradients,"))
    assert gradients < weights / 20
