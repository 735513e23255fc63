"""A page: a static KV cache of fixed rows and capacity, and its batched decode step.

A step runs **all** rows of its page through every matrix product, idle ones on stale finite values
that nobody reads. A matrix product changes in the last bits with its number of rows, and guidance
multiplies that; with fixed shapes each row's result depends on that row alone, so a request's ids
are bit-equal in fp32 whatever sits beside it, and at any slot (where in a product of fixed shape a
row stands does not change its bits on a CPU: tests hold that). In 16 bits and with packed weights,
where a trial on this machine has shown that the number of rows changes no bit, idle rows are left
out.

Attention is another matter: rows do not share anything there, so idle ones have none, and the
others attend to what they hold and not to the rest of the capacity. On a CPU a row, or a guidance
pair, has a call of its own: with several threads a call's bits change with its number of rows. A
prompt runs alone, in chunks of its own (``prefill``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.engine.prefill import Prefix
from openjanus.engine.request import ChatRequest, Request, TokenLogprobs
from openjanus.engine.sampler import SlotSampler
from openjanus.model.attention import JoinedCaches, KVCache, Run, runs_of
from openjanus.model.decoder import DecoderLayer
from openjanus.model.doors import TokenizerEntrance
from openjanus.model.janus import Face, JanusModel


@torch.no_grad()
def rows_change_bits(model: JanusModel, num_rows: int) -> bool:
    """Whether a row of a step may depend on how many rows there are, on this machine.

    What a layer and the heads compute of a row by itself is computed with fewer and fewer rows, and
    compared; another order of summation would show in nearly every element. Plain fp32 is not
    tried: it always may.
    """
    first = model.language_model.model.layers[0]
    assert isinstance(first, DecoderLayer)
    table = model.language_model.model.embed_tokens.weight
    is_packed = first.self_attn.qkv_proj is not None and first.mlp.gate_up_proj is not None
    if not is_packed and table.dtype not in (torch.bfloat16, torch.float16):
        return True
    width = model.config.language.hidden_size
    attended = model.config.language.num_attention_heads * model.config.language.head_size
    parts: list[tuple[int, Callable[[Tensor], Tensor]]] = [
        (width, lambda x: torch.cat(first.self_attn.project(first.input_layernorm(x)), dim=-1)),
        (attended, first.self_attn.o_proj),
        (width, first.mlp),
        (width, model.text_logits),
        (width, model.image_logits),
    ]
    sizes = {*bucket_sizes(num_rows, 2), *(2 * pairs for pairs in bucket_sizes(num_rows // 2, 1))}
    entrance = getattr(model, "gen_embed", None)  # one vocabulary has none
    if isinstance(entrance, TokenizerEntrance):  # ids come in by products of a row a slot
        layers = _one_of_each_shape(model.vq, model.gen_aligner)
        parts += [(layer.in_features, layer) for layer in layers]
        sizes |= set(bucket_sizes(num_rows // 2, 1))
    elif entrance is not None:
        parts.append((entrance.embedding_dim, model.gen_aligner))
    generator = torch.Generator("cpu").manual_seed(0)
    for in_features, part in parts:
        x = torch.randn(num_rows, in_features, generator=generator, device="cpu").to(table)
        whole = part(x)
        if not all(torch.equal(part(x[:n]), whole[:n]) for n in sizes):
            return True
    return False


def _one_of_each_shape(*parts: nn.Module) -> list[nn.Linear]:
    """Those that make the matrix products in some modules."""
    layers = [
        module for part in parts for module in part.modules() if isinstance(module, nn.Linear)
    ]
    return list({(layer.in_features, layer.out_features): layer for layer in layers}.values())


def bucket_sizes(number: int, least: int) -> list[int]:
    """``number`` and its halves down to ``least``: the sizes of batches that occur."""
    sizes = [number]
    while (half := (sizes[-1] + 1) // 2) >= least and half < sizes[-1]:
        sizes.append(half)
    return sizes


MOST_JOINED = 64
"""Rows of a batch of several pages: with more, products take as long as they have rows."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A step of one page: what goes through the decoder, and what is made of what comes out."""

    inputs_embeds: Tensor
    """(B, 1, D)."""
    positions: Tensor
    """(B, 1)."""
    cache: KVCache
    runs: list[Run]
    face: Face | None
    """Whose head sees all that comes out; None is left to ``finish``."""
    finish: Callable[[Tensor], dict[int, list[int]]]
    """(B, ids) logits, or (B, D) hidden states where there is no face -> the new ids of every slot,
    in order: at least one."""


