from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from harness import IMAGE_PAD, Chat, Draw, Naive, Run, make_engine
from torch import Tensor

from openjanus.engine.engine import EngineOptions
from openjanus.engine.request import (
    ChatRequest,
    FailedEvent,
    FinishedEvent,
    ImageIdEvent,
    Request,
    TokenEvent,
)
from openjanus.model.janus import JanusModel


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drawing_equals_the_naive_loop(
    lively_model: JanusModel,
    run: Run,
    draw: Draw,
    scale: float,
    temperature: float,
    naive_draw: Naive,
) -> None:
    request = draw(guidance_scale=scale, temperature=temperature, image_index=2)
    assert run(make_engine(lively_model), [request]) == [naive_draw(lively_model, request)]


def test_a_negative_prompt_of_another_length_equals_the_naive_loop(
    lively_model: JanusModel, run: Run, draw: Draw, naive_draw: Naive
) -> None:
    request = draw(uncond_ids=(10, 99, 98, 21))
    assert run(make_engine(lively_model), [request]) == [naive_draw(lively_model, request)]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_chatting_equals_the_naive_loop(
    lively_model: JanusModel,
    run: Run,
    chat: Chat,
    pictures: Tensor,
    picture_prompt: tuple[int, ...],
    temperature: float,
    naive_chat: Naive,
) -> None:
    requests: list[Request] = [
        chat(temperature=temperature),
        chat(input_ids=picture_prompt, images=pictures, temperature=temperature),
    ]
    expected = [naive_chat(lively_model, r) for r in requests if isinstance(r, ChatRequest)]
    assert run(make_engine(lively_model), requests) == expected


def mixed_requests(draw: Draw, chat: Chat, pictures: Tensor, prompt: tuple) -> list[Request]:
    """All kinds at once: lengths, scales, temperatures, filters, pictures."""
    return [
        draw(),
        draw(image_index=1),
        draw(prompt=tuple(range(50, 53)), guidance_scale=1.0),
        draw(prompt=tuple(range(10, 80)), seed=3),
        draw(temperature=0.0),
        draw(top_k=5, seed=2**64 - 1),
        draw(top_p=0.5, temperature=1.3),
        chat(),
        chat(input_ids=prompt, images=pictures, max_new_tokens=9),
        chat(input_ids=tuple(range(2, 120)), top_p=0.9),
        chat(temperature=0.0, max_new_tokens=1),
    ]


def test_neighbours_slots_and_order_change_no_bit(
    lively_model: JanusModel,
    run: Run,
    draw: Draw,
    chat: Chat,
    pictures: Tensor,
    picture_prompt: tuple[int, ...],
) -> None:
    requests = mixed_requests(draw, chat, pictures, picture_prompt)
    alone = [run(make_engine(lively_model), [request])[0] for request in requests]
    assert run(make_engine(lively_model), requests) == alone
    assert run(make_engine(lively_model), requests[::-1]) == alone[::-1]
    assert run(make_engine(lively_model, max_pages=1), requests * 2) == alone * 2


