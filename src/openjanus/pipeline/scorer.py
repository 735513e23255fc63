"""Scoring: log-probabilities of given answers and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openjanus.engine.engine import Engine
from openjanus.engine.request import DrawRequest
from openjanus.engine.scoring import score_answers, score_image_ids
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
        return self.answers(messages, (answer,), images, system)[0]

    def answers(
        self,
        messages: Messages,
        answers: Sequence[str],
        images: Sequence[ImageLike],
        system: str | None,
    ) -> list[Tensor]:
        """(A,) of each of several answers; see ``Janus.score``."""
        dialogue = parse_messages(messages, images)
        system = one_system(system, dialogue.system)
        prompt = self._processor.und_prompt(dialogue.turns, dialogue.images, system=system)
        rows = [self._row(dialogue.turns, answer, system) for answer in answers]
        assert len({prompt_ids for prompt_ids, _ in rows}) == 1, "an answer changed its prompt"
        prompt_ids = torch.tensor(rows[0][0], device=self._device)
        scores = score_answers(
            self._model,
            prompt_ids,
            [torch.tensor(answer_ids, device=self._device) for _, answer_ids in rows],
            images=None if prompt.images is None else prompt.images.to(self._device),
            image_slots=prompt_ids == self._processor.tokenizer.image_pad_id,
        )
        return [one.cpu() for one in scores]

    def check(
        self, messages: Messages, answers: Sequence[str], images: Sequence[ImageLike]
    ) -> None:
        """Raise what ``answers`` would, without asking the model."""
        turns = parse_messages(messages, images).turns
        for answer in answers:
            self._row(turns, answer, None)

    def _row(
        self, turns: Sequence[Turn], answer: str, system: str | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of a prompt and of its answer."""
        if not answer.strip():
            raise ValueError("the answer is empty: give what the model might reply")
        turns = [*turns, Turn(role="assistant", text=answer)]
        ids, is_answer = self._processor.training_dialogue(turns, system=system)
        context = self._model.config.language.max_position_embeddings
        if len(ids) > context:
            raise ValueError(
                f"prompt and answer take {len(ids)} tokens, the context holds {context}: "
                "shorten them"
            )
        num_prompt = len(ids) - is_answer[::-1].index(False)  # earlier answers are prompt
        return tuple(ids[:num_prompt]), tuple(ids[num_prompt:])

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
