"""Log-probabilities of given ids: one teacher-forced pass instead of a decode loop."""

from __future__ import annotations

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
    num_answer = len(answer_ids)
    input_ids = torch.cat([prompt_ids, answer_ids[:-1]])[None]
    slots = {}
    if images is not None and image_slots is not None:
        mask = torch.zeros_like(input_ids, dtype=torch.bool)
        mask[0, : len(prompt_ids)] = image_slots
        slots["und"] = (mask, model.embed_und(images))
    hidden_states = model.language_model.model(model.embed_sequence(input_ids, slots))
    logits = model.text_logits(hidden_states[0, -num_answer:]).float()  # (A, V)
    return logits.log_softmax(-1).gather(-1, answer_ids[:, None])[:, 0]


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
