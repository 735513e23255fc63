"""A tiny model whose logits are far from flat, so that a wrong row or position shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness import IMAGE_PAD
from torch import Tensor, nn

from openjanus.config import JanusConfig
from openjanus.engine.engine import Engine
from openjanus.engine.noise import gumbel_noise
from openjanus.engine.request import (
    ChatRequest,
    ComposeRequest,
    DrawRequest,
    FailedEvent,
    FinishedEvent,
    Request,
)
from openjanus.model.janus import JanusModel, build_model
from openjanus.model.semantic import SemanticDecoder
from openjanus.presets import preset


def build_lively(config: JanusConfig) -> JanusModel:
    model = build_model(config, device="cpu").eval()
    generator = torch.Generator().manual_seed(7)
    model.init_weights(generator)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, 1.0, generator=generator)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
            elif isinstance(module, SemanticDecoder):
                module.pos_embed.normal_(0.0, 1.0, generator=generator)
    return model


@pytest.fixture(scope="session")
def lively_model(tiny_config: JanusConfig) -> JanusModel:
    """Shared by the session: do not change it."""
    return build_lively(tiny_config)


@pytest.fixture(scope="session")
def semantic_model() -> JanusModel:
    """The same with one semantic tokenizer for both faces. Do not change it."""
    return build_lively(preset("tiny-semantic"))


@pytest.fixture(scope="session")
def one_vocabulary_model() -> JanusModel:
    """The same as a Chameleon. Do not change it."""
    return build_lively(preset("tiny-chameleon"))


def run_all(engine: Engine, requests: list[Request]) -> list[tuple[int, ...]]:
    """Every request's ids, in the order of the requests."""
    places = {engine.add(request): index for index, request in enumerate(requests)}
    results: list[tuple[int, ...]] = [()] * len(requests)
    while engine.has_work:
        for event in engine.step():
            assert not isinstance(event, FailedEvent), event.error
            if isinstance(event, FinishedEvent):
                results[places[event.request_id]] = event.ids
    return results


@pytest.fixture(scope="session")
def run() -> Callable[[Engine, list[Request]], list[tuple[int, ...]]]:
    return run_all


def pick(logits: Tensor, request: Request, stream: int, position: int) -> int:
    """Gumbel-max as a textbook has it, without any filter."""
    if request.temperature == 0:
        return int(logits.argmax())
    noise = gumbel_noise(request.seed, stream, torch.tensor([position]), len(logits), "cpu")[0]
    return int((logits / request.temperature + noise).argmax())


@torch.no_grad()
def draw_naively(model: JanusModel, request: DrawRequest) -> tuple[int, ...]:
    """The loop of the paper: no cache, no batch, the whole sequence anew for every id."""
    ids: list[int] = list(request.prefix_ids)
    num_ids = model.config.num_gen_image_tokens
    scales = request.scales(num_ids, round(num_ids**0.5))

    def last_logits(prompt: tuple[int, ...]) -> Tensor:
        embeds = model.embed_text(torch.tensor([prompt]))
        if ids:
            embeds = torch.cat([embeds, model.embed_gen(torch.tensor([ids]))], dim=1)
        return model.image_logits(model.language_model.model(embeds)[0, -1])

    while len(ids) < num_ids:
        logits = last_logits(request.prompt_ids)
        if (scale := scales[len(ids)]) != 1:
            assert request.uncond_ids is not None
            away = last_logits(request.uncond_ids)
            logits = away + scale * (logits - away)
        ids.append(pick(logits, request, request.image_index, len(ids)))
    return tuple(ids)


@torch.no_grad()
def chat_naively(model: JanusModel, request: ChatRequest) -> tuple[int, ...]:
    ids: list[int] = []
    while len(ids) < request.max_new_tokens and not (ids and ids[-1] in request.stop_ids):
        input_ids = torch.tensor([[*request.input_ids, *ids]])
        slots = {}
        if request.images is not None:
            slots = {"und": (input_ids == IMAGE_PAD, model.embed_und(request.images))}
        hidden = model.language_model.model(model.embed_sequence(input_ids, slots))[0, -1]
        ids.append(pick(model.text_logits(hidden), request, 0, len(ids)))
    return tuple(ids)


@pytest.fixture(scope="session")
def naive_draw() -> Callable[[JanusModel, DrawRequest], tuple[int, ...]]:
    """``naive_draw(model, request)``: what every way of drawing is compared with."""
    return draw_naively


@pytest.fixture(scope="session")
def naive_chat() -> Callable[[JanusModel, ChatRequest], tuple[int, ...]]:
    """``naive_chat(model, request)``."""
    return chat_naively


def draw_request(**changes: Any) -> DrawRequest:
    prompt = changes.pop("prompt", tuple(range(10, 22)))
    options: dict[str, Any] = {
        "prompt_ids": prompt,
        "uncond_ids": (prompt[0], *[5] * (len(prompt) - 2), prompt[-1]),
        "seed": 11,
    }
    return DrawRequest(**(options | changes))


@pytest.fixture(scope="session")
def draw() -> Callable[..., DrawRequest]:
    """``draw(prompt=ids, **changes)``."""
    return draw_request


def chat_request(**changes: Any) -> ChatRequest:
    options: dict[str, Any] = {
        "input_ids": tuple(range(40, 60)),
        "max_new_tokens": 12,
        "temperature": 0.8,
        "seed": 5,
    }
    return ChatRequest(**(options | changes))


@pytest.fixture(scope="session")
def chat() -> Callable[..., ChatRequest]:
    """``chat(**changes)``."""
    return chat_request


def compose_request(**changes: Any) -> ComposeRequest:
    options: dict[str, Any] = {
        "input_ids": tuple(range(40, 60)),
        "boi_id": 30,
        "eoi_id": 31,
        "pad_id": 5,
        "max_new_tokens": 30,
        "max_images": 3,
        "temperature": 1.0,
        "seed": 5,
        "guidance_scale": 3.0,
    }
    return ComposeRequest(**(options | changes))


@pytest.fixture(scope="session")
def compose() -> Callable[..., ComposeRequest]:
    """``compose(**changes)``."""
    return compose_request


@pytest.fixture(scope="session")
def pictures(tiny_config: JanusConfig) -> Tensor:
    """(2, 3, S, S)."""
    size = tiny_config.und_image_size
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="session")
def picture_prompt(tiny_config: JanusConfig) -> tuple[int, ...]:
    """Ids with the slots of two pictures."""
    slots = (IMAGE_PAD,) * tiny_config.num_und_image_tokens
    return (1, 2, *slots, 3, 4, *slots, 5, 6, 7)
