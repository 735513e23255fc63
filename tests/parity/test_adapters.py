"""Adapters against peft itself: on transformers' model and on ours, and merged in every layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from openjanus.config import JanusConfig
from openjanus.model.janus import JanusModel, build_model
from openjanus.pipeline import Janus
from openjanus.pipeline.load import load
from openjanus.processor.text import byte_tokenizer
from openjanus.train.lora import add_lora, take_adapter
from openjanus.train.lora_config import LoraConfig
from openjanus.weights.adapters import Adapter, read_adapter, save_adapter

peft = pytest.importorskip("peft")

TOLERANCE = 2e-5
DOORS = ("lora", "full")


@torch.no_grad()
def trained(config: JanusConfig, fill: Callable[[JanusModel, int], None], doors: str) -> Any:
    """A model with adapters that do something, and its adapter."""
    lora = LoraConfig(rank=4, alpha=6.0, train_doors=doors)  # pyright: ignore[reportArgumentType]
    model = build_model(config, device="cpu").eval()
    fill(model, 1)
    add_lora(model, lora, seed=0)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or (doors == "full" and name.partition(".")[0] in lora.doors):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model, take_adapter(model, lora, base="base")


def logits(model: JanusModel) -> tuple[Tensor, Tensor, Tensor]:
    """Words after words, ids after ids, and what the eye hands over."""
    generator = torch.Generator().manual_seed(3)
    size = model.config.und_image_size
    decoder = model.language_model.model
    words = torch.randint(200, (2, 9), generator=generator)
    ids = torch.randint(40, (2, 7), generator=generator)
    pixels = torch.rand(1, 3, size, size, generator=generator) * 2 - 1
    return (
        model.text_logits(decoder(model.embed_text(words))),
        model.image_logits(decoder(model.embed_gen(ids))),
        model.embed_und(pixels),
    )


def their_logits(wrapped: Any, model: JanusModel) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    size = model.config.und_image_size
    theirs = wrapped.base_model.model
    words = torch.randint(200, (2, 9), generator=generator)
    ids = torch.randint(40, (2, 7), generator=generator)
    pixels = torch.rand(1, 3, size, size, generator=generator) * 2 - 1
    inner = theirs.model
    embeds = theirs.prepare_embeddings_for_image_generation(ids)
    hidden = inner.language_model(inputs_embeds=embeds).last_hidden_state
    seen = inner.vision_model(pixels).last_hidden_state
    return wrapped(input_ids=words).logits, inner.generation_head(hidden), inner.aligner(seen)


def close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE * 10)


@pytest.fixture(scope="module", params=DOORS)
def case(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    fill: Callable[[JanusModel, int], None],
    grouped_config: JanusConfig,
) -> Any:
    """A model with adapters, and folders of its base in transformers' layout and of adapters."""
    config = grouped_config
    folder = tmp_path_factory.mktemp("adapters")
    model, adapter = trained(config, fill, request.param)
    base = build_model(config, device="cpu").eval()
    fill(base, 1)
    words = byte_tokenizer(config.processor)
    Janus(base, words).export(folder / "base", "transformers")
    for layout in ("openjanus", "transformers"):
        save_adapter(folder / layout, adapter, layout=layout)
    return model, base, folder


@torch.no_grad()
def test_peft_opens_it_on_transformers_own_model(case):
    from transformers import JanusForConditionalGeneration

    model, base, folder = case
    theirs = JanusForConditionalGeneration.from_pretrained(folder / "base", dtype=torch.float32)
    wrapped = peft.PeftModel.from_pretrained(theirs.eval(), folder / "transformers").eval()
    wanted = logits(model)
    close(their_logits(wrapped, base), wanted)
    assert (wanted[0] - logits(base)[0]).abs().max() > 1e-2


@torch.no_grad()
def test_peft_opens_it_on_our_model(case, fill):
    model, base, folder = case
    bare = build_model(base.config, device="cpu").eval()
    fill(bare, 1)
    wrapped = peft.PeftModel.from_pretrained(bare, folder / "openjanus").eval()
    close(logits(wrapped.base_model.model), logits(model))


@torch.no_grad()
def test_what_peft_trained_on_transformers_own_model_is_ours(case, tmp_path: Path):
    from transformers import JanusForConditionalGeneration

    _, base, folder = case
    theirs = JanusForConditionalGeneration.from_pretrained(folder / "base", dtype=torch.float32)
    settings = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=r"model\.language_model\..*\.(q_proj|up_proj)"
    )
    wrapped = peft.get_peft_model(theirs.eval(), settings).eval()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    wrapped.save_pretrained(tmp_path / "a")
    assert isinstance(read_adapter(tmp_path / "a"), Adapter)
    ours = load(folder / "base", device="cpu", dtype="float32", adapter=tmp_path / "a").model
    close(logits(ours), their_logits(wrapped, base))


@torch.no_grad()
@pytest.mark.parametrize("layout", ["openjanus", "deepseek", "transformers"])
def test_merged_in_every_layout_is_unmerged(case, tmp_path: Path, layout: str):
    from openjanus.weights.formats import export_model

    model, _, folder = case
    janus = load(folder / "base", device="cpu", dtype="float32", adapter=folder / "openjanus")
    words = janus.processor.tokenizer
    export_model(tmp_path / layout, janus.model, words, layout=layout, any_size=True)
    close(logits(load(tmp_path / layout, device="cpu", dtype="float32").model), logits(model))
