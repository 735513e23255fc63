"""A page: a static KV cache of fixed rows and capacity, and its batched decode step.

A step runs **all** rows of its page through every matrix product, idle ones on stale finite values
that nobody reads. A matrix product changes in the last bits with its number of rows, and guidance
multiplies that; with fixed shapes each row's result depends on that row alone, so a request's ids
are bit-equal in fp32 whatever sits beside it, and at any slot (where in a product of fixed shape a
row stands does not change its bits on a CPU: tests hold that). In 16 bits, where a trial on this
machine has shown that the number of rows changes no bit, idle rows are left out.

Attention is another matter: rows do not share anything there, so idle ones have none, and the
others attend to what they hold and not to the rest of the capacity. A prefill runs alone, at the
request's own length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.engine.request import ChatRequest, DrawRequest, Request
from openjanus.engine.sampler import SlotSampler
from openjanus.engine.sampling import guide
from openjanus.model.attention import KVCache, Run, runs_of
from openjanus.model.decoder import DecoderLayer
from openjanus.model.doors import TokenizerEntrance
from openjanus.model.janus import JanusModel
from openjanus.model.quantized import QuantizedLinear


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
        zeroed=False,
    )
    runs = [Run(slice(0, 1), slice(0, 1), 0)]
    hidden_states = model.language_model.model(inputs_embeds, cache=cache, runs=runs)
    return cache, hidden_states[:, -1]


def rows_change_bits(model: JanusModel, num_rows: int) -> bool:
    """Whether a row of a matrix product may depend on how many rows there are, on this machine.

    fp32 is not tried: it always may. In 16 bits the products of a step are made with fewer and
    fewer rows, and compared; another order of summation would show in nearly every element.
    """
    layer = model.language_model.model.layers[0]
    assert isinstance(layer, DecoderLayer)
    attention, mlp = layer.self_attn, layer.mlp
    layers = [attention.q_proj, attention.k_proj, mlp.gate_proj, mlp.down_proj]
    quantized = [
        module
        for module in (*layers, model.language_model.lm_head)
        if isinstance(module, QuantizedLinear)
    ]
    weights = [module.weight for module in layers if not isinstance(module, QuantizedLinear)]
    weights += model.head_weights()
    sizes = {*_sizes(num_rows, 2), *(2 * pairs for pairs in _sizes(num_rows // 2, 1))}
    entrance = getattr(model, "gen_embed", None)  # one vocabulary has none
    if isinstance(entrance, TokenizerEntrance):  # ids come in by products of a row a slot
        weights += _one_of_each_shape(model.vq, model.gen_aligner)
        sizes |= set(_sizes(num_rows // 2, 1))
    generator = torch.Generator().manual_seed(0)
    for weight in weights:
        if weight.dtype not in (torch.bfloat16, torch.float16):
            return True
        x = torch.randn(num_rows, weight.shape[1], generator=generator).to(weight)
        whole = F.linear(x, weight)
        if not all(torch.equal(F.linear(x[:n], weight), whole[:n]) for n in sizes):
            return True
    for module in quantized:
        x = torch.randn(num_rows, module.in_features, generator=generator)
        x = x.to(module.scale.device, module.scale.dtype)
        whole = module(x)
        if not all(torch.equal(module(x[:n]), whole[:n]) for n in sizes):
            return True
    return False


def _one_of_each_shape(*parts: nn.Module) -> list[Tensor]:
    """Weights of the matrix products in some modules."""
    layers = [
        module for part in parts for module in part.modules() if isinstance(module, nn.Linear)
    ]
    return list({tuple(layer.weight.shape): layer.weight for layer in layers}.values())


def _sizes(number: int, least: int) -> list[int]:
    """``number`` and its halves down to ``least``: the sizes of batches that occur."""
    sizes = [number]
    while (half := (sizes[-1] + 1) // 2) >= least and half < sizes[-1]:
        sizes.append(half)
    return sizes


class Page(ABC):
    """What all kinds of requests share: rows, the noise of each slot, sampling.

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
        self._rows_per_slot = rows_per_slot
        self.cache = KVCache.allocate(
            model.config.language,
            num_rows,
            capacity,
            device=device,
            dtype=weight.dtype,
            zeroed=False,
        )
        self._lengths: list[int | None] = [None] * num_rows  # tokens a row holds; None is idle
        self._next_ids = torch.zeros(self.num_slots, dtype=torch.int64, device=device)
        self._requests: list[Request | None] = [None] * self.num_slots
        self._sampler = SlotSampler(self.num_slots, num_ids, device)

    @abstractmethod
    def _embed(self, ids: Tensor, slots: list[int]) -> Tensor:
        """(s,) last ids of some slots -> (B, 1, D) inputs of the next step, of all their rows."""

    @abstractmethod
    def _logits(self, hidden_states: Tensor, slots: list[int]) -> Tensor:
        """(B, D) hidden states of some slots -> (s, ids)."""

    def _fork(self, slot: int, part: int, prefix: Prefix) -> None:
        """Copy a prefix into one of a slot's rows: 0 is the conditional one."""
        row = part * self.num_slots + slot
        self.cache.copy_row(prefix.cache, 0, [row], prefix.length)
        self._lengths[row] = prefix.length

    def leave(self, slot: int) -> None:
        """Free a slot."""
        self._requests[slot] = None
        for row in range(slot, len(self._lengths), self.num_slots):
            self._lengths[row] = None
        self._sampler.leave(slot)

    def step(self, *, runs_idle: bool) -> dict[int, int]:
        """Decode one token in every slot where somebody sits.

        Args:
            runs_idle: Whether idle rows are run: where they could change the bits of the others.

        Returns:
            The sampled id of each.
        """
        seated = [slot for slot, request in enumerate(self._requests) if request is not None]
        slots = self._slots_to_run(seated, runs_idle)
        rows = [
            part * self.num_slots + slot for part in range(self._rows_per_slot) for slot in slots
        ]
        lengths = [self._lengths[row] for row in rows]
        # An idle row takes position 0 and attends to nothing.
        positions = torch.tensor([[0 if length is None else length] for length in lengths])
        hidden_states = self.model.language_model.model(
            self._embed(self._next_ids[slots], slots),
            positions=positions.to(self._next_ids.device),
            cache=self.cache,
            runs=runs_of(lengths, rows),
        )
        self._lengths = [None if length is None else length + 1 for length in self._lengths]
        return self._choose(hidden_states[:, 0], slots, seated)

    def _choose(self, hidden_states: Tensor, slots: list[int], seated: list[int]) -> dict[int, int]:
        """(B, D) hidden states of the slots that were run -> the next id of each that is seated."""
        logits = self._logits(hidden_states, slots)
        kept = [place for place, slot in enumerate(slots) if slot in seated]
        return dict(zip(seated, self._sample(logits[kept], seated), strict=True))

    def _slots_to_run(self, seated: list[int], runs_idle: bool) -> list[int]:
        """Those where somebody sits, in order, and so many idle ones that few shapes occur."""
        number = self.num_slots
        if not runs_idle:
            least = 2 // self._rows_per_slot  # a product of one row has kernels of its own
            number = min(n for n in _sizes(number, least) if n >= len(seated))
        idle = [slot for slot in range(self.num_slots) if slot not in seated]
        return sorted(seated + idle[: number - len(seated)])

    def _sample(self, logits: Tensor, slots: list[int]) -> list[int]:
        """(s, ids) logits of some slots -> their next ids, which are kept for the next step."""
        ids = self._sampler.sample(logits, slots)
        self._next_ids[slots] = ids
        return ids.tolist()