def test_neighbours_change_no_bit_with_two_threads(
    lively_model: JanusModel, run: Run, draw: Draw, chat: Chat
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        requests = [draw(), draw(seed=3), chat(max_new_tokens=5)]
        alone = [run(make_engine(lively_model), [request])[0] for request in requests]
        assert run(make_engine(lively_model), requests) == alone
    finally:
        torch.set_num_threads(before)


def step_logits(model: JanusModel, monkeypatch: pytest.MonkeyPatch, go: Callable) -> list[Tensor]:
    """Everything that gen_head said in a run."""
    seen: list[Tensor] = []
    original = JanusModel.image_logits

    def spy(self: JanusModel, hidden_states: Tensor) -> Tensor:
        logits = original(self, hidden_states)
        seen.append(logits.clone())
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(JanusModel, "image_logits", spy)
        go()
    return seen


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many of a step's, whatever the process was given."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_even_the_logits_are_bit_equal_at_any_slot(
    lively_model: JanusModel, run: Run, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = step_logits(
        lively_model,
        monkeypatch,
        lambda: run(make_engine(lively_model, look_ahead=1), [draw(seed=1)]),
    )
    crowd: list[Request] = [draw(seed=40 + i, prompt=tuple(range(i, i + 12))) for i in range(5)]
    together = step_logits(
        lively_model,
        monkeypatch,
        lambda: run(make_engine(lively_model, look_ahead=1), [*crowd, draw(seed=1)]),
    )
    alone, together = alone[2:], together[12:]  # after the prefills
    for one, many in zip(alone, together, strict=True):
        assert torch.equal(one[0], many[5])  # the conditional row
        assert torch.equal(one[8], many[13])  # the unconditional one


def test_fork_equals_separate_prefills(lively_model: JanusModel, run: Run, draw: Draw) -> None:
    requests: list[Request] = [draw(image_index=index) for index in range(4)]
    forked = run(make_engine(lively_model), requests)
    assert run(make_engine(lively_model, prefix_cache_size=0), requests) == forked
    assert len(set(forked)) == 4


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[int, ...]]:
    """Shapes of what a method of the model is given."""
    calls: list[tuple[int, ...]] = []
    original = getattr(JanusModel, name)

    def spy(self: JanusModel, values: Tensor) -> Tensor:
        calls.append(tuple(values.shape))
        return original(self, values)

    monkeypatch.setattr(JanusModel, name, spy)
    return calls


