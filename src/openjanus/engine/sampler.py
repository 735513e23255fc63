"""What the slots of a page are sampled by: their options, and noise made in blocks of positions."""

from __future__ import annotations

import torch
from torch import Tensor

from openjanus.engine.noise import block_length, gumbel_noise
from openjanus.engine.sampling import sample


class SlotSampler:
    """Options and noise of every slot, over one set of ids: words or codes.

    Args:
        num_slots: Slots of the page.
        num_ids: Ids that can be sampled: V or C.
        device: Where logits come from.
    """

    def __init__(self, num_slots: int, num_ids: int, device: torch.device) -> None:
        self.num_ids = num_ids
        self.num_sampled = [0] * num_slots
        self._keys: list[tuple[int, int] | None] = [None] * num_slots
        self._is_greedy = [True] * num_slots
        self._cuts_k = [False] * num_slots
        self._cuts_p = [False] * num_slots
        self._temperature = torch.zeros(num_slots, device=device)
        self._top_k = torch.full((num_slots,), num_ids, dtype=torch.int64, device=device)
        self._top_p = torch.ones(num_slots, device=device)
        self._block = block_length(num_ids)
        self._noise = torch.zeros(num_slots, self._block, num_ids, device=device)

    def seat(
        self,
        slot: int,
        *,
        seed: int,
        stream: int,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
    ) -> None:
        """Begin a stream of samples in a slot, at position 0."""
        self._keys[slot] = (seed, stream)
        self.num_sampled[slot] = 0
        self._is_greedy[slot] = temperature == 0
        self._cuts_k[slot] = top_k is not None
        self._cuts_p[slot] = top_p is not None
        self._temperature[slot] = temperature
        self._top_k[slot] = self.num_ids if top_k is None else min(top_k, self.num_ids)
        self._top_p[slot] = 1.0 if top_p is None else top_p

    def leave(self, slot: int) -> None:
        """Free a slot."""
        self._keys[slot] = None
        self._is_greedy[slot] = True
        self._cuts_k[slot] = self._cuts_p[slot] = False
        self._temperature[slot] = 0
        self._top_k[slot] = self.num_ids
        self._top_p[slot] = 1

    def sample(self, logits: Tensor, slots: list[int]) -> Tensor:
        """(s, ids) logits of some slots -> (s,) their next ids."""
        return sample(
            logits,
            self._next_noise(slots),
            self._temperature[slots],
            self._top_k[slots] if any(self._cuts_k[slot] for slot in slots) else None,
            self._top_p[slots] if any(self._cuts_p[slot] for slot in slots) else None,
        )

    def _next_noise(self, slots: list[int]) -> Tensor:
        """(s, ids) noise of each slot's next position."""
        places = []
        for slot in slots:
            key, position = self._keys[slot], self.num_sampled[slot]
            assert key is not None
            place = position % self._block
            places.append(place)
            if place == 0 and not self._is_greedy[slot]:
                seed, stream = key
                self._noise[slot] = gumbel_noise(
                    seed,
                    stream,
                    torch.arange(position, position + self._block),
                    self.num_ids,
                    self._noise.device,
                )
            self.num_sampled[slot] += 1
        return self._noise[slots, places]
