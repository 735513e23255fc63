"""Chinese as data: words with their English, and understanding; never a picture to draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, Unpack, get_args

import numpy as np

from openjanus.data.samples import IMAGE_MARK, Sample, Turn
from openjanus.worlds.emoji.chinese import (
    COLOUR_NAMES,
    DESCRIBE,
    NAMES,
    NUMBERS,
    PROMPT,
    SIDES,
    both_captions,
    chinese_caption,
    chinese_phrase,
    chinese_questions,
)
from openjanus.worlds.emoji.concepts import CONCEPTS, NUMBER_WORDS
from openjanus.worlds.emoji.draws import HowMany, Weighted, below, check_parts, pick
from openjanus.worlds.emoji.indexed import WORDS, SceneSource
from openjanus.worlds.emoji.scene_options import PlacedKeywords, refuse_others
from openjanus.worlds.emoji.turns import asked_about_picture, told_or_asked

ChinesePart = Literal["names", "captions", "told"]
CHINESE_PARTS: Final[tuple[ChinesePart, ...]] = get_args(ChinesePart)
DEFAULT_PARTS: Final[Mapping[ChinesePart, float]] = {"names": 0.3, "captions": 0.45, "told": 0.25}

INTO_CHINESE: Final = (
    "What is {} in Chinese?",
    "Say {} in Chinese.",
    "Translate into Chinese: {}",
    "用中文怎么说 {}？",
)
INTO_ENGLISH: Final = (
    "What is {} in English?",
    "Say {} in English.",
    "Translate into English: {}",
    "用英语怎么说{}？",
)
SIDE_BY_SIDE: Final = ("{} = {}", "{}: {}", "{}\n{}")

DESCRIBE_SHARE: Final = 0.25
QUESTIONS_LIMIT: Final = 8


class EmojiChinese(SceneSource):
    """Text and understanding in Chinese.

    | kind | form | sample |
    |---|---|---|
    | text | either | names and captions beside their English, both ways; told scenes asked about |
    | und | chat | Chinese questions about a picture, or a Chinese caption asked for |
    | und | plain | a picture and its Chinese caption |

    Args:
        kind: "text" or "und". There is no "gen": that a Chinese prompt draws is to be measured.
        form: Of understanding; text has samples of both.
        parts: Of text, the weight of each of `CHINESE_PARTS`; None takes `DEFAULT_PARTS`.
        least_questions: Asked about one picture; none is asked twice.
        most_questions: As many at most.
        branched: Whether each question is asked as if it were the first.

    Everything else is as in `SceneOptions`, without `world`, `mixed` and `one_ground`.

    Raises:
        ValueError: Another kind or form, unknown or weightless parts, parts of another kind than
            text, or not 1 <= least_questions <= most_questions <= 8, or branches of captions.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        kind: Literal["text", "und"],
        form: Literal["chat", "plain"] = "chat",
        parts: Mapping[ChinesePart, float] | None = None,
        least_questions: int = 1,
        most_questions: int = 4,
        branched: bool = False,
        **scenes: Unpack[PlacedKeywords],
    ) -> None:
        refuse_others(scenes, PlacedKeywords, type(self))
        if kind not in ("text", "und") or form not in ("chat", "plain"):
            raise ValueError(
                f"kind must be text or und and form chat or plain, got {kind!r} and {form!r}: "
                "nothing is drawn from Chinese in training, so that drawing from it is a measure"
            )
        if branched and (kind, form) != ("und", "chat"):
            raise ValueError(f"branched belongs to kind und in form chat, got {kind!r} in {form!r}")
        num_questions = HowMany(
            things="questions",
            least=least_questions,
            most=most_questions,
            limit=QUESTIONS_LIMIT,
        )
        if parts is not None and kind != "text":
            raise ValueError(f"parts belong to kind text, got kind {kind!r}: leave them out")
        parts = DEFAULT_PARTS if parts is None else parts
        check_parts(parts, CHINESE_PARTS)
        super().__init__(folder, **scenes)
        self.kind: Literal["text", "und"] = kind
        self.form: Literal["chat", "plain"] = form
        self.name = f"emoji-chinese-{kind}-{form}"
        self.num_questions = num_questions
        self.branched = branched
        self._parts = Weighted(parts)

    def __getitem__(self, index: int) -> Sample:
        index = self.checked(index)
        turns = self.turns(index)
        is_seen = self.kind == "und"
        return Sample(
            key=self.key(index),
            kind=self.kind,
            turns=turns,
            images=(self.picture(index),) if is_seen else (),
            form="plain" if len(turns) == 1 else "chat",
            branched=self.branched,
        )

    def turns(self, index: int) -> tuple[Turn, ...]:
        """What is said at an index."""
        rng = self.rng(index, WORDS)
        if self.kind == "text":
            return told_or_asked(self._text(index, rng))
        if self.form == "plain":
            return told_or_asked(f"{IMAGE_MARK}{chinese_caption(self.scene(index), rng)}")
        return asked_about_picture(self._questions(index, rng))

    def _questions(self, index: int, rng: np.random.Generator) -> list[tuple[str, str]]:
        scene = self.scene(index)
        if rng.random() < DESCRIBE_SHARE:
            return [(pick(rng, DESCRIBE), chinese_caption(scene, rng))]
        return chinese_questions(scene, rng, self.num_questions.draw(rng))

    def _text(self, index: int, rng: np.random.Generator) -> str | tuple[str, str]:
        """A plain text, or a question and its answer."""
        part = self._parts.pick(rng)
        if part == "told":
            return self._told(index, rng)
        if part == "names":
            english, chinese = _name(rng)
        else:
            english, chinese = both_captions(self.scene(index), rng)
            if rng.random() < 0.4:
                english, chinese = f"a photo of {english}", PROMPT.format(chinese)
        match below(rng, 3):
            case 0:
                return pick(rng, INTO_CHINESE).format(english), chinese
            case 1:
                return pick(rng, INTO_ENGLISH).format(chinese), english
            case _:
                pair = (english, chinese) if rng.random() < 0.5 else (chinese, english)
                return pick(rng, SIDE_BY_SIDE).format(*pair)

    def _told(self, index: int, rng: np.random.Generator) -> str | tuple[str, str]:
        """A scene told in Chinese, and a question that the words answer."""
        scene = self.scene(index)
        caption = both_captions(scene, rng)[1]
        tells_place = any(f"的{side}" in caption for side in SIDES.values())
        asked = [
            (question, answer)
            for question, answer in chinese_questions(scene, rng, QUESTIONS_LIMIT)
            if tells_place or not any(side in f"{question}{answer}" for side in _PLACES)
        ]
        if not asked:
            return f"图里有{caption}。"
        question, answer = pick(rng, asked)
        return f"图里有{caption}。{question}", answer


_PLACES: Final = (*SIDES.values(), "哪")
"""Marks of a question about where."""


def _name(rng: np.random.Generator) -> tuple[str, str]:
    """A word in English and in Chinese."""
    match below(rng, 8):
        case 0:
            colour = pick(rng, tuple(COLOUR_NAMES))
            return colour, COLOUR_NAMES[colour]
        case 1:
            number = 1 + below(rng, len(NUMBERS) - 1)
            return NUMBER_WORDS[number], "二" if number == 2 else NUMBERS[number]
        case 2:
            relation = pick(rng, tuple(SIDES))
            return relation, SIDES[relation]
        case 3:
            concept = pick(rng, tuple(CONCEPTS))
            return f"{CONCEPTS[concept].article} {concept}", chinese_phrase(concept)
        case _:
            concept = pick(rng, tuple(CONCEPTS))
            return concept, NAMES[concept].name
