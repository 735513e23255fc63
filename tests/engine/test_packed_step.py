"""With packed weights neither the rows of a step nor who shares it change an id, in fp32 too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from openjanus.engine.engine import Engine, EngineOptions
from openjanus.engine.page import rows_change_bits
from openjanus.engine.request import ChatRequest, DrawRequest, Request
from openjanus.model.janus import JanusModel, pack_model

IMAGE_PAD = 300
Run = Callable[[Engine, list[Request]], list[tuple[int, ...]]]
Draw = Callable[..., DrawRequest]
Chat = Callable[..., ChatRequest]


@pytest.fixture(scope="module")
def packed(lively_model: JanusModel) -> JanusModel:
    model = copy.deepcopy(lively_model)
    if pack_model(model) == 0 or rows_change_bits(model, 64):
        pytest.skip("on this machine packed products are not there, or depend on their rows")
    return model


def test_the_rows_of_a_step_change_no_id(packed: JanusModel, run: Run, draw: Draw) -> None:
    requests: list[Request] = [draw(image_index=index, guidance_scale=5.0) for index in range(3)]

    def drawn(these: list[Request], **options: Any) -> list[tuple[int, ...]]:
        options = {"look_ahead": 1} | options
        return run(Engine(packed, image_pad_id=IMAGE_PAD, options=EngineOptions(**options)), these)

    alone = [drawn([request])[0] for request in requests]
    assert len(set(alone)) == 3
    for options in ({}, {"rows_per_page": 2}, {"rows_per_page": 32}, {"look_ahead": 8}):
        assert drawn(requests, **options) == alone, options
    assert drawn(requests[::-1], look_ahead=16) == alone[::-1]


def test_words_beside_pictures_change_no_id(
    packed: JanusModel, run: Run, draw: Draw, chat: Chat
) -> None:
    requests: list[Request] = [draw(), chat(), chat(temperature=0.0)]
    alone = [run(Engine(packed, image_pad_id=IMAGE_PAD), [request])[0] for request in requests]
    assert run(Engine(packed, image_pad_id=IMAGE_PAD), requests) == alone
