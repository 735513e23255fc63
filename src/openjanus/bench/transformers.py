"""transformers' Janus as a contestant, on the very weights of ours.

Its drawing steps are the lines of ``JanusForConditionalGeneration.generate`` with its static cache,
its writing steps those of greedy ``generate``. Nothing imports this module but the command that
compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from openjanus.bench.inputs import Inputs
from openjanus.pipeline.janus import Janus
from openjanus.weights.formats import main_dtype, to_stored
from openjanus.weights.own import own_state
from openjanus.weights.transformers import TABLE, check, config_to_dict

try:
    import transformers
    from transformers import (
        ClassifierFreeGuidanceLogitsProcessor,
        JanusConfig,
        JanusForConditionalGeneration,
        StaticCache,
    )
    from transformers.utils import logging
except ImportError as error:
    raise ImportError(
        f"measuring against transformers needs one that has Janus ({error}): "
        "pip install 'transformers>=5'"
    ) from error

VERSION = transformers.__version__

ROOM = 8
"""Tokens of a cache past those that are timed."""


def give_model(janus: Janus) -> Any:
    """Their model with the weights of ours, most of them in the same memory.

    Raises:
        ValueError: transformers cannot hold such a model.
    """
    try:
        check(janus.config)
    except ValueError as error:
        raise ValueError(
            f"this model cannot be given to transformers: {error}; to be measured, leave it out"
        ) from error
    dtype = main_dtype(janus.model)
    state = dict(to_stored(own_state(janus.model), TABLE))
    config = JanusConfig(**config_to_dict(janus.config, janus.processor.tokenizer, dtype))
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model: Any = JanusForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype
        )
    finally:
        if shown:
            logging.enable_progress_bar()
    return model.to(janus.device).eval()


class TheirDrawing:
    """``generate`` in image mode, a step at a time.

    Args:
        model: Theirs.
        prompt_ids: BOS first, BOI last.
        pad_id: What its unconditional prompt is filled with.
        num_images: At once.
        room: Tokens of the cache past the prompt.
        guidance_scale: As in ``generate``.
    """

    def __init__(
        self,
        model: Any,
        prompt_ids: tuple[int, ...],
        pad_id: int,
        *,
        num_images: int,
        room: int,
        guidance_scale: float,
    ) -> None:
        self.model = model
        cond = torch.tensor([prompt_ids], device=model.device).repeat(num_images, 1)
        uncond = torch.full_like(cond, pad_id)
        uncond[:, 0], uncond[:, -1] = prompt_ids[0], prompt_ids[-1]
        self.input_ids = cond
        self.mask = torch.ones_like(cond).repeat(2, 1)
        self.cache = StaticCache(
            config=model.config.get_text_config(), max_cache_len=len(prompt_ids) + room
        )
        self.embeds = model.get_input_embeddings()(torch.cat([cond, uncond]))
        self.guide: Any = None
        if guidance_scale > 1:
            self.guide = ClassifierFreeGuidanceLogitsProcessor(guidance_scale)

    def step(self) -> None:
        """Sample an id of every image."""
        outputs = self.model.model.language_model(
            inputs_embeds=self.embeds,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
        )
        scores = self.model.model.generation_head(outputs.last_hidden_state[:, -1, :].clone())
        scores = scores.chunk(2)[0] if self.guide is None else self.guide(self.input_ids, scores)
        ids = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(-1)
        ids = torch.cat([ids, ids]).unsqueeze(-1)
        self.embeds = self.model.prepare_embeddings_for_image_generation(ids)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=-1)


class TheirAnswer:
    """Greedy ``generate`` of text, a step at a time."""

    def __init__(self, model: Any, prompt_ids: tuple[int, ...], **images: Any) -> None:
        self.model = model
        self.images = images
        self.ids = torch.tensor([prompt_ids], device=model.device)
        self.mask = torch.ones_like(self.ids)
        self.cache = None

    def step(self) -> int:
        """The next id."""
        outputs = self.model(
            input_ids=self.ids,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **self.images,
        )
        self.images = {}
        self.cache = outputs.past_key_values
        self.ids = outputs.logits[:, -1, :].float().argmax(-1, keepdim=True)
        self.mask = torch.cat([self.mask, self.mask.new_ones(1, 1)], dim=-1)
        return int(self.ids)


class Theirs:
    """Their model, and what it is given."""

    def __init__(self, janus: Janus, inputs: Inputs) -> None:
        self.model = give_model(janus)
        self._inputs = inputs
        self._num_ids = janus.config.num_gen_image_tokens

    def draw(self, num_images: int) -> Callable[[], object]:
        """See ``Contestant``."""
        return _Again(
            lambda: TheirDrawing(
                self.model,
                self._inputs.draw_ids,
                self._inputs.pad_id,
                num_images=num_images,
                room=self._num_ids + ROOM,
                guidance_scale=self._inputs.guidance_scale,
            ),
            self._num_ids,
        )

    def write(self) -> Callable[[], object]:
        """See ``Contestant``."""
        ids, limit = self._inputs.text_ids, self._inputs.num_words
        return _Again(lambda: TheirAnswer(self.model, ids), limit)

    def answer(self, *, picture: bool) -> Callable[[], object]:
        """See ``Contestant``."""
        if not picture:
            return lambda: TheirAnswer(self.model, self._inputs.question_ids).step()
        ids, pixels = self._inputs.image_question_ids, self._inputs.pixel_values
        return lambda: TheirAnswer(self.model, ids, pixel_values=pixels).step()

    def understand(self) -> Callable[[], object]:
        """See ``Contestant``."""
        return lambda: self.model.model.get_image_features(self._inputs.pixel_values)

    def decode(self) -> Callable[[], object]:
        """See ``Contestant``."""
        return lambda: self.model.model.vqmodel.decode(self._inputs.image_ids)


class _Again:
    """Steps of something that is begun anew after so many."""

    def __init__(self, begin: Callable[[], TheirDrawing | TheirAnswer], limit: int) -> None:
        self._begin = begin
        self._limit = limit
        self._done = 0
        self._now = begin()

    def __call__(self) -> None:
        if self._done == self._limit:
            self._now, self._done = self._begin(), 0
        self._now.step()
        self._done += 1
