from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openjanus import pinned
from openjanus.worlds.emoji import fetch
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.sprites import Sprites

FEW = {name: CONCEPTS[name] for name in ("car", "airplane", "dog")}
RECTANGLE = '<path fill="#f00" d="M2 4h8v2H2z"/>'


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A world of three concepts, packed by nobody's npm."""
    tarball = write_tarball(tmp_path_factory.mktemp("npm") / "icons.tgz")
    monkeypatch.setattr(fetch, "CONCEPTS", FEW)
    monkeypatch.setattr(fetch, "pack_artwork", lambda artwork, folder: tarball)


def icon_set() -> tuple[dict[str, Any], dict[str, str]]:
    """An icon of every concept, a red rectangle of 8 by 2; the car is an alias."""
    icons: dict[str, Any] = {name: {"body": RECTANGLE} for name in FEW}
    icons["auto"] = icons.pop("car")
    aliases = {"car": {"parent": "auto"}, "mirrored": {"parent": "auto", "hFlip": True}}
    chars = {concept.code_point: name for name, concept in FEW.items()}
    chars["2708-fe0f"] = chars.pop("2708")
    return {"icons": icons, "aliases": aliases, "width": 12, "height": 12}, chars


def write_tarball(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in zip(("icons", "chars"), icon_set(), strict=True):
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def fail(*_: object, **__: object) -> None:
    raise AssertionError("must not be called")


def test_the_default_folder_reads_the_environment_when_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENJANUS_CACHE", str(tmp_path))
    assert fetch.default_folder() == tmp_path / "emoji"
    monkeypatch.delenv("OPENJANUS_CACHE")
    assert fetch.default_folder() == Path.home() / ".cache" / "openjanus" / "emoji"


@pytest.mark.usefixtures("packed")
def test_sprites_are_rendered_trimmed_saved_and_loaded(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = fetch.fetch_emoji(tmp_path / "cache", progress=lines.append)
    assert folder == tmp_path / "cache"
    assert lines[0] == "fetching @iconify-json/noto 1.2.9"
    sprites = Sprites.load(folder)
    assert sprites.concepts == tuple(FEW)
    assert sprites.vendors == ("noto", "fluent", "twemoji")
    image = sprites.rgba("car", "fluent")
    assert image.shape == (32, 128, 4)
    np.testing.assert_array_equal(image[16, 64], [255, 0, 0, 255])
    record = json.loads((folder / "sprites.json").read_text())
    licences = {x["vendor"]: x["licence"] for x in record["recipe"]["sources"]}
    assert licences == {"noto": "Apache-2.0", "fluent": "MIT", "twemoji": "CC-BY-4.0"}


@pytest.mark.usefixtures("packed")
def test_what_is_there_is_not_fetched_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fetch.fetch_emoji(tmp_path)
    monkeypatch.setattr(fetch, "pack_artwork", fail)
    fetch.fetch_emoji(tmp_path)
    (tmp_path / "sprites.npz").unlink()
    with pytest.raises(AssertionError, match="must not be called"):
        fetch.fetch_emoji(tmp_path)


@pytest.mark.usefixtures("packed")
def test_damaged_sprites_are_refused(tmp_path: Path) -> None:
    path = fetch.fetch_emoji(tmp_path) / "sprites.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="sha256 differs: delete both and fetch again"):
        Sprites.load(tmp_path)


def test_a_missing_npm_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"npm: install Node.js"):
        fetch.fetch_emoji(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"apt-get: run on Debian"):
        fetch.fetch_text(tmp_path)


def test_a_package_that_is_not_the_pinned_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def pack(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:3] == ["pack", "@iconify-json/noto@1.2.9"]
        (Path(command[-1]) / "iconify-json-noto-1.2.9.tgz").write_bytes(b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(pinned.subprocess, "run", pack)
    with pytest.raises(ValueError, match=r"must have sha256 3e918d88.* got [0-9a-f]{64}"):
        fetch.fetch_emoji(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failing_client_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 7, "", "no such package")

    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(pinned.subprocess, "run", refuse)
    with pytest.raises(RuntimeError, match=r"ended with 7: no such package"):
        fetch.fetch_emoji(tmp_path)


def test_icons_become_documents() -> None:
    icons, _ = icon_set()
    assert 'viewBox="0 0 12 12"' in fetch.icon_svg(icons, "dog")
    assert fetch.icon_svg(icons, "car") == fetch.icon_svg(icons, "auto")
    icons["icons"]["dog"] |= {"left": 1, "width": 7}
    assert 'viewBox="1 0 7 12"' in fetch.icon_svg(icons, "dog")
    with pytest.raises(ValueError, match="'mirrored' transforms its parent"):
        fetch.icon_svg(icons, "mirrored")
    with pytest.raises(KeyError):
        fetch.icon_svg(icons, "unicorn")


def test_an_empty_icon_is_refused() -> None:
    svg = fetch.icon_svg({"icons": {"empty": {"body": ""}}}, "empty")
    with pytest.raises(ValueError, match="must show something"):
        fetch.render_svg(svg, 16)


def test_text_is_parsed_from_both_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.mkdir()
    noun = (
        "  1 This is the licence.\n"
        "00005930 03 n 02 dwarf_tree 0 bonsai 0 001 @ 00004475 n 0000 | a small tree; "
        '"he waters it"  \n'
    )
    adjective = "00006024 00 a 01 asleep(p) 0 000 | in a state of sleep  \n"
    for part, lines in (("noun", noun), ("verb", ""), ("adj", adjective), ("adv", "")):
        (words / f"data.{part}").write_text(lines)
    wheel = tmp_path / "corpus.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for topic in fetch.CHATTERBOT_TOPICS:
            talk = "conversations: []"
            if topic == "greetings":
                talk = "conversations:\n- - Hello\n  - Hi\n  - Yes\n  - >-\n    How\n    are you?"
            archive.writestr(f"chatterbot_corpus/data/english/{topic}.yml", talk)
    monkeypatch.setattr(fetch, "_fetch_wordnet", lambda folder: words)
    monkeypatch.setattr(fetch, "_fetch_chatterbot", lambda folder: wheel)
    folder = fetch.fetch_text(tmp_path / "cache")
    glosses = [json.loads(x) for x in (folder / "glosses.jsonl").read_text().splitlines()]
    assert glosses == ["dwarf tree: a small tree", "asleep: in a state of sleep"]
    dialogues = [json.loads(x) for x in (folder / "dialogues.jsonl").read_text().splitlines()]
    assert dialogues == [["Hello", "Hi"]]
    monkeypatch.setattr(fetch, "_fetch_wordnet", fail)
    assert fetch.fetch_text(folder) == folder
