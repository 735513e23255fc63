from __future__ import annotations

import math
from pathlib import Path

import pytest

from openjanus.eval.runner import run_task
from openjanus.eval.task import register_task, task_names
from openjanus.pipeline.load import load
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.text import Prose
from openjanus.worlds.emoji.text_task import EmojiTextTask

PROSE = Prose(glosses=("river: a large stream", "sea: much water"), dialogues=(("Hello", "Hi"),))


def test_perplexity_is_what_score_tells(sprites: Sprites, tmp_path: Path) -> None:
    janus = load("tiny")
    register_task("text-test", EmojiTextTask)
    options = {"sprites": sprites, "prose": PROSE, "pieces": 5, "batch_size": 3}
    summary = run_task(janus, "text-test", output=tmp_path, options=options)
    assert summary["n"] == {"captions": 5, "told": 5, "glosses": 2, "dialogues": 1}
    scores = janus.score("Hello", "Hi")
    expected = math.exp(-float(scores.mean()))
    assert summary["perplexity"]["dialogues"] == pytest.approx(expected, rel=1e-3)
    assert summary["tokens"]["dialogues"] == len(scores)


def test_requests_are_different_and_repeat(sprites: Sprites) -> None:
    task = EmojiTextTask(sprites=sprites, prose=PROSE, pieces=20)
    asked = task.requests(limit=None, seed=3)
    assert len({request.prompt for request in asked}) == len(asked) == 43
    assert [r.prompt for r in task.requests(limit=None, seed=3)] == [r.prompt for r in asked]
    assert len(task.requests(limit=4, seed=3)) == 11


def test_bad_options(sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        EmojiTextTask(sprites=sprites, pieces=0)
    with pytest.raises(ValueError, match="parts must be some of"):
        EmojiTextTask(sprites=sprites, parts=("poems",))  # pyright: ignore[reportArgumentType]


def test_the_task_is_installed() -> None:
    assert "emoji-text" in task_names()
