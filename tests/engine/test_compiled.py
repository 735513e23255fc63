"""Compiled steps: the ids of steps as they are, made once for each shape, and given up aloud."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness import Chat, Draw, Run, make_engine

from openjanus.engine import steps
from openjanus.engine.engine import Engine
from openjanus.engine.request import Request
from openjanus.model.attention import KVCache, runs_of
from openjanus.model.janus import JanusModel, pack_model, quantize_model
from openjanus.model.placed import PlacedCache, cells_of
from openjanus.presets import preset
from openjanus.quantization import QuantizationConfig


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made and checked as ever, and run by PyTorch: no C++ compiler, no minutes."""
    monkeypatch.setattr(steps, "BACKEND", "eager")


def compiled(model: JanusModel, **options: int) -> Engine:
    return make_engine(model, compile="on", **options)


def requests_of(draw: Draw, chat: Chat) -> list[Request]:
    return [
        chat(max_new_tokens=6),
        draw(guidance_scale=4.0),
        draw(guidance_scale=1.0, image_index=1),
        chat(temperature=0.0, max_new_tokens=9),
        draw(guidance_scale=2.0, seed=5, top_k=20),
    ]


@pytest.mark.parametrize("look_ahead", [1, 4])
def test_words_pictures_and_both_are_what_they_are_uncompiled(
    traced: None, lively_model: JanusModel, run: Run, draw: Draw, chat: Chat, look_ahead: int
) -> None:
    requests = requests_of(draw, chat)
    alone = [run(make_engine(lively_model), [request])[0] for request in requests]
    engine = compiled(lively_model, look_ahead=look_ahead)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(engine, requests[:1]) == alone[:1]
        assert run(engine, requests[1:2]) == alone[1:2]
        assert run(engine, requests) == alone
    assert engine._steps.is_compiled


