"""What the engine's tests share: how they make one, and what their fixtures are.

On the path by `pythonpath` in `pyproject.toml`, so that its names can be imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openjanus.engine.engine import Engine, EngineOptions
from openjanus.engine.request import ChatRequest, ComposeRequest, DrawRequest, Request
from openjanus.model.janus import JanusModel

IMAGE_PAD = 300
MODELS = ["lively_model", "semantic_model", "one_vocabulary_model"]
"""Fixtures of models of every kind that draws."""

Run = Callable[[Engine, list[Request]], list[tuple[int, ...]]]
Draw = Callable[..., DrawRequest]
Chat = Callable[..., ChatRequest]
Compose = Callable[..., ComposeRequest]
Naive = Callable[..., tuple[int, ...]]


def make_engine(model: JanusModel, **options: Any) -> Engine:
    return Engine(model, image_pad_id=IMAGE_PAD, options=EngineOptions(**options))
