"""What a packed or quantized model refuses, and in one piece."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch

from openjanus.model.janus import JanusModel, build_model, pack_model, quantize_model
from openjanus.model.packed import can_pack
from openjanus.presets import preset
from openjanus.quantization import QuantizationConfig


@pytest.fixture
def packed_model() -> JanusModel:
    if not can_pack():
        pytest.skip("torch packs no weights on this machine")
    model = build_model(preset("tiny"), device="cpu", dtype=torch.bfloat16).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    assert pack_model(model) > 0
    return model


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda model: model.to(torch.float32), "packed weights stay on this CPU"),
        (
            lambda model: model.load_state_dict(
                {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
            ),
            "packed weights take no others",
        ),
        (copy.deepcopy, "neither copied nor pickled"),
        (pickle.dumps, "neither copied nor pickled"),
        (
            lambda model: quantize_model(model, QuantizationConfig(kind="int8")),
            "packed weights cannot be quantized",
        ),
    ],
)
def test_what_a_packed_model_refuses_leaves_it_as_it_was(
    packed_model: JanusModel, misuse: Callable[[JanusModel], object], message: str
) -> None:
    before = packed_model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    with pytest.raises((RuntimeError, ValueError), match=message):
        misuse(packed_model)
    after = packed_model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(after[name].dtype == value.dtype for name, value in before.items())


def test_a_plain_model_is_copied_and_pickled() -> None:
    model = build_model(preset("tiny"), device="cpu").eval()
    model.init_weights(torch.Generator().manual_seed(0))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for name, value in twin.state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name


def test_a_model_is_quantized_once() -> None:
    model = build_model(preset("tiny"), device="cpu").eval()
    model.init_weights(torch.Generator().manual_seed(0))
    quantize_model(model, QuantizationConfig(kind="int8"))
    with pytest.raises(ValueError, match="quantized already, in int8: load it again"):
        quantize_model(model, QuantizationConfig(kind="int4", group_size=32))
    assert str(model.config.quantization) == "int8"