def test_a_program_is_made_once_for_each_mode_and_shape(
    traced: None,
    lively_model: JanusModel,
    run: Run,
    draw: Draw,
    chat: Chat,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs: list[str] = []
    original = torch.compile

    def counted(function: Any, **options: Any) -> Callable:
        assert options["fullgraph"] and options["dynamic"] is False

        def backend(graph: torch.fx.GraphModule, _: object) -> Callable:
            graphs.append(function.__name__)
            return graph.forward

        return original(function, fullgraph=True, dynamic=False, backend=backend)

    monkeypatch.setattr(torch, "compile", counted)
    engine = compiled(lively_model)
    for _ in range(2):
        run(engine, requests_of(draw, chat))
    assert len(graphs) == len(set(graphs)) == 2
    assert {name.split("_")[0] for name in graphs} == {"image", "text"}
    run(engine, [chat(max_new_tokens=90)])  # a longer cache
    assert len(graphs) == 3


def test_compositions_are_what_they_are_uncompiled(
    traced: None, lively_model: JanusModel, run: Run, compose: Callable[..., Request]
) -> None:
    requests: list[Request] = [compose()]
    assert run(compiled(lively_model), requests) == run(make_engine(lively_model), requests)


def test_without_a_compiler_it_says_so_once_and_goes_on(
    lively_model: JanusModel, run: Run, draw: Draw, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(steps, "BACKEND", fails)
    requests = requests_of(draw, chat)
    engine = compiled(lively_model)
    with pytest.warns(UserWarning, match="without torch.compile.*No working C") as told:
        found = run(engine, requests)
    assert len(told) == 1 and not engine._steps.is_compiled
    assert found == run(make_engine(lively_model), requests)


@pytest.mark.parametrize("good_runs", [0, 2])
def test_a_programs_first_run_is_a_trial_and_later_ones_are_not(
    traced: None,
    lively_model: JanusModel,
    run: Run,
    draw: Draw,
    monkeypatch: pytest.MonkeyPatch,
    good_runs: int,
) -> None:
    """A driver's error of any kind: the same step goes on without the program, or is told."""
    made = steps.Steps._program
    done = 0

    def breaking(self: steps.Steps, shape: steps.Shape, *, is_cuda: bool) -> steps.Program:
        program = made(self, shape, is_cuda=is_cuda)

        def step(*arguments: torch.Tensor) -> torch.Tensor:
            nonlocal done
            if shape[0] == "image" and (done := done + 1) > good_runs:
                raise RuntimeError("no graph was captured")
            return program(*arguments)

        return step

    monkeypatch.setattr(steps.Steps, "_program", breaking)
    engine = compiled(lively_model)
    if good_runs:
        with pytest.raises(AssertionError, match="no graph was captured"):  # the request failed
            run(engine, [draw()])
        assert engine._steps.is_compiled
        return
    with pytest.warns(UserWarning, match="without torch.compile.*no graph was captured"):
        found = run(engine, [draw()])
    assert found == run(make_engine(lively_model), [draw()])


def test_packed_weights_are_not_compiled(lively_model: JanusModel, run: Run, draw: Draw) -> None:
    model = copy.deepcopy(lively_model)
    if pack_model(model) == 0:
        pytest.skip("nothing is packed on this machine")
    requests: list[Request] = [draw()]
    with pytest.warns(UserWarning, match="leave them unpacked"):
        found = run(compiled(model), requests)
    assert found == run(make_engine(model), requests)


def test_nothing_is_compiled_on_a_cpu_unless_it_is_asked_for(lively_model: JanusModel) -> None:
    on_meta = copy.deepcopy(lively_model).to("meta")
    for model in (lively_model, on_meta):
        assert not steps.Steps(model, make_engine(lively_model).options).is_compiled
    off = make_engine(lively_model, compile="off")
    assert not off._steps.is_compiled and not off.options.compiles(lively_model)
    with pytest.raises(ValueError, match="compile must be auto, on, off, got 'yes'"):
        make_engine(lively_model, compile="yes")


def test_cells_say_where_each_row_stands() -> None:
    """Two new tokens of row 1, one of rows 0 and 2 by one run, and an idle row."""
    cache = KVCache.allocate(preset("tiny").language, 3, 32, device="meta", dtype=torch.float32)
    runs = sorted(runs_of([4, None, 4, 9, 10], [0, 0, 2, 1, 1]), key=lambda run: run.length)
    rows, places, positions = cells_of(cache, runs, 5)
    assert (rows, places, positions) == ([0, 0, 2, 1, 1], [0, -1, 0, 0, 1], [4, 31, 4, 9, 10])


@pytest.mark.parametrize("heads", [2, 4])
def test_attention_of_fixed_shapes_is_that_of_runs(heads: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    first = KVCache(random(2, 3, 2, 16, 8), random(2, 3, 2, 16, 8))
    second = KVCache(first.keys.clone(), first.values.clone())
    runs = sorted(runs_of([4, None, 7, 9, 10], [0, 0, 2, 1, 1]), key=lambda run: run.length)
    q, k, v = random(5, heads, 1, 8), random(5, 2, 1, 8), random(5, 2, 1, 8)
    cells = torch.tensor(cells_of(first, runs, 5))
    found = PlacedCache.of(first.keys, first.values, cells, 2).attend(1, (), q, k, v)
    wanted = second.attend(1, runs, q, k, v)
    used = [0, 2, 3, 4]
    torch.testing.assert_close(found[used], wanted[used], atol=1e-6, rtol=1e-6)
    assert torch.equal(first.keys[..., :15, :], second.keys[..., :15, :])
    assert torch.equal(first.values[..., :15, :], second.values[..., :15, :])
    assert torch.equal(first.keys[0], second.keys[0])


@pytest.mark.long
@pytest.mark.parametrize("kind", [None, "int8"])
def test_what_the_compiler_makes_gives_the_same_ids(
    lively_model: JanusModel, run: Run, draw: Draw, chat: Chat, kind: str | None
) -> None:
    """With a C++ compiler: a minute or more."""
    model = copy.deepcopy(lively_model)
    if kind is not None:
        quantize_model(model, QuantizationConfig(kind=kind))
    requests = requests_of(draw, chat)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        engine = compiled(model)
        found = run(engine, requests)
    if any("No working C++ compiler" in str(one.message) for one in told):
        pytest.skip("no C++ compiler here")
    assert engine._steps.is_compiled
    assert found == run(make_engine(model), requests)
