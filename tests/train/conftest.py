"""Small runs on the toy world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openjanus.train.config import (
    JanusTrainConfig,
    OptimConfig,
    RunConfig,
    SourceConfig,
    SourcesConfig,
)
from openjanus.train.start import fresh_model
from openjanus.train.trainer import JanusTrainer


def toy(kind: str, **options: Any) -> SourceConfig:
    return SourceConfig(type="toy", options={"kind": kind, "length": 64, **options})


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., JanusTrainConfig]:
    """``make_config(stage=2, run={...}, optim={...}, ...)``: a run below ``tmp_path``."""

    def make(**changes: Any) -> JanusTrainConfig:
        run = {"dir": str(tmp_path / "run"), "steps": 8} | changes.pop("run", {})
        optim = {"lr": 1e-3} | changes.pop("optim", {})
        options: dict[str, Any] = {
            "stage": 2,
            "init": ["tiny"],
            "sources": SourcesConfig(und=[toy("und")], text=[toy("text")], gen=[toy("gen")]),
            "ratio": (2, 3, 5),
            "batch_size": 10,
            "held_back": 2,
        }
        return JanusTrainConfig(
            run=RunConfig(**run), optim=OptimConfig(**optim), **(options | changes)
        )

    return make


@pytest.fixture
def make_trainer(tiny_config, processor) -> Callable[..., JanusTrainer]:
    """``make_trainer(config, **options)``: a fresh tiny model in a trainer."""

    def make(config: JanusTrainConfig, **options: Any) -> JanusTrainer:
        return JanusTrainer(fresh_model(tiny_config, 0), processor, config, **options)

    return make
