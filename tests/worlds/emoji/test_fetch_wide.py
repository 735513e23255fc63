from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from openjanus.worlds.emoji import fetch_wide
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.fetch import Artwork, shipped_folder
from openjanus.worlds.emoji.sprites import Sprites

RECTANGLE = '<path fill="#f00" d="M2 4h8v2H2z"/>'
ICONS = {"icons": {"car": {"body": RECTANGLE}, "gentoo-penguin": {"body": RECTANGLE}}}
CHARS = {"1f697": "car", "fff01-fe0f": "gentoo-penguin"}
PERMISSIVE = {"Apache-2.0", "MIT", "CC-BY-4.0"}


def write_tarball(path: Path, contents: dict[str, Any]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Sets of two icons and names of all that is needed, packed by nobody's npm; what is asked."""
    entries = [
        {"label": x.name, "hexcode": x.code_point.upper(), "order": i, "subgroup": 2}
        for i, x in enumerate(CONCEPTS.values())
    ]
    entries.append({"label": "penguin", "hexcode": "FFF01-FE0F", "order": 999, "subgroup": 1})
    folder = tmp_path_factory.mktemp("npm")
    groups = {"subgroups": {"1": "animal-bird", "2": "tool"}}
    names = write_tarball(
        folder / "names.tgz", {"en/data.json": entries, "meta/groups.json": groups}
    )
    size = {"width": 12, "height": 12}
    newer = write_tarball(folder / "newer.tgz", {"icons.json": ICONS | size, "chars.json": CHARS})
    older = write_tarball(
        folder / "older.tgz",
        {"icons.json": {"icons": {"gentoopenguin": {"body": RECTANGLE}}} | size, "chars.json": {}},
    )
    asked: list[str] = []

    def pack(artwork: Artwork, folder: Path) -> Path:
        asked.append(artwork.vendor)
        if artwork is fetch_wide.NAMES:
            return names
        return older if artwork.vendor in ("fxemoji", "emojione", "noto-v1") else newer

    monkeypatch.setattr(fetch_wide, "pack_artwork", pack)
    return asked


def test_artwork_is_rendered_and_named(packed: list[str], tmp_path: Path) -> None:
    folder = fetch_wide.fetch_wide(tmp_path)
    sprites = Sprites.load(folder)
    assert sprites.world.name == "wide"
    assert sprites.concepts == ("car", "penguin")
    assert sprites.vendors_of("car") == ("noto", "fluent", "twemoji")
    assert sprites.vendors_of("penguin") == sprites.vendors
    assert len(sprites.vendors) == 6
    made = json.loads((folder / "wide.json").read_text())
    assert [x["name"] for x in made["concepts"]] == [*CONCEPTS, "penguin"]
    assert not fetch_wide.same_concepts(folder)
    assert len(packed) == 7
    fetch_wide.fetch_wide(tmp_path)  # nothing is left to do
    assert len(packed) == 7


def test_older_sets_are_read_by_their_names() -> None:
    names = {"1": "beer-mug", "2-fe0f": "spider-web", "3": "anchor"}
    old = {"icons": {"beermug": {}, "anchor": {}}, "aliases": {"spiderweb": {}}}
    found = fetch_wide.icons_by_code_point(old, {}, names)
    assert found == {"1": "beermug", "2": "spiderweb", "3": "anchor"}
    without = fetch_wide.icons_by_code_point(old, {}, names, without=("anchor",))
    assert without == {"1": "beermug", "2": "spiderweb"}
    chars = {"2-fe0f": "web"}
    assert fetch_wide.icons_by_code_point(old, chars, names) == {"2": "web"}


def test_licences_let_pictures_be_passed_on_and_everybody_is_credited() -> None:
    notice = (Path(__file__).parents[3] / "NOTICE").read_text(encoding="utf-8")
    for artwork in (*fetch_wide.WIDE_ARTWORK, fetch_wide.NAMES):
        assert artwork.licence in PERMISSIVE
        assert f"{artwork.package} {artwork.version}" in notice
        assert artwork.author in notice
    assert len({artwork.vendor for artwork in fetch_wide.WIDE_ARTWORK}) == 6


def test_the_shipped_list_is_written_as_a_fetch_writes_it() -> None:
    record = json.loads((shipped_folder() / "wide.json").read_text(encoding="utf-8"))
    concepts = [fetch_wide.Concept(**entry) for entry in record["concepts"]]
    also = {name: tuple(others) for name, others in record["also_shown"].items()}
    written = fetch_wide.wide_record(concepts, also)
    assert written == (shipped_folder() / "wide.json").read_text(encoding="utf-8")