class ImagePage(Page):
    """Drawings: slot i is the guidance pair of rows i (cond) and R/2 + i (uncond).

    Batch order is [cond, uncond] in halves. A drawing without guidance leaves its second row
    idle. Only ``gen_head`` runs here.
    """

    def __init__(self, model: JanusModel, capacity: int, num_rows: int) -> None:
        super().__init__(model, capacity, num_rows, 2, model.config.codebook_size)
        self._scale = torch.ones(self.num_slots, device=self._next_ids.device)
        self._gen_cache = model.allocate_gen_cache(self.num_slots)

    def seat(self, slot: int, request: DrawRequest, cond: Prefix, uncond: Prefix | None) -> int:
        """Start a drawing in a slot and return its first id; no ``uncond`` means no guidance."""
        self._requests[slot] = request
        self._sampler.seat(
            slot,
            seed=request.seed,
            stream=request.image_index,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
        )
        self._scale[slot] = request.guidance_scale
        self._fork(slot, 0, cond)
        logits = cond.logits.float()
        if uncond is not None:
            self._fork(slot, 1, uncond)
            logits = guide(cond.logits, uncond.logits, self._scale[slot : slot + 1])
        return self._sample(logits, [slot])[0]

    def _embed(self, ids: Tensor, slots: list[int]) -> Tensor:
        if self._gen_cache is None:
            return self.model.embed_gen(ids.repeat(2))[:, None]  # the same id feeds both rows
        # Both rows of a slot have drawn the same ids: what these leave behind is kept once. The
        # last id has been sampled and not yet been fed in.
        lengths = [
            None if self._requests[slot] is None else self._sampler.num_sampled[slot] - 1
            for slot in slots
        ]
        runs = runs_of(lengths, slots)
        embeds = self.model.embed_gen(ids[:, None], cache=self._gen_cache, runs=runs)  # (s, 1, D)
        return embeds.repeat(2, 1, 1)  # (B, 1, D)

    def _logits(self, hidden_states: Tensor, slots: list[int]) -> Tensor:
        cond, uncond = self.model.image_logits(hidden_states).chunk(2)
        return guide(cond, uncond, self._scale[slots])


class TextPage(Page):
    """Replies: a row each. Only ``lm_head`` runs here."""

    def __init__(self, model: JanusModel, capacity: int, num_rows: int) -> None:
        super().__init__(model, capacity, num_rows, 1, model.config.text_vocab_size)

    def seat(self, slot: int, request: ChatRequest, prefix: Prefix) -> int:
        """Start a reply in a slot and return its first id."""
        self._requests[slot] = request
        self._sampler.seat(
            slot,
            seed=request.seed,
            stream=0,
            temperature=request.temperature,
            top_k=None,
            top_p=request.top_p,
        )
        self._fork(slot, 0, prefix)
        return self._sample(prefix.logits, [slot])[0]

    def _embed(self, ids: Tensor, slots: list[int]) -> Tensor:
        return self.model.embed_text(ids)[:, None]

    def _logits(self, hidden_states: Tensor, slots: list[int]) -> Tensor:
        return self.model.text_logits(hidden_states)
