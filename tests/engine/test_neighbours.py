"""Whatever sits beside a request, and whenever it came: its ids are those that it has alone."""

from __future__ import annotations

import random

import pytest
from harness import Chat, Draw, Run, make_engine

from openjanus.engine.engine import Engine
from openjanus.engine.image_page import ImagePage
from openjanus.engine.page import Plan
from openjanus.engine.request import FinishedEvent, Request
from openjanus.model.attention import Run as Places
from openjanus.model.janus import JanusModel


def any_request(rng: random.Random, draw: Draw, chat: Chat) -> Request:
    """Mostly drawings, whose rows come to be as long as their neighbours'."""
    if rng.random() < 0.1:
        return chat(max_new_tokens=rng.choice([1, 5]), seed=rng.randrange(3))
    first, length = rng.choice([10, 60]), rng.randrange(10, 17)
    changes: dict[str, object] = {"prompt": tuple(range(first, first + length))}
    if rng.random() < 0.2:
        changes["uncond_ids"] = tuple(range(100, 100 + rng.randrange(4, 20)))
    changes["prefix_ids"] = tuple(rng.randrange(8) for _ in range(rng.choice([0, 0, 0, 0, 3])))
    changes["temperature"] = rng.choice([0.0, 0.5, 1.0])
    changes["guidance_scale"] = rng.choice([1.0, 2.0, 5.0, 5.0])
    return draw(seed=rng.randrange(100), **changes)


def run_with_arrivals(
    engine: Engine, requests: list[Request], rng: random.Random
) -> list[tuple[int, ...]]:
    """Every request's ids, where each comes at a step of its own, and others come and go."""
    waiting = list(enumerate(requests))
    places: dict[int, int] = {}
    found: dict[int, tuple[int, ...]] = {}
    while waiting or engine.has_work:
        while waiting and rng.random() < 0.7:
            place, request = waiting.pop(0)
            places[engine.add(request)] = place
        others = [engine.add(rng.choice(requests))] if rng.random() < 0.2 else []
        for event in engine.step():
            if isinstance(event, FinishedEvent) and event.request_id in places:
                found[places[event.request_id]] = event.ids
        for other in others:
            engine.cancel(other)
    return [found[place] for place in range(len(requests))]


def test_two_drawings_whose_rows_come_to_be_as_long(
    lively_model: JanusModel, run: Run, draw: Draw
) -> None:
    for seed in (1, 2):
        pair: list[Request] = [draw(seed=seed)]
        pair.append(draw(seed=seed + 1000, prompt=tuple(range(10, 25))))
        alone = [run(make_engine(lively_model), [one])[0] for one in pair]
        assert run(make_engine(lively_model), pair) == alone, f"seed {seed}"


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[Places]]:
    """The runs of every step of drawings."""
    plan, seen = ImagePage.plan, []

    def watched(page: ImagePage, *, runs_idle: bool) -> Plan:
        found = plan(page, runs_idle=runs_idle)
        seen.append(found.runs)
        return found

    monkeypatch.setattr(ImagePage, "plan", watched)
    return seen


@pytest.mark.parametrize("name", ["lively_model", "semantic_model", "one_vocabulary_model"])
def test_ids_are_those_alone_in_random_batches(
    name: str,
    request: pytest.FixtureRequest,
    run: Run,
    draw: Draw,
    chat: Chat,
    batches: list[list[Places]],
) -> None:
    model = request.getfixturevalue(name)
    for seed in range(4, 9):
        rng = random.Random(seed)
        requests = [any_request(rng, draw, chat) for _ in range(rng.randrange(2, 6))]
        together = run_with_arrivals(make_engine(model), requests, rng)
        alone = [run(make_engine(model), [one])[0] for one in requests]
        assert together == alone, f"seed {seed}"
        for runs in batches:  # a run sees what those before it have written
            assert all(lengths == sorted(lengths) for lengths in lengths_by_row(runs).values())


def lengths_by_row(runs: list[Places]) -> dict[int, list[int]]:
    """Tokens that each row of the cache holds before each of its runs, in their order."""
    found: dict[int, list[int]] = {}
    for run in runs:
        for row in range(run.rows.start, run.rows.stop, run.rows.step or 1):
            found.setdefault(row, []).append(run.length)
    return found
