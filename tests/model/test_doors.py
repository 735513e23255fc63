"""Doors are configurations: a third one, and another understanding encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import openjanus.config
import openjanus.model.doors
from openjanus.config import (
    JanusConfig,
    SharedEncoderConfig,
    SiglipConfig,
    register_door_config,
)
from openjanus.config_file import load_config, save_config
from openjanus.model.doors import UndEncoder, build_door, register_door
from openjanus.model.janus import build_model


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundConfig:
    """A toy ear: windows of samples."""

    type: ClassVar[str] = "test-sound"

    window_size: int
    hidden_size: int


class SoundEncoder(nn.Module):
    def __init__(self, config: SoundConfig) -> None:
        super().__init__()
        self.output_size = config.hidden_size
        self.conv = nn.Conv1d(1, config.hidden_size, config.window_size, stride=config.window_size)

    def forward(self, samples: Tensor) -> Tensor:
        return self.conv(samples[:, None]).transpose(1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class GridConfig:
    """A toy understanding encoder: mean colours of a grid."""

    type: ClassVar[str] = "test-grid"

    image_size: int
    grid_size: int

    @property
    def num_image_tokens(self) -> int:
        return self.grid_size**2


class GridEncoder(nn.Module):
    def __init__(self, config: GridConfig) -> None:
        super().__init__()
        self.output_size = 3
        self.pool = nn.AdaptiveAvgPool2d(config.grid_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.pool(pixel_values).flatten(2).transpose(1, 2)


class OddEncoder(nn.Module):
    """A parameter that no rule of initialisation knows."""

    output_size = 3

    def __init__(self, _: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(3, 3))


class SelfMadeEncoder(OddEncoder):
    def init_weights(self, generator: torch.Generator) -> None:
        self.scale.uniform_(5.0, 6.0, generator=generator)


@pytest.fixture(autouse=True)
def _fresh_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    configs = dict(openjanus.config._DOOR_CONFIGS)
    builders = dict(openjanus.model.doors._BUILDERS)
    monkeypatch.setattr(openjanus.config, "_DOOR_CONFIGS", configs)
    monkeypatch.setattr(openjanus.model.doors, "_BUILDERS", builders)
    with torch.no_grad():
        yield


def with_ear(config: JanusConfig) -> JanusConfig:
    register_door_config(SoundConfig)
    register_door(SoundConfig.type, SoundEncoder)
    return dataclasses.replace(
        config, extra_doors={"ear": SoundConfig(window_size=8, hidden_size=12)}
    )


def test_a_third_door(make_model: Any, tiny_config: JanusConfig, tmp_path: Path) -> None:
    config = with_ear(tiny_config)
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config
    model = make_model(config)
    samples = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    sound = model.embed_extra("ear", samples)
    assert sound.shape == (2, 5, config.language.hidden_size)

    ids = torch.arange(16).view(2, 8)
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[:, 1:6] = True
    embeds = model.embed_sequence(ids, {"ear": (mask, sound)})
    assert torch.equal(embeds[:, 1:6], sound)
    louder = model.embed_sequence(ids, {"ear": (mask, model.embed_extra("ear", 9 * samples))})
    decoder = model.language_model.model
    assert not torch.allclose(decoder(embeds)[:, -1], decoder(louder)[:, -1])


def test_a_third_door_adds_its_own_names_and_no_more(tiny_config: JanusConfig) -> None:
    plain = set(build_model(tiny_config).state_dict())
    added = set(build_model(with_ear(tiny_config)).state_dict()) - plain
    assert {name.rsplit(".", 1)[0] for name in added} == {
        "extra_encoders.ear.conv",
        "extra_aligners.ear.layers.0",
        "extra_aligners.ear.layers.2",
    }


def test_a_convolution_of_a_door_is_not_taken_for_a_norm(
    make_model: Any, tiny_config: JanusConfig
) -> None:
    weight = make_model(with_ear(tiny_config)).get_parameter("extra_encoders.ear.conv.weight")
    assert weight.std() > 0 and weight.abs().max() <= 8**-0.5


def test_another_understanding_encoder(make_model: Any, tiny_config: JanusConfig) -> None:
    register_door_config(GridConfig)
    register_door(GridConfig.type, GridEncoder)
    grid = GridConfig(image_size=20, grid_size=5)
    model = make_model(dataclasses.replace(tiny_config, und_encoder=grid))
    assert isinstance(model.und_encoder, UndEncoder)
    assert model.config.num_und_image_tokens == 25 and model.config.und_image_size == 20
    assert model.embed_und(torch.zeros(1, 3, 20, 20)).shape == (1, 25, 64)
    others = {n: p.shape for n, p in build_model(tiny_config).named_parameters() if "und_" not in n}
    assert others == {n: p.shape for n, p in model.named_parameters() if "und_" not in n}


def test_a_parameter_that_no_rule_fills_is_named(make_model: Any, tiny_config: JanusConfig) -> None:
    register_door(SoundConfig.type, OddEncoder)
    doors = {"ear": SoundConfig(window_size=8, hidden_size=12)}
    config = dataclasses.replace(tiny_config, extra_doors=doors)
    with pytest.raises(ValueError, match=r"extra_encoders\.ear\.scale: give OddEncoder a method"):
        make_model(config)


def test_a_door_may_fill_itself(make_model: Any, tiny_config: JanusConfig) -> None:
    register_door(SoundConfig.type, SelfMadeEncoder)
    doors = {"ear": SoundConfig(window_size=8, hidden_size=12)}
    model = make_model(dataclasses.replace(tiny_config, extra_doors=doors))
    assert model.get_parameter("extra_encoders.ear.scale").ge(5).all()


def test_a_type_without_a_module(tiny_config: JanusConfig) -> None:
    with pytest.raises(KeyError, match="no module is registered for door type 'test-sound'"):
        build_door(SoundConfig(window_size=8, hidden_size=12))


def test_names_are_given_once() -> None:
    register_door(SoundConfig.type, SoundEncoder)
    register_door(SoundConfig.type, SoundEncoder)
    with pytest.raises(ValueError, match="'test-sound' is taken"):
        register_door(SoundConfig.type, GridEncoder)

    class Impostor(GridConfig):
        type: ClassVar[str] = SiglipConfig.type

    with pytest.raises(ValueError, match="'siglip' is taken by SiglipConfig"):
        register_door_config(Impostor)


def test_an_encoder_must_say_its_width(tiny_config: JanusConfig) -> None:
    register_door(SoundConfig.type, lambda _: nn.Identity())
    doors = {"ear": SoundConfig(window_size=8, hidden_size=12)}
    with pytest.raises(ValueError, match="Identity needs output_size"):
        build_model(dataclasses.replace(tiny_config, extra_doors=doors))


def test_a_tokenizer_without_a_codebook_cannot_be_shared(
    tiny_config: JanusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    builders = {**openjanus.model.doors._BUILDERS, "vq": lambda _: nn.Identity()}
    monkeypatch.setattr(openjanus.model.doors, "_BUILDERS", builders)
    with pytest.raises(ValueError, match="Identity cannot serve both faces"):
        build_model(dataclasses.replace(tiny_config, und_encoder=SharedEncoderConfig()))
