"""Measuring a model: figures that hang together, in a result that says what made it."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys

import pytest
import torch

import openjanus
from openjanus.bench import BenchOptions, measure
from openjanus.bench.inputs import make_inputs
from openjanus.bench.machine import peak_bytes, read_bandwidth
from openjanus.bench.measure import _whole
from openjanus.bench.ours import Ours
from openjanus.bench.result import COLUMNS, FORMAT_VERSION, headings
from openjanus.cli import main
from openjanus.engine.engine import Engine
from openjanus.engine.options import EngineOptions
from openjanus.engine.request import FinishedEvent, TokenEvent
from openjanus.pipeline.load import load_random
from openjanus.presets import PRESETS, preset

FEW = BenchOptions(batch=2, steps=3, pictures=2, bandwidth_bytes=2**20)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def janus():
    return openjanus.load("tiny")


@pytest.fixture(scope="module")
def result(janus):
    return measure(janus, FEW, name="tiny")


def inputs_of(janus, options=FEW):
    return make_inputs(
        janus.config, janus.processor.tokenizer, options, device=CPU, dtype=torch.float32
    )


def test_figures_follow_from_each_other(result):
    step, decode = result.figure("image step").value, result.figure("VQ decode").value
    together = result.figure("image step, 2 at once").value
    assert result.figure("one picture").value == pytest.approx(16 * step + decode)
    batch = 2 / (16 * together + 2 * decode)
    assert result.figure("pictures in a batch").value == pytest.approx(batch)
    assert result.figure("words").value == pytest.approx(1 / result.figure("text step").value)
    bandwidth = result.figure("read bandwidth").value
    for figure in result.figures:
        assert figure.value > 0
        assert figure.theirs is None
        if figure.low is not None:
            assert figure.low <= figure.value <= figure.high
        if figure.share is not None:
            assert figure.share == pytest.approx(figure.read_gb_per_s / bandwidth)


def test_bytes_of_a_step_are_weights_and_what_is_behind(janus, result):
    language = janus.config.language
    layers = sum(p.nbytes for p in janus.model.language_model.model.layers.parameters())
    heads = [*janus.model.gen_head.parameters(), *janus.model.gen_aligner.parameters()]
    # A prompt of 16 and half a picture, and half the steps; keys and values, in fp32.
    behind = 16 + 8 + 3 // 2
    row = 2 * language.num_hidden_layers * language.num_key_value_heads * language.head_size * 4
    expected = layers + sum(p.nbytes for p in heads) + 2 * behind * row
    step = result.figure("image step")
    assert step.read_gb_per_s * 1e9 * step.value == pytest.approx(expected)


def test_a_result_is_plain_data_with_its_version(result):
    data = json.loads(json.dumps(result.as_data()))
    assert data["format_version"] == FORMAT_VERSION
    assert data["machine"]["torch"] == torch.__version__
    assert data["machine"]["num_threads"] == torch.get_num_threads()
    assert data["options"]["steps"] == 3
    assert {figure["name"] for figure in data["figures"]} >= set(COLUMNS)
    assert all(figure["unit"] for figure in data["figures"])


def test_a_row_has_a_cell_for_every_heading(result):
    assert result.row().count("|") == len(headings()) + 1
    assert "tiny" in result.row()


@pytest.mark.parametrize("name", ["tiny", "tiny-chameleon", "tiny-semantic"])
def test_every_kind_of_model_is_measured(name):
    found = measure(load_random(name, device="cpu"), FEW, name=name, random_weights=True)
    assert found.figure("one picture") is not None
    assert "(random)" in found.row()


def test_steps_go_on_past_the_end_of_a_picture_and_of_a_reply(janus):
    ours = Ours(janus, inputs_of(janus))
    for run in (ours.draw(1), ours.write()):
        for _ in range(40):
            run()


@pytest.fixture
def by_pieces(monkeypatch):
    """Prompts take many steps, as a large model's do; the events of every step."""
    small = functools.partial(EngineOptions, prefill_chunk=8, max_prefill_tokens=8)
    monkeypatch.setattr("openjanus.bench.ours.EngineOptions", small)
    seen = []
    original = Engine.step

    def step(engine):
        seen.append(original(engine))
        return seen[-1]

    monkeypatch.setattr(Engine, "step", step)
    return seen


