"""What is timed beside us is transformers' Janus with our weights, doing what we do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import openjanus
from openjanus.bench import BenchOptions, measure
from openjanus.bench.inputs import make_inputs
from openjanus.bench.ours import Ours
from openjanus.bench.transformers import TheirAnswer, Theirs, give_model
from openjanus.pipeline.load import load_random

OPTIONS = BenchOptions(batch=2, steps=2, pictures=1, bandwidth_bytes=2**20)


@pytest.fixture(scope="module")
def janus():
    return openjanus.load("tiny")


@pytest.fixture(scope="module")
def inputs(janus):
    return make_inputs(
        janus.config,
        janus.processor.tokenizer,
        OPTIONS,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


@torch.inference_mode()
def test_both_doors_give_the_same(janus, inputs):
    ours, theirs = Ours(janus, inputs), Theirs(janus, inputs)
    features: Any = theirs.understand()()
    torch.testing.assert_close(features.pooler_output, ours.understand()(), atol=1e-5, rtol=1e-4)
    pixels: Any = theirs.decode()()
    torch.testing.assert_close(pixels.clamp(-1, 1), ours.decode()(), atol=1e-4, rtol=1e-3)


@torch.inference_mode()
def test_both_write_the_same_words(janus, inputs):
    answer = TheirAnswer(give_model(janus), inputs.text_ids)
    found = tuple(answer.step() for _ in range(4))
    logits = janus.model.text_logits(
        janus.model.language_model.model(
            janus.model.embed_text(torch.tensor([[*inputs.text_ids, *found]]))
        )
    )
    assert found == tuple(logits[0, len(inputs.text_ids) - 1 : -1].argmax(-1).tolist())


def test_all_is_measured_by_turns(janus):
    result = measure(janus, OPTIONS, name="tiny", rival=Theirs, against="transformers")
    derived = {"peak memory", "read bandwidth"}
    assert all((f.theirs is None) == (f.name in derived) for f in result.figures)


def test_steps_go_on_past_the_end_of_a_picture(janus, inputs):
    with torch.inference_mode():
        run = Theirs(janus, inputs).draw(1)
        for _ in range(40):
            run()


def test_their_model_shares_our_memory(janus):
    ours = {parameter.data_ptr() for parameter in janus.model.parameters()}
    theirs = list(give_model(janus).parameters())
    shared = sum(parameter.nbytes for parameter in theirs if parameter.data_ptr() in ours)
    assert shared > 0.8 * sum(parameter.nbytes for parameter in theirs)


def test_what_they_cannot_hold_is_refused(inputs):
    with pytest.raises(ValueError, match=r"cannot be given to transformers: .*leave it out"):
        Theirs(load_random("tiny-semantic", device="cpu"), inputs)
