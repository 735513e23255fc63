"""Idle rows are run where they could change the others' bits, and left out where they cannot."""

from __future__ import annotations

import copy

import pytest
import torch.nn.functional as F
from harness import IMAGE_PAD, Chat, Draw, Run
from torch import Tensor

from openjanus.engine.compose_page import ComposePage
from openjanus.engine.engine import Engine, EngineOptions
from openjanus.engine.page import TextPage, rows_change_bits
from openjanus.engine.request import Request
from openjanus.model.decoder import Decoder
from openjanus.model.janus import JanusModel


def test_fp32_always_runs_them(lively_model: JanusModel) -> None:
    assert rows_change_bits(lively_model, 16)


def test_a_product_that_depends_on_its_rows_is_found(
    lively_model: JanusModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = copy.deepcopy(lively_model).bfloat16()

    def depends(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return original(x, weight, bias) + (1 if len(x) == 4 else 0)

    original = F.linear
    monkeypatch.setattr(F, "linear", depends)
    assert rows_change_bits(narrow, 16)


@pytest.mark.parametrize(("seated", "number"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_as_few_rows_as_are_needed(tiny_model: JanusModel, seated: int, number: int) -> None:
    slots = list(range(8))[-seated:]
    few = ComposePage(tiny_model, 64, 16, IMAGE_PAD)._slots_to_run(slots, False)
    assert len(few) == number and set(slots) <= set(few) and few == sorted(set(few))
    assert ComposePage(tiny_model, 64, 16, IMAGE_PAD)._slots_to_run(slots, True) == list(range(8))


def test_a_single_answer_runs_two_rows(tiny_model: JanusModel) -> None:
    assert TextPage(tiny_model, 64, 16)._slots_to_run([5], False) == [0, 5]


def test_results_are_the_same_without_idle_rows(
    lively_model: JanusModel, run: Run, draw: Draw, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = [
        draw(),
        draw(image_index=1),
        draw(prompt=tuple(range(50, 53)), guidance_scale=1.0),
        chat(),
        chat(temperature=0.0),
    ]
    options = EngineOptions(look_ahead=1)
    whole = run(Engine(lively_model, image_pad_id=IMAGE_PAD, options=options), requests)
    batches: list[int] = []
    original = Decoder.forward

    def spy(self: Decoder, inputs_embeds: Tensor, **rest: object) -> Tensor:
        batches.append(len(inputs_embeds))
        return original(self, inputs_embeds, **rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Decoder, "forward", spy)
    monkeypatch.setattr("openjanus.engine.steps.rows_change_bits", lambda *_: False)
    assert run(Engine(lively_model, image_pad_id=IMAGE_PAD, options=options), requests) == whole
    assert 16 in batches, "drawings and replies, 8 and 2 rows, were no batch of one"
    batches.clear()
    for some in (requests[:3], requests[3:]):
        engine = Engine(lively_model, image_pad_id=IMAGE_PAD, options=options)
        run(engine, some)
    assert 16 not in batches and {2, 8} <= set(batches)
