"""Fetch the world's raw material from public packages, pinned by version and sha256.

The artwork comes from npm packages of SVG icons and is rendered once, to one file of sprites; the
prose comes from a Debian package and a PyPI package. The ordinary clients of those registries do
the downloading, so whatever mirror or proxy they are set up for is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from tqdm import tqdm

from openjanus.pinned import checked, npm_pack, pip_wheel, run
from openjanus.worlds.emoji.concepts import CONCEPTS

FORMAT_VERSION: Final = 1
"""Version of what is written to disk here."""

SPRITE_SIDE: Final = 128
"""Longer side of every sprite in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Artwork:
    """One vendor's emoji: an npm package of SVG icons at a pinned version."""

    vendor: str
    package: str
    version: str
    sha256: str
    """Of the tarball that `npm pack` writes."""
    licence: str
    author: str


ARTWORK: Final = (
    Artwork(
        vendor="noto",
        package="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        licence="Apache-2.0",
        author="Google Inc",
    ),
    Artwork(
        vendor="fluent",
        package="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        licence="MIT",
        author="Microsoft Corporation",
    ),
    Artwork(
        vendor="twemoji",
        package="@iconify-json/twemoji",
        version="1.2.5",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        licence="CC-BY-4.0",
        author="Twitter, Inc and other contributors",
    ),
)

WORDNET_VERSION: Final = "1:3.0-37"
WORDNET_SHA256: Final = "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"
CHATTERBOT_VERSION: Final = "1.3.3"
CHATTERBOT_SHA256: Final = "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"

CHATTERBOT_TOPICS: Final = (
    "computers",
    "conversations",
    "emotion",
    "food",
    "greetings",
    "health",
    "history",
    "humor",
    "literature",
    "money",
    "movies",
    "science",
    "sports",
    "trivia",
)
"""Left out: code, technical support, and what a bot says of itself, of politics or of gossip."""

MAX_REPLY: Final = 200
"""Longest text of a dialogue in characters."""

TEXT_SOURCES: Final[list[dict[str, Any]]] = [
    {
        "package": "wordnet-base",
        "version": WORDNET_VERSION,
        "sha256": WORDNET_SHA256,
        "licence": "WordNet-3.0",
        "author": "Princeton University",
    },
    {
        "package": "chatterbot-corpus",
        "version": CHATTERBOT_VERSION,
        "sha256": CHATTERBOT_SHA256,
        "licence": "BSD-3-Clause",
        "author": "Gunther Cox",
        "topics": list(CHATTERBOT_TOPICS),
        "max_reply": MAX_REPLY,
    },
]

Progress = Callable[[str], None]
"""Told one line at each step."""


def shipped_folder() -> Path:
    """Where the rendered sprites lie that ship with the package, and the judge."""
    return Path(__file__).parent / "assets"


def same_sprites(folder: Path) -> bool:
    """Whether freshly rendered sprites equal the shipped ones, pixel by pixel."""
    with (
        np.load(folder / "sprites.npz") as fresh,
        np.load(shipped_folder() / "sprites.npz") as shipped,
    ):
        return all(np.array_equal(fresh[name], shipped[name]) for name in ("rgba", "shapes"))


def default_folder() -> Path:
    """Where the fetched world lies: `$OPENJANUS_CACHE/emoji`, else `~/.cache/openjanus/emoji`."""
    cache = os.environ.get("OPENJANUS_CACHE")
    root = Path.home() / ".cache" / "openjanus" if cache is None else Path(cache)
    return root / "emoji"


def fetch_emoji(folder: str | Path | None = None, *, progress: Progress | None = None) -> Path:
    """Fetch the artwork and render it to `sprites.npz` and `sprites.json`.

    Does nothing when the folder already holds sprites of this very recipe.

    Args:
        folder: Where to write; `default_folder()` when None.
        progress: Told each step.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: npm is not installed.
        RuntimeError: npm failed.
        ValueError: A downloaded package is not the pinned one.
        ImportError: resvg-py is not installed.
    """
    folder = default_folder() if folder is None else Path(folder)
    recipe = _recipe()
    record = folder / "sprites.json"
    if holds(record, "recipe", recipe) and (folder / "sprites.npz").is_file():
        return folder
    names: list[list[str]] = []
    sprites: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as scratch:
        for artwork in ARTWORK:
            tell(progress, f"fetching {artwork.package} {artwork.version}")
            icons, chars = read_icons(pack_artwork(artwork, Path(scratch)))
            for concept in tqdm(CONCEPTS.values(), desc=artwork.vendor, leave=False, disable=None):
                icon = chars.get(concept.code_point)
                if icon is None:
                    icon = chars[f"{concept.code_point}-fe0f"]
                sprites.append(render_svg(icon_svg(icons, icon), SPRITE_SIDE))
                names.append([concept.name, artwork.vendor])
    folder.mkdir(parents=True, exist_ok=True)
    save_sprites(folder, names, sprites, recipe)
    tell(progress, f"wrote {len(sprites)} sprites to {folder}")
    return folder


