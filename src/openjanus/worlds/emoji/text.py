"""Words without pictures, for stage 0: captions, questions about told scenes, glosses, dialogues.

Nothing that is trained on spells out a held-out cell: scenes are of the training split, and prose
in which the words of a held-out cell meet is dropped, whatever it says of them. One in fifty of the
remaining pieces of prose is held out too, so that perplexity can be measured.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any, Final, Literal, Unpack, get_args

import numpy as np

from openjanus.data.samples import Sample
from openjanus.worlds.emoji.captions import caption, geneval_caption, phrase
from openjanus.worlds.emoji.cells import (
    MAX_COUNT,
    attribution_cell,
    colour_cell,
    count_cell,
    is_held_out,
    pair_cell,
)
from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS, NUMBER_WORDS
from openjanus.worlds.emoji.draws import Weighted, below, check_parts, pick
from openjanus.worlds.emoji.fetch import FORMAT_VERSION, default_folder
from openjanus.worlds.emoji.indexed import WORDS, SceneSource
from openjanus.worlds.emoji.questions import QuestionKind, ask
from openjanus.worlds.emoji.sampling import Split
from openjanus.worlds.emoji.scene_options import TaggedKeywords, refuse_others
from openjanus.worlds.emoji.scenes import OPPOSITE, Scene
from openjanus.worlds.emoji.turns import told_or_asked
from openjanus.worlds.emoji.vocabulary import COUNT_WORDS, WorldName, world

GROUP_NAMES: Final = {
    "vehicle": "a vehicle",
    "animal": "an animal",
    "food": "something to eat",
    "kitchen": "a thing for the kitchen",
    "furniture": "a piece of furniture",
    "sports": "a thing for sports",
}
"""What the things of a supercategory are, for those whose name says it."""

Part = Literal["captions", "told", "words", "glosses", "dialogues"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)

DEFAULT_PARTS: Final[Mapping[Part, float]] = {
    "captions": 0.4,
    "told": 0.25,
    "words": 0.05,
    "glosses": 0.2,
    "dialogues": 0.1,
}
"""Captions and glosses are plain text; told scenes, words and dialogues are chat."""

HELD_OUT_PROSE_MODULUS: Final = 50
"""One piece of prose in so many is held out."""

_SPATIAL: Final = frozenset(("left", "right", "above", "below", "over", "under", "beneath"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lexicon:
    """The words by which a text may name a world's cells."""

    nouns: Mapping[str, str]
    """Concepts by singular and plural."""
    numbers: Mapping[str, int]
    words: re.Pattern[str]
    """Any of these, a colour or a spatial word; of two that begin alike, the longer."""


