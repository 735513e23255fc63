"""Quantized models: loaded, converted, drawn with, and refused where they have no place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openjanus.engine.engine import EngineOptions, _weights_version
from openjanus.engine.page import rows_change_bits
from openjanus.model.quantized import QuantizedLinear, is_aligned, quantized_modules
from openjanus.pipeline import Janus, load
from openjanus.pipeline.load import load_random
from openjanus.quantization import QuantizationConfig
from openjanus.weights.adapters import Adapter, save_adapter
from openjanus.weights.donors import open_donor
from openjanus.weights.formats import export_model, load_model

INT4 = QuantizationConfig(kind="int4", group_size=32)
KINDS = ["int8", INT4, "fp8"]


@pytest.fixture(scope="session")
def plain(janus: Janus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lively tiny as a folder. Do not change it."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    janus.save(folder)
    return folder


@pytest.fixture(scope="session")
def converted(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in int8. Do not change it."""
    folder = tmp_path_factory.mktemp("int8") / "model"
    load(plain, device="cpu", dtype="keep", quantize="int8").export(folder, "openjanus")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_converted_model_is_the_one_that_was_quantized_while_it_loaded(
    plain: Path, tmp_path: Path, kind: str | QuantizationConfig, dtype: str
) -> None:
    load(plain, device="cpu", dtype="keep", quantize=kind).export(tmp_path / "out", "openjanus")
    read = load(tmp_path / "out", device="cpu", dtype=dtype)
    fresh = load(plain, device="cpu", dtype=dtype, quantize=kind)
    assert read.config == fresh.config and read.config.quantization is not None
    found, wanted = read.model.state_dict(), fresh.model.state_dict()
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    first, second = (j.draw("a red car", n=2, seed=3) for j in (read, fresh))
    assert torch.equal(first.image_ids, second.image_ids)
    assert read.chat("hello", max_new_tokens=5).text == fresh.chat("hello", max_new_tokens=5).text


def test_quantizing_after_loading_is_the_same(plain: Path, janus: Janus, tmp_path: Path) -> None:
    """``tiny`` and models with an adapter are quantized when they are whole."""
    module = "language_model.model.layers.0.self_attn.q_proj"
    a, b = torch.zeros(2, 64), torch.zeros(64, 2)
    adapter = Adapter(rank=2, alpha=2.0, pairs={module: (a, b)}, whole={})
    save_adapter(tmp_path, adapter, layout="openjanus")
    late = load(plain, device="cpu", adapter=tmp_path, quantize="int8").model.state_dict()
    early = load(plain, device="cpu", quantize="int8").model.state_dict()
    assert list(late) == list(early)
    assert all(torch.equal(late[name], tensor) for name, tensor in early.items())
    assert quantized_modules(load("tiny", device="cpu", quantize="int8").model)


