"""Questions about scenes with short canonical answers, for training and for exams.

Kinds: existence ("yes" or "no"), counting ("one" to "four", in the wide world to "six"), colour,
relation (half of them ask where a thing is, half what is there) and naming. Beside them, `describe`
asks for a caption, and there are kinds for practice, which no exam asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, get_args

import numpy as np

from openjanus.worlds.emoji.absence import Negatives, absent_things, doubtful_things
from openjanus.worlds.emoji.asked_scenes import scene_for_cell
from openjanus.worlds.emoji.captions import Things, caption, clear_relations, phrase, things_of
from openjanus.worlds.emoji.cells import (
    Cell,
    held_out_cells,
)
from openjanus.worlds.emoji.concepts import ALSO_SHOWN, COLOURS
from openjanus.worlds.emoji.draws import pick
from openjanus.worlds.emoji.sampling import Split, sample_scene
from openjanus.worlds.emoji.scenes import RELATIONS, Scene, Tag, relations
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import (
    COUNT_WORDS,
    World,
    WorldName,
    concept_named,
    world,
)

QuestionKind = Literal["existence", "counting", "colour", "relation", "naming"]
QUESTION_KINDS: Final[tuple[QuestionKind, ...]] = get_args(QuestionKind)

PracticeKind = Literal["total", "by_colour"]
"""How many things there are in all, whatever they are: a count that no concept's held-out counts
make unlikely. And what the thing of a colour is: to tell a tinted thing by its shape."""
PRACTICE_KINDS: Final[tuple[PracticeKind, ...]] = get_args(PracticeKind)

ABSENT_LOOKED_AT: Final = 32
"""Absent things of the wide world among which one is asked for; to look at all takes too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question with the one answer that counts."""

    kind: QuestionKind | PracticeKind | Literal["describe"]
    text: str
    answer: str
    """One word, a concept's name, or (describe) a caption."""


EXISTENCE: Final = (
    "Is there {} in the picture?",
    "Can you see {}?",
    "Does the picture show {}?",
    "Is there {}?",
)
COUNTING: Final = (
    "How many {} are there?",
    "How many {} can you see?",
    "How many {} are in the picture?",
    "Count the {}.",
)
COLOUR: Final = (
    "What colour {} the {}?",
    "Which colour {} the {}?",
    "What colour {} the {} in the picture?",
)
WHERE: Final = (
    "Where {} the {}: left of, right of, above or below the {}?",
    "{} the {} left of, right of, above or below the {}?",
)
WHAT_IS_THERE: Final = (
    "What is {} the {}?",
    "Which thing is {} the {}?",
    "Name the thing {} the {}.",
)
NAMING: Final = (
    "What is this?",
    "What is in the picture?",
    "Name the thing in the picture.",
    "What does the picture show?",
)
NAMING_MANY: Final = ("What are these?", "Name the things in the picture.")
TOTAL: Final = (
    "How many things are there?",
    "How many things can you see?",
    "How many things are in the picture?",
    "Count the things.",
)
BY_COLOUR: Final = ("What is the {} thing?", "Which thing is {}?", "Name the {} thing.")
DESCRIBE: Final = (
    "Describe the picture.",
    "Describe this picture.",
    "Write a caption.",
    "Caption the picture.",
    "Tell me what you see.",
)


def ask(
    scene: Scene,
    rng: np.random.Generator,
    kind: QuestionKind | PracticeKind,
    *,
    negatives: Negatives = "random",
    unseen_pairs: bool = False,
) -> Question | None:
    """Ask one question of a kind, or None where the scene has no clear answer of that kind.

    Existence is "yes" and "no" with equal chances, relation is one of its two forms with equal
    chances, and everything else is any thing of the scene.

    Args:
        scene: What is asked about.
        rng: Source of everything random.
        kind: What to ask.
        negatives: Which absent things are asked for.
        unseen_pairs: Whether the answer may be "no" about a thing whose pair with something that
            is there is held out. Never in training: it would teach that such pairs do not exist.
    """
    pools = _questions(scene, rng, kind, negatives, unseen_pairs=unseen_pairs)
    pools = [pool for pool in pools if pool]
    return pick(rng, pick(rng, pools)) if pools else None


def describe(scene: Scene, rng: np.random.Generator) -> Question:
    """Ask for a caption."""
    return Question(kind="describe", text=pick(rng, DESCRIBE), answer=caption(scene, rng))


