"""Guidance that changes within a drawing, and drawings whose first ids are given."""

from __future__ import annotations

import pytest
from harness import MODELS, Draw, Naive, Run, make_engine

from openjanus.engine.request import FinishedEvent, ImageIdEvent
from openjanus.model.janus import JanusModel

ROWS = (1.0, 5.0, 0.0, 2.5)


@pytest.mark.parametrize("name", MODELS)
def test_a_schedule_and_given_ids_equal_the_naive_loop(
    name: str, request: pytest.FixtureRequest, run: Run, draw: Draw, naive_draw: Naive
) -> None:
    model: JanusModel = request.getfixturevalue(name)
    kept = (3, 1, 4, 1, 5, 9)
    requests = [
        draw(guidance_scale=ROWS),
        draw(guidance_scale=tuple(1 + place / 4 for place in range(16))),
        draw(prefix_ids=kept),
        draw(prefix_ids=kept, guidance_scale=ROWS, seed=2),
        draw(prefix_ids=kept * 2 + (7, 7, 7), guidance_scale=1.0),  # one is left to draw
    ]
    expected = [naive_draw(model, one) for one in requests]
    assert len(set(expected)) == len(expected)
    assert run(make_engine(model), list(requests)) == expected
    assert [run(make_engine(model), [one])[0] for one in requests] == expected
    assert run(make_engine(model, look_ahead=1), list(requests)) == expected


def test_one_number_for_all_is_that_number(lively_model: JanusModel, run: Run, draw: Draw) -> None:
    same = [draw(guidance_scale=3.0), draw(guidance_scale=(3.0,) * 4)]
    same.append(draw(guidance_scale=(3.0,) * 16))
    assert len(set(run(make_engine(lively_model), list(same)))) == 1


def test_the_rest_is_drawn_by_the_noise_of_its_own_positions(
    lively_model: JanusModel, run: Run, draw: Draw
) -> None:
    (whole,) = run(make_engine(lively_model), [draw()])
    for count in (1, 7, 15):
        assert run(make_engine(lively_model), [draw(prefix_ids=whole[:count])]) == [whole]


def test_given_ids_are_told_as_drawn_ones(lively_model: JanusModel, draw: Draw) -> None:
    engine = make_engine(lively_model)
    engine.add(draw(prefix_ids=(3, 1, 4)))
    events = []
    while engine.has_work:
        events += engine.step()
    ids = [event for event in events if isinstance(event, ImageIdEvent)]
    assert [event.position for event in ids] == list(range(16))
    assert [event.image_id for event in ids[:3]] == [3, 1, 4]
    assert isinstance(events[-1], FinishedEvent)
    assert events[-1].ids == tuple(event.image_id for event in ids)


def test_a_code_is_not_the_word_of_its_number(
    lively_model: JanusModel, run: Run, draw: Draw
) -> None:
    engine = make_engine(lively_model)  # of one engine: prefills are kept by ids
    assert run(engine, [draw(prompt=(10, 5, 7, 21, 3), guidance_scale=1.0)]) != run(
        engine, [draw(prompt=(10, 5, 7, 21), prefix_ids=(3,), guidance_scale=1.0)]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix_ids": (1,) * 16}, "prefix_ids must be fewer than the 16 of a picture, got 16"),
        ({"prefix_ids": (-1,)}, r"prefix_ids must be in \[0, .*got -1 to -1"),
        ({"prefix_ids": (10**6,)}, r"prefix_ids must be in \[0, "),
        ({"guidance_scale": (1.0, 2.0)}, "schedule has 16 numbers, one an id, or 4, .*got 2"),
    ],
)
def test_what_does_not_suit_the_model_is_refused(
    lively_model: JanusModel, draw: Draw, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_engine(lively_model).add(draw(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance_scale": ()}, "guidance_scale is empty"),
        ({"guidance_scale": (1.0, float("nan"))}, "guidance_scale must be finite"),
        ({"guidance_scale": (1.0, 2.0), "uncond_ids": None}, "needs uncond_ids"),
    ],
)
def test_a_wrong_schedule_is_refused(draw: Draw, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**changes)
