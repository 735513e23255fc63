"""Prompts by pieces: nobody waits for a long one, and what is shared is run once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from harness import IMAGE_PAD, Chat, Draw, Naive, Run, make_engine
from torch import Tensor

from openjanus.engine.prefill import KeptPrompts, Prompt
from openjanus.engine.request import ChatRequest, Event, Request, TokenEvent
from openjanus.model.attention import KVCache
from openjanus.model.decoder import Decoder
from openjanus.model.janus import JanusModel


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every pass over a prompt."""
    seen: list[int] = []
    original = Decoder.forward

    def spy(self: Decoder, inputs_embeds: Tensor, **rest: Any) -> Tensor:
        runs = rest["runs"]
        if len(runs) == 1 and inputs_embeds.shape[:2] != (1, 1) and len(inputs_embeds) == 1:
            seen.append(inputs_embeds.shape[1])
        return original(self, inputs_embeds, **rest)

    monkeypatch.setattr(Decoder, "forward", spy)
    return seen


@pytest.mark.parametrize("chunk", [3, 7, 1000])
def test_pieces_give_what_the_naive_loop_gives(
    lively_model: JanusModel,
    run: Run,
    draw: Draw,
    chat: Chat,
    pictures: Tensor,
    picture_prompt: tuple[int, ...],
    naive_chat: Naive,
    naive_draw: Naive,
    chunk: int,
) -> None:
    shown = chat(input_ids=picture_prompt, images=pictures)
    long = chat(input_ids=tuple(range(2, 90)))
    drawn = draw(prompt=tuple(range(10, 40)))
    found = run(make_engine(lively_model, prefill_chunk=chunk), [shown, long, drawn])
    assert found == [
        naive_chat(lively_model, shown),
        naive_chat(lively_model, long),
        naive_draw(lively_model, drawn),
    ]


def test_who_writes_goes_on_while_a_long_prompt_is_run(
    lively_model: JanusModel, run: Run, chat: Chat, lengths: list[int]
) -> None:
    long = chat(input_ids=tuple(range(2, 200)), max_new_tokens=2)
    options = {"prefill_chunk": 16, "max_prefill_tokens": 16}
    expected = run(make_engine(lively_model, **options), [long])[0]
    engine = make_engine(lively_model, **options)
    first = engine.add(chat(max_new_tokens=30))
    for _ in range(3):
        engine.step()
    second = engine.add(long)
    lengths.clear()
    steps: list[list[Event]] = []
    while second in engine:
        steps.append(engine.step())
    assert len(steps) > 12
    assert all(any(event.request_id == first for event in events) for events in steps)
    assert max(lengths) == 16
    of_second = [e for events in steps for e in events if e.request_id == second]
    told = [event.token_id for event in of_second if isinstance(event, TokenEvent)]
    assert tuple(told) == expected


def test_a_prompt_that_is_given_up_on_its_way_leaves_nothing(
    lively_model: JanusModel, run: Run, chat: Chat
) -> None:
    (expected,) = run(make_engine(lively_model), [chat()])
    engine = make_engine(lively_model, prefill_chunk=8, max_prefill_tokens=8, max_pages=1)
    doomed = engine.add(chat(input_ids=tuple(range(2, 100))))
    assert engine.step() == []
    assert engine.cancel(doomed)
    assert (engine.has_work, engine.num_running) == (False, 0)
    assert run(engine, [chat()]) == [expected]


def turns(chat: Chat, prompt: tuple[int, ...], pictures: Tensor) -> list[ChatRequest]:
    """A conversation about pictures: each prompt begins with the one before."""
    whole = (*prompt, *range(60, 80))
    return [
        chat(input_ids=prompt, images=pictures),
        chat(input_ids=whole, images=pictures),
        chat(input_ids=(*whole, *range(80, 90)), images=pictures),
    ]


