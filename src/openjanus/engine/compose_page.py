"""A page of replies in which words and pictures come in turn (Chameleon, section 2.4).

All rows run through the decoder in every step, as on other pages; what a slot stands at decides
which head's logits it is sampled from, and by which door its last id comes back in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openjanus.engine.course import Course
from openjanus.engine.page import TokenPage
from openjanus.engine.prefill import Prefix
from openjanus.engine.request import ComposeRequest
from openjanus.engine.sampler import SlotSampler
from openjanus.engine.sampling import guide
from openjanus.model.janus import JanusModel


class ComposePage(TokenPage):
    """Compositions: slot i is rows i, the reply, and R/2 + i, idle but in a guided picture.

    The second row holds what guidance leads away from: the same length with all but BOS replaced
    by pad. It joins at ``<begin_of_image>`` and leaves with the last code.
    """

    def __init__(self, model: JanusModel, capacity: int, num_rows: int, image_pad_id: int) -> None:
        super().__init__(model, capacity, num_rows, 2, model.config.text_vocab_size)
        device = self._next_ids.device
        self._image_pad_id = image_pad_id
        self._codes = SlotSampler(self.num_slots, model.config.codebook_size, device)
        self._scale = torch.ones(self.num_slots, device=device)
        self._gen_cache = model.allocate_gen_cache(self.num_slots)
        self._courses: dict[int, Course] = {}

    def seat(self, slot: int, request: ComposeRequest, course: Course, prefix: Prefix) -> int:
        """Start a composition in a slot and return its first id, which ``course`` has taken."""
        self._requests[slot] = request
        self._courses[slot] = course
        self._scale[slot] = request.guidance_scale
        self._sampler.seat(
            slot,
            seed=request.seed,
            stream=0,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
        )
        self._fork(slot, 0, prefix)
        (word,) = self._sampler.sample(self._masked(prefix.logits, [slot]), [slot]).tolist()
        return self._take(slot, word)

    def begin_picture(self, slot: int, uncond: Prefix | None) -> None:
        """Get ready for the codes after ``<begin_of_image>``, which has been sampled.

        Args:
            slot: Whose.
            uncond: As long as the reply's row: all before ``<begin_of_image>``, unconditional.
                None where there is no guidance.
        """
        request = self._requests[slot]
        assert isinstance(request, ComposeRequest)
        self._codes.seat(
            slot,
            seed=request.seed,
            stream=self._courses[slot].num_images,  # from 1: stream 0 is the words'
            temperature=request.image_temperature,
            top_k=request.image_top_k,
            top_p=request.image_top_p,
        )
        if uncond is not None:
            assert uncond.length == self._lengths[slot]
            self._fork(slot, 1, uncond)

    def leave(self, slot: int) -> None:
        """Free a slot."""
        super().leave(slot)
        self._codes.leave(slot)
        self._courses.pop(slot, None)
        self._scale[slot] = 1

    def _embed(self, ids: Tensor, slots: list[int]) -> Tensor:
        is_code = [slot in self._courses and self._courses[slot].last_is_code for slot in slots]
        by_code = torch.tensor(is_code, device=ids.device)
        embeds = self.model.embed_text(ids.masked_fill(by_code, 0)).repeat(2, 1)[:, None]
        if not any(is_code):
            return embeds  # (B, 1, D)
        codes = ids.masked_fill(~by_code, 0)
        if self._gen_cache is None:
            drawn = self.model.embed_gen(codes.repeat(2))[:, None]
        else:
            # Codes that the entrance has been fed: the last one has been sampled alone.
            lengths = [self._codes.num_sampled[slot] - 1 for slot in slots]
            known = [length if has else None for length, has in zip(lengths, is_code, strict=True)]
            runs = self._runs_of(known, slots)
            drawn = self.model.embed_gen(codes[:, None], cache=self._gen_cache, runs=runs)
            drawn = drawn.repeat(2, 1, 1)
        return torch.where(by_code.repeat(2)[:, None, None], drawn, embeds)

    def _logits(self, predicted: Tensor, slots: list[int]) -> Tensor:
        """Of words, by hidden states.

        The heads see all rows, so that a row's bits do not depend on the others.
        """
        return self.model.text_logits(predicted)[: len(slots)]

    def _choose(self, predicted: Tensor, slots: list[int], seated: list[int]) -> dict[int, int]:
        places = {slot: place for place, slot in enumerate(slots)}
        expects = {slot: self._courses[slot].expects for slot in seated}
        chosen: dict[int, int] = {}
        if words := [slot for slot in seated if expects[slot] == "word"]:
            logits = self._logits(predicted, slots)[[places[slot] for slot in words]]
            ids = self._sampler.sample(self._masked(logits, words), words)
            chosen |= dict(zip(words, ids.tolist(), strict=True))
        if codes := [slot for slot in seated if expects[slot] == "code"]:
            cond, uncond = self.model.image_logits(predicted).chunk(2)
            logits = guide(cond, uncond, self._scale[slots])[[places[slot] for slot in codes]]
            ids = self._codes.sample(logits, codes)
            chosen |= dict(zip(codes, ids.tolist(), strict=True))
        for slot in seated:
            if expects[slot] == "end_of_image":
                chosen[slot] = self._courses[slot].eoi_id
        return {slot: self._take(slot, chosen[slot]) for slot in seated}

    def _masked(self, logits: Tensor, slots: list[int]) -> Tensor:
        """(s, V) logits of words without what has its place by form alone."""
        banned = torch.zeros_like(logits, dtype=torch.bool)
        for place, slot in enumerate(slots):
            course = self._courses[slot]
            banned[place, [course.eoi_id, self._image_pad_id]] = True
            banned[place, course.boi_id] = not course.may_begin_picture
        return logits.masked_fill(banned, -torch.inf)

    def _take(self, slot: int, chosen: int) -> int:
        """Keep an id for the next step; returns it by its name in ``Course.ids``."""
        course = self._courses[slot]
        course.take(chosen)
        self._next_ids[slot] = chosen
        if course.expects == "end_of_image":
            self._lengths[self.num_slots + slot] = None  # guidance has nothing left to do
        return course.ids[-1]
