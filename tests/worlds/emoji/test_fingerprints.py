"""The first world, byte by byte: what models were trained and measured on must never change.

Everything is made of the sprites that ship with the package. A hash here changes only with a new
world under a new name, not with an option, a rewrite or a faster way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from openjanus.data.samples import Sample
from openjanus.worlds.emoji.cells import evaluation_cells
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.judge_measures import trials
from openjanus.worlds.emoji.newcomer import NewcomerLessons
from openjanus.worlds.emoji.questions import QUESTION_KINDS, exam, popular_concepts
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, Scene, render
from openjanus.worlds.emoji.source import EmojiPairs, EmojiPictures, EmojiRegions, EmojiScenes
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.text import EmojiText

N = 12


@pytest.fixture(scope="module")
def shipped() -> Sprites:
    return Sprites.load()


def fingerprint(things: Iterable[Any]) -> str:
    """Sixteen digits of the sha256 of samples, scenes, arrays and plain values."""
    digest = hashlib.sha256()

    def add(thing: Any) -> None:
        match thing:
            case np.ndarray():
                digest.update(f"{thing.shape} {thing.dtype}".encode())
                digest.update(np.ascontiguousarray(thing).tobytes())
            case Sample():
                add((thing.key, thing.kind, thing.form, thing.branched))
                add([(turn.role, turn.text) for turn in thing.turns])
                add([*thing.images, thing.target])
            case Scene():
                add([(o.concept, o.vendor, o.colour, o.box) for o in thing.objects])
                add((thing.background, thing.tag))
            case list() | tuple():
                digest.update(f"[{len(thing)}]".encode())
                for part in thing:
                    add(part)
            case _:
                digest.update(repr(thing).encode())

    for thing in things:
        add(thing)
    return digest.hexdigest()[:16]


SCENES: dict[str, tuple[dict[str, Any], str]] = {
    "train": ({}, "22af3c8edf6b56df"),
    "another seed": ({"seed": 7}, "cdf86ccd8e71e3e4"),
    "held out": ({"split": "held_out"}, "1b141bb5303fd4d7"),
    "grid": ({"grid": 12}, "dc0ca2911b8dff42"),
    "two sizes": ({"grid": 12, "two_sizes": True, "vendors": ["noto"]}, "99b9fb811a5fc6dd"),
}


@pytest.mark.parametrize("case", SCENES)
def test_scenes_are_those_that_they_were(case: str, shipped: Sprites) -> None:
    options, known = SCENES[case]
    source = SceneSource(sprites=shipped, **options)
    shown = [(source.scene(i), source.picture(i), source.key(i)) for i in range(3 * N)]
    assert fingerprint(shown) == known


SAMPLES: dict[str, tuple[type[Any], dict[str, Any], str]] = {
    "und": (EmojiScenes, {"kind": "und"}, "9be2d9ad3eef2417"),
    "und practice": (
        EmojiScenes,
        {"kind": "und", "practice": True, "least_questions": 6},
        "33d86e9b5ef7b86c",
    ),
    "und asks": (
        EmojiScenes,
        {"kind": "und", "asks": ["relation"], "branched": True},
        "27b727665a4c8db1",
    ),
    "und plain": (EmojiScenes, {"kind": "und", "form": "plain"}, "2f3b3b4a6443c616"),
    "und held out": (EmojiScenes, {"kind": "und", "split": "held_out"}, "d19660148fa83602"),
    "gen": (EmojiScenes, {"kind": "gen"}, "e31cd6829a4def64"),
    "gen plain": (EmojiScenes, {"kind": "gen", "form": "plain"}, "960f7320be15b08e"),
    "gen tidy": (EmojiScenes, {"kind": "gen", "grid": 12, "two_sizes": True}, "e383cefda9beb839"),
    "pictures": (EmojiPictures, {}, "b548f276815f2941"),
    "dense pictures": (EmojiPictures, {"dense": True}, "bd77802ab2ef65a1"),
    "pairs": (EmojiPairs, {}, "66caf0191d769d5d"),
    "regions": (EmojiRegions, {}, "25d29deb10b8923e"),
    "text": (
        EmojiText,
        {"parts": {"captions": 1.0, "told": 1.0, "words": 1.0}},
        "a647a2ea375dc0b2",
    ),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_samples_are_those_that_they_were(case: str, shipped: Sprites) -> None:
    kind, options, known = SAMPLES[case]
    source = kind(sprites=shipped, **options)
    shown = [source[i] for i in range(N)]
    if case == "regions":
        shown = [(p, [(r.captions, r.box) for r in regions]) for p, regions in shown]
    assert fingerprint([(source.key(i), sample) for i, sample in enumerate(shown)]) == known


def test_lessons_of_the_newcomer_are_those_that_they_were() -> None:
    lessons = NewcomerLessons(length=N)
    assert fingerprint([lessons[i] for i in range(N)]) == "dd2f0d3587b04829"


def test_exams_are_those_that_they_were(shipped: Sprites) -> None:
    asked = [exam(kind, N, 0, shipped) for kind in QUESTION_KINDS]
    asked.append(exam("existence", N, 0, shipped, negatives="popular"))
    asked.append(exam("existence", N, 0, shipped, negatives="adversarial"))
    asked.append(exam("counting", N, 0, shipped, split="train"))
    told = [[(scene, q.kind, q.text, q.answer) for scene, q in kind] for kind in asked]
    assert fingerprint(told) == "3e6b965a1c07055f"
    assert fingerprint(popular_concepts()) == "6db38cbe2fe80b5b"


def test_cells_and_trials_are_those_that_they_were(shipped: Sprites) -> None:
    names = [[cell.name for cell in evaluation_cells(tag)] for tag in GENEVAL_TAGS]
    assert fingerprint(names) == "04b2e112fa2dbc99"
    made = [trial for tag in GENEVAL_TAGS for trial in trials(tag, 4, 0, shipped)]
    pictures = [render(trial.scene, 96, shipped) for trial in made]
    assert fingerprint([(x.scene, x.right, x.wrong) for x in made] + pictures) == "8c7c7e67f9e81350"


def test_a_changed_byte_changes_the_fingerprint() -> None:
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    before = fingerprint([picture])
    picture[3, 3, 2] = 1
    assert fingerprint([picture]) != before
    assert fingerprint(["a", "b"]) != fingerprint(["b", "a"])