def fetch_icon(code_point: str, *, progress: Progress | None = None) -> dict[str, np.ndarray]:
    """Fetch one emoji that is not of this world: its rendering by vendor, as those of sprites.

    Args:
        code_point: As a concept's.
        progress: Told each step.

    Raises:
        FileNotFoundError, RuntimeError, ValueError, ImportError: As `fetch_emoji`.
    """
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for artwork in ARTWORK:
            tell(progress, f"fetching {artwork.package} {artwork.version}")
            icons, chars = read_icons(pack_artwork(artwork, Path(scratch)))
            found[artwork.vendor] = render_svg(icon_svg(icons, chars[code_point]), SPRITE_SIDE)
    return found


def fetch_text(folder: str | Path | None = None, *, progress: Progress | None = None) -> Path:
    """Fetch WordNet's glosses and English small talk to `glosses.jsonl` and `dialogues.jsonl`.

    A line of the first is a string "word: what it means"; a line of the second is a list of two
    strings, what is said and the reply. `text.json` records where they come from.

    Args:
        folder: Where to write; `default_folder()` when None.
        progress: Told each step.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: apt-get or dpkg-deb is not installed (another system than Debian's).
        RuntimeError: A client failed.
        ValueError: A downloaded package is not the pinned one.
    """
    folder = default_folder() if folder is None else Path(folder)
    record_path = folder / "text.json"
    if holds(record_path, "sources", TEXT_SOURCES):
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        tell(progress, f"fetching wordnet-base {WORDNET_VERSION}")
        glosses = list(_read_glosses(_fetch_wordnet(Path(scratch))))
        tell(progress, f"fetching chatterbot-corpus {CHATTERBOT_VERSION}")
        dialogues = list(_read_dialogues(_fetch_chatterbot(Path(scratch))))
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("glosses", glosses), ("dialogues", dialogues)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    record = {"format_version": FORMAT_VERSION, "sources": TEXT_SOURCES}
    record_path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    tell(progress, f"wrote {len(glosses)} glosses, {len(dialogues)} replies to {folder}")
    return folder


