"""A page: a static KV cache of fixed rows and capacity, and its batched decode step.

A step always runs **all** rows of its page, idle ones on stale finite values that nobody reads.
A matrix product changes in the last bits with its number of rows, and guidance multiplies that;
with fixed shapes each row's result depends on that row alone, so a request's ids are bit-equal
in fp32 whatever sits beside it, and at any slot (where in a product of fixed shape a row stands
does not change its bits on a CPU: tests hold that). A prefill runs alone, at the request's own
length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from openjanus.engine.noise import block_length, gumbel_noise
from openjanus.engine.request import ChatRequest, DrawRequest, Request
from openjanus.engine.sampling import guide, sample
from openjanus.model.attention import KVCache
from openjanus.model.janus import JanusModel


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefilled prompt: ready to be forked into rows."""

    cache: KVCache
    """Of one row and exactly the prompt's length."""
    logits: Tensor
    """(1, C) or (1, V): what the head makes of the last hidden state."""

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return self.cache.capacity


class PrefixCache:
    """The last few prefilled drawing prompts, by the weights' version and their ids.

    An unconditional prompt depends on its length alone, and the n images of a prompt share its
    ids, so both are prefilled once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    def get(self, ids: tuple[int, ...]) -> Prefix | None:
        """A prefix, which becomes the most recently used; None when it is not here."""
        if ids in self._prefixes:
            self._prefixes.move_to_end(ids)
        return self._prefixes.get(ids)

    def put(self, ids: tuple[int, ...], prefix: Prefix) -> None:
        """Keep a prefix and forget the least recently used one past the size."""
        self._prefixes[ids] = prefix
        if len(self._prefixes) > self._size:
            self._prefixes.popitem(last=False)


def run_prefill(model: JanusModel, inputs_embeds: Tensor) -> tuple[KVCache, Tensor]:
    """Run one prompt through the decoder.

    Args:
        model: The model.
        inputs_embeds: (1, T, D).

    Returns:
        A cache of one row and capacity T, and the last hidden state (1, D).
    """
    cache = KVCache.allocate(
        model.config.language,
        1,
        inputs_embeds.shape[1],
        device=inputs_embeds.device,
        dtype=inputs_embeds.dtype,
    )
    hidden_states = model.language_model.model(inputs_embeds, cache=cache)
    return cache, hidden_states[:, -1]


class Page(ABC):
    """What drawing and answering share: rows, the noise of each slot, sampling.

    Args:
        model: The model.
        capacity: Tokens a row can hold.
        num_rows: Rows R of every step.
        rows_per_slot: 2 where a slot is a guidance pair.
        num_ids: Ids that can be sampled: C or V.
    """

    def __init__(
        self, model: JanusModel, capacity: int, num_rows: int, rows_per_slot: int, num_ids: int
    ) -> None:
        weight = model.language_model.model.embed_tokens.weight
        device = weight.device
        self.model = model
        self.num_slots = num_rows // rows_per_slot
        self.num_ids = num_ids
        self.cache = KVCache.allocate(
            model.config.language, num_rows, capacity, device=device, dtype=weight.dtype
        )
        self._positions = torch.zeros(rows_per_slot, self.num_slots, dtype=torch.int64)
        self._positions = self._positions.to(device)  # of the token that each row takes next
        self._active = torch.zeros_like(self._positions[0])  # (slots,), 1 = somebody sits here
        self._next_ids = torch.zeros_like(self._active)  # (slots,)
        self._temperature = torch.zeros(self.num_slots, device=device)
        self._top_k = torch.full_like(self._active, num_ids)
        self._top_p = torch.ones(self.num_slots, device=device)
        self._requests: list[Request | None] = [None] * self.num_slots
        self._num_sampled = [0] * self.num_slots
        self._block = block_length(num_ids)
        self._noise = torch.zeros(self.num_slots, self._block, num_ids, device=device)

    @abstractmethod
    def _embed(self, ids: Tensor) -> Tensor:
        """(slots,) ids -> (R, 1, D) inputs of the next step."""

    @abstractmethod
    def _logits(self, hidden_states: Tensor) -> Tensor:
        """(R, D) -> (slots, ids)."""

    def _seat(self, slot: int, request: Request, prefixes: list[Prefix], logits: Tensor) -> int:
        """Fork the prefixes into the slot's rows and sample the first id from (1, ids) logits."""
        for part, prefix in enumerate(prefixes):
            row = part * self.num_slots + slot
            self.cache.copy_row(prefix.cache, 0, [row], prefix.length)
            self._positions[part, slot] = prefix.length
        self._active[slot] = 1
        top_k = request.top_k if isinstance(request, DrawRequest) else None
        self._temperature[slot] = request.temperature
        self._top_k[slot] = self.num_ids if top_k is None else min(top_k, self.num_ids)
        self._top_p[slot] = 1.0 if request.top_p is None else request.top_p
        self._requests[slot] = request
        self._num_sampled[slot] = 0
        token = self._sample(logits, slice(slot, slot + 1))
        self._next_ids[slot] = token[0]
        return int(token[0])

    def leave(self, slot: int) -> None:
        """Free a slot."""
        self._requests[slot] = None
        self._active[slot] = 0
        self._positions[:, slot] = 0
        self._temperature[slot] = 0
        self._top_k[slot] = self.num_ids
        self._top_p[slot] = 1

    def step(self) -> list[int]:
        """Decode one token in every row.

        Returns:
            The sampled id of every slot; of an idle one it means nothing.
        """
        embeds = self._embed(self._next_ids)
        positions = self._positions.view(-1, 1)  # (R, 1)
        hidden_states = self.model.language_model.model(
            embeds, positions=positions, cache=self.cache
        )
        self._next_ids = self._sample(self._logits(hidden_states[:, 0]), slice(None))
        self._positions += self._active  # idle rows stay at 0, where they can reach nothing
        return self._next_ids.tolist()

    def _sample(self, logits: Tensor, slots: slice) -> Tensor:
        """(s, ids) logits of some slots -> (s,) ids."""
        requests = [r for r in self._requests[slots] if r is not None]
        cuts_k = any(isinstance(r, DrawRequest) and r.top_k is not None for r in requests)
        cuts_p = any(r.top_p is not None for r in requests)
        return sample(
            logits,
            self._next_noise(slots),
            self._temperature[slots],
            self._top_k[slots] if cuts_k else None,
            self._top_p[slots] if cuts_p else None,
        )

    def _next_noise(self, slots: slice) -> Tensor:
        """(s, ids) noise of each slot's next position, made in blocks of positions."""
        places = []
        for slot in range(self.num_slots)[slots]:
            request, position = self._requests[slot], self._num_sampled[slot]
            place = position % self._block
            places.append(place)
            if request is None:
                continue
            if place == 0 and request.temperature > 0:
                stream = request.image_index if isinstance(request, DrawRequest) else 0
                self._noise[slot] = gumbel_noise(
                    request.seed,
                    stream,
                    torch.arange(position, position + self._block),
                    self.num_ids,
                    self._noise.device,
                )
            self._num_sampled[slot] += 1
        index = torch.arange(self.num_slots)[slots]
        return self._noise[index, torch.tensor(places)]


