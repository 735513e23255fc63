"""Whether answers are about the thing that was asked for, or about anything in the picture.

    python scripts/exam_of_matching.py MODEL QUESTIONS

Of two tinted things one's colour is asked; of two things, where one is. Who knows what a picture
shows, and not which is where, says the other's colour and the opposite way half of the time.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import get_args

from exam_by_look import answers

import openjanus
from openjanus.worlds.emoji.questions import Question, QuestionKind, exam
from openjanus.worlds.emoji.sampling import Split
from openjanus.worlds.emoji.scenes import OPPOSITE, Scene
from openjanus.worlds.emoji.sprites import Sprites

SEED = 11

Judged = Callable[[Scene, Question, str], str | None]
"""(scene, question, reply) -> what the reply is, or None where nothing can be mistaken."""


def judge_colour(scene: Scene, question: Question, reply: str) -> str | None:
    """Whose colour was said."""
    colours = {thing.colour for thing in scene.objects}
    if len(scene.objects) != 2 or len(colours - {None}) != 2:
        return None
    if reply == question.answer:
        return "right"
    return "the other's" if reply in colours else "neither"


def judge_place(scene: Scene, question: Question, reply: str) -> str | None:
    """Which way was said."""
    opposite = {a.removesuffix(" of"): b.removesuffix(" of") for a, b in OPPOSITE.items()}
    if len(scene.objects) != 2 or question.answer not in opposite:
        return None
    if reply == question.answer:
        return "right"
    return "opposite" if reply == opposite[question.answer] else "otherwise"


EXAMS: dict[QuestionKind, Judged] = {"colour": judge_colour, "relation": judge_place}


def main(model: str, questions: int) -> None:
    """Print what was answered how often, for each kind and split."""
    janus, sprites = openjanus.load(model), Sprites.load()
    for kind, judged in EXAMS.items():
        for split in get_args(Split):
            asked = exam(kind, questions, SEED, sprites, split=split)
            found: Counter[str] = Counter()
            for scene, question, reply in answers(janus, asked, sprites):
                said = judged(scene, question, reply)
                if said is not None:
                    found[said] += 1
            told = "  ".join(f"{x}: {n}" for x, n in found.most_common())
            print(f"{kind} {split}  {told}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
