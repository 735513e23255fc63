"""`openjanus conformance`: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from openjanus.cli import main
from openjanus.conformance.vectors import VECTORS

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = main(["conformance", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_write_prints_the_folder(kit: Path, tmp_path: Path, capsys: Capture) -> None:
    code, out, err = run(capsys, "write", tmp_path / "kit", "--seed", "3")
    assert (code, out, err) == (0, f"{tmp_path / 'kit'}\n", "")
    assert json.loads((tmp_path / "kit" / "manifest.json").read_text())["seed"] == 3
    same = Path("vectors") / "vq_latents.safetensors"
    assert (tmp_path / "kit" / same).read_bytes() != (kit / same).read_bytes()


@pytest.mark.parametrize("against", ["openjanus", "transformers"])
def test_check_prints_a_table_and_writes_json(
    against: str, kit: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "new" / "report.json"
    code, out, _ = run(capsys, "check", kit, "--against", against, "--output", path)
    assert code == 0
    lines = out.splitlines()
    assert f"asked of {against} " in lines[0]
    assert lines[2].split() == ["vector", "agrees", "by", "how", "much", "tolerance"]
    assert [line.split()[0] for line in lines[3 : 3 + len(VECTORS)]] == list(VECTORS)
    told = json.loads(path.read_text(encoding="utf-8"))
    assert (told["format_version"], told["against"], told["agrees"]) == (1, against, True)
    assert [row["vector"] for row in told["rows"]] == list(VECTORS)


def test_an_unexpected_difference_is_exit_code_1(
    kit: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openjanus.model.vq import VectorQuantizer

    monkeypatch.setattr(VectorQuantizer, "lookup", lambda self, ids: self.embedding(ids))
    path = tmp_path / "report.json"
    code, out, err = run(capsys, "check", kit, "--against", "openjanus", "--output", path)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines() if "NO" in line] == ["vq_pixels", "pixels"]
    assert (
        err.splitlines()[-1] == f"openjanus: 2 of {len(VECTORS)} vectors differ: vq_pixels, pixels"
    )
    assert json.loads(path.read_text(encoding="utf-8"))["agrees"] is False


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: WHAT"),
        (["write"], "required: DIR"),
        (["write", "{kit}"], "is not empty: give a new folder"),
        (["write", "x", "--seed", "-1"], "a seed is a whole number >= 0"),
        (["check", "{kit}"], "required: --against"),
        (["check", "{kit}", "--against", "vllm"], "invalid choice: 'vllm'"),
        (["check", "{kit}", "--against", "openjanus", "--output", "{kit}"], "is a folder"),
        (["check", "{kit}", "--against", "openjanus", "--outptu", "x"], "did you mean '--output'"),
        (["check", "{kit}/vectors", "--against", "openjanus"], "no kit in"),
        (["check", "{kit}/nowhere", "--against", "transformers"], "no kit in"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], says: str, kit: Path, capsys: Capture) -> None:
    code, out, err = run(capsys, *(word.format(kit=kit) for word in arguments))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and says in err


def test_without_transformers_it_says_what_to_install(
    kit: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "openjanus.conformance.transformers", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, out, err = run(capsys, "check", kit, "--against", "transformers")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and "pip install 'transformers>=5'" in err