@pytest.mark.parametrize("picture", [False, True])
def test_every_timed_answer_has_its_word(janus, by_pieces, picture):
    run = Ours(janus, inputs_of(janus)).answer(picture=picture)
    steps = []
    for _ in range(3):
        by_pieces.clear()
        run()
        steps.append(len(by_pieces))
        assert [type(event) for events in by_pieces for event in events] == [
            TokenEvent,
            FinishedEvent,
        ]
    assert steps[0] > 3 and len(set(steps)) == 1  # nothing is taken over from the one before


def test_all_prompts_are_run_before_a_step_is_timed(janus, by_pieces):
    ours = Ours(janus, inputs_of(janus))
    for run, number in ((ours.draw(1), 1), (ours.draw(3), 3), (ours.write(), 1)):
        run()
        assert len(by_pieces) > 2
        by_pieces.clear()
        run()
        assert [len({event.request_id for event in events}) for events in by_pieces] == [number]
        by_pieces.clear()


def test_a_batch_that_does_not_fit_is_refused(janus):
    with pytest.raises(ValueError, match=r"a batch of 99 is more than the \d+ that run at once"):
        Ours(janus, inputs_of(janus)).draw(99)()


def test_a_failure_of_the_engine_is_told(janus, monkeypatch):
    ours = Ours(janus, inputs_of(janus))
    run = ours.answer(picture=True)

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(janus.model, "embed_und", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        run()


def test_a_quantized_model_says_so(janus):
    found = measure(load_random("tiny", device="cpu", quantize="int8"), FEW, name="tiny")
    plain = sum(parameter.numel() for parameter in janus.model.parameters())
    assert found.num_parameters == plain
    assert found.as_data()["quantization"] == "int8" and "int8" in found.row()
    assert "int8" in str(found.lines()["model"])


def test_random_models_are_filled_in_their_dtype():
    janus = load_random("tiny", device="cpu", dtype="bfloat16")
    for name, value in janus.model.state_dict().items():
        assert value.dtype == torch.bfloat16 and value.device == CPU, name
        assert value.isfinite().all(), name
    again = load_random("tiny", device="cpu", dtype="bfloat16").model.state_dict()
    assert all(torch.equal(value, again[n]) for n, value in janus.model.state_dict().items())


def test_the_command_measures_what_draw_has(capsys, tmp_path, monkeypatch):
    """A 1B of random weights, made tiny, with its layers packed where this machine can."""
    monkeypatch.setitem(PRESETS, "janus-pro-1b", lambda: preset("tiny"))
    path = tmp_path / "bench.json"
    few = ["--steps", "2", "--pictures", "1", "--batch", "2", "--json", str(path)]
    wanted = ["--random", "janus-pro-1b", "--dtype", "bfloat16", "--device", "cpu"]
    assert main(["bench", *wanted, *few]) == 0
    said, data = capsys.readouterr().out, json.loads(path.read_text())
    assert (data["model"], data["random_weights"], data["dtype"]) == (
        "janus-pro-1b",
        True,
        "bfloat16",
    )
    plain = load_random("tiny", device="cpu", dtype="bfloat16")
    unpacked = measure(plain, FEW, name="tiny", random_weights=True)
    assert unpacked.packed_layers == 0 and "packed" not in str(unpacked.lines()["as"])
    assert data["packed_layers"] == plain.pack()
    assert ("layers packed" in said) == (data["packed_layers"] > 0)
    # As many weights, and as many bytes of them a step, however they lie.
    assert data["num_parameters"] == unpacked.num_parameters
    steps = [figure for figure in data["figures"] if figure["name"] == "image step"]
    before = unpacked.figure("image step")
    assert before is not None and before.read_gb_per_s is not None
    assert steps[0]["read_gb_per_s"] * steps[0]["value"] == pytest.approx(
        before.read_gb_per_s * before.value, rel=0.05
    )


def test_random_models_keep_tied_embeddings_tied(monkeypatch):
    config = preset("tiny")
    tied = dataclasses.replace(config.language, tie_word_embeddings=True)
    config = dataclasses.replace(config, language=tied)
    monkeypatch.setitem(PRESETS, "tied", lambda: config)
    language_model = load_random("tied", device="cpu").model.language_model
    assert language_model.lm_head.weight is language_model.model.embed_tokens.weight


def test_a_machine_says_how_much_it_reads_and_holds():
    assert read_bandwidth(CPU, 2**20) > 1e6
    block = torch.ones(2**24)
    peak = peak_bytes(CPU)
    assert peak is None or peak > block.nbytes


@pytest.mark.parametrize(
    "change", [{"batch": 0}, {"steps": 0}, {"pictures": 0}, {"whole": -1}, {"bandwidth_bytes": 0}]
)
def test_options_keep_their_rules(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name} must be >= "):
        BenchOptions(**change)


def test_a_context_without_room_is_refused(janus):
    language = dataclasses.replace(janus.config.language, max_position_embeddings=17)
    config = dataclasses.replace(janus.config, language=language)
    with pytest.raises(ValueError, match="a context of 17 tokens is too short"):
        make_inputs(config, janus.processor.tokenizer, FEW, device=CPU, dtype=torch.float32)


class Slow:
    """A rival that answers as we do, and notes what it was asked."""

    def __init__(self, janus, inputs):
        self.ours = Ours(janus, inputs)
        self.asked = []

    def __getattr__(self, name):
        self.asked.append(name)
        return getattr(self.ours, name)


def test_whole_pictures_are_a_median_with_quartiles_after_one_that_gets_ready(janus, monkeypatch):
    clock = iter([0, 100, 200, 201, 300, 302, 400, 403, 500, 504, 600, 605])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(janus, "draw", lambda *_, **__: None)
    figure = _whole(janus, 5)
    assert (figure.value, figure.low, figure.high) == (3, 2, 4)


def test_a_rival_is_measured_by_turns(janus):
    rivals = []

    def rival(janus, inputs):
        rivals.append(Slow(janus, inputs))
        return rivals[0]

    found = measure(janus, FEW, name="tiny", rival=rival, against="slow 1.0")
    assert set(rivals[0].asked) == {"draw", "write", "answer", "understand", "decode"}
    for name in ("image step", "one picture", "pictures in a batch", "words", "VQ decode"):
        (figure,) = (figure for figure in found.figures if figure.name == name)
        assert figure.theirs is not None
        worse = figure.theirs / figure.value
        assert figure.ratio == pytest.approx(1 / worse if figure.unit.endswith("/s") else worse)
    assert "slow 1.0" in str(found.lines()["VQ decode"])


def test_the_command_writes_what_it_prints(capsys, tmp_path):
    path = tmp_path / "new" / "bench.json"
    words = ["--steps", "2", "--pictures", "1", "--batch", "2", "--whole", "1", "--row"]
    threads = ["--threads", str(torch.get_num_threads())]
    assert main(["bench", "--model", "tiny", *words, *threads, "--json", str(path)]) == 0
    said = capsys.readouterr().out
    data = json.loads(path.read_text())
    for figure in data["figures"]:
        assert f"\n{figure['name']} " in said
    assert said.splitlines()[-1].startswith("| ")
    assert {"one whole picture", "peak memory"} <= {f["name"] for f in data["figures"]}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--steps", "0"], "steps must be >= 1, got 0"),
        (["--threads", "0"], "--threads must be >= 1, got 0"),
        (["--random", "janus-pro-1c"], "did you mean 'janus-pro-1b'"),
        (["--random", "tiny", "--revision", "main"], "--revision belongs to a model with weights"),
        (
            ["--random", "tiny", "--quantize", "int99"],
            "quantize must be int8, int4 or fp8, got 'int99'",
        ),
        (["--random", "tiny", "--model", "./x"], "--random takes the place of --model"),
        (["--against", "vllm"], "invalid choice: 'vllm'"),
        (["--json", "."], "--json . is a folder"),
    ],
)
def test_mistakes_are_one_line(capsys, words, told):
    assert main(["bench", *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and told in said.err and said.err.count("\n") == 1


def test_a_missing_transformers_is_named_before_anything_is_loaded(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "openjanus.bench.transformers", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["bench", "--model", "tiny", "--against", "transformers"]) == 2
    assert "pip install 'transformers>=5'" in capsys.readouterr().err