class ImagePage(Page):
    """Drawings: slot i is the guidance pair of rows i (cond) and R/2 + i (uncond).

    Batch order is [cond, uncond] in halves. A drawing without guidance leaves its second row
    idle. Only ``gen_head`` runs here.
    """

    def __init__(self, model: JanusModel, capacity: int, num_rows: int) -> None:
        super().__init__(model, capacity, num_rows, 2, model.config.codebook_size)
        self._scale = torch.ones(self.num_slots, device=self._temperature.device)

    def seat(self, slot: int, request: DrawRequest, cond: Prefix, uncond: Prefix | None) -> int:
        """Start a drawing in a slot and return its first id; no ``uncond`` means no guidance."""
        self._scale[slot] = request.guidance_scale
        if uncond is None:
            return self._seat(slot, request, [cond], cond.logits.float())
        logits = guide(cond.logits, uncond.logits, self._scale[slot : slot + 1])
        return self._seat(slot, request, [cond, uncond], logits)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.embed_gen(ids.repeat(2))[:, None]  # the same id feeds both rows

    def _logits(self, hidden_states: Tensor) -> Tensor:
        cond, uncond = self.model.image_logits(hidden_states).chunk(2)
        return guide(cond, uncond, self._scale)


class TextPage(Page):
    """Replies: a row each. Only ``lm_head`` runs here."""

    def __init__(self, model: JanusModel, capacity: int, num_rows: int) -> None:
        super().__init__(model, capacity, num_rows, 1, model.config.language.vocab_size)

    def seat(self, slot: int, request: ChatRequest, prefix: Prefix) -> int:
        """Start a reply in a slot and return its first id."""
        return self._seat(slot, request, [prefix], prefix.logits)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.embed_text(ids)[:, None]

    def _logits(self, hidden_states: Tensor) -> Tensor:
        return self.model.text_logits(hidden_states)