def icon_svg(icons: dict[str, Any], name: str) -> str:
    """Write one icon of an icon set as a whole SVG document.

    Args:
        icons: The set's `icons.json`: `icons`, `aliases`, and default `width` and `height`.
        name: The icon's name, or an alias of it.

    Raises:
        KeyError: No such icon.
        ValueError: An alias that turns or mirrors its parent, which is not supported.
    """
    alias = icons.get("aliases", {}).get(name)
    if alias is not None:
        if set(alias) != {"parent"}:
            raise ValueError(f"icon alias must be plain, {name!r} transforms its parent: {alias}")
        name = alias["parent"]
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def render_svg(svg: str, side: int) -> np.ndarray:
    """Render an SVG, trimmed to what is visible of it.

    Returns:
        (H, W, 4) uint8, straight (not premultiplied) alpha, max(H, W) == side.

    Raises:
        ImportError: resvg-py is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError("rendering emoji needs resvg-py: pip install openjanus[nano]") from error
    png = resvg_py.svg_to_bytes(svg_string=svg, width=4 * side, height=4 * side)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = image.getchannel("A").point([255 * (a >= 32) for a in range(256)]).getbbox()
    if box is None:
        raise ValueError(f"an icon must show something, this SVG is empty: {svg[:80]}...")
    image = image.crop(box)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Pillow premultiplies alpha while it resizes RGBA, so edges do not darken.
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def holds(record: Path, key: str, wanted: object) -> bool:
    """Whether a record of this format exists and was made of just what is wanted now."""
    if not record.is_file():
        return False
    found = json.loads(record.read_text(encoding="utf-8"))
    return found["format_version"] == FORMAT_VERSION and found[key] == wanted


def _recipe() -> dict[str, Any]:
    """Everything that the sprites depend on."""
    return {
        "side": SPRITE_SIDE,
        "sources": [
            {
                "vendor": artwork.vendor,
                "package": artwork.package,
                "version": artwork.version,
                "sha256": artwork.sha256,
                "licence": artwork.licence,
                "author": artwork.author,
            }
            for artwork in ARTWORK
        ],
        "code_points": {concept.name: concept.code_point for concept in CONCEPTS.values()},
    }


def save_sprites(
    folder: Path, names: list[list[str]], sprites: list[np.ndarray], recipe: dict[str, Any]
) -> None:
    """Write `sprites.npz`, and then `sprites.json`, which names concept and vendor of each."""
    stack = np.zeros((len(sprites), SPRITE_SIDE, SPRITE_SIDE, 4), dtype=np.uint8)
    for row, sprite in zip(stack, sprites, strict=True):
        row[: sprite.shape[0], : sprite.shape[1]] = sprite
    shapes = np.array([sprite.shape[:2] for sprite in sprites], dtype=np.int32)
    np.savez_compressed(folder / "sprites.npz", rgba=stack, shapes=shapes)
    digest = hashlib.sha256((folder / "sprites.npz").read_bytes()).hexdigest()
    # Written last: its presence says that the array file is whole.
    record = {
        "format_version": FORMAT_VERSION,
        "sprites_sha256": digest,
        "names": names,
        "recipe": recipe,
    }
    (folder / "sprites.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def pack_artwork(artwork: Artwork, folder: Path) -> Path:
    """Fetch a pinned package's tarball into a folder, as `pinned.npm_pack` does."""
    return npm_pack(artwork.package, artwork.version, artwork.sha256, folder)


def read_icons(tarball: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """An icon set's `icons.json` and `chars.json`."""
    with tarfile.open(tarball) as archive:
        found = []
        for name in ("package/icons.json", "package/chars.json"):
            member = archive.extractfile(name)
            assert member is not None, f"{name} is a regular file of {tarball.name}"
            found.append(json.load(member))
    return found[0], found[1]


def _fetch_wordnet(folder: Path) -> Path:
    """Download the Debian package and unpack it, without installing it."""
    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            raise FileNotFoundError(
                f"fetching WordNet needs Debian's {command}: run on Debian or Ubuntu"
            )
    run(["apt-get", "download", f"wordnet-base={WORDNET_VERSION}"], cwd=folder)
    package = checked(next(folder.glob("wordnet-base_*.deb")), WORDNET_SHA256)
    run(["dpkg-deb", "--extract", str(package), str(folder / "wordnet")])
    return folder / "wordnet" / "usr" / "share" / "wordnet"


def _read_glosses(folder: Path) -> Iterator[str]:
    """Yield "word: definition" for every sense, without its usage examples."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence, at the head of each file
                continue
            fields, _, gloss = line.partition(" | ")
            word = fields.split()[4].partition("(")[0].replace("_", " ")  # "asleep(p)"
            definition = gloss.partition('; "')[0].strip()
            if definition and not definition.startswith('"'):
                yield f"{word}: {definition}"


def _fetch_chatterbot(folder: Path) -> Path:
    return pip_wheel("chatterbot-corpus", CHATTERBOT_VERSION, CHATTERBOT_SHA256, folder)


def _read_dialogues(wheel: Path) -> Iterator[tuple[str, str]]:
    """Yield each line of talk with the next one."""
    try:
        import yaml
    except ImportError as error:
        raise ImportError("reading dialogues needs PyYAML: pip install openjanus[train]") from error
    with zipfile.ZipFile(wheel) as archive:
        for topic in CHATTERBOT_TOPICS:
            talk = yaml.safe_load(archive.read(f"chatterbot_corpus/data/english/{topic}.yml"))
            for lines in talk["conversations"]:
                # YAML reads a lone "Yes" as a truth value and "4" as a number.
                said = [" ".join(x.split()) if isinstance(x, str) else "" for x in lines]
                for first, second in pairwise(said):
                    if 0 < len(first) <= MAX_REPLY and 0 < len(second) <= MAX_REPLY:
                        yield first, second


def tell(progress: Progress | None, line: str) -> None:
    """Say a line to whoever listens."""
    if progress is not None:
        progress(line)
