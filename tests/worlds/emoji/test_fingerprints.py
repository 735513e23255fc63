"""The first world, byte by byte: what models were trained and measured on must never change.

Everything is made of the sprites that ship with the package. A hash here changes only with a new
world under a new name, not with an option, a rewrite or a faster way. Two digests stand side by
side: `fingerprint` of scenes, samples, exams and trials, `fingerprint_of_items` of every source
that the recipes of the first nano name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from openjanus.data.samples import Region, Sample
from openjanus.worlds.emoji.absence import popular_concepts
from openjanus.worlds.emoji.cells import evaluation_cells
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.judge_measures import trials
from openjanus.worlds.emoji.newcomer import NewcomerLessons
from openjanus.worlds.emoji.questions import QUESTION_KINDS, exam
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, Scene, render
from openjanus.worlds.emoji.source import EmojiPairs, EmojiPictures, EmojiRegions, EmojiScenes
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.text import EmojiText, Prose

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


PROSE = Prose(
    glosses=("river: a large stream", "sea: much water"),
    dialogues=(("Hello", "Hi"), ("How are you?", "Well.")),
)
ITEMS = 24

SOURCES: dict[str, tuple[type, dict[str, Any]]] = {
    "und": (EmojiScenes, {"kind": "und"}),
    "und practice": (EmojiScenes, {"kind": "und", "practice": True, "most_questions": 12}),
    "und branched": (
        EmojiScenes,
        {"kind": "und", "branched": True, "least_questions": 3, "asks": ["relation", "colour"]},
    ),
    "und plain": (EmojiScenes, {"kind": "und", "form": "plain"}),
    "und held out": (EmojiScenes, {"kind": "und", "split": "held_out"}),
    "gen": (EmojiScenes, {"kind": "gen"}),
    "gen plain": (EmojiScenes, {"kind": "gen", "form": "plain"}),
    "gen grid": (EmojiScenes, {"kind": "gen", "grid": 12}),
    "gen two sizes": (EmojiScenes, {"kind": "gen", "grid": 12, "two_sizes": True}),
    "gen one vendor": (EmojiScenes, {"kind": "gen", "vendors": ["fluent"]}),
    "pictures": (EmojiPictures, {}),
    "pictures dense": (EmojiPictures, {"dense": True}),
    "pairs": (EmojiPairs, {}),
    "regions": (EmojiRegions, {}),
    "text": (EmojiText, {"prose": PROSE}),
    "text held out": (EmojiText, {"prose": PROSE, "split": "held_out"}),
}

FINGERPRINTS = {
    "und": "d3ddb556d84e14bd",
    "und practice": "b772a0a21c862ce3",
    "und branched": "853b54d0661ab11b",
    "und plain": "8e2907917324f288",
    "und held out": "d2fc3c5197510b9e",
    "gen": "cfeb4b325611d19f",
    "gen plain": "76914041e7642acf",
    "gen grid": "cb2edd5b1e75b960",
    "gen two sizes": "24ba09f899e1cda4",
    "gen one vendor": "8f7207aa21c1058e",
    "pictures": "7023d93c5e7f1fd4",
    "pictures dense": "1f819c8f00fc8dfa",
    "pairs": "193973dc6fb1510e",
    "regions": "19f66a6137f59008",
    "text": "b18aa5b8cf0eafb8",
    "text held out": "a973080ce6075129",
}


def told(item: object) -> bytes:
    """All that an item says and shows."""
    match item:
        case np.ndarray():
            return repr(item.shape).encode() + item.tobytes()
        case tuple():
            return b"".join(map(told, item))
        case Region():
            return repr((item.captions, item.box)).encode()
        case Sample():
            words = [(turn.role, turn.text) for turn in item.turns]
            rest = (item.key, item.kind, words, item.form, item.branched)
            return repr(rest).encode() + told(item.pictures)
        case _:
            return repr(item).encode()


def fingerprint_of_items(name: str) -> str:
    source, options = SOURCES[name]
    made = source(seed=5, **options)
    digest = hashlib.sha256()
    for index in range(ITEMS):
        digest.update(told(made[index]))
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", list(SOURCES))
def test_items_are_what_they_were(name: str) -> None:
    assert fingerprint_of_items(name) == FINGERPRINTS[name]


def test_a_changed_byte_changes_the_fingerprint() -> None:
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    before = fingerprint([picture])
    picture[3, 3, 2] = 1
    assert fingerprint([picture]) != before
    assert fingerprint(["a", "b"]) != fingerprint(["b", "a"])
