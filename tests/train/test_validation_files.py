"""Validation on files that lie beside those that are trained on."""

from __future__ import annotations

import json

import pytest

from openjanus.train.source_config import SourceConfig, SourcesConfig
from openjanus.train.watch_config import ValConfig, ValSourceConfig


def test_files_of_the_same_name_in_another_folder_are_others(make_config, make_trainer, tmp_path):
    paths = {}
    for folder in ("train", "val"):
        paths[folder] = tmp_path / folder / "texts.jsonl"
        paths[folder].parent.mkdir()
        lines = (json.dumps({"text": f"{folder} {number}"}) + "\n" for number in range(8))
        paths[folder].write_text("".join(lines))

    def trainer_of(trained, validated):
        known = SourceConfig(type="text-jsonl", options={"path": str(trained)})
        other = ValSourceConfig(type="text-jsonl", options={"path": str(validated)})
        val = ValConfig(every=1, samples=8, text=[other])
        sources = SourcesConfig(text=[known])
        return make_trainer(make_config(ratio=(0, 1, 0), sources=sources, val=val, batch_size=4))

    trainer = trainer_of(paths["train"], paths["val"])
    trainer.train_step(0)
    assert len(trainer.validation.samples["text"]) == 8
    trainer = trainer_of(paths["train"], tmp_path / "train")  # the same file, said otherwise
    with pytest.raises(ValueError, match=r"sample texts\.jsonl:\d is validated on and would"):
        trainer.train_step(0)
