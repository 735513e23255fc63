"""The graphs in ONNX Runtime against the model's own methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from openjanus.model.janus import quantize_model
from openjanus.pipeline import Janus
from openjanus.presets import preset
from openjanus.quantization import QuantizationConfig
from openjanus.web.graphs import check_exportable, decode_step, make_graphs
from openjanus.web.weights import NARROW, WIDE, widen, write_graphs

TOLERANCE = 1e-5
"""Of numbers of size 1 to 5, between two programs that sum in another order."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_ids(size: int, *shape: int) -> Tensor:
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(1))


def check_equal(found: list[np.ndarray], *expected: Tensor) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(torch.from_numpy(one), other, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("shape", [(1, 1), (2, 7)])
def test_ids_are_embedded_by_either_door(tab, janus: Janus, shape):
    model = janus.model
    words = random_ids(model.config.text_vocab_size, *shape)
    check_equal(tab("embed_text", words), model.embed_text(words))
    codes = random_ids(model.config.codebook_size, *shape)
    check_equal(tab("embed_gen", codes), model.embed_gen(codes))


def test_a_picture_is_understood(tab, janus: Janus):
    size = janus.config.und_image_size
    pixels = random(1, 3, size, size)
    check_equal(tab("embed_und", pixels), janus.model.embed_und(pixels))


@pytest.mark.parametrize(("rows", "new", "before"), [(2, 5, 0), (1, 1, 0), (2, 1, 6), (1, 9, 1)])
def test_the_decoder_goes_on_from_any_length(tab, janus: Janus, rows, new, before):
    language = janus.config.language
    embeds = random(rows, before + new, language.hidden_size)
    layers, heads = language.num_hidden_layers, language.num_key_value_heads
    past = torch.zeros(0, layers, 2, rows, heads, language.head_size)
    if before:
        past = decode_step(janus.model, embeds[:, :before], past)[1]
    found = tab("decoder", embeds[:, before:], past)
    check_equal(found, *decode_step(janus.model, embeds[:, before:], past))
    check_equal(found[:1], janus.model.language_model.model(embeds)[:, -1])


@pytest.mark.parametrize("rows", [1, 2])
def test_either_head_makes_logits(tab, janus: Janus, rows):
    hidden = random(rows, janus.config.language.hidden_size)
    check_equal(tab("text_logits", hidden), janus.model.text_logits(hidden))
    check_equal(tab("image_logits", hidden), janus.model.image_logits(hidden))


@pytest.mark.parametrize("height", [1, 3, 4])
def test_rows_of_ids_become_pixels(tab, janus: Janus, height):
    side = round(janus.config.num_gen_image_tokens**0.5)
    ids = random_ids(janus.config.codebook_size, 1, height, side)
    pixels = getattr(janus.model.vq, "decode_rows")(ids)
    (found,) = tab("decode_rows", ids)
    assert found.shape == pixels.shape
    assert np.abs(found - pixels.numpy()).max() < 1e-4  # of 2 / 255 a grey level


def test_no_graph_tells_where_it_was_made(tab_folder: Path):
    for path in tab_folder.glob("*.onnx"):
        assert b"openjanus" not in path.read_bytes(), path
        assert b".py" not in path.read_bytes(), path


def test_no_weight_is_stored_twice(tab_folder: Path, janus: Janus):
    stored = (tab_folder / WIDE).stat().st_size + 2 * (tab_folder / NARROW).stat().st_size
    encoder = sum(p.numel() for p in getattr(janus.model.vq, "encoder").parameters())
    everything = sum(p.numel() for p in janus.model.parameters())
    assert stored <= 4 * (everything - encoder)


def test_what_is_bfloat16_takes_half_the_bytes(tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    from openjanus.web.graphs import Graph

    def graph(name: str, values: Tensor) -> Graph:
        tensor = numpy_helper.from_array(values.numpy(), "w")
        node = helper.make_node("Identity", ["w"], ["y"])
        output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, values.shape)
        return Graph(
            name, helper.make_model(helper.make_graph([node], name, [], [output], [tensor]))
        )

    wide = random(300)
    narrow = random(300, seed=1).bfloat16().float()
    write_graphs(tmp_path, [graph("a", wide), graph("b", narrow), graph("again", narrow)])
    assert (tmp_path / NARROW).stat().st_size == 600
    assert (tmp_path / WIDE).stat().st_size == 1200
    assert widen(tmp_path / NARROW) == narrow.numpy().tobytes()
    assert widen(tmp_path / WIDE) == wide.numpy().tobytes()


def test_what_a_tab_cannot_run_is_refused(make_model):
    with pytest.raises(ValueError, match="gen_tokenizer is of type 'semantic'"):
        check_exportable(preset("tiny-semantic"))
    model = make_model(preset("tiny"))
    quantize_model(model, QuantizationConfig.by_name("int8"))
    with pytest.raises(ValueError, match="export the model that it was made from"):
        make_graphs(model)
    with pytest.raises(ValueError, match="load the model with dtype='float32'"):
        make_graphs(make_model(preset("tiny")).bfloat16())