def test_the_next_turn_takes_over_what_the_one_before_has_run(
    lively_model: JanusModel,
    run: Run,
    chat: Chat,
    pictures: Tensor,
    picture_prompt: tuple[int, ...],
    lengths: list[int],
) -> None:
    asked = turns(chat, picture_prompt, pictures)
    alone = [run(make_engine(lively_model, prefill_chunk=8), [one])[0] for one in asked]
    lengths.clear()
    engine = make_engine(lively_model, prefill_chunk=8)
    assert [run(engine, [one])[0] for one in asked] == alone
    tokens = [len(one.input_ids) for one in asked]
    kept = [0, *((length - 1) // 8 * 8 for length in tokens[:-1])]
    # The last token before is in no whole chunk, or the prompt was kept to its last whole chunk.
    assert sum(lengths) <= sum(tokens) - sum(kept) + 8 * len(asked)
    assert sum(lengths) < sum(tokens) / 1.5


def test_pictures_that_are_taken_over_are_not_encoded_again(
    lively_model: JanusModel,
    run: Run,
    chat: Chat,
    pictures: Tensor,
    picture_prompt: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    original = JanusModel.embed_und

    def spy(self: JanusModel, pixel_values: Tensor) -> Tensor:
        seen.append(len(pixel_values))
        return original(self, pixel_values)

    monkeypatch.setattr(JanusModel, "embed_und", spy)
    engine = make_engine(lively_model, prefill_chunk=4)
    asked = turns(chat, picture_prompt, pictures)
    run(engine, [asked[0]])
    assert seen == [1] * len(pictures)
    seen.clear()
    run(engine, [asked[1]])
    assert len(seen) < len(pictures)


def test_another_picture_in_the_same_place_is_not_taken_for_the_first(
    lively_model: JanusModel,
    run: Run,
    chat: Chat,
    pictures: Tensor,
    picture_prompt: tuple[int, ...],
) -> None:
    other = pictures.flip(-1)
    requests = [chat(input_ids=picture_prompt, images=shown) for shown in (pictures, other)]
    alone = [run(make_engine(lively_model, prefill_chunk=4), [one])[0] for one in requests]
    assert alone[0] != alone[1]
    engine = make_engine(lively_model, prefill_chunk=4)
    assert [run(engine, [one])[0] for one in requests] == alone


def test_kept_prompts_are_so_many_tokens_and_the_last_ones(lively_model: JanusModel) -> None:
    def cache(tokens: int) -> KVCache:
        return KVCache.allocate(
            lively_model.config.language, 1, tokens, device="cpu", dtype=torch.float32
        )

    kept = KeptPrompts(30, chunk=4, image_pad_id=IMAGE_PAD, num_image_tokens=4)
    prompts = [Prompt.of(tuple(range(start, start + 12))) for start in (0, 100, 200)]
    for prompt in prompts[:2]:
        kept.put(1, prompt, cache(12))
    assert kept.num_tokens == 24
    assert kept.longest(1, prompts[0])[0] == 8  # 11 tokens, in whole chunks
    kept.put(1, prompts[2], cache(12))  # the second is the one that was not used
    assert [kept.longest(1, prompt)[0] for prompt in prompts] == [8, 0, 8]
    assert kept.longest(2, prompts[0]) == (0, None)
    kept.put(1, Prompt.of(tuple(range(40))), cache(40))
    assert kept.num_tokens == 24
    longer = Prompt.of((*prompts[2].ids, 7, 7))
    assert kept.longest(1, longer)[0] == 12


def test_a_prompt_is_kept_once(lively_model: JanusModel, pictures: Tensor) -> None:
    language = lively_model.config.language
    kept = KeptPrompts(40, chunk=4, image_pad_id=IMAGE_PAD, num_image_tokens=4)

    def keep(prompt: Prompt, version: int = 1) -> int:
        length = len(prompt.ids)
        made = KVCache.allocate(language, 1, length, device="cpu", dtype=torch.float32)
        kept.put(version, prompt, made)
        return kept.num_tokens

    other, words = Prompt.of(tuple(range(100, 112))), Prompt.of(tuple(range(12)))
    assert [keep(other), *(keep(words) for _ in range(3))] == [12, 24, 24, 24]
    assert keep(Prompt.of(tuple(range(16)))) == 28  # in place of its beginning
    assert keep(words) == 28
    assert kept.longest(1, Prompt.of(tuple(range(20))))[0] == 16
    assert kept.longest(1, other)[0] == 8
    assert keep(words, version=2) == 40  # of other weights

    kept.clear()
    ids = (1, IMAGE_PAD, IMAGE_PAD, IMAGE_PAD, IMAGE_PAD, 2)
    assert [keep(Prompt.of(ids, pictures[i : i + 1])) for i in (0, 1, 0)] == [6, 12, 12]


def test_changed_weights_share_nothing_with_those_before(
    tiny_config: Any, run: Run, chat: Chat
) -> None:
    from openjanus.model.janus import build_model

    model = build_model(tiny_config, device="cpu").eval()
    model.init_weights(torch.Generator().manual_seed(0))
    engine = make_engine(model, prefill_chunk=4)
    run(engine, [chat()])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert run(engine, [chat()]) == run(make_engine(model, prefill_chunk=4), [chat()])


def test_writes_that_nobody_sees_are_told_of(
    lively_model: JanusModel, run: Run, draw: Draw, chat: Chat
) -> None:
    model = copy.deepcopy(lively_model)
    engine = make_engine(model, prefill_chunk=4)
    requests: list[Request] = [draw(), chat()]
    before = run(engine, requests)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    engine.forget()
    after = run(engine, requests)
    assert after == run(make_engine(model, prefill_chunk=4), requests) != before


def test_another_dtype_is_drawn_in(
    lively_model: JanusModel, run: Run, draw: Draw, chat: Chat
) -> None:
    model = copy.deepcopy(lively_model)
    engine = make_engine(model)
    requests: list[Request] = [draw(), chat()]
    run(engine, requests)
    model.bfloat16()
    assert run(engine, requests) == run(make_engine(model), requests)


def test_what_was_tried_of_other_weights_is_tried_again(
    lively_model: JanusModel, run: Run, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(lively_model)
    tried: list[int] = []

    def trial(_: JanusModel, num_rows: int) -> bool:
        tried.append(num_rows)
        return True

    monkeypatch.setattr("openjanus.engine.steps.rows_change_bits", trial)
    engine = make_engine(model)
    for _ in range(2):
        run(engine, [chat()])
    assert tried == [16]
    with torch.no_grad():
        model.language_model.lm_head.weight.mul_(2)
    run(engine, [chat()])
    assert tried == [16, 16]
