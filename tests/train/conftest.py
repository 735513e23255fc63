"""Small runs on the toy world."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from openjanus.train.config import JanusTrainConfig
from openjanus.train.optim_config import OptimConfig
from openjanus.train.run_config import RunConfig
from openjanus.train.source_config import SourceConfig, SourcesConfig
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


@pytest.fixture
def cut_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process may be one of several: the model stays whole."""
    monkeypatch.setattr("openjanus.train.parallel.init_device_mesh", lambda *_: None)
    monkeypatch.setattr("openjanus.train.sharding.fully_shard", lambda module, **_: module)


ENTRY = """
import sys
from pathlib import Path
from openjanus.cli import main

code = main()
names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
left = [name for name in names if "gloo" in name or "tcpstore" in name]
sys.exit(f"threads that outlive the run: {left}" if left and not code else code)
"""


def start_process(
    config: JanusTrainConfig,
    rank: int,
    size: int,
    port: int,
    *,
    entry: str = ENTRY,
    **environment: str,
) -> subprocess.Popen[str]:
    """``openjanus train``, as torchrun would start it; ``entry`` is the program."""
    path = Path(config.run.dir).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(plain(dataclasses.asdict(config))), encoding="utf-8")
    own = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", entry, "train", "--config", str(path)],
        env=os.environ | own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def start_run() -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """``start_run(config, 2)``: the processes of a run; what is left of them is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(config: JanusTrainConfig, size: int, **environment: str) -> list[Any]:
        Path(config.run.dir).parent.mkdir(parents=True, exist_ok=True)
        port = free_port()
        new = [start_process(config, rank, size, port, **environment) for rank in range(size)]
        started.extend(new)
        return new

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def run_processes(start_run) -> Callable[..., list[str]]:
    """``run_processes(config, 2)``: runs to the end, and gives what each process said."""

    def run(config: JanusTrainConfig, size: int, *, code: int = 0, **options: str) -> list[str]:
        processes = start_run(config, size, **options)
        said = [process.communicate(timeout=600)[0] for process in processes]
        assert [process.returncode for process in processes] == [code] * size, "\n".join(said)
        return said

    return run
