"""What a step of a Janus's training says of itself, beside its losses. Nothing here changes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from openjanus.data.collate import Batch
from openjanus.data.encoding import EncodedSample
from openjanus.data.samples import KINDS, Kind
from openjanus.data.stream import StepSamples
from openjanus.train.stages import Part, part_of


class GradientNorms:
    """The gradient's norm by part, as it is before clipping.

    Args:
        named_parameters: After parts were frozen.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._parts: dict[Part, list[nn.Parameter]] = {}
        for name, parameter in named_parameters:
            if parameter.requires_grad:
                self._parts.setdefault(part_of(name), []).append(parameter)

    @torch.no_grad()
    def read(self) -> dict[str, float]:
        """``grad_norm_PART`` of each part that has gradients."""
        found: dict[str, Tensor] = {}
        for part, parameters in self._parts.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                norm = nn.utils.get_total_norm(gradients)
                found[f"grad_norm_{part}"] = (
                    norm.full_tensor() if isinstance(norm, DTensor) else norm
                )
        if not found:
            return {}
        norms = torch.stack(list(found.values())).tolist()  # one wait for the device
        return {name: round(norm, 6) for name, norm in zip(found, norms, strict=True)}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFacts:
    """What a step, or one process's part of it, is made of."""

    dealt: tuple[tuple[str, ...], ...]
    """Keys of the samples of each thing that was dealt to a process: a sample, or a pack."""
    samples: dict[Kind, int]
    tokens: dict[Kind, int]
    """Of the samples, by kind."""
    supervised: int
    """Places that predict something."""
    places: int
    """Of the rows, padding included."""
    flops: int

    @property
    def keys(self) -> list[str]:
        """Of all samples, in the order in which they were dealt."""
        return list(chain.from_iterable(self.dealt))

    @property
    def num_tokens(self) -> int:
        """Real tokens."""
        return sum(self.tokens.values())

    @property
    def fill(self) -> float:
        """Share of the rows' places that hold real tokens."""
        return self.num_tokens / self.places


def facts_of(
    step: StepSamples, batches: Sequence[Batch], *, supervised: int, flops: int
) -> StepFacts:
    """The facts of a process's part.

    Args:
        step: Its samples.
        batches: What was made of them.
        supervised: Places that predict something.
        flops: Operations.
    """
    samples = step.samples
    rows = [(place,) for place in range(len(samples))] if step.rows is None else step.rows
    by_kind: dict[Kind, list[EncodedSample]] = {
        kind: [sample for sample in samples if sample.kind == kind] for kind in KINDS
    }
    return StepFacts(
        dealt=tuple(tuple(samples[place].key for place in row) for row in rows),
        samples={kind: len(some) for kind, some in by_kind.items()},
        tokens={kind: sum(len(s.input_ids) for s in some) for kind, some in by_kind.items()},
        supervised=supervised,
        places=sum(batch.attention_mask.numel() for batch in batches),
        flops=flops,
    )


def join_facts(parts: Sequence[StepFacts]) -> StepFacts:
    """The facts of a whole step, from those of its processes by rank.

    Things were dealt to the processes in turn: so they are put back.
    """
    return StepFacts(
        dealt=tuple(chain.from_iterable(zip(*(part.dealt for part in parts), strict=True))),
        samples={kind: sum(part.samples[kind] for part in parts) for kind in KINDS},
        tokens={kind: sum(part.tokens[kind] for part in parts) for kind in KINDS},
        supervised=sum(part.supervised for part in parts),
        places=sum(part.places for part in parts),
        flops=sum(part.flops for part in parts),
    )


def count_codes(batches: Sequence[Batch], codebook_size: int) -> Tensor:
    """(C,) how often the pictures to draw have each id."""
    ids = [batch.image_ids.flatten() for batch in batches if batch.image_ids is not None]
    counts = torch.zeros(codebook_size, dtype=torch.int64)
    for some in ids:
        counts += some.cpu().bincount(minlength=codebook_size)
    return counts


def codebook_use(counts: Tensor) -> dict[str, float]:
    """How much of the codebook the pictures of a step use; nothing where there are none.

    Args:
        counts: (C,) from ``count_codes``, of all processes.

    Returns:
        ``codebook_usage``, the share of its rows; ``codebook_entropy`` of the ids, in nats: at
        most ln C, where each row is as frequent as any other.
    """
    if not counts.any():
        return {}
    shares = counts[counts > 0].double() / counts.sum()
    return {
        "codebook_usage": round(len(shares) / len(counts), 6),
        "codebook_entropy": round(float(-(shares * shares.log()).sum()), 5),
    }


def speeds(num_tokens: float, num_supervised: float, seconds: float) -> dict[str, Any]:
    """Tokens a second, real ones and supervised ones."""
    return {
        "tokens_per_second": round(num_tokens / seconds),
        "supervised_tokens_per_second": round(num_supervised / seconds),
    }