def test_prefills_are_shared(
    lively_model: JanusModel, run: Run, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = count_calls(monkeypatch, "embed_text")
    engine = make_engine(lively_model)
    run(engine, [draw(image_index=index) for index in range(5)])
    assert embedded == [(1, 12), (1, 12)]  # the prompt, and the unconditional one
    run(engine, [draw(prompt=(10, *range(60, 70), 21))])
    assert len(embedded) == 3  # of the same length, so only the prompt is new


def test_no_guidance_prefills_one_prompt(
    lively_model: JanusModel, run: Run, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = count_calls(monkeypatch, "embed_text")
    run(make_engine(lively_model), [draw(guidance_scale=1.0, uncond_ids=None)])
    assert embedded == [(1, 12)]


def test_each_mode_runs_its_own_head(
    lively_model: JanusModel, run: Run, draw: Draw, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = count_calls(monkeypatch, "text_logits")
    ids = count_calls(monkeypatch, "image_logits")
    run(make_engine(lively_model, look_ahead=1), [draw()])
    assert words == []
    num_ids = lively_model.config.num_gen_image_tokens
    assert len(ids) == 2 + num_ids - 1  # the last id is not fed back
    ids.clear()
    run(make_engine(lively_model), [chat()])
    assert ids == []
    assert len(words) == 12


def test_exactly_n_ids_in_order(lively_model: JanusModel, draw: Draw) -> None:
    engine = make_engine(lively_model)
    request_id = engine.add(draw())
    events = []
    while engine.has_work:
        events += engine.step()
    *ids, last = events
    num_ids = lively_model.config.num_gen_image_tokens
    assert [e.position for e in ids if isinstance(e, ImageIdEvent)] == list(range(num_ids))
    assert last == FinishedEvent(request_id, tuple(e.image_id for e in ids), "complete")
    assert engine.step() == []


def test_a_stop_id_ends_a_reply(lively_model: JanusModel, run: Run, chat: Chat) -> None:
    (ids,) = run(make_engine(lively_model), [chat()])
    engine = make_engine(lively_model)
    request_id = engine.add(chat(stop_ids=(ids[3],)))
    events = []
    while engine.has_work:
        events += engine.step()
    cut = ids.index(ids[3]) + 1
    assert events[:-1] == [TokenEvent(request_id, token) for token in ids[:cut]]
    assert events[-1] == FinishedEvent(request_id, ids[:cut], "stop")


def test_a_reply_is_cut_to_the_context(lively_model: JanusModel, chat: Chat) -> None:
    engine = make_engine(lively_model)
    context = lively_model.config.language.max_position_embeddings
    request_id = engine.add(chat(input_ids=(1,) * (context - 3), max_new_tokens=50))
    events = []
    while engine.has_work:
        events += engine.step()
    assert isinstance(events[-1], FinishedEvent)
    assert (events[-1].request_id, len(events[-1].ids)) == (request_id, 3)
    assert events[-1].finish_reason == "length"


def test_cancel_frees_the_slot_and_leaves_the_others_alone(
    lively_model: JanusModel, run: Run, draw: Draw
) -> None:
    (expected,) = run(make_engine(lively_model), [draw(seed=8)])
    engine = make_engine(lively_model, rows_per_page=16, max_pages=1)
    ids = [engine.add(draw(seed=seed)) for seed in (7, 8)]
    waiting = [engine.add(draw(seed=seed)) for seed in range(20, 30)]
    for _ in range(3):
        engine.step()
    assert engine.num_running == 8
    assert engine.cancel(ids[0])
    assert not engine.cancel(ids[0])
    for request_id in waiting:  # some run, some wait
        assert engine.cancel(request_id)
    assert (engine.num_running, engine.num_waiting) == (1, 0)
    events = []
    while engine.has_work:
        events += engine.step()
    assert {event.request_id for event in events} == {ids[1]}
    assert events[-1].ids == expected


def test_a_request_that_cannot_start_takes_nobody_down(
    lively_model: JanusModel,
    run: Run,
    draw: Draw,
    chat: Chat,
    pictures: Tensor,
    picture_prompt: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (expected,) = run(make_engine(lively_model), [draw()])

    def out_of_memory(*_: object) -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(JanusModel, "embed_und", out_of_memory)
    engine = make_engine(lively_model)
    doomed = engine.add(chat(input_ids=picture_prompt, images=pictures))
    fine = engine.add(draw())
    events = []
    while engine.has_work:
        events += engine.step()
    failed = [event for event in events if isinstance(event, FailedEvent)]
    assert [(event.request_id, str(event.error)) for event in failed] == [(doomed, "out of memory")]
    assert events[-1] == FinishedEvent(fine, expected, "complete")


def test_prefill_budget_spreads_prompts_over_steps(lively_model: JanusModel, chat: Chat) -> None:
    engine = make_engine(lively_model, max_prefill_tokens=30)
    ids = [engine.add(chat()) for _ in range(4)]  # of 20 tokens
    assert {event.request_id for event in engine.step()} == set(ids[:2])
    assert engine.is_opening
    assert {event.request_id for event in engine.step()} == set(ids)
    assert not engine.is_opening


def test_tensors_of_the_caller_are_left_alone(
    lively_model: JanusModel,
    run: Run,
    chat: Chat,
    pictures: Tensor,
    picture_prompt: tuple[int, ...],
) -> None:
    before, weights = pictures.clone(), lively_model.und_encoder.state_dict()
    copies = {name: value.clone() for name, value in weights.items()}
    run(make_engine(lively_model), [chat(input_ids=picture_prompt, images=pictures)])
    assert torch.equal(pictures, before)
    assert all(torch.equal(value, copies[name]) for name, value in weights.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_ids": ()}, "prompt_ids are empty"),
        ({"uncond_ids": None}, "guidance_scale 5.0 needs uncond_ids"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be finite and within .*got nan"),
        ({"guidance_scale": 1e39}, "guidance_scale must be finite and within"),
        ({"temperature": -0.1}, "temperature must be finite and >= 0"),
        ({"temperature": float("inf")}, "temperature must be finite and >= 0"),
        ({"top_k": 0}, "top_k must be an integer >= 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"seed": -1}, "seed must be an integer"),
        ({"seed": 2**64}, "seed must be an integer"),
        ({"image_index": 2**32}, "image_index must be an integer"),
    ],
)
def test_a_wrong_drawing_is_refused(draw: Draw, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": ()}, "input_ids are empty"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer >= 1, got 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be an integer >= 1, got 2.5"),
        ({"temperature": float("nan")}, "temperature must be finite"),
    ],
)
def test_a_wrong_chat_is_refused(chat: Chat, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chat(**changes)


def test_add_refuses_what_the_model_cannot_do(
    lively_model: JanusModel,
    draw: Draw,
    chat: Chat,
    pictures: Tensor,
    picture_prompt: tuple[int, ...],
) -> None:
    engine = make_engine(lively_model)
    wrong: list[tuple[Request, str]] = [
        (draw(prompt=(1, 2, 999)), "prompt id 999 is outside the vocabulary"),
        (draw(prompt=(1, -2, 3)), "prompt id -2 is outside the vocabulary"),
        (draw(prompt=(1, IMAGE_PAD, 3)), "cannot hold pictures"),
        (draw(prompt=(1,) * 250), "takes 266 tokens, the context holds 256"),
        (chat(input_ids=(1,) * 256), "takes 257 tokens, the context holds 256"),
        (chat(input_ids=picture_prompt), "32 image slots for 0 images of 16 each"),
        (chat(input_ids=picture_prompt, images=pictures[:1]), "32 image slots for 1 images"),
        (chat(input_ids=picture_prompt, images=pictures[..., 1:]), r"images must be \(I, 3, 32"),
        (chat(input_ids=picture_prompt, images=pictures / 0), "images hold NaN or infinity"),
    ]
    for request, message in wrong:
        with pytest.raises(ValueError, match=message):
            engine.add(request)
        with pytest.raises(ValueError, match=message):
            engine.check(request)
    assert not engine.has_work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows_per_page": 3}, "rows_per_page must be even, got 3"),
        ({"rows_per_page": 0}, "rows_per_page must be >= 1, got 0"),
        ({"rows_per_page": 2.0}, "rows_per_page must be an integer, got 2.0"),
        ({"look_ahead": "8"}, "look_ahead must be an integer, got '8'"),
        ({"max_pages": 0}, "max_pages must be >= 1"),
        ({"look_ahead": 0}, "look_ahead must be >= 1, got 0"),
        ({"prefix_cache_size": -1}, "prefix_cache_size must be >= 0"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineOptions(**options)


def test_logprobs_are_those_of_the_distribution_before_temperature_and_cuts(
    lively_model: JanusModel, chat: Chat
) -> None:
    engine = make_engine(lively_model)
    request = chat(temperature=1.5, top_p=0.8, seed=3, max_new_tokens=6, stop_ids=())
    request = replace(request, top_logprobs=3)
    asked, silent = engine.add(request), engine.add(replace(request, top_logprobs=None))
    told: dict[int, list[TokenEvent]] = {asked: [], silent: []}
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, TokenEvent):
                told[event.request_id].append(event)
    ids = [event.token_id for event in told[asked]]
    assert ids == [event.token_id for event in told[silent]]
    assert [event.logprobs for event in told[silent]] == [None] * 6
    input_ids = torch.tensor([*request.input_ids, *ids])[None]
    with torch.inference_mode():
        hidden = lively_model.language_model.model(lively_model.embed_text(input_ids))
        expected = lively_model.text_logits(hidden)[0].float().log_softmax(-1)
    for place, event in enumerate(told[asked], start=len(request.input_ids) - 1):
        assert event.logprobs is not None
        assert event.logprobs.logprob == pytest.approx(
            float(expected[place, event.token_id]), abs=1e-4
        )
        values, top = expected[place].topk(3)
        assert [one for one, _ in event.logprobs.top] == top.tolist()
        assert [value for _, value in event.logprobs.top] == pytest.approx(
            values.tolist(), abs=1e-4
        )


def test_top_logprobs_keep_their_rule(chat: Chat) -> None:
    for wrong in (-1, 1.5, True):
        with pytest.raises(ValueError, match="top_logprobs must be an integer >= 0"):
            chat(top_logprobs=wrong)