@cache
def _lexicon(name: WorldName) -> _Lexicon:
    known = world(name)
    nouns = {word: x.name for x in known.concepts.values() for word in (x.plural, x.name)}
    numbers = {COUNT_WORDS[n]: n for n in range(2, known.max_count + 1)}
    every = {*nouns, *numbers, *COLOURS, *_SPATIAL}
    longest_first = sorted(every, key=lambda word: (-len(word), word))
    return _Lexicon(
        nouns=nouns,
        numbers=numbers,
        words=re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Prose:
    """Fetched prose of one split, without what meets a held-out cell."""

    glosses: tuple[str, ...]
    """"word: what it means"."""
    dialogues: tuple[tuple[str, str], ...]
    """(what is said, the reply)."""


def load_prose(
    folder: str | Path | None = None, *, split: Split = "train", name: WorldName = "v0"
) -> Prose:
    """Read what `fetch_text` wrote, and drop what meets a held-out cell.

    Args:
        folder: Where it lies; `fetch.default_folder()` when None.
        split: The pieces to train on, or those held out (`is_held_out_prose`).
        name: The world whose held-out cells no piece meets.

    Raises:
        FileNotFoundError: No text was fetched into the folder.
        ValueError: The text was written by a newer version.
    """
    folder = default_folder() if folder is None else Path(folder)
    record_path = folder / "text.json"
    if not record_path.is_file():
        raise FileNotFoundError(f"{folder} holds no text: run openjanus data fetch emoji")
    version = json.loads(record_path.read_text(encoding="utf-8"))["format_version"]
    if version > FORMAT_VERSION:
        raise ValueError(
            f"text of {folder} has format_version {version}, this version reads up to "
            f"{FORMAT_VERSION}: upgrade openjanus"
        )
    glosses: list[str] = _read_lines(folder / "glosses.jsonl")
    dialogues: list[list[str]] = _read_lines(folder / "dialogues.jsonl")
    return Prose(
        glosses=tuple(
            text
            for text in glosses
            if is_held_out_prose(text) == (split == "held_out") and not meets_held_out(text, name)
        ),
        dialogues=tuple(
            (said, reply)
            for said, reply in dialogues
            if is_held_out_prose(said) == (split == "held_out")
            and not meets_held_out(f"{said} {reply}", name)
        ),
    )


def is_held_out_prose(text: str) -> bool:
    """Whether a gloss, or a dialogue that opens with a text, is held out, by the text's sha256."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % HELD_OUT_PROSE_MODULUS == 0


def meets_held_out(text: str, name: WorldName = "v0") -> bool:
    """Whether the words of a world's held-out cell meet in a text, in whatever sense.

    A thing and a colour, two things (with their colours), or a thing and a number meet when both
    are words of the text. Two things meet in a relation when any spatial word stands with them:
    no prose is worth telling which.
    """
    lexicon = _lexicon(name)
    words = set(lexicon.words.findall(text.lower()))
    things = {lexicon.nouns[word] for word in words if word in lexicon.nouns}
    if not things or len(words) < 2:
        return False
    colours = words & set(COLOURS)
    if len(things) > 1 and words & _SPATIAL:
        return True
    numbers = {lexicon.numbers[word] for word in words if word in lexicon.numbers}
    return any(map(is_held_out, _met_cells(things, colours, numbers)))


def _met_cells(things: set[str], colours: set[str], numbers: set[int]) -> Iterable[str]:
    for thing in things:
        yield from (colour_cell(thing, colour) for colour in colours)
        yield from (count_cell(thing, number) for number in numbers)
    for a, b in permutations(things, 2):
        yield pair_cell(a, b)
        for colour_a in colours:
            yield from (attribution_cell(a, colour_a, b, colour_b) for colour_b in colours)


def told_question(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """A scene told in words, a question about it, and the answer that follows from the words.

    Returns:
        (words and question, answer), or None where nothing of the drawn kind can be asked.
    """
    kinds: tuple[QuestionKind, ...] = ("existence", "counting", "colour", "relation")
    kind = pick(rng, kinds)
    if kind == "relation" and scene.tag != "position":
        return None  # the words would not tell it
    question = ask(scene, rng, kind)
    if question is None:
        return None
    told = geneval_caption(scene, rng).removeprefix("a photo of ")
    return f"A picture shows {told}. {question.text}", question.answer


def world_question(rng: np.random.Generator) -> tuple[str, str]:
    """A question about the world's words themselves, and its answer."""
    concept = pick(rng, tuple(CONCEPTS.values()))
    match below(rng, 6):
        case 0:
            named = [x for x in CONCEPTS.values() if x.group in GROUP_NAMES]
            concept = pick(rng, named)
            kind = GROUP_NAMES[concept.group]
            return f"Name {kind}.", concept.name
        case 1:
            named = [x for x in CONCEPTS.values() if x.group in GROUP_NAMES]
            concept = pick(rng, named)
            right = rng.random() < 0.5
            others = [group for group in GROUP_NAMES if group != concept.group]
            group = concept.group if right else pick(rng, others)
            verb = "Are" if concept.pair else "Is"
            noun = concept.name if concept.pair else phrase(concept.name)
            return f"{verb} {noun} {GROUP_NAMES[group]}?", "yes" if right else "no"
        case 2:
            return f"What are many of {phrase(concept.name)} called?", concept.counted
        case 3:
            relation = pick(rng, tuple(OPPOSITE))
            return f"What is the opposite of {relation}?", OPPOSITE[relation]
        case 4:
            number = below(rng, MAX_COUNT)
            return f"Which number comes after {NUMBER_WORDS[number]}?", NUMBER_WORDS[number + 1]
        case _:
            word = pick(rng, (*COLOURS, *CONCEPTS))
            if word == "orange":
                return "Is orange a colour or a thing?", "both"
            return f"Is {word} a colour or a thing?", "colour" if word in COLOURS else "thing"


class EmojiText(SceneSource):
    """Text samples, without pictures.

    Args:
        parts: Weight of each of `PARTS`; None takes `DEFAULT_PARTS`.
        prose: Fetched prose; None reads that of the split from the folder where a part needs it.

    Everything else is as in `SceneOptions`, the wide world's words too, of which part `words` asks
    only those of the first; nothing is shown, so size, grid and vendors are none of its options.

    Raises:
        FileNotFoundError: A part needs prose, and the folder holds none.
        ValueError: Unknown or weightless parts, or prose without a line for one of them.
    """

    name = "emoji-text"

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        world: WorldName = "v0",
        parts: Mapping[Part, float] | None = None,
        prose: Prose | None = None,
        **scenes: Unpack[TaggedKeywords],
    ) -> None:
        refuse_others(scenes, TaggedKeywords, type(self))
        super().__init__(folder, world=world, **scenes)
        split = self.options.split
        parts = DEFAULT_PARTS if parts is None else parts
        check_parts(parts, PARTS)
        needs_prose = parts.get("glosses", 0) > 0 or parts.get("dialogues", 0) > 0
        if needs_prose and prose is None:
            prose = load_prose(folder, split=split, name=world)
        self._prose = prose
        for part in ("glosses", "dialogues"):
            if parts.get(part, 0) > 0 and not getattr(self._prose, part):
                raise ValueError(
                    f"there are no {part} in the prose of split {split!r}: give part {part!r} "
                    "no weight"
                )
        self._parts = Weighted(parts)

    def __getitem__(self, index: int) -> Sample:
        index = self.checked(index)
        rng = self.rng(index, WORDS)
        turns = told_or_asked(self._said(self._parts.pick(rng), index, rng))
        form = "plain" if len(turns) == 1 else "chat"
        return Sample(key=self.key(index), kind="text", turns=turns, form=form)

    def _said(self, part: Part, index: int, rng: np.random.Generator) -> str | tuple[str, str]:
        """A plain text, or what is said and the reply."""
        match part:
            case "captions":
                return caption(self.scene(index), rng)
            case "told":
                return self._told(index, rng)
            case "words":
                return world_question(rng)
            case "glosses":
                assert self._prose is not None
                return pick(rng, self._prose.glosses)
            case "dialogues":
                assert self._prose is not None
                return pick(rng, self._prose.dialogues)

    def _told(self, index: int, rng: np.random.Generator) -> tuple[str, str]:
        """A question about a scene in words; in training about the words where nothing fits.

        What is asked about words is the same in both splits, so an exam asks of scenes alone.
        """
        while True:
            told = told_question(self.scene(index), rng)
            if told is not None:
                return told
            if self.options.split == "train":
                return world_question(rng)


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
