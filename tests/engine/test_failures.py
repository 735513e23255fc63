"""An error ends whose work it stopped, and nobody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import Chat, Draw, Run, make_engine
from torch import Tensor

from openjanus.engine.engine import Engine
from openjanus.engine.image_page import ImagePage
from openjanus.engine.page import TextPage
from openjanus.engine.request import (
    Event,
    FailedEvent,
    FinishedEvent,
    ImageIdEvent,
    Request,
    TokenEvent,
)
from openjanus.model.janus import JanusModel
from openjanus.pipeline.driver import EngineDriver


def failing(error: BaseException) -> Callable[..., Tensor]:
    def fail(*_: object, **__: object) -> Tensor:
        raise error

    return fail


def rest_of(engine: Engine, events: list[Event]) -> dict[int, tuple[int, ...]]:
    """Run to the end; what every request that finished was told id by id, which must be its ids."""
    while engine.has_work:
        events += engine.step()
    told: dict[int, list[int]] = {}
    for event in events:
        if isinstance(event, TokenEvent):
            told.setdefault(event.request_id, []).append(event.token_id)
        elif isinstance(event, ImageIdEvent):
            told.setdefault(event.request_id, []).append(event.image_id)
    ends = {event.request_id: event.ids for event in events if isinstance(event, FinishedEvent)}
    assert all(tuple(told[request_id]) == ids for request_id, ids in ends.items())
    assert engine.num_running == engine.num_waiting == 0
    return ends


@pytest.mark.parametrize(("page", "method"), [(TextPage, "_logits"), (ImagePage, "_guided")])
def test_a_step_that_fails_ends_those_of_its_page(
    lively_model: JanusModel,
    run: Run,
    draw: Draw,
    chat: Chat,
    monkeypatch: pytest.MonkeyPatch,
    page: type,
    method: str,
) -> None:
    requests: list[Request] = [draw(), chat(max_new_tokens=30), draw(seed=3)]
    alone = [run(make_engine(lively_model, look_ahead=1), [request])[0] for request in requests]
    engine = make_engine(lively_model, look_ahead=1)
    ids = [engine.add(request) for request in requests]
    events = [*engine.step(), *engine.step()]
    with monkeypatch.context() as patch:
        patch.setattr(page, method, failing(RuntimeError("out of memory")))
        events += engine.step()
    doomed = [ids[1]] if page is TextPage else [ids[0], ids[2]]
    failed = [event for event in events if isinstance(event, FailedEvent)]
    assert [event.request_id for event in failed] == doomed
    assert all(str(event.error) == "out of memory" for event in failed)
    expected = {one: result for one, result in zip(ids, alone, strict=True) if one not in doomed}
    assert rest_of(engine, events) == expected
    assert run(engine, requests) == alone


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyboardInterrupt(), "interrupted on its way: ask again"),
        (TypeError("a defect"), "a defect"),
    ],
)
@pytest.mark.parametrize("decoding", [False, True])
def test_an_interrupt_is_raised_and_the_others_go_on(
    lively_model: JanusModel,
    run: Run,
    draw: Draw,
    chat: Chat,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    told: str,
    decoding: bool,
) -> None:
    requests: list[Request] = [draw(), chat(), chat(seed=9)]
    alone = [run(make_engine(lively_model, look_ahead=1), [request])[0] for request in requests]
    engine = make_engine(lively_model, look_ahead=1)
    fine = engine.add(requests[0])
    events = engine.step()
    doomed = engine.add(requests[1])
    if decoding:
        events += engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(JanusModel, "text_logits", failing(error))
        with pytest.raises(type(error)):
            engine.step()
    assert doomed in engine and engine.has_work
    late = engine.add(requests[2])
    events += engine.step()
    failed = [event for event in events if isinstance(event, FailedEvent)]
    assert [(event.request_id, str(event.error)) for event in failed] == [(doomed, told)]
    assert rest_of(engine, events) == {fine: alone[0], late: alone[2]}


def test_whoever_drives_hears_nothing_of_what_another_has_cancelled(
    lively_model: JanusModel, run: Run, draw: Draw, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = run(make_engine(lively_model, look_ahead=1), [draw()])
    driver = EngineDriver(make_engine(lively_model, look_ahead=1))
    drawing, answer = driver.run([draw()]), driver.run([chat()])
    next(answer)
    events = [next(drawing)]
    with monkeypatch.context() as patch:
        patch.setattr(TextPage, "_logits", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            list(answer)
    events += drawing
    assert events[-1] == (0, FinishedEvent(events[0][1].request_id, expected, "complete"))
    assert not driver.engine.has_work
