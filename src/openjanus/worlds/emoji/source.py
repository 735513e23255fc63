"""The world as data: pictures, captioned pictures, and samples to understand and to draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Unpack

import numpy as np

from openjanus.data.samples import IMAGE_MARK, Region, Sample, Turn
from openjanus.worlds.emoji.captions import caption, long_caption
from openjanus.worlds.emoji.concepts import NUMBER_WORDS
from openjanus.worlds.emoji.draws import HowMany, pick
from openjanus.worlds.emoji.indexed import CROP, WORDS, SceneSource
from openjanus.worlds.emoji.questions import (
    PRACTICE_KINDS,
    QUESTION_KINDS,
    PracticeKind,
    Question,
    QuestionKind,
    ask,
    describe,
)
from openjanus.worlds.emoji.scene_options import PlacedKeywords, SceneKeywords, refuse_others
from openjanus.worlds.emoji.scenes import Scene, SceneObject, render
from openjanus.worlds.emoji.turns import asked_about_picture
from openjanus.worlds.emoji.vocabulary import WorldName

DESCRIBE_SHARE: Final = 0.25
"""Share of understanding samples that ask for a caption."""

QUESTIONS_LIMIT: Final = 16
"""Every scene has more to ask than that, in one wording or another."""

TRIES: Final = 40
"""Draws for one question, of which some are no question or one that was asked before."""

LONE_COUNT_SHARE: Final = 0.3
"""Share kept of the questions that count a single thing, which nearly every scene could ask."""

DENSE_ZOOM: Final = (1.2, 2.2)
"""Range of the enlargement of which a dense picture is a crop."""


class EmojiPictures(SceneSource):
    """Pictures alone, for the image tokenizer.

    Args:
        dense: Whether a picture is a crop of one drawn 1.2 to 2.2 times as large, so that things
            are large and cut by the edge, and more of the picture is drawing than background.

    Everything else is as in `SceneOptions`, without `mixed` and `one_ground`.
    """

    name = "emoji-pictures"

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        world: WorldName = "v0",
        dense: bool = False,
        **scenes: Unpack[PlacedKeywords],
    ) -> None:
        refuse_others(scenes, PlacedKeywords, type(self))
        super().__init__(folder, world=world, **scenes)
        self.dense = dense

    def __getitem__(self, index: int) -> np.ndarray:
        return self.picture(self.checked(index))

    def picture(self, index: int) -> np.ndarray:
        """The picture of an index, (size, size, 3) uint8."""
        if not self.dense:
            return super().picture(index)
        scene = self.scene(index)
        rng = self.rng(index, CROP)
        low, high = DENSE_ZOOM
        size = self.options.size
        large = round(size * (low + (high - low) * rng.random()))
        x0, y0, x1, y1 = pick(rng, scene.objects).box
        left = self._edge(x0 + (x1 - x0) * rng.random(), large)
        top = self._edge(y0 + (y1 - y0) * rng.random(), large)
        picture = render(scene, large, self.sprites)
        return picture[top : top + size, left : left + size].copy()

    def _edge(self, centre: float, large: int) -> int:
        """First pixel of a crop about a centre, within a picture of `large` pixels."""
        size = self.options.size
        return min(max(round(centre * large - size / 2), 0), large - size)


class EmojiPairs(SceneSource):
    """(picture, caption) pairs, for the understanding encoder; arguments as `SceneSource`."""

    name = "emoji-pairs"

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        index = self.checked(index)
        scene = self.scene(index)
        words = caption(scene, self.rng(index, WORDS))
        return render(scene, self.options.size, self.sprites), words


class EmojiRegions(SceneSource):
    """(picture, its regions), for the understanding encoder; arguments as `SceneSource`.

    A thing's region is its box. True of it are its concept's name ("dog") and, of a tinted one,
    its colour ("red thing"): told apart, so that neither can stand in for the other.
    """

    name = "emoji-regions"

    def __getitem__(self, index: int) -> tuple[np.ndarray, tuple[Region, ...]]:
        scene = self.scene(self.checked(index))
        return render(scene, self.options.size, self.sprites), tuple(
            Region(captions=_told_apart(thing), box=thing.box) for thing in scene.objects
        )


def _told_apart(thing: SceneObject) -> tuple[str, ...]:
    return (thing.concept,) if thing.colour is None else (thing.concept, f"{thing.colour} thing")


class EmojiScenes(SceneSource):
    """Samples to understand and to draw.

    | kind | form | sample |
    |---|---|---|
    | gen | chat | a caption, and the picture to draw |
    | gen | plain | a concept's name, and its picture; single objects only (stage I) |
    | und | chat | questions about a picture, or a caption asked for |
    | und | plain | a picture and its caption (stage I) |

    Args:
        kind: What a sample teaches; words without pictures are `text.EmojiText`.
        form: "chat", or "plain" for stage I.
        least_questions: Asked about one picture; none is asked twice.
        most_questions: As many at most. A picture's features cost far more than the few tokens
            that a question teaches.
        practice: Whether questions that no exam asks are asked too: how many things there are in
            all, and what the thing of a colour is.
        asks: The kinds to ask, in place of all that `practice` leaves, and no caption is asked for
            then. Fewer questions are asked of a scene that has fewer to ask.
        branched: Whether each question is asked as if it were the first. Asked one after another,
            many can be answered from the answers before.
        told: How drawings are asked for: "short", a caption; or "long", and a sentence of each
            thing about where it lies.

    Everything else is as in `SceneOptions`; sources of one seed and the same options of scenes show
    the same scene at the same index, whatever their kind and form.

    Raises:
        ValueError: An unknown kind or form, or for plain gen, other tags than single_object; or
            not 1 <= least_questions <= most_questions <= 16; or an unknown kind to ask; or branches
            of anything but dialogues about pictures; or long captions or mixed colours of anything
            but drawings.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        kind: Literal["und", "gen"],
        form: Literal["chat", "plain"] = "chat",
        least_questions: int = 1,
        most_questions: int = 6,
        practice: bool = False,
        asks: Sequence[str] | None = None,
        branched: bool = False,
        told: Literal["short", "long"] = "short",
        **scenes: Unpack[SceneKeywords],
    ) -> None:
        num_questions = HowMany(
            things="questions",
            least=least_questions,
            most=most_questions,
            limit=QUESTIONS_LIMIT,
        )
        if kind not in ("und", "gen") or form not in ("chat", "plain"):
            raise ValueError(
                f"kind must be und or gen and form chat or plain, got {kind!r} and {form!r}: "
                "text alone is the source emoji-text"
            )
        if branched and (kind, form) != ("und", "chat"):
            raise ValueError(
                f"branched belongs to kind und in form chat, got {kind!r} in {form!r}: leave it out"
            )
        if told not in ("short", "long") or (told == "long" and (kind, form) != ("gen", "chat")):
            raise ValueError(
                f"told must be short, or long for kind gen in form chat, got {told!r} for {kind!r} "
                f"in {form!r}: leave it out"
            )
        mixed = scenes.get("mixed")
        if mixed and kind != "gen":
            raise ValueError(
                f"mixed colours are for drawings, no question knows them: got mixed {mixed} for "
                f"kind {kind!r}: leave it out"
            )
        if kind == "gen" and form == "plain":
            tags = scenes.get("tags")
            tags = scenes["tags"] = {"single_object": 1.0} if tags is None else tags
            if set(tags) != {"single_object"}:
                raise ValueError(
                    f"plain gen samples name one thing: tags must be single_object, got {[*tags]}"
                )
        super().__init__(folder, **scenes)
        self.kind: Literal["und", "gen"] = kind
        self.form: Literal["chat", "plain"] = form
        self.name = f"{self.name}-{kind}-{form}"
        self.num_questions = num_questions
        self.describes = asks is None
        every = (*QUESTION_KINDS, *(PRACTICE_KINDS if practice else ()))
        self.question_kinds = every if asks is None else _known(asks)
        self.branched = branched
        self.told = told

    def __getitem__(self, index: int) -> Sample:
        index = self.checked(index)
        scene, rng = self.scene(index), self.rng(index, WORDS)
        picture = render(scene, self.options.size, self.sprites)
        if self.kind == "gen":
            turns = (self._gen_turn(scene, rng),)
            images, target = (), picture
        else:
            turns = self._und_turns(scene, rng)
            images, target = (picture,), None
        return Sample(
            key=self.key(index),
            kind=self.kind,
            turns=turns,
            images=images,
            target=target,
            form=self.form,
            branched=self.branched,
        )

    def _gen_turn(self, scene: Scene, rng: np.random.Generator) -> Turn:
        if self.form == "plain":
            return Turn(role="assistant", text=scene.objects[0].concept)
        words = long_caption(scene, rng) if self.told == "long" else caption(scene, rng)
        return Turn(role="user", text=words)

    def _und_turns(self, scene: Scene, rng: np.random.Generator) -> tuple[Turn, ...]:
        if self.form == "plain":
            return (Turn(role="assistant", text=f"{IMAGE_MARK}{caption(scene, rng)}"),)
        questions: list[Question] = []
        if not self.describes or rng.random() >= DESCRIBE_SHARE:
            wanted = self.num_questions.draw(rng)
            questions = _interview(scene, rng, wanted, self.question_kinds)
        if not questions:
            questions = [describe(scene, rng)]
        return asked_about_picture((question.text, question.answer) for question in questions)


def _known(asks: Sequence[str]) -> tuple[QuestionKind | PracticeKind, ...]:
    """The kinds of questions of these names.

    Raises:
        ValueError: None, or one that there is not.
    """
    known = (*QUESTION_KINDS, *PRACTICE_KINDS)
    if not asks or not set(asks) <= set(known):
        raise ValueError(f"asks must be some of {', '.join(known)}, got {list(asks)}")
    return tuple(kind for kind in known if kind in asks)


def _interview(
    scene: Scene,
    rng: np.random.Generator,
    wanted: int,
    kinds: Sequence[QuestionKind | PracticeKind],
) -> list[Question]:
    """Questions about a scene, none twice; fewer where it has not so many of these kinds."""
    asked: dict[str, Question] = {}
    for _ in range(TRIES * wanted):
        if len(asked) == wanted:
            break
        question = ask(scene, rng, pick(rng, kinds))
        if question is None:
            continue
        lone = question.kind == "counting" and question.answer == NUMBER_WORDS[1]
        if not lone or rng.random() < LONE_COUNT_SHARE:
            asked.setdefault(question.text, question)
    return list(asked.values())