def exam(
    kind: QuestionKind,
    n: int,
    seed: int,
    sprites: Sprites,
    *,
    split: Split = "held_out",
    negatives: Negatives = "random",
) -> list[tuple[Scene, Question]]:
    """Scenes and one question about each, every answer as frequent as every other.

    Answers come in turn: yes, no; one to four (or six); the ten colours; left, right, above, below
    on even turns and the concepts on odd ones; the concepts. In the held-out split each scene is
    made for a held-out cell, the very one asked for where the answer is a colour, a count above one
    or a relation; naming is limited to the concepts that have a held-out colour or count.

    Args:
        kind: What to ask.
        n: How many questions.
        seed: Question i is a function of (seed, i) and the other arguments alone.
        sprites: The artwork.
        split: What the scenes show.
        negatives: For existence, which absent things are asked for.

    Raises:
        ValueError: A negative n.
    """
    if n < 0:
        raise ValueError(f"an exam has at least 0 questions, got {n}")
    return [_exam_question(kind, i, seed, sprites, split, negatives) for i in range(n)]


def _questions(
    scene: Scene,
    rng: np.random.Generator,
    kind: QuestionKind | PracticeKind,
    negatives: Negatives,
    *,
    unseen_pairs: bool,
) -> tuple[list[Question], ...]:
    """Every question of a kind about a scene, in pools that are to be equally likely."""
    shown = things_of(scene)
    known = world(scene.world)
    match kind:
        case "existence":
            return _existence(shown, rng, negatives, known, unseen_pairs=unseen_pairs)
        case "counting":
            return (_counting(shown, rng, known),)
        case "colour":
            return (_colour(shown, rng),)
        case "relation":
            return _relation(scene, rng)
        case "naming":
            return (_naming(shown, rng),)
        case "total":
            return (_total(shown, rng),)
        case "by_colour":
            return (_by_colour(shown, rng),)


def _existence(
    shown: Sequence[Things],
    rng: np.random.Generator,
    negatives: Negatives,
    known: World,
    *,
    unseen_pairs: bool,
) -> tuple[list[Question], list[Question]]:
    present = {things.concept for things in shown}
    names = tuple(known.concepts)
    few = known.name == "wide" and negatives == "random"
    among = {pick(rng, names) for _ in range(ABSENT_LOOKED_AT)} if few else None
    absent = set(
        absent_things(present, negatives, known.name, among=among, unseen_pairs=unseen_pairs)
    )
    frame = pick(rng, EXISTENCE)

    def questions(names: set[str], answer: str) -> list[Question]:
        return [
            Question(kind="existence", text=frame.format(phrase(name)), answer=answer)
            for name in known.concepts  # not the set itself, whose order changes from run to run
            if name in names
        ]

    return questions(present, "yes"), questions(absent, "no")


def _counting(shown: Sequence[Things], rng: np.random.Generator, known: World) -> list[Question]:
    frame = pick(rng, COUNTING)
    doubtful = doubtful_things({things.concept for things in shown}, known.name)
    found = []
    for things in shown:
        if things.concept in doubtful:
            continue
        text = frame.format(concept_named(things.concept).counted)
        answer = COUNT_WORDS[things.count]
        found.append(Question(kind="counting", text=text, answer=answer))
    return found


def _colour(shown: Sequence[Things], rng: np.random.Generator) -> list[Question]:
    frame = pick(rng, COLOUR)
    return [
        Question(kind="colour", text=frame.format(things.verb, things.noun), answer=things.colour)
        for things in shown
        if things.colour is not None
    ]


def _relation(scene: Scene, rng: np.random.Generator) -> tuple[list[Question], list[Question]]:
    frame = pick(rng, WHERE)
    what_frame = pick(rng, WHAT_IS_THERE)
    where, what = [], []
    for a, relation, b in clear_relations(scene):
        verb = "are" if concept_named(a.concept).pair else "is"
        text = frame.format(verb, a.concept, b.concept)
        answer = relation.removesuffix(" of")
        where.append(Question(kind="relation", text=text[0].upper() + text[1:], answer=answer))
        there = [x for x in scene.objects if x is not b and relation in relations(x.box, b.box)]
        if len(there) == 1:
            text = what_frame.format(relation, b.concept)
            what.append(Question(kind="relation", text=text, answer=a.concept))
    return where, what


def _naming(shown: Sequence[Things], rng: np.random.Generator) -> list[Question]:
    if len(shown) != 1:
        return []
    text = pick(rng, NAMING if shown[0].count == 1 else NAMING_MANY)
    return [Question(kind="naming", text=text, answer=shown[0].concept)]