def test_a_quantized_drawing_does_not_depend_on_its_neighbours(plain: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        janus = load(plain, device="cpu", dtype=dtype, quantize="int8")
        many = janus.draw_batch(["a red car", "two dogs", "a tree"], n=2, seed=5)
        alone = janus.draw("two dogs", n=2, seed=5)
        assert torch.equal(many[1].image_ids, alone.image_ids)


def test_files_take_as_much_as_their_codes(plain: Path, converted: Path) -> None:
    def size(folder: Path) -> int:
        return (folder / "model.safetensors").stat().st_size

    model = load(converted, device="cpu").model
    layers = quantized_modules(model).values()
    spared = sum(3 * layer.num_weights - 2 * layer.out_features for layer in layers)
    assert abs(size(plain) - size(converted) - spared) < 4000  # names differ too
    names = load_file(converted / "model.safetensors")
    key = "language_model.model.layers.1.mlp.down_proj"
    assert names[f"{key}.codes"].dtype == torch.int8
    assert names[f"{key}.scale"].dtype == torch.bfloat16
    assert f"{key}.weight" not in names


def test_fp8_is_a_file_of_fp8(plain: Path, converted: Path, tmp_path: Path) -> None:
    load(plain, device="cpu", dtype="keep", quantize="fp8").export(tmp_path / "out", "openjanus")
    file = tmp_path / "out" / "model.safetensors"
    size = file.stat().st_size
    assert abs(size - (converted / "model.safetensors").stat().st_size) < 4000  # names of dtypes
    tensors = load_file(file)
    key = "language_model.model.layers.1.mlp.down_proj"
    assert tensors[f"{key}.codes"].dtype == torch.float8_e4m3fn
    plain_names = load_file(plain / "model.safetensors")
    coded = {name for name in tensors if name.endswith((".codes", ".scale"))}
    assert all(name.startswith("language_model.model.layers.") for name in coded)
    for name in set(tensors) - coded:  # the image head and the embeddings among them
        assert torch.equal(tensors[name], plain_names[name])
    save_file(tensors | {f"{key}.codes": tensors[f"{key}.codes"].bfloat16()}, file)
    with pytest.raises(ValueError, match=r"codes are of torch.float8_e4m3fn"):
        load(tmp_path / "out", device="cpu")


def test_codes_are_where_kernels_may_read_them(converted: Path) -> None:
    """Tensors mapped from a file begin anywhere."""
    layers = quantized_modules(load(converted, device="cpu").model).values()
    assert all(is_aligned(layer.codes) for layer in layers)


def test_the_config_says_it_strictly(converted: Path, tmp_path: Path) -> None:
    for file in converted.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = json.loads((tmp_path / "config.json").read_text())
    assert data["quantization"] == {"kind": "int8", "group_size": None, "lm_head": False}
    for wrong, message in [
        ({"kind": "int8", "bits": 8}, "unknown key 'bits'"),
        ({"kind": "int3"}, "int8, int4 or fp8"),
        ({"kind": "int4", "group_size": 64}, "does not hold the model"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(data | {"quantization": wrong}))
        with pytest.raises(ValueError, match=message):
            load(tmp_path, device="cpu")
    del data["quantization"]
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"14 missing .*28 unexpected"):
        load(tmp_path, device="cpu")


def test_a_plain_config_says_nothing_of_it(plain: Path) -> None:
    assert "quantization" not in json.loads((plain / "config.json").read_text())


def test_codes_of_another_dtype_are_refused(converted: Path, tmp_path: Path) -> None:
    for file in converted.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    key = next(name for name in tensors if name.endswith(".codes"))
    save_file(tensors | {key: tensors[key].float()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"codes are of torch.int8"):
        load(tmp_path, device="cpu")


def test_another_quantization_is_refused(converted: Path) -> None:
    assert load(converted, device="cpu", quantize="int8").config.quantization is not None
    with pytest.raises(ValueError, match="holds int8, and quantize asks for int4 in groups of 64"):
        load(converted, device="cpu", quantize="int4")
    with pytest.raises(ValueError, match="quantize must be int8, int4 or fp8, got 'fp4'"):
        load(converted, device="cpu", quantize="fp4")


@pytest.mark.parametrize("layout", ["deepseek", "transformers"])
def test_no_other_layout_holds_it(converted: Path, tmp_path: Path, layout: str) -> None:
    janus = load(converted, device="cpu")
    with pytest.raises(ValueError, match="no place for quantized weights: export the model"):
        janus.export(tmp_path / "out", layout)
    with pytest.raises(ValueError, match="no place for quantized weights"):
        export_model(
            tmp_path / "out", janus.model, janus.processor.tokenizer, layout=layout, any_size=True
        )
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_refused(converted: Path, tmp_path: Path) -> None:
    module = "language_model.model.layers.0.self_attn.q_proj"
    pair = (torch.zeros(2, 64), torch.zeros(64, 2))
    save_adapter(
        tmp_path, Adapter(rank=2, alpha=2.0, pairs={module: pair}, whole={}), layout="openjanus"
    )
    with pytest.raises(ValueError, match="the model is quantized: load the model that it was"):
        load(converted, device="cpu", adapter=tmp_path)


def test_a_page_tries_quantized_layers(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = load(plain, device="cpu", dtype="bfloat16", quantize="int8").model
    assert rows_change_bits(load(plain, device="cpu", quantize="int8").model, 16)  # fp32
    original = QuantizedLinear.forward

    def depends(self: QuantizedLinear, x: torch.Tensor) -> torch.Tensor:
        return original(self, x) + (1 if len(x) == 4 else 0)

    def plain_product(x: torch.Tensor, w: torch.Tensor, _: torch.Tensor | None = None):
        return x @ torch.ones_like(w).T

    monkeypatch.setattr("openjanus.engine.page.F.linear", plain_product)
    monkeypatch.setattr("openjanus.engine.page.torch.equal", lambda a, b: a.shape == b.shape)
    assert not rows_change_bits(narrow, 16)  # nothing is compared but shapes
    monkeypatch.undo()
    monkeypatch.setattr(QuantizedLinear, "forward", depends)
    assert rows_change_bits(narrow, 16)


def test_a_change_of_codes_is_seen_by_the_engine(plain: Path) -> None:
    model = load(plain, device="cpu", quantize="int8").model
    before = _weights_version(model)
    layer = next(iter(quantized_modules(model).values()))
    layer.codes.neg_()
    assert _weights_version(model) != before


def test_lm_head_is_quantized_on_demand(plain: Path, tmp_path: Path) -> None:
    chosen = replace(INT4, lm_head=True)
    janus = load(plain, device="cpu", dtype="bfloat16", quantize=chosen)
    assert isinstance(janus.model.language_model.lm_head, QuantizedLinear)
    rows_change_bits(janus.model, 16)
    assert janus.chat("hello", max_new_tokens=3).usage.completion_tokens >= 1
    janus.save(tmp_path / "saved")
    model, _ = load_model(tmp_path / "saved", device="cpu", dtype=None)
    assert model.config.quantization == chosen


def test_training_refuses_it(converted: Path) -> None:
    with pytest.raises(ValueError, match="quantized weights cannot be trained"):
        open_donor(converted, "language_model")
    with pytest.raises(ValueError, match="quantized weights cannot be trained"):
        load(converted, device="cpu").config.require_plain("x")
    open_donor(converted, "vq")


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_costs_as_much_in_fewer_bits(kind: str | QuantizationConfig) -> None:
    plain = load_random("tiny", device="cpu")
    quantized = load_random("tiny", device="cpu", quantize=kind)
    options = EngineOptions()
    assert options.prefill_budget(quantized.model) == options.prefill_budget(plain.model)
