"""Several engines as one: ids of their own together, and turns that are fair."""

from __future__ import annotations

import pytest

from openjanus.engine.engine import Engine
from openjanus.engine.options import EngineOptions
from openjanus.engine.request import ChatRequest, FinishedEvent
from openjanus.engine.turns import Turns

LONG = ChatRequest(input_ids=(1, 2, 3), max_new_tokens=12)


@pytest.fixture
def engines(tiny_model, tokenizer):
    pad = tokenizer.image_pad_id
    return {name: Engine(tiny_model, image_pad_id=pad) for name in ("a", "b", "c")}


def test_everybody_gets_his_own_and_a_step_in_turn(engines, monkeypatch):
    turns, order = Turns(engines), []
    for name, engine in engines.items():
        step = engine.step
        monkeypatch.setattr(engine, "step", lambda n=name, s=step: (order.append(n), s())[1])
    assert not turns.has_work and turns.step() == []
    # Much for one name, little for another, nothing for the third.
    ids = {turns.add("a", LONG): "a" for _ in range(20)} | {turns.add("c", LONG): "c"}
    assert len(ids) == 21 and turns.num_waiting + turns.num_running == 21
    done = {}
    while turns.has_work:
        for event in turns.step():
            if isinstance(event, FinishedEvent):
                done[event.request_id] = event.ids
    assert set(done) == set(ids) and len(set(done.values())) == 1
    first = order.index("c")
    assert first <= 1 and order[first : first + 6] in (list("cacaca"), list("cacaca"))
    assert "b" not in order


def test_a_request_is_dropped_by_its_id_among_all(engines):
    turns = Turns(engines)
    kept, dropped = turns.add("a", LONG), turns.add("b", LONG)
    turns.step()
    assert turns.cancel(dropped) and not turns.cancel(dropped)
    assert turns.num_running + turns.num_waiting == 1
    seen = set()
    while turns.has_work:
        seen |= {event.request_id for event in turns.step()}
    assert seen == {kept}


def test_a_step_that_fails_does_not_keep_the_others_waiting(engines, monkeypatch):
    turns = Turns(engines)

    def fail():
        raise RuntimeError("no")

    monkeypatch.setattr(engines["a"], "step", fail)
    turns.add("a", LONG)
    other = turns.add("b", LONG)
    with pytest.raises(RuntimeError, match="no"):
        turns.step()
    assert {event.request_id for event in turns.step()} <= {other}
    assert engines["b"].num_running == 1


def test_what_several_have_is_what_one_had():
    options = EngineOptions(max_pages=16, max_cache_bytes=1000, kept_prompt_tokens=900)
    assert options.shared_by(1) == options
    third = options.shared_by(3)
    assert (third.max_pages, third.max_cache_bytes, third.kept_prompt_tokens) == (5, 333, 300)
    assert options.shared_by(8).max_pages == 4  # of several lengths, for words and for pictures
    assert EngineOptions(max_pages=2).shared_by(3).max_pages == 2
    assert EngineOptions().shared_by(3).max_cache_bytes is None
