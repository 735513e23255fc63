"""Drawing with a semantic tokenizer: its cache changes no id, beside whom and where it may be."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from harness import Chat, Draw, Naive, Run, make_engine
from torch import Tensor, nn

from openjanus.engine.page import rows_change_bits
from openjanus.engine.request import DrawRequest, FinishedEvent, Request
from openjanus.engine.scoring import score_image_ids
from openjanus.model.janus import JanusModel
from openjanus.model.semantic import SemanticTokenizer


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drawing_equals_the_naive_loop(
    semantic_model: JanusModel,
    run: Run,
    draw: Draw,
    scale: float,
    temperature: float,
    naive_draw: Naive,
) -> None:
    prompts = [tuple(range(10, 22)), tuple(range(30, 37)), tuple(range(90, 150))]
    requests: list[Request] = [
        draw(prompt=prompt, guidance_scale=scale, temperature=temperature, image_index=index)
        for index, prompt in enumerate(prompts)
    ]
    expected = [naive_draw(semantic_model, r) for r in requests if isinstance(r, DrawRequest)]
    assert run(make_engine(semantic_model), requests) == expected
    assert len(set(expected)) == 3


def test_neighbours_slots_and_order_change_no_bit(
    semantic_model: JanusModel, run: Run, draw: Draw, chat: Chat
) -> None:
    requests: list[Request] = [
        draw(),
        draw(image_index=1),
        draw(prompt=tuple(range(50, 53)), guidance_scale=1.0),
        draw(prompt=tuple(range(10, 80)), seed=3),
        draw(temperature=0.0),
        chat(),
    ]
    alone = [run(make_engine(semantic_model), [request])[0] for request in requests]
    assert run(make_engine(semantic_model), requests) == alone
    assert run(make_engine(semantic_model), requests[::-1]) == alone[::-1]
    # Four rows are two slots: the same places are taken by one drawing after another.
    few = [run(make_engine(semantic_model, rows_per_page=4), [request])[0] for request in requests]
    crowded = make_engine(semantic_model, max_pages=1, rows_per_page=4)
    assert run(crowded, requests * 2) == few * 2


def test_drawings_that_begin_at_other_times_do_not_meet(
    semantic_model: JanusModel, run: Run, draw: Draw
) -> None:
    alone = [run(make_engine(semantic_model), [draw(seed=seed)])[0] for seed in (1, 2)]
    engine = make_engine(semantic_model)
    engine.add(draw(seed=1))
    found: list[tuple[int, ...]] = []
    for step in range(30):
        if step == 5:
            engine.add(draw(seed=2))
        found += [event.ids for event in engine.step() if isinstance(event, FinishedEvent)]
    assert found == alone


def test_every_id_is_read_once(
    semantic_model: JanusModel, run: Run, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    original = SemanticTokenizer.embed_ids

    def spy(self: SemanticTokenizer, image_ids: Tensor, **rest: object) -> Tensor:
        shapes.append(tuple(image_ids.shape))
        return original(self, image_ids, **rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(SemanticTokenizer, "embed_ids", spy)
    run(make_engine(semantic_model, look_ahead=1), [draw(), draw(seed=2)])
    # A row a slot, not one for each of its guidance pair; the last id is never fed in.
    assert shapes == [(8, 1)] * (semantic_model.config.num_gen_image_tokens - 1)


def test_teacher_forcing_scores_what_was_drawn(
    semantic_model: JanusModel, run: Run, draw: Draw
) -> None:
    request = draw(temperature=0.0, guidance_scale=1.0)
    (ids,) = run(make_engine(semantic_model), [request])
    prompt, drawn = torch.tensor(request.prompt_ids), torch.tensor(ids)
    scores = score_image_ids(semantic_model, prompt, drawn)
    for place in range(len(ids)):  # greedy: no other id was likelier, after those before it
        other = drawn.clone()
        other[place] = (drawn[place] + 1) % semantic_model.config.codebook_size
        assert score_image_ids(semantic_model, prompt, other)[place] < scores[place]


def test_results_are_the_same_without_idle_rows(
    semantic_model: JanusModel, run: Run, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = [draw(), draw(image_index=1), draw(seed=9, guidance_scale=1.0)]
    whole = run(make_engine(semantic_model), requests)
    monkeypatch.setattr("openjanus.engine.steps.rows_change_bits", lambda *_: False)
    assert run(make_engine(semantic_model), requests) == whole


def test_a_drawing_goes_on_when_its_neighbour_is_gone(
    semantic_model: JanusModel, run: Run, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openjanus.engine.steps.rows_change_bits", lambda *_: False)
    (alone,) = run(make_engine(semantic_model), [draw(seed=2)])
    engine = make_engine(semantic_model)
    gone = engine.add(draw(seed=1))
    engine.add(draw(seed=2))  # in the second slot: the first row of a batch that leaves idle ones
    for _ in range(4):
        engine.step()
    engine.cancel(gone)
    found = []
    while engine.has_work:
        found += [event.ids for event in engine.step() if isinstance(event, FinishedEvent)]
    assert found == [alone]


def test_products_of_the_semantic_decoder_are_tried_as_well(
    semantic_model: JanusModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = copy.deepcopy(semantic_model).bfloat16()
    assert isinstance(narrow.vq, SemanticTokenizer)
    suspect = narrow.vq.semantic.get_parameter("blocks.0.mlp.fc1.weight").shape
    original = F.linear

    def exact(x: Tensor, weight: Tensor, _: Tensor | None = None) -> Tensor:
        return torch.cat([original(row[None].double(), weight.double()) for row in x])

    def depends(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return exact(x, weight, bias) + (1 if len(x) == 4 and weight.shape == suspect else 0)

    monkeypatch.setattr(F, "linear", exact)
    assert not rows_change_bits(narrow, 16)
    monkeypatch.setattr(F, "linear", depends)
    assert rows_change_bits(narrow, 16)
    others = [m.weight.shape for m in narrow.language_model.modules() if isinstance(m, nn.Linear)]
    assert suspect not in others
