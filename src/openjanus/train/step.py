"""What is differentiated in a training step: a model and its loss as one module."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openjanus.data.collate import Batch
from openjanus.model.dropout import DropoutKey
from openjanus.model.janus import JanusModel
from openjanus.train.config import JanusTrainConfig
from openjanus.train.cpu_ops import QuickProducts
from openjanus.train.fast_forward import run_decoder, run_encoder
from openjanus.train.losses import LossKind, Within, compute_losses, embed_und
from openjanus.train.parallel import World
from openjanus.train.sharding import blocks_of, checkpoint_activations, shard_model

Door = Literal["und", "gen", "text"]
"""Pictures to understand with their aligner; codebook ids with theirs and the image head; the head
for words."""


def doors_of(batch: Batch) -> frozenset[Door]:
    """The doors that a batch goes through."""
    found: set[Door] = set()
    if batch.pixel_values is not None:
        found.add("und")
    if batch.image_ids is not None:
        found.add("gen")
    if len(batch.text_places) > 0:
        found.add("text")
    return frozenset(found)


class TrainStep(nn.Module):
    """A model with its loss: the root module of FSDP, whose hooks fire around a forward.

    Args:
        model: Of the run.
        decoder: Runs in place of ``model.language_model.model``.
        encoder: Runs in place of ``model.und_encoder``.
        options: Given to ``compute_losses`` as they are.
    """

    def __init__(
        self,
        model: JanusModel,
        *,
        decoder: Callable[..., Tensor] | None = None,
        encoder: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._options = options
        self.model = model
        # In a tuple, so that what they run is not listed as a module of this one.
        self._instead = (decoder, encoder)

    def forward(
        self,
        batch: Batch,
        num_supervised: float,
        doors: frozenset[Door] = frozenset(),
        *,
        dropout: DropoutKey | None = None,
        observe: Callable[[Tensor], None] | None = None,
    ) -> tuple[Tensor, dict[LossKind, Tensor], dict[LossKind, int], Tensor | None]:
        """The loss of a batch, a part of a step.

        Args:
            batch: From ``collate``.
            num_supervised: What the supervised tokens of the whole step weigh, of all processes.
            doors: Those that some process goes through at this part of the step. One that this
                batch does not use is run on zeros and counts nothing: the others wait for this
                process's part of the weights and of their gradients.
            dropout: Names what is dropped.
            observe: Called with the last layer's output (R, T, D).

        Returns:
            The share of the step's mean loss, to be differentiated; by kind, sums and counts; and
            what of the loss is z-loss, if there is one.
        """
        decoder, encoder = self._instead
        plain = self.model.language_model.model if decoder is None else decoder
        run = partial(plain, dropout=dropout, observe=observe)
        idle = doors - doors_of(batch)
        if not idle:
            losses = compute_losses(
                self.model,
                batch,
                decoder=run,
                encoder=encoder,
                num_supervised=num_supervised,
                **self._options,
            )
            return losses.total, losses.sums, losses.counts, losses.z_loss

        unused: list[Tensor] = []

        def with_idle_doors(embeds: Tensor, **options: Tensor | None) -> Tensor:
            # Before the decoder: units must be gathered in the same order everywhere.
            hidden = run(embeds + 0.0 * self._enter(batch, idle), **options)
            unused.extend(self._leave(hidden, idle))
            return hidden

        losses = compute_losses(
            self.model,
            batch,
            decoder=with_idle_doors,
            encoder=encoder,
            num_supervised=num_supervised,
            **self._options,
        )
        total = losses.total + 0.0 * sum(unused, losses.total.new_zeros(()))
        return total, losses.sums, losses.counts, losses.z_loss

    def _enter(self, batch: Batch, idle: frozenset[Door]) -> Tensor:
        """A number that depends on the weights of the entrances that are idle."""
        device, config = batch.input_ids.device, self.model.config
        total = torch.zeros((), device=device)
        if "und" in idle:
            side = config.und_image_size
            pixels = torch.zeros(1, 3, side, side, device=device)
            total = total + embed_und(self.model, pixels, self._instead[1]).float().sum()
        if "gen" in idle:
            ids = torch.zeros(1, 1, dtype=torch.long, device=device)
            total = total + self.model.embed_gen(ids).float().sum()
        return total

    def _leave(self, hidden: Tensor, idle: frozenset[Door]) -> list[Tensor]:
        """Likewise for the heads."""
        first = hidden[:1, :1]
        heads: list[Tensor] = []
        if "text" in idle:
            heads.append(self.model.text_logits(first).float().sum())
        if "gen" in idle:
            heads.append(self.model.image_logits(first).float().sum())
        return heads


def build_step(model: JanusModel, config: JanusTrainConfig, world: World) -> TrainStep:
    """A model and its loss, on this process's device, sharded where there are several.

    The fast forwards of a CPU read the weights of layers without calling these, so they are not
    for weights that are gathered, or activations that are dropped, around a call.

    Args:
        model: Frozen as the run's stage says; moved or sharded in place.
        config: The run.
        world: All processes.
    """
    sharded = world.size > 1
    if config.activation_checkpointing:
        checkpoint_activations(model)
    within: Within | None = None
    if sharded or config.activation_checkpointing or world.device.type != "cpu":
        decoder, encoder = model.language_model.model, None
        if config.compile and not sharded:
            decoder = torch.compile(decoder, dynamic=True)
    else:
        decoder = partial(run_decoder, model.language_model.model, compiled=config.compile)
        encoder, within = partial(run_encoder, model.und_encoder), QuickProducts
    step = TrainStep(
        model,
        decoder=decoder,
        encoder=encoder,
        within=within,
        z_loss=config.z_loss,
        und_images=config.und_image_loss,
        weights=config.loss_weights,
        # A decoder that is compiled whole keeps one kind of mask, and is not compiled for each.
        isolation="dense" if config.compile and not (encoder and config.bf16) else None,
    )
    if not sharded:
        return step.to(world.device)
    if config.compile:
        for block in blocks_of(model):
            block.compile(dynamic=True)
    shard_model(step, model, world, bf16=config.bf16)
    return step
