"""Answers to an exam by what the scenes look like: how many things, tinted or plain.

    python scripts/exam_by_look.py MODEL QUESTIONS KIND [KIND ...]

Kinds are those of the task `emoji`; each is asked in the training split and in the held-out one.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import get_args

from PIL import Image

import openjanus
from openjanus.eval.answers import exact_match
from openjanus.worlds.emoji.questions import Question, QuestionKind, exam
from openjanus.worlds.emoji.sampling import Split
from openjanus.worlds.emoji.scenes import Scene, render
from openjanus.worlds.emoji.sprites import Sprites

SEED = 5
BATCH = 32


def look(scene: Scene) -> str:
    """What a scene is counted under."""
    tinted = any(thing.colour is not None for thing in scene.objects)
    return f"{len(scene.objects)} {'tinted' if tinted else 'plain'}"


def main(model: str, questions: int, kinds: list[str]) -> None:
    """Print, for each kind and split, the share right and the number asked of each look."""
    janus, sprites = openjanus.load(model), Sprites.load()
    for kind in get_args(QuestionKind):
        for split in get_args(Split) if kind in kinds else ():
            asked = exam(kind, questions, SEED, sprites, split=split)
            right: dict[str, list[bool]] = defaultdict(list)
            for scene, question, reply in answers(janus, asked, sprites):
                right["all"].append(exact_match(reply, question.answer))
                right[look(scene)].append(right["all"][-1])
            told = "  ".join(f"{x}: {sum(v) / len(v):.2f} of {len(v)}" for x, v in right.items())
            print(f"{kind} {split}  {told}", flush=True)


def answers(
    janus: openjanus.Janus, asked: Sequence[tuple[Scene, Question]], sprites: Sprites
) -> Iterator[tuple[Scene, Question, str]]:
    """Ask an exam's questions, and give each back with the reply to it."""
    size = janus.config.und_image_size
    for start in range(0, len(asked), BATCH):
        some = asked[start : start + BATCH]
        replies = janus.chat_batch(
            [message(scene, question.text, size, sprites) for scene, question in some],
            max_new_tokens=16,
        )
        for (scene, question), reply in zip(some, replies, strict=True):
            yield scene, question, reply.text


def message(scene: Scene, text: str, size: int, sprites: Sprites) -> list[dict[str, object]]:
    """A conversation that asks about a scene's picture."""
    picture = Image.fromarray(render(scene, size, sprites))
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
