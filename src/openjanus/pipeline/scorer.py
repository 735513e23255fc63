"""Scoring: log-probabilities of given answers and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openjanus.engine.engine import Engine
from openjanus.engine.request import DrawRequest
from openjanus.engine.scoring import score_answer, score_image_ids
from openjanus.model.janus import JanusModel
from openjanus.pipeline.speaker import Messages, one_system
from openjanus.processor.chat import Turn, parse_messages
from openjanus.processor.image import ImageLike
from openjanus.processor.prompt import Processor


class Scorer:
    """What ``Janus`` scores with."""

    def __init__(self, model: JanusModel, processor: Processor, engine: Engine) -> None:
        self._model = model
        self._processor = processor
        self._engine = engine
        self._device = model.language_model.model.embed_tokens.weight.device

    def answer(
        self, messages: Messages, answer: str, images: Sequence[ImageLike], system: str | None
    ) -> Tensor:
        """(A,) of an answer; see ``Janus.score``."""
        dialogue = parse_messages(messages, images)
        system = one_system(system, dialogue.system)
        prompt = self._processor.und_prompt(dialogue.turns, dialogue.images, system=system)
        turns = [*dialogue.turns, Turn(role="assistant", text=answer)]
        ids, is_answer = self._processor.training_dialogue(turns, system=system)
        context = self._model.config.language.max_position_embeddings
        if len(ids) > context:
            raise ValueError(
                f"prompt and answer take {len(ids)} tokens, the context holds {context}: "
                "shorten them"
            )
        num_prompt = len(ids) - is_answer[::-1].index(False)  # earlier answers are prompt
        all_ids = torch.tensor(ids, device=self._device)
        prompt_ids = all_ids[:num_prompt]
        return score_answer(
            self._model,
            prompt_ids,
            all_ids[num_prompt:],
            images=None if prompt.images is None else prompt.images.to(self._device),
            image_slots=prompt_ids == self._processor.tokenizer.image_pad_id,
        ).cpu()

    def image(self, prompt: str, image_ids: Tensor, guidance_scale: float) -> Tensor:
        """(N,) of a picture's valid ids; see ``Janus.score_image``."""
        prompt_ids = self._processor.gen_prompt(prompt)
        uncond_ids = self._processor.uncond_prompt(len(prompt_ids))
        request = DrawRequest(
            prompt_ids=prompt_ids, uncond_ids=uncond_ids, seed=0, guidance_scale=guidance_scale
        )
        self._engine.check(request)
        return score_image_ids(
            self._model,
            torch.tensor(prompt_ids, device=self._device),
            image_ids,
            uncond_ids=torch.tensor(uncond_ids, device=self._device),
            guidance_scale=guidance_scale,
        ).cpu()
