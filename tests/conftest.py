"""What most tests share: the tiny architecture, a model of it, its tokenizer and processor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from openjanus.config import JanusConfig
from openjanus.model.janus import JanusModel, build_model
from openjanus.pipeline import Janus, load
from openjanus.presets import preset
from openjanus.processor.prompt import Processor
from openjanus.processor.text import TextTokenizer, byte_tokenizer
from openjanus.web.export import write_model


def build_random(config: JanusConfig, seed: int = 0) -> JanusModel:
    """A model with fresh weights, in evaluation mode; the global seed is left alone."""
    model = build_model(config, device="cpu")
    model.init_weights(torch.Generator().manual_seed(seed))
    return model.eval()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., JanusModel]:
    """``make_model(config, seed=0)``."""
    return build_random


@pytest.fixture(scope="session")
def tiny_config() -> JanusConfig:
    return preset("tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_config: JanusConfig) -> JanusModel:
    """Shared by the session: do not change it."""
    return build_random(tiny_config)


@pytest.fixture(scope="session")
def tokenizer(tiny_config: JanusConfig) -> TextTokenizer:
    return byte_tokenizer(tiny_config.processor)


@pytest.fixture(scope="session")
def processor(tiny_config: JanusConfig, tokenizer: TextTokenizer) -> Processor:
    return Processor(tiny_config, tokenizer)


@pytest.fixture(scope="session")
def read_vector() -> Callable[[str], Any]:
    """``read_vector("templates")``: reference values made with the released models' own code."""
    folder = Path(__file__).parent / "vectors"
    return lambda name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def janus() -> Janus:
    """A tiny Janus that draws and talks, with logits far from flat.

    Shared by the session: do not change its weights.
    """
    janus = load("tiny", device="cpu")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for module in janus.model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, 1.0, generator=generator)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
    return janus


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    image = Image.new("RGB", (40, 30), (200, 30, 30))
    image.paste((20, 60, 220), (5, 5, 20, 25))
    return image


@pytest.fixture(scope="session")
def tab_folder(janus: Janus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``janus`` as a page has it, made once: it takes a while."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("tab") / "model"
    write_model(janus, folder)
    return folder