def predict(model: JanusModel, face: Face | None, hidden_states: Tensor) -> Tensor:
    """(B, D) -> (B, ids) logits of a face; without one the hidden states themselves."""
    if face is None:
        return hidden_states
    return (model.text_logits if face == "text" else model.image_logits)(hidden_states)


def run_plans(model: JanusModel, plans: Sequence[Plan]) -> list[dict[int, list[int]]]:
    """Run the steps of several pages as one batch, so that the weights are read once.

    Rows are added up to a power of two, so that few shapes occur. Where the number of rows changes
    bits, give one plan at a time.

    Args:
        model: The pages'.
        plans: Of one page each.

    Returns:
        What each plan's ``finish`` gives.
    """
    decoder = model.language_model.model
    if len(plans) == 1:
        (plan,) = plans
        hidden = decoder(
            plan.inputs_embeds, positions=plan.positions, cache=plan.cache, runs=plan.runs
        )
        return [plan.finish(predict(model, plan.face, hidden[:, 0]))]
    sizes = [len(plan.inputs_embeds) for plan in plans]
    idle = (1 << (sum(sizes) - 1).bit_length()) - sum(sizes)
    embeds = torch.cat([plan.inputs_embeds for plan in plans])
    positions = torch.cat([plan.positions for plan in plans])
    ends = list(accumulate(sizes))
    batches = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    hidden = decoder(
        F.pad(embeds, (0, 0, 0, 0, 0, idle)),
        positions=F.pad(positions, (0, 0, 0, idle)),
        cache=JoinedCaches(
            [(batch, plan.cache, plan.runs) for batch, plan in zip(batches, plans, strict=True)]
        ),
        runs=(),
    )[:, 0]
    return [
        plan.finish(predict(model, plan.face, hidden[batch]))
        for batch, plan in zip(batches, plans, strict=True)
    ]


