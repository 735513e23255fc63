"""What the slots of a page are sampled by: their options, and noise made in blocks of positions."""

from __future__ import annotations

import torch
from torch import Tensor

from openjanus.engine.noise import block_length, gumbel_noise
from openjanus.engine.sampling import sample

NOISE_BYTES = 4
"""Of one number."""


def _ring_length(num_ids: int, look_ahead: int) -> int:
    """Positions: the block that the next one is in, and as many as may be looked ahead to."""
    block = block_length(num_ids)
    return block * (1 + -(-(look_ahead - 1) // block))


def noise_bytes(num_slots: int, num_ids: int, look_ahead: int = 1) -> int:
    """What a sampler of such slots holds."""
    return num_slots * _ring_length(num_ids, look_ahead) * num_ids * NOISE_BYTES


class SlotSampler:
    """Options and noise of every slot, over one set of ids: words or codes.

    Args:
        num_slots: Slots of the page.
        num_ids: Ids that can be sampled: V or C.
        device: Where logits come from.
        look_ahead: Positions from the next one on that may be sampled at once.
    """

    def __init__(
        self, num_slots: int, num_ids: int, device: torch.device, look_ahead: int = 1
    ) -> None:
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
        self._ring = _ring_length(num_ids, look_ahead)
        self._num_made = [0] * num_slots
        self._noise = torch.zeros(num_slots, self._ring, num_ids, device=device)

    def seat(
        self,
        slot: int,
        *,
        seed: int,
        stream: int,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        position: int = 0,
    ) -> None:
        """Begin a stream of samples in a slot, at some position."""
        self._keys[slot] = (seed, stream)
        self.num_sampled[slot] = position
        self._num_made[slot] = position // self._block * self._block
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
        """(s, ids) logits of some slots -> (s,) their next ids, which count as sampled."""
        ids = self.sample_ahead(logits, slots, [0] * len(slots))
        for slot in slots:
            self.num_sampled[slot] += 1
        return ids

    def sample_ahead(self, logits: Tensor, slots: list[int], offsets: list[int]) -> Tensor:
        """Samples at positions that are not reached yet; ``num_sampled`` stays as it is.

        Args:
            logits: (n, ids).
            slots: The slot of each; one may occur more than once.
            offsets: How far each is past the slot's next position, < ``look_ahead``.

        Returns:
            (n,) ids.
        """
        return sample(
            logits,
            self._noise_at(slots, offsets),
            self._temperature[slots],
            self._top_k[slots] if any(self._cuts_k[slot] for slot in slots) else None,
            self._top_p[slots] if any(self._cuts_p[slot] for slot in slots) else None,
        )

    def _noise_at(self, slots: list[int], offsets: list[int]) -> Tensor:
        """(n, ids) noise of some positions; greedy slots have none."""
        places = []
        for slot, offset in zip(slots, offsets, strict=True):
            key, position = self._keys[slot], self.num_sampled[slot] + offset
            assert key is not None
            places.append(position % self._ring)
            while self._num_made[slot] <= position and not self._is_greedy[slot]:
                first = self._num_made[slot]
                self._noise[slot, first % self._ring : first % self._ring + self._block] = (
                    gumbel_noise(
                        *key,
                        torch.arange(first, first + self._block, device="cpu"),
                        self.num_ids,
                        self._noise.device,
                    )
                )
                self._num_made[slot] += self._block
        return self._noise[slots, places]
