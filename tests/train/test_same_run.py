"""Data that lies elsewhere: the same run where it is the same, refused where it is not."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from openjanus.train.checkpoint import load_checkpoint, newest_checkpoint
from openjanus.train.config import JanusTrainConfig
from openjanus.train.run_config import RunConfig
from openjanus.train.runs import run_training
from openjanus.train.source_config import SourceConfig, SourcesConfig
from openjanus.train.vq_config import VQEvalConfig, VQTrainConfig
from openjanus.train.watch_config import ValConfig, ValSourceConfig


def write_data(folder: Path, count: int = 12, seed: int = 0) -> Path:
    """Captions beside a folder of pictures; other seeds have other pixels in files of one size."""
    rng = np.random.default_rng(seed)
    (folder / "pictures").mkdir(parents=True)
    lines = []
    for index in range(count):
        picture = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "pictures" / f"{index}.bmp")
        lines.append(json.dumps({"image": f"{index}.bmp", "caption": f"picture {index}"}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def captions(data: Path, **options: Any) -> SourceConfig:
    where = {"path": str(data / "captions.jsonl"), "image_root": str(data / "pictures")}
    return SourceConfig(type="caption-jsonl", options=where | {"face": "gen"} | options)


@pytest.fixture
def janus(make_config, tmp_path: Path) -> Callable[..., JanusTrainConfig]:
    """``janus("run", data, val=folder, resume=True)``: drawings of captions."""

    def make(name: str, data: Path, *, val: Path | None = None, **run: Any) -> JanusTrainConfig:
        measured = ValConfig()
        if val is not None:
            own = captions(val)
            source = ValSourceConfig(type=own.type, options=own.options)
            measured = ValConfig(every=2, samples=2, gen=[source])
        return make_config(
            run={"dir": str(tmp_path / name), "steps": 4, **run},
            sources=SourcesConfig(gen=[captions(data)]),
            ratio=(0, 0, 1),
            batch_size=3,
            id_cache=None,
            val=measured,
        )

    return make


def same_result(one: Path, other: Path) -> bool:
    states = [load_checkpoint(newest_checkpoint(folder))["task"] for folder in (one, other)]
    tensors = []
    for state in states:
        found = {}
        if "shards" in state:
            shapes = state["shards"].shapes()
            dtypes = state["shards"].dtypes()
            found = {k: torch.empty(shape, dtype=dtypes[k]) for k, shape in shapes.items()}
            state["shards"].read_into(found)
        else:
            found = state["model"]
        tensors.append(found)
    assert tensors[0].keys() == tensors[1].keys()
    return all(torch.equal(value, tensors[1][key]) for key, value in tensors[0].items())


def test_a_moved_folder_resumes_bit_for_bit(janus, tmp_path, capsys):
    old, new = write_data(tmp_path / "old"), tmp_path / "elsewhere" / "new"
    run_training(janus("whole", old))
    run_training(janus("parts", old, stop_at=2))
    new.parent.mkdir()
    old.rename(new)
    capsys.readouterr()
    run_training(janus("parts", new, resume=True))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moved: ")]
    assert len(told) == 2
    assert told[0].startswith("moved: sources.gen[0].options.path '")
    assert told[0].endswith("captions.jsonl', the same data")
    assert same_result(tmp_path / "whole", tmp_path / "parts")
    written = yaml.safe_load((tmp_path / "parts" / "config.yaml").read_text(encoding="utf-8"))
    assert written["sources"]["gen"][0]["options"]["image_root"] == str(new / "pictures")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("items", r"sources\.gen\[0\]\.options\.path .* has 11 items now, and had 12"),
        ("sizes", r"is of files that are not what they were when the checkpoint was written"),
        ("words", r"holds words or pictures that are not what they were when the checkpoint"),
        ("pixels", r"holds words or pictures that are not what they were when the checkpoint"),
    ],
)
def test_moved_and_changed_is_refused(janus, tmp_path, change, match):
    old, new = write_data(tmp_path / "old"), tmp_path / "new"
    run_training(janus("run", old, stop_at=2))
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    write_data(new, count=11 if change == "items" else 12, seed=int(change == "pixels"))
    if change in ("sizes", "words"):
        other = "a thing 3" if change == "words" else "thing 3"
        file = new / "captions.jsonl"
        file.write_text(file.read_text().replace("picture 3", other), encoding="utf-8")
    with pytest.raises(ValueError, match=match):
        run_training(janus("run", new, resume=True))
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    run_training(janus("run", old, resume=True))  # which still goes on


def test_another_option_of_a_source_is_refused_moved_or_not(janus, tmp_path):
    old = write_data(tmp_path / "old")
    run_training(janus("run", old, stop_at=2))
    new = tmp_path / "new"
    shutil.copytree(old, new)
    for data in (old, new):
        config = janus("run", data, resume=True)
        source = captions(data, form="plain")
        changed = dataclasses.replace(config, sources=SourcesConfig(gen=[source]))
        with pytest.raises(ValueError, match=r"was started with sources\.gen .*'form': 'plain'"):
            run_training(changed)
    heavier = dataclasses.replace(captions(new), weight=2.0)
    with pytest.raises(ValueError, match=r"was started with sources\.gen .*'weight': 2\.0"):
        run_training(
            dataclasses.replace(
                janus("run", new, resume=True), sources=SourcesConfig(gen=[heavier])
            )
        )


def test_what_is_measured_on_may_lie_elsewhere_too(janus, tmp_path, capsys):
    data, val = write_data(tmp_path / "data"), write_data(tmp_path / "val", seed=1)
    run_training(janus("run", data, val=val, stop_at=2))
    other = write_data(tmp_path / "other", seed=2)
    with pytest.raises(ValueError, match=r"val\.gen\[0\]\.options\.path .* holds words or pict"):
        run_training(janus("run", data, val=other, resume=True))
    moved = val.rename(tmp_path / "val2")
    run_training(janus("run", data, val=moved, resume=True))
    assert "moved: val.gen[0].options.path" in capsys.readouterr().err
    assert (tmp_path / "run" / "final").is_dir()


def test_what_was_held_back_does_not_become_a_source_of_its_own(janus, tmp_path):
    """Of a source that is trained on, its last items are measured; elsewhere it would be all."""
    data = write_data(tmp_path / "data")
    run_training(janus("run", data, val=data, stop_at=2))
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    with pytest.raises(ValueError, match="move a source alike wherever the run names it"):
        run_training(janus("run", copy, val=data, resume=True))
    run_training(janus("run", copy, val=copy, resume=True))


def test_without_a_fingerprint_nothing_says_that_it_is_the_same(janus, tmp_path, monkeypatch):
    data = write_data(tmp_path / "data")
    monkeypatch.setattr("openjanus.train.feed.fingerprint_of", lambda _: None)
    run_training(janus("run", data, stop_at=2))
    monkeypatch.undo()
    moved = data.rename(tmp_path / "new")
    with pytest.raises(ValueError, match="cannot be told, it has no fingerprint there: put it ba"):
        run_training(janus("run", moved, resume=True))


def test_a_tokenizers_pictures_may_lie_elsewhere(tmp_path, capsys):
    def config(name: str, data: Path, **run: Any) -> VQTrainConfig:
        return VQTrainConfig(
            run=RunConfig(dir=str(tmp_path / name), steps=4, **run),
            source=SourceConfig(type="image-folder", options={"path": str(data)}),
            eval=VQEvalConfig(pictures=2),
            batch_size=4,
        )

    old = write_data(tmp_path / "old")
    run_training(config("whole", old))
    run_training(config("parts", old, stop_at=2))
    new = old.rename(tmp_path / "new")
    run_training(config("parts", new, resume=True))
    assert "moved: source.options.path" in capsys.readouterr().err
    assert same_result(tmp_path / "whole", tmp_path / "parts")

    run_training(config("again", new, stop_at=2))
    fewer = tmp_path / "fewer"
    shutil.copytree(new, fewer)
    (fewer / "pictures" / "0.bmp").unlink()
    with pytest.raises(ValueError, match=r"source\.options\.path .* has 11 items now, and had 12"):
        run_training(config("again", fewer, resume=True))


def test_what_a_checkpoint_does_not_know_cannot_be_told(janus, tmp_path, monkeypatch):
    """One from before what is measured on was kept in it."""
    data, val = write_data(tmp_path / "data"), write_data(tmp_path / "val", seed=1)
    run_training(janus("run", data, val=val, stop_at=2))

    def older(path: Path) -> dict[str, Any]:
        state = load_checkpoint(path)
        return state | {"task": {k: v for k, v in state["task"].items() if k != "measured_on"}}

    monkeypatch.setattr("openjanus.train.same_run.load_checkpoint", older)
    moved = val.rename(tmp_path / "val2")
    with pytest.raises(ValueError, match=r"val\.gen\[0\]\.options\.path .* cannot be told"):
        run_training(janus("run", data, val=moved, resume=True))


def write_parquet(folder: Path, *, words: str = "thing", seed: int = 0) -> Path:
    """Rows with their pictures, of one size whatever the words and the seed."""
    parquet = pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"image": [], "caption": []}
    for index in range(12):
        file = io.BytesIO()
        picture = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(file, "bmp")
        rows["image"].append(file.getvalue())
        rows["caption"].append(f"{words} {index:02}")
    folder.mkdir()
    table = sys.modules["pyarrow"].table(rows)
    parquet.write_table(table, folder / "t.parquet", compression="none", row_group_size=5)
    return folder


def test_parquet_that_lies_elsewhere_is_known_by_words_and_footers(janus, tmp_path, capsys):
    def config(data: Path, **run: Any) -> JanusTrainConfig:
        options = {"path": str(data / "t.parquet"), "face": "gen"}
        source = SourceConfig(type="parquet", options=options)
        return dataclasses.replace(
            janus("run", tmp_path, **run), sources=SourcesConfig(gen=[source])
        )

    old = write_parquet(tmp_path / "old")
    run_training(config(old, stop_at=1))
    for other in (
        write_parquet(tmp_path / "words", words="thong"),
        write_parquet(tmp_path / "pixels", seed=1),
    ):
        sizes = {(folder / "t.parquet").stat().st_size for folder in (old, other)}
        assert len(sizes) == 1
        with pytest.raises(ValueError, match="holds words or pictures that are not what they"):
            run_training(config(other, resume=True))
    run_training(config(old.rename(tmp_path / "new"), resume=True, stop_at=2))
    assert "t.parquet', the same data" in capsys.readouterr().err
