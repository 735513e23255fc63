"""What the first nano was trained on must stay what it was, to the byte.

Scenes, words and pictures of every source that its recipes name, with the sprites that ship. A
change here is a change of the data of released weights: make a new source or a new option instead.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from openjanus.data.samples import Region, Sample
from openjanus.worlds.emoji.source import EmojiPairs, EmojiPictures, EmojiRegions, EmojiScenes
from openjanus.worlds.emoji.text import EmojiText, Prose

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


def fingerprint(name: str) -> str:
    source, options = SOURCES[name]
    made = source(seed=5, **options)
    digest = hashlib.sha256()
    for index in range(ITEMS):
        digest.update(told(made[index]))
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", list(SOURCES))
def test_items_are_what_they_were(name: str) -> None:
    assert fingerprint(name) == FINGERPRINTS[name]
