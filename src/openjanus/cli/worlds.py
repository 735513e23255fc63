"""Verbs on the worlds that models are trained in: data fetch, sheet and scene."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openjanus.cli.parsing import add_verb, parse_seed, save_picture
from openjanus.rules import near

if TYPE_CHECKING:
    import numpy as np

    from openjanus.worlds.emoji.cells import Cell
    from openjanus.worlds.emoji.scenes import Scene
    from openjanus.worlds.emoji.sprites import Sprites
    from openjanus.worlds.emoji.vocabulary import WorldName

SCENE_SIZE = 128
"""Side in pixels of the pictures written, unless another is asked for."""
MAX_SIZE = 4096
"""Largest side: a picture of more is not held in memory by every machine."""


def add_verbs(kinds: Any) -> None:
    """Add this module's verbs to those of `data`."""
    fetch = add_verb(kinds, "fetch", _fetch, "fetch and build a world's raw material")
    fetch.add_argument("world", choices=["emoji"])
    fetch.add_argument("--folder", type=Path, help="where to; the cache folder when left out")
    fetch.add_argument("--pictures-only", action="store_true", help="leave the prose out")
    fetch.add_argument(
        "--wide", action="store_true", help="the wide world's artwork, and nothing else"
    )
    fetch.add_argument("--easy-vqa", action="store_true", help="easy-VQA, and nothing else")
    fetch.add_argument("--chinese", action="store_true", help="Chinese names, and nothing else")
    sheet = add_verb(kinds, "sheet", _sheet, "write a sheet of captioned scenes")
    sheet.add_argument("--n", type=int, default=24, help="scenes (%(default)s)")
    scene = add_verb(kinds, "scene", _scene, "write one scene, its caption and questions")
    which = scene.add_mutually_exclusive_group()
    which.add_argument("words", nargs="?", help='for instance "a red car left of two dogs"')
    which.add_argument("--tag", default="free", help="kind of scene (%(default)s)")
    which.add_argument("--cell", help="a held-out cell, for instance count/apple/3")
    for kind, output in ((sheet, "sheet.png"), (scene, "scene.png")):
        kind.add_argument("--split", default="train", choices=["train", "held_out"])
        kind.add_argument("--seed", type=parse_seed, default=0)
        kind.add_argument("--size", type=int, default=SCENE_SIZE, help="pixels (%(default)s)")
        kind.add_argument("--folder", type=Path, help="of sprites; the world's own when left out")
        kind.add_argument("--world", default="v0", choices=["v0", "few", "wide"])
        kind.add_argument("--output", type=Path, default=Path(output))


def _fetch(args: argparse.Namespace) -> None:
    from openjanus.worlds.emoji.chinese import fetch_chinese
    from openjanus.worlds.emoji.easy_vqa import fetch_easy_vqa
    from openjanus.worlds.emoji.fetch import fetch_emoji, fetch_text, same_sprites
    from openjanus.worlds.emoji.fetch_wide import fetch_wide, same_concepts

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    if args.wide and (args.easy_vqa or args.chinese):
        raise ValueError("--wide has a folder of its own: fetch it in a command of its own")
    try:
        if args.wide:
            folder = fetch_wide(args.folder, progress=tell)
            same = "equals" if same_concepts(folder) else "differs from"
            tell(f"the list of concepts just made {same} the one that ships with the package")
            print(folder)
            return
        if args.easy_vqa or args.chinese:
            wanted = {fetch_easy_vqa: args.easy_vqa, fetch_chinese: args.chinese}
            (folder,) = {fetch(args.folder, progress=tell) for fetch in wanted if wanted[fetch]}
            print(folder)
            return
        folder = fetch_emoji(args.folder, progress=tell)
        same = "equal" if same_sprites(folder) else "differ from"
        tell(f"the sprites just rendered {same} those that ship with the package")
        if not args.pictures_only:
            fetch_text(args.folder, progress=tell)
    except RuntimeError as error:
        # A registry's client failed: the network's fault or the user's, not the program's.
        raise ValueError(str(error)) from error
    print(folder)


def _sheet(args: argparse.Namespace) -> None:
    from openjanus.worlds.emoji.sheet import contact_sheet
    from openjanus.worlds.emoji.source import EmojiPairs

    if args.n < 1:
        raise ValueError(f"--n must be >= 1, got {args.n}")
    _check_size(args.size)
    pairs = EmojiPairs(
        args.folder, seed=args.seed, split=args.split, size=args.size, world=args.world
    )
    pictures, words = zip(*(pairs[i] for i in range(args.n)), strict=True)
    save_picture(contact_sheet(pictures, words), args.output)


def _scene(args: argparse.Namespace) -> None:
    import numpy as np
    from PIL import Image

    from openjanus.worlds.emoji.captions import caption
    from openjanus.worlds.emoji.indexed import read_artwork
    from openjanus.worlds.emoji.questions import QUESTION_KINDS, ask
    from openjanus.worlds.emoji.scenes import render

    _check_size(args.size)
    draw = _drawer(args)
    sprites = read_artwork(args.folder, args.world)
    rng = np.random.default_rng(args.seed)
    scene = draw(rng, sprites)
    words = caption(scene, rng) if args.words is None else args.words
    asked = [ask(scene, rng, kind) for kind in QUESTION_KINDS]
    questions = [[question.text, question.answer] for question in asked if question is not None]
    save_picture(Image.fromarray(render(scene, args.size, sprites)), args.output)
    told = {"format_version": 1, "caption": words, "questions": questions}
    args.output.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    print(words)
    for question, answer in questions:
        print(f"{question} {answer}")


def _check_size(size: int) -> None:
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"--size must be 1 to {MAX_SIZE} pixels, got {size}")


def _drawer(args: argparse.Namespace) -> Callable[[np.random.Generator, Sprites], Scene]:
    """How the scene is drawn that the options ask for; what is wrong with them is said first."""
    from openjanus.worlds.emoji.asked_scenes import scene_for_cell
    from openjanus.worlds.emoji.described import described_scene, read_description
    from openjanus.worlds.emoji.sampling import sample_scene
    from openjanus.worlds.emoji.scenes import TAGS

    if args.words is not None:
        if args.split != "train":
            raise ValueError("--split is of scenes drawn at random: leave it out beside words")
        description = read_description(args.words, args.world)
        return lambda rng, sprites: described_scene(description, rng, sprites)
    if args.tag not in TAGS:
        raise ValueError(f"unknown tag {args.tag!r}; {near(args.tag, list(TAGS))}")
    if args.cell is not None:
        cell = _held_out_cell(args.cell, args.world)
        return lambda rng, sprites: scene_for_cell(cell, rng, sprites)
    return lambda rng, sprites: sample_scene(rng, args.tag, sprites, split=args.split)


def _held_out_cell(name: str, world: WorldName) -> Cell:
    from openjanus.worlds.emoji.cells import held_out_cells
    from openjanus.worlds.emoji.scenes import GENEVAL_TAGS

    cells = {cell.name: cell for tag in GENEVAL_TAGS for cell in held_out_cells(tag, world)}
    if name not in cells:
        kind = f"{name.partition('/')[0]}/"
        alike = [other for other in cells if other.startswith(kind)]
        nearest = difflib.get_close_matches(name, alike if alike else list(cells), n=3, cutoff=0.0)
        raise ValueError(f"{name!r} is no held-out cell; the nearest are {', '.join(nearest)}")
    return cells[name]
