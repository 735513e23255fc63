"""Fetch the artwork of the wide world: six sets of emoji, and the names of what they show.

Only sets whose licence allows a model and its pictures to be passed on under any terms: Apache-2.0,
MIT and CC-BY-4.0. OpenMoji and the first EmojiOne are CC-BY-SA-4.0, and a scene has the artwork of
several sets in one picture: with theirs among them every picture, and perhaps what is trained on
it, would have to be passed on under that licence alone. They cannot be kept apart, so they are out.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from openjanus.worlds.emoji.concepts import Concept
from openjanus.worlds.emoji.fetch import (
    ARTWORK,
    FORMAT_VERSION,
    SPRITE_SIDE,
    Artwork,
    Progress,
    default_folder,
    holds,
    icon_svg,
    pack_artwork,
    read_icons,
    render_svg,
    save_sprites,
    shipped_folder,
    tell,
)
from openjanus.worlds.emoji.packages import EMOJIBASE
from openjanus.worlds.emoji.vocabulary import WIDE_FILE
from openjanus.worlds.emoji.wide import check_names, choose

WIDE_ARTWORK: Final = (
    *ARTWORK,
    Artwork(
        vendor="emojione",
        package="@iconify-json/emojione",
        version="1.2.3",
        sha256="26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        licence="CC-BY-4.0",
        author="Emoji One",
    ),
    Artwork(
        vendor="fxemoji",
        package="@iconify-json/fxemoji",
        version="1.2.2",
        sha256="f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        licence="Apache-2.0",
        author="Mozilla",
    ),
    Artwork(
        vendor="noto-v1",
        package="@iconify-json/noto-v1",
        version="1.2.5",
        sha256="2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        licence="Apache-2.0",
        author="Google Inc",
    ),
)
"""The three sets of the first world, and three more; the last is an earlier drawing by Google."""

MISNAMED: Final = {"fxemoji": ("keyboard", "sunglasses", "tramcar")}
"""Icons that show something else than their name says: music, a face, and a black square."""

NAMES: Final = Artwork(vendor="emojibase", **EMOJIBASE)
"""What emoji are called, and their groups."""


def wide_folder() -> Path:
    """Where the wide world's artwork lies unless another folder is given."""
    return default_folder() / "wide"


def fetch_wide(folder: str | Path | None = None, *, progress: Progress | None = None) -> Path:
    """Fetch the wide world's artwork and render it to `sprites.npz` and `sprites.json`.

    Beside them, `wide.json` is the list of concepts that the fetched data give; the one that ships
    with the package is used. Does nothing when the folder holds sprites of this very recipe.

    Args:
        folder: Where to write; `wide_folder()` when None.
        progress: Told each step.

    Returns:
        The folder.

    Raises:
        FileNotFoundError, RuntimeError, ValueError, ImportError: As `fetch.fetch_emoji`.
    """
    folder = wide_folder() if folder is None else Path(folder)
    recipe = _recipe()
    if holds(folder / "sprites.json", "recipe", recipe) and (folder / "sprites.npz").is_file():
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        sets = []
        for artwork in WIDE_ARTWORK:
            tell(progress, f"fetching {artwork.package} {artwork.version}")
            sets.append(read_icons(pack_artwork(artwork, Path(scratch))))
        tell(progress, f"fetching {NAMES.package} {NAMES.version}")
        entries, subgroups = _read_names(pack_artwork(NAMES, Path(scratch)))
    icons_of = [
        icons_by_code_point(icons, chars, sets[0][1], without=MISNAMED.get(artwork.vendor, ()))
        for artwork, (icons, chars) in zip(WIDE_ARTWORK, sets, strict=True)
    ]
    drawn = Counter(code_point for icons in icons_of for code_point in icons)
    concepts, also = choose(entries, subgroups, drawn)
    check_names(concepts)
    names: list[list[str]] = []
    sprites: list[np.ndarray] = []
    for artwork, (icons, _), known in zip(WIDE_ARTWORK, sets, icons_of, strict=True):
        for concept in tqdm(concepts, desc=artwork.vendor, leave=False, disable=None):
            if concept.code_point in known:
                svg = icon_svg(icons, known[concept.code_point])
                sprites.append(render_svg(svg, SPRITE_SIDE))
                names.append([concept.name, artwork.vendor])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WIDE_FILE).write_text(wide_record(concepts, also), encoding="utf-8")
    save_sprites(folder, names, sprites, recipe)
    tell(progress, f"wrote {len(sprites)} sprites of {len(concepts)} concepts to {folder}")
    return folder


def same_concepts(folder: Path) -> bool:
    """Whether the fetched data give the very list of concepts that ships with the package."""
    return (folder / WIDE_FILE).read_bytes() == (shipped_folder() / WIDE_FILE).read_bytes()


def wide_record(concepts: list[Concept], also: Mapping[str, tuple[str, ...]]) -> str:
    """The content of `wide.json`: a concept a line, and what may be called by other names."""
    lines = ",\n".join(f"  {json.dumps(asdict(concept))}" for concept in concepts)
    others = ",\n".join(f"  {json.dumps(name)}: {json.dumps(also[name])}" for name in also)
    source = json.dumps(EMOJIBASE)
    return (
        f'{{\n "format_version": {FORMAT_VERSION},\n "source": {source},\n'
        f' "concepts": [\n{lines}\n ],\n "also_shown": {{\n{others}\n }}\n}}\n'
    )


def icons_by_code_point(
    icons: Mapping[str, Any],
    chars: Mapping[str, str],
    names: Mapping[str, str],
    *,
    without: Collection[str] = (),
) -> dict[str, str]:
    """A set's icon of each code point, without variation selectors.

    Args:
        icons: The set's `icons.json`.
        chars: Its `chars.json`; older sets have an empty one, and are read by their icons' names.
        names: `chars.json` of a set whose icons have the same names, but for hyphens.
        without: Icons of an older set that are left out.
    """
    if chars:
        return {_plain(code_point): icon for code_point, icon in chars.items()}
    every = (*icons.get("aliases", {}), *icons["icons"])
    known = {name.replace("-", ""): name for name in every if name not in without}
    return {
        _plain(code_point): known[name.replace("-", "")]
        for code_point, name in names.items()
        if name.replace("-", "") in known
    }


def _plain(code_point: str) -> str:
    return code_point.replace("-fe0f", "")


def _read_names(tarball: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Emojibase's English entries, and the names of subgroups by number."""
    with tarfile.open(tarball) as archive:
        found = []
        for name in ("package/en/data.json", "package/meta/groups.json"):
            member = archive.extractfile(name)
            assert member is not None, f"{name} is a regular file of {tarball.name}"
            found.append(json.load(member))
    return found[0], found[1]["subgroups"]


def _recipe() -> dict[str, Any]:
    """Everything that the sprites depend on."""
    sources = [asdict(artwork) for artwork in (*WIDE_ARTWORK, NAMES)]
    shipped = json.loads((shipped_folder() / WIDE_FILE).read_text(encoding="utf-8"))
    code_points = {entry["name"]: entry["code_point"] for entry in shipped["concepts"]}
    return {
        "world": "wide",
        "side": SPRITE_SIDE,
        "sources": sources,
        "misnamed": {vendor: list(icons) for vendor, icons in MISNAMED.items()},
        "code_points": code_points,
    }