def join_plans(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Plans of several pages as few batches, in order, none of more than ``MOST_JOINED`` rows.

    A plan that is larger by itself is a batch of its own.
    """
    batches: list[list[Plan]] = []
    rows = 0
    for plan in plans:
        size = len(plan.inputs_embeds)
        if batches and rows + size <= MOST_JOINED:
            batches[-1].append(plan)
            rows += size
        else:
            batches.append([plan])
            rows = size
    return batches


class Page(ABC):
    """What all kinds of requests share: rows of a cache, and the noise of each slot.

    Args:
        model: The model.
        capacity: Tokens a row can hold.
        num_rows: Rows R of the cache, and of every step unless a page says otherwise.
        rows_per_slot: 2 where a slot is a guidance pair.
        num_ids: Ids that can be sampled: C or V.
    """

    face: ClassVar[Face | None] = None

    def __init__(
        self, model: JanusModel, capacity: int, num_rows: int, rows_per_slot: int, num_ids: int
    ) -> None:
        weight = model.language_model.model.embed_tokens.weight
        device = weight.device
        self.model = model
        self.num_rows = num_rows
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

    def _fork(self, slot: int, part: int, prefix: Prefix) -> None:
        """Copy a prefix into one of a slot's rows: 0 is the conditional one."""
        row = part * self.num_slots + slot
        self.cache.copy_row(prefix.cache, 0, [row], prefix.length)
        self._lengths[row] = prefix.length

    def _runs_of(self, lengths: Sequence[int | None], rows: Sequence[int]) -> list[Run]:
        """``runs_of``; on a CPU a row is in the same call whoever sits beside it."""
        return runs_of(lengths, rows, merged=self._next_ids.device.type != "cpu")

    def leave(self, slot: int) -> None:
        """Free a slot."""
        self._requests[slot] = None
        for row in range(slot, len(self._lengths), self.num_slots):
            self._lengths[row] = None
        self._sampler.leave(slot)

    @property
    def seated(self) -> list[int]:
        """Slots whose requests have begun to decode."""
        return [slot for slot, request in enumerate(self._requests) if request is not None]

    @abstractmethod
    def plan(self, *, runs_idle: bool) -> Plan:
        """What the next step of those who sit here runs through the decoder.

        Args:
            runs_idle: Whether idle rows are run: where they could change the bits of the others.
        """


class TokenPage(Page):
    """A page of which every step decodes one token of every slot."""

    @abstractmethod
    def _embed(self, ids: Tensor, slots: list[int]) -> Tensor:
        """(s,) last ids of some slots -> (B, 1, D) inputs of the next step, of all their rows."""

    @abstractmethod
    def _logits(self, predicted: Tensor, slots: list[int]) -> Tensor:
        """What ``face`` predicts of some slots -> (s, ids)."""

    def plan(self, *, runs_idle: bool) -> Plan:
        """One token of every slot where somebody sits; see ``Page.plan``."""
        seated = self.seated
        slots = self._slots_to_run(seated, runs_idle)
        rows = [
            part * self.num_slots + slot for part in range(self._rows_per_slot) for slot in slots
        ]
        lengths = [self._lengths[row] for row in rows]
        # An idle row takes position 0 and attends to nothing.
        places = [[0 if length is None else length] for length in lengths]

        def finish(predicted: Tensor) -> dict[int, list[int]]:
            self._lengths = [None if length is None else length + 1 for length in self._lengths]
            chosen = self._choose(predicted, slots, seated)
            return {slot: [one] for slot, one in chosen.items()}

        embeds = self._embed(self._next_ids[slots], slots)
        positions = torch.tensor(places, device=embeds.device)
        runs = self._runs_of(lengths, rows)
        return Plan(embeds, positions, self.cache, runs, self.face, finish)

    def _choose(self, predicted: Tensor, slots: list[int], seated: list[int]) -> dict[int, int]:
        """What ``face`` predicts of the slots that were run -> the next id of each seated one."""
        logits = self._logits(predicted, slots)
        kept = [place for place, slot in enumerate(slots) if slot in seated]
        return dict(zip(seated, self._sample(logits[kept], seated), strict=True))

    def _slots_to_run(self, seated: list[int], runs_idle: bool) -> list[int]:
        """Those where somebody sits, in order, and so many idle ones that few shapes occur."""
        number = self.num_slots
        if not runs_idle:
            least = 2 // self._rows_per_slot  # a product of one row has kernels of its own
            number = min(n for n in bucket_sizes(number, least) if n >= len(seated))
        idle = [slot for slot in range(self.num_slots) if slot not in seated]
        return sorted(seated + idle[: number - len(seated)])

    def _sample(self, logits: Tensor, slots: list[int]) -> list[int]:
        """(s, ids) logits of some slots -> their next ids, which are kept for the next step."""
        ids = self._sampler.sample(logits, slots)
        self._next_ids[slots] = ids
        return ids.tolist()


class TextPage(TokenPage):
    """Replies: a row each. Only ``lm_head`` runs here."""

    face = "text"

    def __init__(self, model: JanusModel, capacity: int, num_rows: int) -> None:
        super().__init__(model, capacity, num_rows, 1, model.config.text_vocab_size)
        self.logprobs: dict[int, TokenLogprobs] = {}
        """Of the last id of every slot whose request asks for them."""

    def seat(self, slot: int, request: ChatRequest, prefix: Prefix) -> int:
        """Start a reply in a slot and return its first id."""
        self._requests[slot] = request
        self._sampler.seat(
            slot,
            seed=request.seed,
            stream=0,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
        )
        self._fork(slot, 0, prefix)
        return self._sample(prefix.logits, [slot])[0]

    def leave(self, slot: int) -> None:
        """Free a slot."""
        super().leave(slot)
        self.logprobs.pop(slot, None)

    def _sample(self, logits: Tensor, slots: list[int]) -> list[int]:
        ids = super()._sample(logits, slots)
        for row, slot, sampled in zip(logits, slots, ids, strict=True):
            request = self._requests[slot]
            assert isinstance(request, ChatRequest)
            if request.top_logprobs is not None:
                self.logprobs[slot] = _logprobs_of(row, sampled, request.top_logprobs)
        return ids

    def _embed(self, ids: Tensor, slots: list[int]) -> Tensor:
        return self.model.embed_text(ids)[:, None]

    def _logits(self, predicted: Tensor, slots: list[int]) -> Tensor:
        return predicted


def _logprobs_of(logits: Tensor, sampled: int, count: int) -> TokenLogprobs:
    """(V,) logits of one row, before temperature and cuts."""
    logprobs = logits.float().log_softmax(-1)
    values, ids = logprobs.topk(min(count, len(logprobs)))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(logprob=float(logprobs[sampled]), top=top)
