"""Replies in which words and pictures come in turn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness import MODELS, Compose, Run, make_engine
from torch import Tensor

from openjanus.engine.compose_page import ComposePage
from openjanus.engine.course import Course
from openjanus.engine.engine import Engine
from openjanus.engine.noise import gumbel_noise
from openjanus.engine.request import (
    ChatRequest,
    ComposeRequest,
    DrawRequest,
    Event,
    FailedEvent,
    FinishedEvent,
    ImageIdEvent,
    Request,
    TokenEvent,
)
from openjanus.model.janus import JanusModel

IMAGE_PAD, BOI, EOI = 300, 30, 31


@torch.no_grad()
def fond_of_pictures(model: JanusModel, logit: float = 12.0) -> JanusModel:
    """A copy that says ``<begin_of_image>`` often, and would say the other two marks as often."""
    model = copy.deepcopy(model)
    words = torch.randint(0, 384, (1, 64), generator=torch.Generator().manual_seed(1))
    usual = model.language_model.model(model.embed_text(words))[0].mean(0)
    for row in (BOI, EOI, IMAGE_PAD):
        model.language_model.lm_head.weight[row] = usual * logit / usual.square().sum()
    return model


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> JanusModel:
    return fond_of_pictures(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def janus(lively_model: JanusModel) -> JanusModel:
    return fond_of_pictures(lively_model)


def pick(logits: Tensor, temperature: float, seed: int, stream: int, position: int) -> int:
    if temperature == 0:
        return int(logits.argmax())
    noise = gumbel_noise(seed, stream, torch.tensor([position]), len(logits), "cpu")[0]
    return int((logits / temperature + noise).argmax())


@torch.no_grad()
def naive_compose(model: JanusModel, request: ComposeRequest) -> tuple[int, ...]:
    """No cache, no batch, no state machine: the whole sequence anew for every id."""
    num_text, num_codes = model.config.text_vocab_size, model.config.num_gen_image_tokens
    context = model.config.language.max_position_embeddings
    prompt = torch.tensor([request.input_ids])
    slots = {}
    if request.images is not None:
        slots = {"und": (prompt == IMAGE_PAD, model.embed_und(request.images))}
    prompt_embeds = model.embed_sequence(prompt, slots)

    def last_state(beginning: Tensor, reply: list[int]) -> Tensor:
        parts = [beginning]
        at = 0
        while at < len(reply):  # runs of words, and whole pictures as far as they are drawn
            end = at
            is_code = reply[at] >= num_text
            while end < len(reply) and (reply[end] >= num_text) == is_code:
                end += 1
            ids = torch.tensor([reply[at:end]])
            parts.append(model.embed_gen(ids - num_text) if is_code else model.embed_text(ids))
            at = end
        return model.language_model.model(torch.cat(parts, dim=1))[0, -1]

    ids: list[int] = []
    words = pictures = 0
    while True:
        logits = model.text_logits(last_state(prompt_embeds, ids)).clone()
        logits[[EOI, IMAGE_PAD]] = -torch.inf
        length = len(request.input_ids) + len(ids)
        if pictures == request.max_images or length + num_codes + 2 > context:
            logits[BOI] = -torch.inf
        ids.append(pick(logits, request.temperature, request.seed, 0, words))
        words += 1
        if ids[-1] == BOI:
            pictures += 1
            away = (request.input_ids[0], *[request.pad_id] * (length - 1), BOI)
            away_embeds = model.embed_text(torch.tensor([away]))
            codes: list[int] = []
            for position in range(num_codes):
                logits = model.image_logits(last_state(prompt_embeds, ids))
                if request.guidance_scale != 1:
                    uncond = model.image_logits(last_state(away_embeds, codes))
                    logits = uncond + request.guidance_scale * (logits - uncond)
                seed, heat = request.seed, request.image_temperature
                codes.append(num_text + pick(logits, heat, seed, pictures, position))
                ids.append(codes[-1])
            ids.append(EOI)
        full = len(request.input_ids) + len(ids) >= context
        if ids[-1] in request.stop_ids or words == request.max_new_tokens or full:
            return tuple(ids)


def num_pictures(ids: tuple[int, ...]) -> int:
    return ids.count(BOI)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_it_equals_the_naive_loop(
    model: JanusModel, run: Run, compose: Compose, scale: float, temperature: float
) -> None:
    request = compose(guidance_scale=scale, temperature=temperature, image_temperature=temperature)
    expected = naive_compose(model, request)
    assert run(make_engine(model), [request]) == [expected]
    if temperature:
        assert num_pictures(expected) >= 2
        assert any(word < 384 and word not in (BOI, EOI) for word in expected)


def test_pictures_of_the_question_are_seen(
    model: JanusModel,
    run: Run,
    compose: Compose,
    pictures: Tensor,
    picture_prompt: tuple[int, ...],
) -> None:
    request = compose(input_ids=picture_prompt, images=pictures)
    assert run(make_engine(model), [request]) == [naive_compose(model, request)]
    other = compose(input_ids=picture_prompt, images=pictures.flip(0))
    assert run(make_engine(model), [other]) != run(make_engine(model), [request])


def test_neighbours_slots_and_order_change_no_bit(
    model: JanusModel,
    run: Run,
    compose: Compose,
    draw: Callable[..., DrawRequest],
    chat: Callable[..., ChatRequest],
) -> None:
    short = {"max_new_tokens": 12, "max_images": 2}
    requests: list[Request] = [
        compose(**short),
        compose(seed=6, guidance_scale=1.0, **short),
        compose(seed=8, input_ids=tuple(range(2, 90)), image_top_k=5, **short),
        compose(seed=9, image_top_p=0.6, top_p=0.95, max_images=1, max_new_tokens=15),
        compose(seed=10, temperature=0.0, max_images=0, max_new_tokens=7),
        draw(),
        chat(),
    ]
    alone = [run(make_engine(model), [request])[0] for request in requests]
    assert len(set(alone)) == len(alone)
    assert run(make_engine(model), requests) == alone
    assert run(make_engine(model), requests[::-1]) == alone[::-1]
    assert sum(num_pictures(ids) > 0 for ids in alone[:4]) >= 3
    assert run(make_engine(model, max_pages=1), requests[:4] * 3) == alone[:4] * 3


def test_results_are_the_same_without_idle_rows(
    model: JanusModel, run: Run, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = [
        compose(max_new_tokens=10),
        compose(seed=6, guidance_scale=1.0, max_new_tokens=10),
        compose(seed=7, max_new_tokens=15, max_images=1),
    ]
    whole = run(make_engine(model), requests)
    monkeypatch.setattr("openjanus.engine.steps.rows_change_bits", lambda *_: False)
    assert run(make_engine(model), requests) == whole


def test_the_second_row_is_idle_but_in_a_guided_picture(
    janus: JanusModel, compose: Compose
) -> None:
    for scale in (1.0, 3.0):
        engine = make_engine(janus)
        engine.add(compose(guidance_scale=scale))
        engine.step()
        (page,) = engine._pages.values()
        assert isinstance(page, ComposePage)
        course = page._courses[0]
        seen = set()
        while engine.has_work:
            reply, away = page._lengths[0], page._lengths[8]
            assert away == (reply if scale != 1 and course.expects == "code" else None)
            seen.add(course.expects)
            engine.step()
        assert seen == {"word", "code", "end_of_image"}
        assert page._lengths == [None] * 16


def check_form(ids: tuple[int, ...], num_codes: int) -> list[tuple[int, ...]]:
    """Pictures are blocks of N codes between their marks, and nothing else is; their codes."""
    found, at = [], 0
    while at < len(ids):
        assert ids[at] < 384 and ids[at] not in (EOI, IMAGE_PAD)
        if ids[at] == BOI:
            block = ids[at + 1 : at + 1 + num_codes]
            assert len(block) == num_codes and all(384 <= code < 448 for code in block)
            assert ids[at + 1 + num_codes] == EOI
            found.append(block)
            at += num_codes + 1
        at += 1
    return found


def test_the_form_holds_whatever_the_weights_say(
    one_vocabulary_model: JanusModel, run: Run, compose: Compose
) -> None:
    eager = fond_of_pictures(one_vocabulary_model, 16.0)
    requests = [compose(seed=seed, max_images=seed % 4) for seed in range(8)]
    replies = run(make_engine(eager), list(requests))
    counts = [len(check_form(ids, 16)) for ids in replies]
    assert counts == [seed % 4 for seed in range(8)]  # it would like more of them
    words = [len(ids) - 17 * count for ids, count in zip(replies, counts, strict=True)]
    assert words == [30] * 8  # codes do not count as words
    blocks = [block for ids in replies for block in check_form(ids, 16)]
    assert len(set(blocks)) == len(blocks)  # each picture has noise of its own


def test_without_pictures_it_is_a_chat(
    lively_model: JanusModel, run: Run, compose: Compose, chat: Callable[..., ChatRequest]
) -> None:
    for seed in range(5):
        (reply,) = run(make_engine(lively_model), [chat(seed=seed, temperature=1.0)])
        request = compose(seed=seed, max_images=0, max_new_tokens=12)
        if not {BOI, EOI, IMAGE_PAD} & set(reply):
            assert run(make_engine(lively_model), [request]) == [reply]


def events_of(engine: Engine, request: Request) -> list[Event]:
    engine.add(request)
    events = []
    while engine.has_work:
        events += engine.step()
    return events


def test_events_say_what_comes(janus: JanusModel, compose: Compose) -> None:
    *events, last = events_of(make_engine(janus), compose())
    assert isinstance(last, FinishedEvent) and last.finish_reason == "length"
    ids = []
    positions = []
    for event in events:
        if isinstance(event, ImageIdEvent):
            ids.append(384 + event.image_id)
            positions.append(event.position)
        else:
            assert isinstance(event, TokenEvent)
            ids.append(event.token_id)
    assert tuple(ids) == last.ids
    assert positions == list(range(16)) * num_pictures(last.ids)


def test_a_stop_id_ends_it_between_pictures(janus: JanusModel, run: Run, compose: Compose) -> None:
    (ids,) = run(make_engine(janus), [compose()])
    after = ids.index(EOI) + 1
    stop = ids[after]
    assert stop != BOI
    *_, last = events_of(make_engine(janus), compose(stop_ids=(stop,)))
    assert isinstance(last, FinishedEvent)
    cut = ids.index(stop) + 1
    assert (last.ids, last.finish_reason) == (ids[:cut], "stop")


def test_a_picture_that_is_begun_is_completed(
    janus: JanusModel, run: Run, compose: Compose
) -> None:
    (ids,) = run(make_engine(janus), [compose()])
    words = ids.index(BOI) + 1
    (short,) = run(make_engine(janus), [compose(max_new_tokens=words)])
    assert short == ids[: words + 17]


def test_no_picture_is_begun_that_the_context_does_not_hold(
    janus: JanusModel, run: Run, compose: Compose
) -> None:
    context = janus.config.language.max_position_embeddings
    eager = fond_of_pictures(janus, 16.0)
    prompt = tuple(range(40, 60)) * 40
    for left in (18, 19, 36):
        options = {"input_ids": prompt[: context - left], "max_new_tokens": 200}
        late = [compose(seed=seed, **options) for seed in range(8)]  # some begin with words
        for ids in run(make_engine(janus), [*late]) + run(make_engine(eager), [*late[:2]]):
            assert len(ids) == left
            assert len(check_form(ids, 16)) <= left // 18
    request = compose(input_ids=prompt[: context - 42], max_new_tokens=200)
    (ids,) = run(make_engine(eager), [request])
    assert len(check_form(ids, 16)) == 2
    assert ids == naive_compose(eager, request)


def test_cancelling_within_a_picture_leaves_the_others_alone(
    janus: JanusModel, run: Run, compose: Compose
) -> None:
    (expected,) = run(make_engine(janus), [compose(seed=6)])
    engine = make_engine(janus, max_pages=1)
    doomed, kept = engine.add(compose()), engine.add(compose(seed=6))
    events: list[Event] = []
    while not any(isinstance(e, ImageIdEvent) and e.request_id == doomed for e in events):
        events += engine.step()
    assert engine.cancel(doomed)
    late = engine.add(compose(seed=6))  # into the slot that has just been freed
    events = []
    while engine.has_work:
        events += engine.step()
    ends = {e.request_id: e.ids for e in events if isinstance(e, FinishedEvent)}
    assert ends == {kept: expected, late: expected}


def test_a_picture_that_cannot_be_started_ends_its_request_alone(
    janus: JanusModel, run: Run, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = compose(seed=6, guidance_scale=1.0)
    (expected,) = run(make_engine(janus), [plain])
    engine = make_engine(janus)
    doomed, fine = engine.add(compose()), engine.add(plain)
    events = engine.step()

    def out_of_memory(*_: object, **__: object) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("openjanus.engine.engine.run_prompt", out_of_memory)
    while engine.has_work:
        events += engine.step()
    failed = [event for event in events if isinstance(event, FailedEvent)]
    assert [(event.request_id, str(event.error)) for event in failed] == [(doomed, "out of memory")]
    assert events[-1] == FinishedEvent(fine, expected, "length")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_images": -1}, "max_images must be an integer >= 0, got -1: 0 is words alone"),
        ({"max_images": True}, "max_images must be an integer"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer >= 1, got 0"),
        ({"image_top_k": 0}, "image_top_k must be an integer >= 1, got 0"),
        ({"image_top_p": 1.5}, r"image_top_p must be in \(0, 1\], got 1.5"),
        ({"image_temperature": -1.0}, "image_temperature must be finite and >= 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"seed": -1}, "seed must be"),
        ({"input_ids": ()}, "input_ids are empty"),
    ],
)
def test_options_are_checked(compose: Compose, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        compose(**changes)


def test_a_prompt_that_leaves_no_room_for_a_picture_is_refused(
    janus: JanusModel, run: Run, compose: Compose
) -> None:
    context = janus.config.language.max_position_embeddings
    engine = make_engine(janus)
    long = (1,) * (context - 17)
    with pytest.raises(ValueError, match=r"a picture takes 18 tokens beside a prompt of \d+"):
        engine.add(compose(input_ids=long))
    (ids,) = run(engine, [compose(input_ids=long, max_images=0)])
    assert len(ids) == 17
    with pytest.raises(ValueError, match="prompt id 384 is outside the vocabulary"):
        engine.add(compose(boi_id=384))


def test_a_course_refuses_what_it_did_not_expect() -> None:
    course = Course(
        boi_id=1,
        eoi_id=2,
        stop_ids=(9,),
        num_image_ids=2,
        first_code=10,
        max_words=5,
        max_images=1,
        room=20,
    )
    assert course.finish_reason is None
    for given in (4, 1, 0, 3):
        course.take(given)
    assert (course.ids, course.expects) == ([4, 1, 10, 13], "end_of_image")
    with pytest.raises(AssertionError):
        course.take(7)
    course.take(2)
    with pytest.raises(AssertionError):  # a second picture
        course.take(1)
