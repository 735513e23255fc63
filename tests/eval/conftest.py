"""A Janus of the tiny preset, one that says what it is told to, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openjanus.pipeline import Janus
from openjanus.pipeline.load import load
from openjanus.pipeline.results import Reply, Usage


@pytest.fixture(scope="session")
def tiny_janus() -> Janus:
    return load("tiny")


class Scripted(Janus):
    """Says what a function of the prompt's words gives; counts what it is asked."""

    def __init__(self, janus: Janus, say: Callable[[str], str]) -> None:
        super().__init__(janus.model, janus.processor.tokenizer)
        self.say = say
        self.asked: list[str] = []

    def chat_batch(self, conversations: Any, **options: Any) -> list[Reply]:
        words = [
            "\n".join(part.get("text", "<image>") for part in messages[0]["content"])
            for messages in conversations
        ]
        for text in words:
            if "past the context" in text:
                raise ValueError("the prompt is past the context")
        self.asked += words
        usage = Usage(prompt_tokens=1, completion_tokens=1)
        return [
            Reply(text=self.say(text), token_ids=(1,), finish_reason="stop", usage=usage, seed=0)
            for text in words
        ]


@pytest.fixture
def scripted(tiny_janus: Janus) -> Callable[[Callable[[str], str]], Scripted]:
    return lambda say: Scripted(tiny_janus, say)


def _picture(path: Path, colour: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (colour, 30, 30)).save(path)
    return path


@pytest.fixture
def make_picture() -> Callable[..., Path]:
    return _picture
