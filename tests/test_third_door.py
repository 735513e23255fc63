"""The example of a third door runs, learns, and leaves the library as it was."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import openjanus.config
import openjanus.model.doors
from openjanus.config import JanusConfig
from openjanus.config_file import config_to_dict, parse_config
from openjanus.model.janus import build_model

EXAMPLE = Path(__file__).parents[1] / "examples" / "third_door.py"


def test_it_learns_to_hear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_config: JanusConfig
) -> None:
    monkeypatch.setattr(openjanus.config, "_DOOR_CONFIGS", dict(openjanus.config._DOOR_CONFIGS))
    monkeypatch.setattr(openjanus.model.doors, "_BUILDERS", dict(openjanus.model.doors._BUILDERS))
    example = runpy.run_path(str(EXAMPLE))
    before, after = example["main"]()
    assert before < 0.7 < 0.95 < after
    assert "accuracy on new sounds" in capsys.readouterr().out

    config = example["hearing_config"]()
    assert parse_config(config_to_dict(config)) == config
    plain = {n: p.shape for n, p in build_model(tiny_config).named_parameters()}
    heard = {n: p.shape for n, p in build_model(config).named_parameters()}
    assert {n: s for n, s in heard.items() if not n.startswith("extra_")} == plain
