"""Ids with look-ahead are those of one id at a time in steps of as many rows, to the bit."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from harness import IMAGE_PAD, Chat, Draw
from harness import Run as Go
from torch import Tensor

from openjanus.engine.engine import Engine, EngineOptions
from openjanus.engine.look_ahead import Draft
from openjanus.engine.request import (
    Event,
    FinishedEvent,
    ImageIdEvent,
    Request,
)
from openjanus.model.attention import KVCache, Run, runs_of
from openjanus.model.janus import JanusModel


def ahead(model: JanusModel, width: int = 8) -> Engine:
    """With so many ids a step at most."""
    options = EngineOptions(rows_per_page=2 * width, look_ahead=width)
    return Engine(model, image_pad_id=IMAGE_PAD, options=options)


def one_by_one(model: JanusModel, width: int = 8) -> Engine:
    """One id a step, of as many rows."""
    options = EngineOptions(rows_per_page=2 * width, look_ahead=1)
    return Engine(model, image_pad_id=IMAGE_PAD, options=options)


def hash_of(results: list[tuple[int, ...]]) -> str:
    return hashlib.sha256(repr(results).encode()).hexdigest()


def all_kinds(draw: Draw) -> list[Request]:
    """Prompts, seeds, temperatures, guidance, filters."""
    return [
        draw(),
        draw(image_index=1, guidance_scale=1.0),
        draw(prompt=tuple(range(50, 53)), seed=3, temperature=0.4),
        draw(prompt=tuple(range(10, 60)), guidance_scale=2.5, top_k=3),
        draw(temperature=0.0),
        draw(top_k=5, seed=2**64 - 1),
        draw(top_p=0.5, temperature=1.3, guidance_scale=1.0),
        draw(uncond_ids=(10, 99, 98, 21), seed=4),
    ]


@pytest.fixture(scope="module")
def expected(lively_model: JanusModel, run: Go, draw: Draw) -> list[tuple[int, ...]]:
    """What is drawn one id at a time, each alone."""
    return [run(one_by_one(lively_model), [request])[0] for request in all_kinds(draw)]


def test_the_drawings_differ(expected: list[tuple[int, ...]]) -> None:
    assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_ids_are_equal_in_batches_of_any_size(
    lively_model: JanusModel, run: Go, draw: Draw, expected: list[tuple[int, ...]], size: int
) -> None:
    requests = all_kinds(draw)
    found: list[tuple[int, ...]] = []
    for first in range(0, len(requests), size):
        found += run(ahead(lively_model), requests[first : first + size])
    assert hash_of(found) == hash_of(expected)


def test_ids_are_equal_in_another_order(
    lively_model: JanusModel, run: Go, draw: Draw, expected: list[tuple[int, ...]]
) -> None:
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    requests = all_kinds(draw)
    found = run(ahead(lively_model), [requests[index] for index in order])
    assert hash_of(found) == hash_of([expected[index] for index in order])


def test_ids_are_equal_where_arrivals_are_staggered_and_neighbours_leave(
    lively_model: JanusModel, draw: Draw, chat: Chat, expected: list[tuple[int, ...]]
) -> None:
    engine, found, places = ahead(lively_model), {}, {}
    for index, request in enumerate(all_kinds(draw)):
        gone = engine.add(draw(seed=100 + index))
        places[engine.add(request)] = index
        engine.add(chat(max_new_tokens=3))
        for _ in range(1 + index % 2):
            found |= finished(engine.step())
        engine.cancel(gone)
    while engine.has_work:
        found |= finished(engine.step())
    drawn = {places[request_id]: ids for request_id, ids in found.items() if request_id in places}
    assert hash_of([drawn[index] for index in range(len(places))]) == hash_of(expected)


def finished(events: list[Event]) -> dict[int, tuple[int, ...]]:
    return {event.request_id: event.ids for event in events if isinstance(event, FinishedEvent)}


@pytest.mark.parametrize("width", [2, 3, 16, 32])
def test_ids_are_equal_at_any_width(
    lively_model: JanusModel, run: Go, draw: Draw, width: int
) -> None:
    requests = all_kinds(draw)[:4]
    alone = [run(one_by_one(lively_model, width), [request])[0] for request in requests]
    assert [run(ahead(lively_model, width), [request])[0] for request in requests] == alone
    assert run(ahead(lively_model, width), requests) == alone


def test_more_rows_than_the_page_has_are_those_of_a_larger_page(
    lively_model: JanusModel, run: Go, draw: Draw
) -> None:
    requests = all_kinds(draw)
    options = EngineOptions(rows_per_page=4, look_ahead=8)
    small = Engine(lively_model, image_pad_id=IMAGE_PAD, options=options)
    assert run(small, requests) == run(one_by_one(lively_model), requests)


@pytest.mark.parametrize("name", ["semantic_model", "one_vocabulary_model"])
def test_ids_are_equal_behind_any_entrance(
    name: str, request: pytest.FixtureRequest, run: Go, draw: Draw
) -> None:
    model = request.getfixturevalue(name)
    requests = all_kinds(draw)
    alone = run(one_by_one(model), requests)
    assert len(set(alone)) == len(alone)
    assert [run(ahead(model), [one])[0] for one in requests] == alone
    assert run(ahead(model), requests[:3]) == alone[:3]


def test_ids_are_equal_in_16_bits(lively_model: JanusModel, run: Go, draw: Draw) -> None:
    narrow = copy.deepcopy(lively_model).bfloat16()
    requests = all_kinds(draw)
    alone = run(one_by_one(narrow), requests)
    assert run(ahead(narrow), requests[:3]) == alone[:3]
    assert [run(ahead(narrow), [one])[0] for one in requests] == alone


def test_events_come_in_raster_order(lively_model: JanusModel, draw: Draw) -> None:
    engine = ahead(lively_model)
    request_id = engine.add(draw(temperature=0.1))
    steps: list[list[Event]] = []
    while engine.has_work:
        steps.append(engine.step())
    *ids, last = [event for events in steps for event in events]
    positions = [event.position for event in ids if isinstance(event, ImageIdEvent)]
    num_ids = lively_model.config.num_gen_image_tokens
    assert positions == list(range(num_ids))
    assert last == FinishedEvent(
        request_id, tuple(e.image_id for e in ids if isinstance(e, ImageIdEvent)), "complete"
    )
    assert len(steps) < num_ids - 1  # some guess was right


def test_a_wrong_guess_that_were_taken_would_show(
    lively_model: JanusModel,
    run: Go,
    draw: Draw,
    expected: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Draft.take

    def credulous(self: Draft, samples: list[int]) -> list[int]:
        self._guesses[: len(samples) - 1] = samples[:-1]  # as if each had been guessed
        return original(self, samples)

    monkeypatch.setattr(Draft, "take", credulous)
    assert run(ahead(lively_model), all_kinds(draw)[:1]) != expected[:1]


def test_no_guess_needs_be_right(
    lively_model: JanusModel,
    run: Go,
    draw: Draw,
    expected: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes = lively_model.config.codebook_size
    original = Draft.window

    def misled(self: Draft, width: int) -> list[int]:
        first, *guesses = original(self, width)
        self._guesses[: len(guesses)] = [(guess + 1) % codes for guess in guesses]
        return [first, *self._guesses[: len(guesses)]]

    monkeypatch.setattr(Draft, "window", misled)
    assert run(ahead(lively_model), all_kinds(draw)[:2]) == expected[:2]


def test_a_draft_takes_what_was_guessed_and_one_more() -> None:
    draft = Draft(16, 4, [7])
    assert draft.window(4) == [7, 7, 7, 7]
    assert draft.take([7, 7, 9, 8]) == [7, 7, 9]  # 9 corrects the third guess
    assert draft.window(4) == [9, 8, 7, 7]  # 8 is the last iterate; then those above
    assert draft.take([1, 2, 3, 4]) == [1]
    assert draft.window(2) == [1, 2]
    assert draft.take([2, 5]) == [2, 5]
    assert draft.window(16) == [5, 4, 1, 2, 5, 4, 1, 2, 5]  # never more than can be sampled after


def test_the_last_id_is_not_fed_in() -> None:
    draft = Draft(4, 2, [1, 2, 3])
    assert draft.window(8) == [3]
    assert draft.take([5]) == [5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_window_attends_as_one_token_after_another(
    lively_model: JanusModel, dtype: torch.dtype
) -> None:
    model = copy.deepcopy(lively_model.language_model.model).to(dtype)
    config = lively_model.config.language
    embeds = torch.randn(6, 1, config.hidden_size, generator=torch.Generator().manual_seed(0))
    embeds = embeds.to(dtype)

    def cache() -> KVCache:
        return KVCache.allocate(config, 3, 16, device="cpu", dtype=dtype)

    def go(runs: list[Run], positions: list[int], batch: Tensor, into: KVCache) -> Tensor:
        with torch.no_grad():
            return model(batch, positions=torch.tensor(positions)[:, None], cache=into, runs=runs)

    after, window = cache(), cache()
    expected = []
    for place in range(4):
        batch = embeds.roll(-place, 0)  # six rows always: one of them is in use
        expected.append(go([Run(slice(0, 1), slice(1, 2), place)], [place] * 6, batch, after)[0])
    runs = runs_of([0, 1, 2, 3, None, None], [1, 1, 1, 1, 0, 0])
    assert runs == [Run(slice(place, place + 1), slice(1, 2), place) for place in range(4)]
    found = go(runs, [0, 1, 2, 3, 0, 0], embeds, window)[:4]
    assert torch.equal(found, torch.stack(expected))
    assert torch.equal(window.keys, after.keys) and torch.equal(window.values, after.values)
