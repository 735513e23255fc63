"""No size is written into the model's or the processor's code: all follow from the config."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import openjanus.model.janus
import openjanus.processor.prompt
from openjanus.config import JanusConfig, SiglipConfig, VQConfig
from openjanus.processor.chat import Turn
from openjanus.processor.prompt import Processor
from openjanus.processor.text import TextTokenizer

RELEASED_SIZES = {24, 384, 576, 1024, 2048, 4096, 16384, 102400, 100002, 100015, 100581}

SOURCES = sorted(
    path
    for module in (openjanus.model.janus, openjanus.processor.prompt)
    for path in Path(str(module.__file__)).parent.glob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_released_size_is_written_in_code(path: Path) -> None:
    numbers = {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, int)
    }
    assert not numbers & RELEASED_SIZES


@pytest.mark.parametrize(
    ("und_size", "patch", "gen_size", "levels"),
    [(48, 16, 16, (1, 1)), (30, 6, 24, (1, 2, 2)), (16, 16, 32, (1, 1, 1, 1, 2))],
)
def test_real_shapes_follow_the_config(
    make_model: Any,
    tiny_config: JanusConfig,
    tokenizer: TextTokenizer,
    und_size: int,
    patch: int,
    gen_size: int,
    levels: tuple[int, ...],
) -> None:
    """The two doors may have grids of their own, which the released models' code does not allow."""
    assert isinstance(tiny_config.und_encoder, SiglipConfig)
    assert isinstance(tiny_config.gen_tokenizer, VQConfig)
    config = dataclasses.replace(
        tiny_config,
        und_encoder=dataclasses.replace(
            tiny_config.und_encoder, image_size=und_size, patch_size=patch
        ),
        gen_tokenizer=dataclasses.replace(
            tiny_config.gen_tokenizer, image_size=gen_size, channel_multipliers=levels
        ),
    )
    n_und, n_gen = (und_size // patch) ** 2, (gen_size // 2 ** (len(levels) - 1)) ** 2
    assert (config.num_und_image_tokens, config.num_gen_image_tokens) == (n_und, n_gen)
    model, processor = make_model(config), Processor(config, tokenizer)
    picture = Image.new("RGB", (70, 40), "red")
    with torch.no_grad():
        question = [Turn(role="user", text="<image_placeholder>\nWhat?")]
        prompt = processor.und_prompt(question, [picture])
        assert prompt.images is not None
        slots = torch.tensor([prompt.input_ids]) == tokenizer.image_pad_id
        embeds = model.embed_sequence(
            torch.tensor([prompt.input_ids]), {"und": (slots, model.embed_und(prompt.images))}
        )
        assert model.language_model.model(embeds).isfinite().all() and slots.sum() == n_und
        ids = model.vq.encode_to_ids(processor.gen_pixels([picture]))
        assert ids.shape == (1, n_gen)
        (drawing,) = processor.decode_picture(model.vq.decode_ids(ids))
    assert drawing.size == (gen_size, gen_size)
