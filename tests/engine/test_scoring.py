from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from harness import IMAGE_PAD, Run
from torch import Tensor

from openjanus.engine import sampler
from openjanus.engine.engine import Engine, EngineOptions
from openjanus.engine.request import ChatRequest, DrawRequest
from openjanus.engine.sampling import sample
from openjanus.engine.scoring import score_answer, score_image_ids
from openjanus.model.janus import JanusModel


@pytest.fixture
def loop_scores(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Fills with log-probabilities of the ids that the engine samples, as it samples them."""
    scores: list[Tensor] = []

    def spy(logits: Tensor, *rest: Tensor) -> Tensor:
        ids = sample(logits, *rest)
        scores.append(logits.float().log_softmax(-1)[0, ids[0]])
        return ids

    monkeypatch.setattr(sampler, "sample", spy)
    return scores


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_image_scores_are_those_of_the_decode_loop(
    lively_model: JanusModel,
    run: Run,
    draw: Callable[..., DrawRequest],
    loop_scores: list[Tensor],
    scale: float,
) -> None:
    request = draw(guidance_scale=scale)
    options = EngineOptions(look_ahead=1)  # nothing is sampled that is not taken
    (ids,) = run(Engine(lively_model, image_pad_id=IMAGE_PAD, options=options), [request])
    scores = score_image_ids(
        lively_model,
        torch.tensor(request.prompt_ids),
        torch.tensor(ids),
        uncond_ids=torch.tensor(request.uncond_ids),
        guidance_scale=scale,
    )
    torch.testing.assert_close(scores, torch.stack(loop_scores), atol=2e-5, rtol=1e-5)


def test_answer_scores_are_those_of_the_decode_loop(
    lively_model: JanusModel,
    run: Run,
    chat: Callable[..., ChatRequest],
    loop_scores: list[Tensor],
    pictures: Tensor,
    picture_prompt: tuple[int, ...],
) -> None:
    request = chat(input_ids=picture_prompt, images=pictures)
    (ids,) = run(Engine(lively_model, image_pad_id=IMAGE_PAD), [request])
    prompt_ids = torch.tensor(picture_prompt)
    scores = score_answer(
        lively_model,
        prompt_ids,
        torch.tensor(ids),
        images=pictures,
        image_slots=prompt_ids == IMAGE_PAD,
    )
    torch.testing.assert_close(scores, torch.stack(loop_scores), atol=2e-5, rtol=1e-5)


def test_a_single_token_answer(lively_model: JanusModel) -> None:
    prompt = torch.arange(5)
    scores = score_answer(lively_model, prompt, torch.tensor([9]))
    with torch.no_grad():
        hidden = lively_model.language_model.model(lively_model.embed_text(prompt[None]))
        expected = lively_model.text_logits(hidden[0, -1]).log_softmax(-1)[9]
    torch.testing.assert_close(scores, expected[None])
