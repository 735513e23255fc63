"""The gradients of one step, and the means that it says of itself, over all processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from openjanus.data.collate import Batch
from openjanus.data.samples import KINDS
from openjanus.model.dropout import DropoutKey
from openjanus.train.config import JanusTrainConfig
from openjanus.train.losses import LossKind, supervised_weight
from openjanus.train.parallel import World
from openjanus.train.step import Door, TrainStep, doors_of

LOSS_KINDS: tuple[LossKind, ...] = (*KINDS, "und_image")


class Gradients:
    """Runs batches forward and backward, with and without gradients.

    Args:
        module: The model and its loss, on this process's device.
        config: The run.
        world: All processes.
    """

    def __init__(self, module: TrainStep, config: JanusTrainConfig, world: World) -> None:
        self._module = module
        self.config = config
        self.world = world
        self._output: Tensor | None = None

    def add(self, step: int, batches: Sequence[Batch]) -> dict[str, Any]:
        """Add up gradients of one mean over the supervised tokens of all processes' batches.

        Args:
            step: From 0; names what is dropped.
            batches: This process's part, in as many as gradients are accumulated over.

        Returns:
            ``loss``, ``output_norm``, and means and numbers of tokens by kind, of all processes.
        """
        device, config, share = self.world.device, self.config, self.world.share()
        own = [doors_of(batch) for batch in batches]
        told = self.world.gather((sum(self._weight(batch) for batch in batches), own))
        whole = sum(weight for weight, _ in told)
        total, z_loss, squares = 0.0, 0.0, 0.0
        sums: dict[LossKind, float] = dict.fromkeys(LOSS_KINDS, 0.0)
        counts: dict[LossKind, int] = dict.fromkeys(LOSS_KINDS, 0)
        drops = self._module.model.config.language.dropout > 0
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.bf16)
        for part, batch in enumerate([batch.to(device) for batch in batches]):
            doors = frozenset[Door]().union(*(every[part] for _, every in told))
            shard = part * share.world + share.rank
            key = DropoutKey(seed=config.run.seed, step=step, shard=shard) if drops else None
            with autocast:
                loss, found, numbers, z = self._module(
                    batch, whole, doors, dropout=key, observe=self._observe
                )
            loss.backward()
            total += loss.item()
            z_loss += 0.0 if z is None else z.item()
            squares += self._output_square(batch) * batch.num_tokens
            for kind, number in numbers.items():
                sums[kind] += float(found[kind])
                counts[kind] += number
        num_tokens = sum(batch.num_tokens for batch in batches)
        total, z_loss, squares, places, *rest = self.world.sum(
            [total, z_loss, squares, num_tokens, *sums.values(), *counts.values()]
        )
        half = len(LOSS_KINDS)
        means = zip(LOSS_KINDS, rest[:half], rest[half:], strict=True)
        present = [(kind, value, int(count)) for kind, value, count in means if count > 0]
        values: dict[str, Any] = {"loss": total}
        if config.z_loss > 0:
            values["z_loss"] = z_loss
        values["output_norm"] = round(math.sqrt(squares / places), 5)
        values |= {f"loss_{kind}": round(value / count, 5) for kind, value, count in present}
        return values | {f"tokens_{kind}": count for kind, _, count in present}

    def measure(self, batch: Batch) -> tuple[dict[LossKind, Tensor], dict[LossKind, int]]:
        """Sums and counts of a batch that every process has, without gradients."""
        _, sums, counts, _ = self._module(batch, self.num_supervised(batch), doors_of(batch))
        return sums, counts

    def num_supervised(self, batch: Batch) -> int:
        """Places of a batch that predict something."""
        return batch.num_supervised + self._num_und_ids(batch)

    def _num_und_ids(self, batch: Batch) -> int:
        """Ids of pictures to understand that are learnt."""
        return int(batch.und_slots.sum()) if self.config.und_image_loss else 0

    def _weight(self, batch: Batch) -> float:
        """What those places weigh together."""
        und_ids = self._num_und_ids(batch)
        return supervised_weight(batch, self.config.loss_weights, num_und_ids=und_ids)

    def _observe(self, hidden_states: Tensor) -> None:
        self._output = hidden_states.detach()

    def _output_square(self, batch: Batch) -> float:
        """Mean square of what the last layer gave, before the final norm, at real tokens.

        It grows long before the loss shows that a run goes wrong (Chameleon, section 2.3).
        """
        assert self._output is not None
        outputs, self._output = self._output, None
        squares = outputs.float().square().mean(-1)  # (R, T)
        return squares[batch.attention_mask].mean().item()
