"""Short stories in which words and pictures take turns, some to be understood and some to be drawn.

One thing happens after another to the same few things: one comes, goes, is painted, moves, or more
of it come. Every scene of a story is one that training may show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Unpack

import numpy as np

from openjanus.data.samples import DRAW_MARK, IMAGE_MARK, Sample, Turn
from openjanus.worlds.emoji.asked_scenes import scene_for_cell
from openjanus.worlds.emoji.captions import phrase
from openjanus.worlds.emoji.cells import MAX_COUNT, Cell
from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS, TINTABLE
from openjanus.worlds.emoji.draws import HowMany, below, pick
from openjanus.worlds.emoji.indexed import SCENE, WORDS, SceneSource
from openjanus.worlds.emoji.sampling import touches_held_out
from openjanus.worlds.emoji.scene_options import ShownKeywords, refuse_others
from openjanus.worlds.emoji.scenes import OPPOSITE, RELATIONS, Scene, Tag, render
from openjanus.worlds.emoji.sprites import Sprites

MOST_PICTURES: Final = 4
SCENE_TRIES: Final = 6
"""Layouts tried of one scene before another story is told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chapter:
    """One picture of a story and the words that lead to it."""

    words: str
    cell: Cell
    """What the picture shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """Chapters, each with its scene."""

    chapters: tuple[Chapter, ...]
    scenes: tuple[Scene, ...]
    ending: str


Plot = Callable[[np.random.Generator, int], list[Chapter]]


def tell_story(rng: np.random.Generator, sprites: Sprites, pictures: int) -> Story:
    """Tell a story of a number of pictures, none of whose scenes touches a held-out cell.

    Args:
        rng: Source of everything random.
        sprites: Of one vendor, so that things look alike from picture to picture.
        pictures: 2 to `MOST_PICTURES`.
    """
    while True:
        chapters = pick(rng, PLOTS)(rng, pictures)
        scenes = []
        for chapter in chapters:
            scene = _seen(chapter.cell, rng, sprites)
            if scene is None:
                break
            scenes.append(scene)
        else:
            ending = pick(rng, ENDINGS)
            return Story(chapters=tuple(chapters), scenes=tuple(scenes), ending=ending)


def _seen(cell: Cell, rng: np.random.Generator, sprites: Sprites) -> Scene | None:
    for _ in range(SCENE_TRIES):
        scene = scene_for_cell(cell, rng, sprites)
        if not touches_held_out(scene):
            return scene
    return None


def _cell(
    tag: Tag,
    *concepts: str,
    colours: tuple[str, ...] = (),
    relation: str | None = None,
    count: int = 1,
) -> Cell:
    return Cell(
        tag=tag, name="", concepts=concepts, colours=colours, relation=relation, count=count
    )


OPENINGS: Final = (
    "Here is {}.",
    "Once there was {}.",
    "This is {}.",
    "First you see {}.",
    "It begins with {}.",
    "Look at {}.",
)
OPENINGS_OF_MANY: Final = (
    "Here are {}.",
    "Once there were {}.",
    "These are {}.",
    "First you see {}.",
    "It begins with {}.",
)
ENDINGS: Final = ("", "", " The end.", " That is all.", " And so it stayed.")
COMES: Final = (
    "Then comes {}, {} the {}.",
    "Now {} is put {} the {}.",
    "Next, {} appears {} the {}.",
)
GOES: Final = ("Now without the {}.", "Then you lose the {}.", "Now take the {} away.")
MOVES: Final = ("Now put the {} {} the {}.", "Next, move the {} {} the {}.")
PAINTED: Final = ("It is painted {}.", "Now make it {}.", "Then it turns {}.", "The next day: {}.")
JOINED: Final = (
    "Another one comes: {}.",
    "One more comes, and now there are {}.",
    "Add one more: {}.",
)


def _two(rng: np.random.Generator) -> tuple[str, str]:
    names = tuple(CONCEPTS)
    first, second = (names[i] for i in rng.permutation(len(names))[:2])
    return first, second


def _opening(words: str, rng: np.random.Generator) -> str:
    return pick(rng, OPENINGS).format(words)


def _company(rng: np.random.Generator, pictures: int) -> list[Chapter]:
    """One thing, then another beside it, which moves over, or goes."""
    a, b = _two(rng)
    relation = pick(rng, RELATIONS)
    told = [
        Chapter(words=_opening(phrase(a), rng), cell=_cell("single_object", a)),
        Chapter(
            words=pick(rng, COMES).format(phrase(b), _where(relation), a),
            cell=_cell("position", b, a, relation=relation),
        ),
    ]
    if pictures > 2 and rng.random() < 0.5:
        words = pick(rng, MOVES).format(b, _where(OPPOSITE[relation]), a)
        told.append(Chapter(words=words, cell=_cell("position", b, a, relation=OPPOSITE[relation])))
    if len(told) < pictures:
        gone, left = (a, b) if rng.random() < 0.5 else (b, a)
        words = pick(rng, GOES).format(gone)
        told.append(Chapter(words=words, cell=_cell("single_object", left)))
    return told


def _where(relation: str) -> str:
    return f"to the {relation}" if relation in ("left of", "right of") else relation


def _paint(rng: np.random.Generator, pictures: int) -> list[Chapter]:
    """One thing that takes one colour after another."""
    name = pick(rng, [x for x in TINTABLE if not CONCEPTS[x].pair])
    told = [Chapter(words=_opening(phrase(name), rng), cell=_cell("single_object", name))]
    for i in rng.permutation(len(COLOURS))[: pictures - 1]:
        words = pick(rng, PAINTED).format(COLOURS[i])
        told.append(Chapter(words=words, cell=_cell("colors", name, colours=(COLOURS[i],))))
    return told


def _crowd(rng: np.random.Generator, pictures: int) -> list[Chapter]:
    """One thing, and more and more of it."""
    name = pick(rng, [x for x in CONCEPTS if not CONCEPTS[x].pair])
    first = 1 + below(rng, MAX_COUNT - pictures + 1)
    told = []
    for count in range(first, first + pictures):
        things = phrase(name, count=count)
        openings = OPENINGS if count == 1 else OPENINGS_OF_MANY
        words = pick(rng, JOINED if told else openings).format(things)
        tag: Tag = "counting" if count > 1 else "single_object"
        told.append(Chapter(words=words, cell=_cell(tag, name, count=count)))
    return told


PLOTS: Final[tuple[Plot, ...]] = (_company, _company, _paint, _crowd)


class EmojiStories(SceneSource):
    """Interleaved documents of two to four pictures.

    | kind | form | sample |
    |---|---|---|
    | gen | plain | a document: its first picture is understood or drawn, the others are drawn |
    | gen | chat | what is there so far in the question, words and pictures; the rest is drawn |
    | und | plain | a document whose pictures are all understood, and whose words are learnt |

    Args:
        kind: "gen" where pictures are drawn, "und" where none is.
        form: "plain" documents, or "chat".
        least_pictures: Of one story, 2 at least.
        most_pictures: As many at most; each takes as many tokens as any picture.
        shown_share: Share of plain gen documents whose first picture is understood, not drawn.

    The folder, sprites, seed, size and length are as in `SceneOptions`.

    Raises:
        ValueError: An unknown kind or form, und in a chat, numbers of pictures that are not
            2 <= least_pictures <= most_pictures <= 4, or a share outside [0, 1].
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        kind: Literal["gen", "und"] = "gen",
        form: Literal["chat", "plain"] = "plain",
        least_pictures: int = 2,
        most_pictures: int = 3,
        shown_share: float = 0.75,
        **shown: Unpack[ShownKeywords],
    ) -> None:
        refuse_others(shown, ShownKeywords, type(self))
        super().__init__(folder, **shown)
        if kind not in ("gen", "und") or form not in ("chat", "plain"):
            raise ValueError(
                f"kind must be gen or und and form chat or plain, got {kind!r} and {form!r}"
            )
        if (kind, form) == ("und", "chat"):
            raise ValueError("stories without drawings are documents: give form plain")
        num_pictures = HowMany(
            things="pictures",
            least=least_pictures,
            most=most_pictures,
            fewest=2,
            limit=MOST_PICTURES,
        )
        if not 0 <= shown_share <= 1:
            raise ValueError(f"shown_share must be from 0 to 1, got {shown_share}")
        self.kind: Literal["gen", "und"] = kind
        self.form: Literal["chat", "plain"] = form
        self.name = f"emoji-stories-{kind}-{form}"
        self.num_pictures = num_pictures
        self.shown_share = shown_share
        self._by_vendor = [self.sprites.by_vendors([name]) for name in self.sprites.vendors]

    def story(self, index: int) -> tuple[Story, Sprites]:
        """The story of an index, and whose artwork shows it."""
        rng = self.rng(index, SCENE)
        sprites = pick(rng, self._by_vendor)
        return tell_story(rng, sprites, self.num_pictures.draw(rng)), sprites

    def num_drawn(self, index: int) -> int:
        """Pictures that a story draws."""
        index = self.checked(index)
        number = len(self.story(index)[0].scenes)
        return number - self._num_shown(index, number)

    def _num_shown(self, index: int, number: int) -> int:
        """How many of a number of pictures are to be understood; they come first."""
        if self.kind == "und":
            return number
        rng = self.rng(index, WORDS)
        if self.form == "chat":
            return 1 + below(rng, number - 1)
        return int(rng.random() < self.shown_share)

    def __getitem__(self, index: int) -> Sample:
        index = self.checked(index)
        story, sprites = self.story(index)
        shown = self._num_shown(index, len(story.scenes))
        parts = [
            f"{chapter.words} {IMAGE_MARK if place < shown else DRAW_MARK}"
            for place, chapter in enumerate(story.chapters)
        ]
        pictures = [render(scene, self.options.size, sprites) for scene in story.scenes]
        if self.form == "plain":
            text = f"{' '.join(parts)}{story.ending}"
            turns: tuple[Turn, ...] = (Turn(role="assistant", text=text),)
        else:
            # What happens next is asked for; how it looks is the answer.
            turns = (
                Turn(role="user", text=f"{' '.join(parts[:shown])} {story.chapters[shown].words}"),
                Turn(role="assistant", text=" ".join([DRAW_MARK, *parts[shown + 1 :]])),
            )
        return Sample(
            key=self.key(index),
            kind=self.kind,
            turns=turns,
            images=tuple(pictures[:shown]),
            targets=tuple(pictures[shown:]),
            form=self.form,
        )
