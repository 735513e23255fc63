"""The page of drawings: guidance pairs, and several ids of each in a step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from openjanus.engine.look_ahead import Draft
from openjanus.engine.page import Page, Plan, bucket_sizes
from openjanus.engine.prefill import Prefix
from openjanus.engine.request import DrawRequest
from openjanus.engine.sampler import SlotSampler
from openjanus.engine.sampling import guide
from openjanus.model.attention import Run, runs_of
from openjanus.model.janus import JanusModel


class ImagePage(Page):
    """Drawings: slot i is the guidance pair of cache rows i (cond) and S + i (uncond), S slots.

    A step has P pairs of places, batch order [cond, uncond] in halves; P is never less than the
    slots. Everybody gets an equal share of the pairs: its last known id, and guesses of those that
    come next (``look_ahead``), each at its own position of the same row of the cache. A place is
    computed in the shapes that it would have without guesses, so these change no bit either. A
    drawing without guidance leaves the second place of its pairs idle. Only ``gen_head`` runs here.

    Args:
        model: The model.
        capacity: Tokens a row can hold.
        num_rows: Rows of the cache: a drawing takes two.
        look_ahead: Ids of a drawing that a step tries at most; 1 is no guess.
    """

    face = "image"

    def __init__(
        self, model: JanusModel, capacity: int, num_rows: int, look_ahead: int = 1
    ) -> None:
        config = model.config
        super().__init__(model, capacity, num_rows, 2, config.codebook_size)
        self._look_ahead = look_ahead
        self._num_pairs = max(self.num_slots, look_ahead)
        self.num_rows = 2 * self._num_pairs
        self._num_ids = config.num_gen_image_tokens
        self._side = round(self._num_ids**0.5)
        device = self._next_ids.device
        self._sampler = SlotSampler(self.num_slots, config.codebook_size, device, look_ahead)
        self._scale = torch.ones(self.num_slots, self._num_ids, device=device)  # a number an id
        self._gen_cache = model.allocate_gen_cache(self.num_slots)
        self._drafts: dict[int, Draft] = {}

    def seat(
        self, slot: int, request: DrawRequest, cond: Prefix, uncond: Prefix | None
    ) -> list[int]:
        """Start a drawing in a slot.

        Args:
            slot: Whose.
            request: What to draw.
            cond: Its prompt, and behind it the ids that are kept.
            uncond: What guidance leads away from, with them; None means no guidance.

        Returns:
            The ids that are kept, and the first that is drawn.
        """
        position = len(request.prefix_ids)
        self._requests[slot] = request
        self._sampler.seat(
            slot,
            seed=request.seed,
            stream=request.image_index,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            position=position,
        )
        scales = request.scales(self._num_ids, self._side)
        self._scale[slot] = torch.tensor(scales, device=self._scale.device)
        self._fork(slot, 0, cond)
        logits = cond.logits.float()
        if uncond is not None:
            self._fork(slot, 1, uncond)
            logits = guide(cond.logits, uncond.logits, self._scale[[slot], position])
        if position > 0 and self._gen_cache is not None:
            kept = torch.tensor([request.prefix_ids], device=self._scale.device)
            runs = runs_of([0], [slot])
            self.model.embed_gen(kept, cache=self._gen_cache, runs=runs)  # for what it leaves there
        (first,) = self._sampler.sample(logits, [slot]).tolist()
        known = [*request.prefix_ids, first]
        self._drafts[slot] = Draft(self._num_ids, self._side, known)
        return known

    def leave(self, slot: int) -> None:
        """Free a slot."""
        super().leave(slot)
        self._drafts.pop(slot, None)

    def plan(self, *, runs_idle: bool) -> Plan:
        """At least one id of every drawing, and more where guesses prove right."""
        seated = self.seated
        share, rest = divmod(self._num_pairs, len(seated))
        windows = {
            slot: self._drafts[slot].window(min(self._look_ahead, share + (place < rest)))
            for place, slot in enumerate(seated)
        }
        slots = [slot for slot in seated for _ in windows[slot]]  # of every place
        offsets = [offset for slot in seated for offset in range(len(windows[slot]))]
        ids = [one for slot in seated for one in windows[slot]]

        def finish(predicted: Tensor) -> dict[int, list[int]]:
            logits = self._guided(predicted, slots, offsets)
            samples = iter(self._sampler.sample_ahead(logits, slots, offsets).tolist())
            return {
                slot: self._take(slot, [next(samples) for _ in window])
                for slot, window in windows.items()
            }

        return self._plan_of(ids, slots, offsets, runs_idle, finish)

    def _plan_of(
        self,
        ids: list[int],
        slots: list[int],
        offsets: list[int],
        runs_idle: bool,
        finish: Callable[[Tensor], dict[int, list[int]]],
    ) -> Plan:
        """A place for each of some ids, in pairs.

        Args:
            ids: n of them.
            slots: The slot of each.
            offsets: How far each is past the ids that its slot's rows hold.
            runs_idle: As in ``plan``.
            finish: The plan's.
        """
        count, pairs = len(ids), self._num_pairs
        if not runs_idle:
            pairs = min(n for n in bucket_sizes(pairs, 1) if n >= count)
        idle = pairs - count
        rows: list[int] = []
        lengths: list[int | None] = []
        for part in range(2):
            for slot, offset in zip(slots, offsets, strict=True):
                rows.append(part * self.num_slots + slot)
                held = self._lengths[rows[-1]]
                lengths.append(None if held is None else held + offset)
            rows += [0] * idle
            lengths += [None] * idle
        # An idle row takes position 0 and attends to nothing.
        places = [[0 if length is None else length] for length in lengths]
        return Plan(
            inputs_embeds=self._embed(ids, slots, offsets, idle),
            positions=torch.tensor(places, device=self._next_ids.device),
            cache=self.cache,
            runs=self._in_pairs(self._runs_of(lengths, rows), pairs),
            face=self.face,
            finish=finish,
        )

    def _guided(self, predicted: Tensor, slots: list[int], offsets: list[int]) -> Tensor:
        """(2P, C) logits of places -> (n, C) guided ones of what follows each id."""
        cond, uncond = predicted.chunk(2)
        places = [
            self._sampler.num_sampled[slot] + offset
            for slot, offset in zip(slots, offsets, strict=True)
        ]
        return guide(cond[: len(slots)], uncond[: len(slots)], self._scale[slots, places])

    def _in_pairs(self, runs: list[Run], pairs: int) -> list[Run]:
        """Both runs of a guidance pair as one, where they are as long: fewer calls."""
        cond = [run for run in runs if run.batch.start < pairs]
        uncond = {run.batch.start - pairs: run for run in runs if run.batch.start >= pairs}
        found: list[Run] = []
        for run in cond:
            place, row = run.batch.start, run.rows.start
            other = uncond.get(place)
            if (
                other is None
                or other.length != run.length
                or (run.batch.stop, other.batch.stop) != (place + 1, pairs + place + 1)
            ):
                found.append(run)
                continue
            batch = slice(place, pairs + place + 1, pairs)
            found.append(Run(batch, slice(row, other.rows.stop, self.num_slots), run.length))
            del uncond[place]
        # Runs of two slots may be one: only by length does each come after what it must see.
        return sorted([*found, *uncond.values()], key=lambda run: run.length)

    def _embed(self, ids: list[int], slots: list[int], offsets: list[int], idle: int) -> Tensor:
        """Some ids and idle places -> (2P, 1, D): the same id feeds both places of a pair."""
        fed = torch.tensor([*ids, *[0] * idle], device=self._next_ids.device)  # (P,)
        if self._gen_cache is None:
            return self.model.embed_gen(fed.repeat(2))[:, None]
        # Both rows of a slot have drawn the same ids: what these leave behind is kept once. The
        # last known id has been sampled and not yet been fed in.
        lengths = [
            self._sampler.num_sampled[slot] - 1 + offset
            for slot, offset in zip(slots, offsets, strict=True)
        ]
        runs = self._runs_of([*lengths, *[None] * idle], [*slots, *[0] * idle])
        embeds = self.model.embed_gen(fed[:, None], cache=self._gen_cache, runs=runs)  # (P, 1, D)
        return embeds.repeat(2, 1, 1)

    def _take(self, slot: int, samples: list[int]) -> list[int]:
        """What is known now of a drawing, and counts as held by its rows."""
        taken = self._drafts[slot].take(samples)
        self._sampler.num_sampled[slot] += len(taken)
        for row in (slot, self.num_slots + slot):
            length = self._lengths[row]
            self._lengths[row] = None if length is None else length + len(taken)
        return taken
