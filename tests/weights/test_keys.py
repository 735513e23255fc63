"""The tables of names, for every layout and for models of every kind."""

from __future__ import annotations

import pytest

from openjanus.model.janus import build_model
from openjanus.presets import preset
from openjanus.weights.formats import FORMATS, Format
from openjanus.weights.keys import KeyTable, check_names

MODELS = ["tiny", "nano-v0", "janus-pro-1b", "janus-pro-7b", "tiny-chameleon", "chameleon-7b"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", FORMATS.values(), ids=lambda layout: layout.name)
def test_every_table_is_a_bijection(layout: Format, model: str) -> None:
    keys = list(build_model(preset(model)).state_dict())
    stored = [
        (key, part, name) for key in keys for part, name in enumerate(layout.table.names(key))
    ]
    assert len({name for _, _, name in stored}) == len(stored) >= len(keys)
    for key, part, name in stored:
        assert layout.table.key(name) == (key, part)
        assert not layout.table.is_dropped(name)


def test_transformers_splits_what_ours_joins() -> None:
    table = FORMATS["transformers"].table
    layer = "model.vision_model.encoder.layers.11.self_attn"
    assert table.names("und_encoder.blocks.11.attn.qkv.bias") == tuple(
        f"{layer}.{letter}_proj.bias" for letter in "qkv"
    )
    assert table.stored_shape("und_encoder.blocks.11.attn.qkv.bias", (96,)) == (32,)
    assert table.stored_shape("und_encoder.pos_embed", (1, 9, 32)) == (9, 32)


@pytest.mark.parametrize("layout", FORMATS.values(), ids=lambda layout: layout.name)
def test_a_foreign_name_is_refused(layout: Format) -> None:
    with pytest.raises(KeyError, match=r"'bogus\.weight' is no name of JanusModel"):
        layout.table.names("bogus.weight")
    with pytest.raises(KeyError, match=r"'bogus\.weight' is no name of .* checkpoint"):
        layout.table.key("bogus.weight")


@pytest.mark.parametrize(
    "name",
    [
        "vision_model.vision_tower.attn_pool.latent",
        "vision_model.vision_tower.attn_pool.mlp.fc1.weight",
        "gen_vision_model.quantize.codebook_used",
    ],
)
def test_what_the_authors_files_hold_in_vain_is_dropped_by_name(name: str) -> None:
    assert FORMATS["deepseek"].table.is_dropped(name)
    assert not FORMATS["deepseek"].table.is_dropped(f"x.{name}")
    assert not FORMATS["openjanus"].table.is_dropped(name)


def test_the_first_rule_that_fits_decides_in_both_directions() -> None:
    table = KeyTable(owner="x", rules=(("a.{}.b.", "c.{}.d."), ("a.", "c.")))
    assert table.names("a.7.b.w") == ("c.7.d.w",)
    assert table.key("c.7.d.w") == ("a.7.b.w", 0)
    assert table.names("a.w") == ("c.w",)


def test_a_message_names_a_few_of_many_faults() -> None:
    expected = {f"e{i}": (1,) for i in range(5)} | {"s": (2, 3)}
    with pytest.raises(ValueError, match="5 missing") as raised:
        check_names("here", expected, {"s": (3, 2), "u": (4,)})
    assert str(raised.value) == (
        "here does not hold the model that its config.json describes: 5 missing (e0 (1,); e1 "
        "(1,); e2 (1,) ...), 1 unexpected (u (4,)), 1 of another shape (s is (3, 2), expected "
        "(2, 3)): put the files of one model together"
    )
