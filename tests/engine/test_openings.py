"""Prompts take turns: a short one does not wait for a long one, nor the long one for ever."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch
from harness import Chat, Draw, Run, make_engine

from openjanus.engine import engine as module
from openjanus.engine import memory
from openjanus.engine.engine import Engine
from openjanus.engine.image_page import ImagePage
from openjanus.engine.openings import Opening, Openings
from openjanus.engine.page import Page, TextPage
from openjanus.engine.request import FailedEvent, FinishedEvent, Request
from openjanus.model.janus import JanusModel


def steps_to_first(engine: Engine, request_id: int) -> int:
    """Steps until a request is told anything."""
    for number in range(1, 1000):
        if any(event.request_id == request_id for event in engine.step()):
            return number
    raise AssertionError("never told")


def nobody(request_id: int, tokens: int) -> Opening:
    def pieces() -> Generator[int, None, list[int]]:
        yield tokens
        return []

    return Opening(request_id, pieces(), tokens)


def test_the_least_and_the_oldest_take_turns() -> None:
    openings = Openings()
    for tokens in (50, 7, 20):
        openings.add(nobody(tokens, tokens))
    assert [openings.next().request_id for _ in range(4)] == [7, 50, 7, 50]
    openings.drop(7)
    openings.drop(7)
    assert [openings.next().request_id for _ in range(2)] == [20, 50]
    assert len(openings) == 2


def test_what_comes_to_the_same_is_run_in_order() -> None:
    openings = Openings()
    for request_id in (3, 1, 2):
        openings.add(nobody(request_id, 12))
    assert {openings.next().request_id for _ in range(4)} == {3}


def test_the_last_piece_gives_the_first_ids() -> None:
    def pieces() -> Generator[int, None, list[int]]:
        yield 5
        yield 2
        return [9]

    opening = Opening(0, pieces(), 7)
    assert [opening.advance(), opening.advance()] == [(5, None), (2, [9])]
    shared = Opening(0, pieces(), 20)  # something was kept, so less was run
    assert [shared.advance() for _ in range(3)] == [(5, None), (2, None), (0, [9])]


def test_a_word_does_not_wait_for_a_book(lively_model: JanusModel, run: Run, chat: Chat) -> None:
    options = {"prefill_chunk": 8, "max_prefill_tokens": 8}
    long = chat(input_ids=tuple(range(2, 220)), max_new_tokens=4)
    short = chat(input_ids=(7, 8, 9), max_new_tokens=4)
    alone = [run(make_engine(lively_model, **options), [one])[0] for one in (long, short)]
    engine = make_engine(lively_model, **options)
    first = engine.add(long)
    for _ in range(3):
        assert engine.step() == []
    second = engine.add(short)
    assert steps_to_first(engine, second) <= 2
    engine.cancel(second)
    assert steps_to_first(engine, first) <= 28
    assert run(make_engine(lively_model, **options), [long, short]) == alone


def test_a_book_does_not_wait_for_all_words(lively_model: JanusModel, chat: Chat) -> None:
    engine = make_engine(lively_model, prefill_chunk=8, max_prefill_tokens=8)
    long = engine.add(chat(input_ids=tuple(range(2, 130))))
    told, number = False, 0
    while not told:
        engine.add(chat(input_ids=(7, 8, 9 + number), max_new_tokens=1))
        number += 1
        assert number < 45  # 16 pieces, a word before each, and what is left of a step's budget
        told = any(event.request_id == long for event in engine.step())


def test_interleaved_prompts_change_no_id(
    lively_model: JanusModel, run: Run, draw: Draw, chat: Chat
) -> None:
    requests: list[Request] = [
        chat(input_ids=tuple(range(2, 90))),
        draw(),
        chat(input_ids=(5, 6)),
        draw(image_index=1),
        draw(prompt=tuple(range(50, 56)), guidance_scale=1.0),
        chat(input_ids=tuple(range(2, 70))),
    ]
    alone = [run(make_engine(lively_model, prefill_chunk=8), [one])[0] for one in requests]
    options = {"prefill_chunk": 8, "max_prefill_tokens": 8}
    assert run(make_engine(lively_model, **options), requests) == alone


def test_a_page_without_memory_waits_for_those_that_sit(
    lively_model: JanusModel, run: Run, draw: Draw, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = [chat(), draw()]
    alone = [run(make_engine(lively_model), [request])[0] for request in requests]
    engine = make_engine(lively_model)
    make, waits = Engine._page, []

    def page_of(engine: Engine, page_id: int) -> Page:
        others = [page for page in engine._pages.values() if isinstance(page, TextPage)]
        if engine._scheduler.page_shape(page_id)[0] == "image" and any(p.seated for p in others):
            waits.append(page_id)
            raise torch.OutOfMemoryError("no memory")
        return make(engine, page_id)

    monkeypatch.setattr(Engine, "_page", page_of)
    assert run(engine, requests) == alone
    assert len(waits) > 1


def test_a_page_that_is_too_large_by_itself_fails(
    lively_model: JanusModel, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(module, "ImagePage", no_memory)
    engine = make_engine(lively_model)
    engine.add(draw())
    (event,) = engine.step()
    assert isinstance(event, FailedEvent) and str(event.error) == "no memory"
    assert not engine.has_work


def test_little_memory_makes_requests_wait_and_refuses_none(
    lively_model: JanusModel, run: Run, draw: Draw, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = [chat(), draw(), chat(input_ids=tuple(range(2, 90)))]
    alone = [run(make_engine(lively_model), [request])[0] for request in requests]
    monkeypatch.setattr(module, "free_bytes", lambda _: 1000)
    engine = make_engine(lively_model)
    places = {engine.add(request): index for index, request in enumerate(requests)}
    ends: dict[int, tuple[int, ...]] = {}
    while engine.has_work:
        for event in engine.step():
            assert not isinstance(event, FailedEvent), event.error
            if isinstance(event, FinishedEvent):
                ends[places[event.request_id]] = event.ids
        assert len(engine._pages) <= 1
    assert [ends[index] for index in range(3)] == alone


def test_a_page_costs_what_it_holds(
    lively_model: JanusModel, semantic_model: JanusModel, one_vocabulary_model: JanusModel
) -> None:
    for model in (lively_model, semantic_model, one_vocabulary_model):
        image = ImagePage(model, 64, 16, 8)
        held = [image.cache.keys, image.cache.values, image._sampler._noise]
        if image._gen_cache is not None:
            held += [image._gen_cache.keys, image._gen_cache.values]
        told = memory.page_bytes(model, "image", 64, num_rows=16, look_ahead=8)
        assert told == sum(one.nbytes for one in held)
        text = TextPage(model, 96, 16)
        held = [text.cache.keys, text.cache.values, text._sampler._noise]
        told = memory.page_bytes(model, "text", 96, num_rows=16, look_ahead=8)
        assert told == sum(one.nbytes for one in held)


def test_free_memory_is_that_of_the_machine_or_its_group(
    tmp_path: memory.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   50 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.free_bytes(cpu) == 50 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("7000\n")
    assert memory.free_bytes(cpu) == 50 * 1024
    (tmp_path / "memory.max").write_text("9000\n")
    assert memory.free_bytes(cpu) == 2000
    assert memory.free_bytes(torch.device("meta")) is None
