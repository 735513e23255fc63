"""What the documents say is so: files exist, options are known, programs run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from openjanus.cli import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [body for kind, body in found if kind == language]


def commands() -> list[str]:
    return [
        line.partition("  ")[0]
        for document in DOCUMENTS
        for block in blocks(document.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if line.startswith("openjanus ") and not re.search(r"[A-Z]{3,}", line)
    ]


def test_there_are_commands_in_the_readme():
    assert len([line for line in README.splitlines() if line.startswith("openjanus ")]) >= 10


@pytest.mark.parametrize("command", commands())
def test_every_command_shown_is_one_that_the_program_knows(command):
    args = parse(shlex.split(command)[1:])
    assert callable(args.run)


def test_the_python_shown_runs(tmp_path):
    (program,) = blocks(README, "python")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "sheet.png").stat().st_size > 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8"))
    targets = {(document.parent / link).resolve() for link in links if "://" not in link}
    assert [str(target) for target in targets if not target.exists()] == []


def test_the_tree_shown_is_the_tree():
    (shown,) = [block for block in blocks(README) if block.startswith("src/openjanus/")]
    paths = []
    for line in shown.splitlines():
        name = line.split()[0]
        paths.append(f"src/openjanus/{name}" if line.startswith("  ") else name)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    rooms = {path.name for path in (ROOT / "src" / "openjanus").iterdir() if path.is_dir()}
    told = {
        Path(path).parts[2]
        for path in paths
        if path.startswith("src/openjanus/") and len(Path(path).parts) > 2
    }
    assert rooms - told - {"__pycache__", "assets"} == set()


@pytest.mark.parametrize("target", re.findall(r"^make (\S+)$", README, flags=re.MULTILINE))
def test_every_make_target_shown_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_continuous_integration_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make test" in README.splitlines()
    assert "make test" in script
    assert "make check" in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111 == 0o111


def test_the_version_is_the_same_everywhere():
    import openjanus

    assert f"version: {openjanus.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/openjanus/__init__.py"


def test_every_artwork_fetched_is_credited():
    from openjanus.worlds.emoji.easy_vqa import EASY_VQA
    from openjanus.worlds.emoji.fetch import ARTWORK, TEXT_SOURCES
    from openjanus.worlds.emoji.packages import EMOJIBASE

    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for artwork in ARTWORK:
        assert f"{artwork.package} {artwork.version}" in notice
        assert artwork.author in notice
    for source in (*TEXT_SOURCES, EASY_VQA, EMOJIBASE):
        assert source["author"] in notice
        assert f"{source['package']} {source['version']}" in notice


def test_no_document_names_a_machine():
    pattern = re.compile(
        r"/(?:root|work|home)/|localhost|https?://(?!creativecommons|127\.0\.0\.1:8000/)"
    )
    files = [
        *DOCUMENTS,
        *(ROOT / name for name in ("Makefile", "constraints.txt", ".ci/run", "NOTICE")),
    ]
    assert [str(path) for path in files if pattern.search(path.read_text(encoding="utf-8"))] == []


@pytest.fixture
def demo():
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_draws_held_out_prompts_that_the_version_chooses(demo):
    from openjanus.worlds.emoji.captions import prompt_for_cell
    from openjanus.worlds.emoji.cells import evaluation_cells
    from openjanus.worlds.emoji.scenes import GENEVAL_TAGS

    tag_of = {prompt_for_cell(c): tag for tag in GENEVAL_TAGS for c in evaluation_cells(tag)}
    chosen = demo.choose_prompts("0.1.0")
    assert [tag_of[prompt] for prompt in chosen] == [tag for tag in GENEVAL_TAGS for _ in range(2)]
    assert chosen == demo.choose_prompts("0.1.0")
    assert len({tuple(demo.choose_prompts(f"0.{minor}.0")) for minor in range(20)}) == 20


def test_the_demo_draws_and_talks(demo, monkeypatch, tmp_path, capsys):
    import openjanus
    from openjanus.eval.geneval import Verdict

    verdicts = [Verdict(correct=True), *[Verdict(correct=False, reasons=("no dog",))] * 11]
    monkeypatch.setattr(demo, "judge_drawings", lambda pictures, prompts: verdicts)
    monkeypatch.setattr(demo, "SIDE", 32)
    janus = openjanus.load("tiny")
    demo.draw(janus, tmp_path / "drawings")
    demo.talk(janus, tmp_path, "two dogs and a red car")
    said = capsys.readouterr().out
    assert said.count("->  right") == 1
    assert said.count("->  wrong: no dog") == 11
    assert "(true: red)" in said
    assert "(true: two)" in said
    with Image.open(tmp_path / "drawings" / "sheet.png") as sheet:
        assert sheet.width > 4 * 64
    with pytest.raises(ValueError, match="unicorn"):
        demo.talk(janus, tmp_path, "a unicorn")
    first = janus.draw(demo.choose_prompts(openjanus.__version__)[0], seed=0).images[0]
    with Image.open(tmp_path / "drawings" / "00.png") as image:
        assert list(image.tobytes()) == list(first.tobytes())
