"""``benchmarks/serving.py`` in short: nothing hangs, nothing is lost, errors say what they are."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import ANY

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
OPTIONS = ("--max-requests", "8", "--drain", "5")
SHORT: dict[str, Any] = {
    "model": "tiny",
    "seconds": 1.0,
    "minutes": 0.05,
    "requests": 12,
    "clients": 24,
    "burst": 6,
    "kinds": ("chat", "draw"),
    "attacks": ("15,000 unknown keys", "leaving with pictures", "sending on after a 404"),
    "attack_s": 0.3,
    "drip_s": 12.5,
    "timeout_s": 120.0,
}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.setenv("OMP_NUM_THREADS", "1")
        spec = importlib.util.spec_from_file_location("serving_load", FOLDER / "serving.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def server(script: ModuleType) -> Iterator[Any]:
    server = script.Served(["--model", "tiny", *OPTIONS], is_supervised=True)
    try:
        server.wait_ready()
        yield server
        assert "Traceback" not in server.log()
    finally:
        server.stop()


# The last one ends the server and waits for the next.
@pytest.mark.parametrize(
    "name",
    [
        *("soak", "flood", "leavers", "pictures", "hostile"),
        pytest.param("rates", marks=pytest.mark.long),
        pytest.param("loris", marks=pytest.mark.long),
        "kill",
    ],
)
def test_a_part_has_no_fault(script: ModuleType, server: Any, name: str) -> None:
    part = script.run_part(name, server, script.Sizes(**SHORT))
    assert part.faults == []
    figures = json.loads(json.dumps(part.figures))
    assert figures["health"]["200"]["count"] > 0
    if name != "kill":
        assert "p99 of /health, s" in part.goals
    if name == "flood":
        assert figures["refusal"]["count"] > 0
        assert figures["answered"] + figures["refusal"]["count"] == figures["sent"]
    if name == "hostile":
        assert figures["15,000 unknown keys"]["heard"] == {"400": ANY}
    if name == "pictures":
        assert set(figures["statuses"]) == {"400"}
    if name == "kill":
        assert figures["errors"]  # streams were cut off, and their clients knew


def test_what_hangs_or_breaks_is_a_fault(script: ModuleType, monkeypatch, tmp_path) -> None:
    """A server that is not there is a server that answers nobody."""

    class Gone:
        url = "http://127.0.0.1:9"

    part = script.Part()
    sizes = script.Sizes(**SHORT)
    mix = (("chat", 1.0),)
    script.load(Gone(), part, sizes, rate=100.0, requests=3, mix=mix)
    assert part.faults == ["requests without an answer that says what it is: {'not connected': 3}"]
    part = script.Part()
    script.load(Gone(), part, sizes, rate=100.0, requests=3, mix=mix, is_cut=True)
    assert part.faults == []
    monkeypatch.setattr(script, "serve_part", lambda *_: script.Part(faults=["it hung"]))
    assert script.main(["--output", str(tmp_path / "a.json"), "--only", "flood"]) == 1