def _total(shown: Sequence[Things], rng: np.random.Generator) -> list[Question]:
    if any(things.concept in ALSO_SHOWN for things in shown):
        return []  # a racket with its ball may be two things
    answer = COUNT_WORDS[sum(things.count for things in shown)]
    return [Question(kind="total", text=pick(rng, TOTAL), answer=answer)]


def _by_colour(shown: Sequence[Things], rng: np.random.Generator) -> list[Question]:
    frame = pick(rng, BY_COLOUR)
    return [
        Question(kind="by_colour", text=frame.format(things.colour), answer=things.concept)
        for things in shown
        if things.colour is not None and things.count == 1
        if [other.colour for other in shown].count(things.colour) == 1
    ]


EXAM_TAGS: Final[dict[QuestionKind, tuple[Tag, ...]]] = {
    "existence": ("two_object", "counting", "colors", "position", "color_attr"),
    "counting": ("counting",),
    "colour": ("colors", "color_attr"),
    "relation": ("position",),
    "naming": ("colors", "counting"),
}


EXAM_STREAM: Final = 7003
"""Keeps the scenes of exams apart from those of every training seed."""


def _exam_question(
    kind: QuestionKind,
    i: int,
    seed: int,
    sprites: Sprites,
    split: Split,
    negatives: Negatives,
) -> tuple[Scene, Question]:
    # Each sort of negatives has scenes of its own: asked of the same ones, a thousand questions
    # would be a third as many.
    sort = get_args(Negatives).index(negatives)
    rng = np.random.default_rng([EXAM_STREAM, seed, i, QUESTION_KINDS.index(kind), sort])
    known = sprites.world
    answer, pool = _wanted(kind, i, split, known)
    cells = _exam_cells(kind, answer, known.name)
    while True:
        if split == "held_out":
            scene = scene_for_cell(pick(rng, pick(rng, cells)), rng, sprites)
        else:
            scene = sample_scene(rng, pick(rng, _train_tags(kind, answer, known)), sprites)
        pools = _questions(scene, rng, kind, negatives, unseen_pairs=True)
        fitting = [question for question in pools[pool] if question.answer == answer]
        if fitting:
            return scene, pick(rng, fitting)


def _wanted(kind: QuestionKind, i: int, split: Split, known: World) -> tuple[str, int]:
    """Which answer question i of an exam has, and from which of the pools of its kind it is."""
    match kind:
        case "existence":
            return ("yes", "no")[i % 2], i % 2
        case "counting":
            return COUNT_WORDS[1 + i % known.max_count], 0
        case "colour":
            return COLOURS[i % len(COLOURS)], 0
        case "relation":
            if i % 2 == 0:
                return RELATIONS[i // 2 % len(RELATIONS)].removesuffix(" of"), 0
            return tuple(known.concepts)[i // 2 % len(known.concepts)], 1
        case "naming":
            held_out = split == "held_out"
            names = _held_out_names(known.name) if held_out else tuple(known.concepts)
            return names[i % len(names)], 0


@cache
def _held_out_names(name: WorldName) -> tuple[str, ...]:
    cells = held_out_cells("colors", name) + held_out_cells("counting", name)
    named = {cell.concepts[0] for cell in cells}
    return tuple(concept for concept in world(name).concepts if concept in named)


@cache
def _exam_cells(kind: QuestionKind, answer: str, name: WorldName) -> tuple[tuple[Cell, ...], ...]:
    """Held-out cells, tag by tag, whose scenes can have an answer."""
    if kind == "counting" and answer == "one":
        tags: tuple[Tag, ...] = ("two_object", "colors")
    else:
        tags = EXAM_TAGS[kind]
    found = (
        tuple(cell for cell in held_out_cells(tag, name) if _can_answer(cell, kind, answer))
        for tag in tags
    )
    return tuple(cells for cells in found if cells)


def _can_answer(cell: Cell, kind: QuestionKind, answer: str) -> bool:
    match kind:
        case "existence":
            return True
        case "counting":
            return COUNT_WORDS[cell.count] == answer
        case "colour":
            return answer in cell.colours
        case "relation":
            words = {way.removesuffix(" of") for way in RELATIONS}
            asked = cell.relation is not None and cell.relation.removesuffix(" of") == answer
            return asked if answer in words else answer in cell.concepts
        case "naming":
            return answer == cell.concepts[0]


def _train_tags(kind: QuestionKind, answer: str, known: World) -> tuple[Tag, ...]:
    match kind:
        case "counting":
            return ("colors", "two_object", "free") if answer == "one" else ("counting", "free")
        case "naming":
            return ("single_object", "colors") if answer in known.tintable else ("single_object",)
        case _:
            return (*EXAM_TAGS[kind], "free")
