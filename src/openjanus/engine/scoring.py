"""Log-probabilities of given ids: one teacher-forced pass instead of a decode loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openjanus.engine.sampling import guide
from openjanus.model.janus import JanusModel


@torch.inference_mode()
def score_answer(
    model: JanusModel,
    prompt_ids: Tensor,
    answer_ids: Tensor,
    *,
    images: Tensor | None = None,
    image_slots: Tensor | None = None,
) -> Tensor:
    """Log-probability of each id of an answer after a prompt, at temperature 1.

    Args:
        model: The model.
        prompt_ids: (T,) text ids.
        answer_ids: (A,) text ids, A >= 1.
        images: (I, 3, S, S) pictures of the prompt.
        image_slots: (T,) bool, their places.

    Returns:
        (A,) fp32.
    """
    (scores,) = score_answers(
        model, prompt_ids, [answer_ids], images=images, image_slots=image_slots
    )
    return scores


@torch.inference_mode()
def score_answers(
    model: JanusModel,
    prompt_ids: Tensor,
    answers: Sequence[Tensor],
    *,
    images: Tensor | None = None,
    image_slots: Tensor | None = None,
) -> list[Tensor]:
    """``score_answer`` of several answers to one prompt: pictures are encoded once, in one pass.

    Args:
        model: The model.
        prompt_ids: (T,) text ids.
        answers: R of them, each (A,) text ids, A >= 1.
        images: (I, 3, S, S) pictures of the prompt.
        image_slots: (T,) bool, their places.

    Returns:
        For each answer (A,) fp32.
    """
    num_prompt = len(prompt_ids)
    width = num_prompt + max(map(len, answers)) - 1
    # What stands behind an answer is never seen by it: any id will do.
    input_ids = prompt_ids.new_zeros(len(answers), width)  # (R, T + A - 1)
    input_ids[:, :num_prompt] = prompt_ids
    for row, answer_ids in zip(input_ids, answers, strict=True):
        row[num_prompt : num_prompt + len(answer_ids) - 1] = answer_ids[:-1]
    slots = {}
    if images is not None and image_slots is not None:
        mask = torch.zeros_like(input_ids, dtype=torch.bool)
        mask[:, :num_prompt] = image_slots
        slots["und"] = (mask, model.embed_und(images).repeat(len(answers), 1, 1))
    hidden_states = model.language_model.model(model.embed_sequence(input_ids, slots))
    logits = model.text_logits(hidden_states[:, num_prompt - 1 :]).float()  # (R, A, V)
    log_probs = logits.log_softmax(-1)
    return [
        row[: len(answer_ids)].gather(-1, answer_ids[:, None])[:, 0]
        for row, answer_ids in zip(log_probs, answers, strict=True)
    ]


@torch.inference_mode()
def score_image_ids(
    model: JanusModel,
    prompt_ids: Tensor,
    image_ids: Tensor,
    *,
    uncond_ids: Tensor | None = None,
    guidance_scale: float = 1.0,
) -> Tensor:
    """Log-probability of each id of a picture after a prompt, as the decode loop has it.

    Args:
        model: The model.
        prompt_ids: (T,) text ids.
        image_ids: (N,) codebook ids.
        uncond_ids: (T,) the unconditional prompt, needed unless ``guidance_scale`` is 1.
        guidance_scale: 1 scores under the conditional distribution.

    Returns:
        (N,) fp32, at temperature 1.
    """
    fed_in = model.embed_gen(image_ids[None, :-1])  # (1, N - 1, D)

    def logits_after(ids: Tensor) -> Tensor:
        embeds = torch.cat([model.embed_text(ids[None]), fed_in], dim=1)
        hidden_states = model.language_model.model(embeds)
        return model.image_logits(hidden_states[0, -len(image_ids) :]).float()  # (N, C)

    logits = logits_after(prompt_ids)
    if guidance_scale != 1:
        assert uncond_ids is not None
        scale = torch.full((len(image_ids),), guidance_scale, device=logits.device)
        logits = guide(logits, logits_after(uncond_ids), scale)
    return logits.log_softmax(-1).gather(-1, image_ids[:, None])[:, 0]
