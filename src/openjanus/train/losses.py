"""The loss of all three stages: cross-entropy, one mean over every supervised token.

Text and picture ids count alike, as in the papers (Janus, section 3.2: no task weights). A mean
of means would weigh a token by how rare its kind is in the batch, and is not a number where a
kind is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.data.collate import Batch
from openjanus.data.samples import Kind
from openjanus.model.attention import document_mask
from openjanus.model.janus import JanusModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """The loss of a batch."""

    total: Tensor
    """Mean over all supervised tokens; the number to differentiate."""
    sums: dict[Kind, Tensor]
    """Detached sums by kind, of the kinds that the batch has."""
    counts: dict[Kind, int]
    """Supervised tokens of each of these kinds."""

    def means(self) -> dict[Kind, float]:
        """Nats a token, by kind."""
        return {kind: float(total) / self.counts[kind] for kind, total in self.sums.items()}


def compute_hidden_states(
    model: JanusModel,
    batch: Batch,
    *,
    decoder: Callable[..., Tensor] | None = None,
    encoder: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Embed a batch by all doors that it uses and run the decoder once.

    Args:
        model: The model.
        batch: From ``collate``.
        decoder: Called in place of ``model.language_model.model``, for instance a compiled one.
        encoder: Called in place of ``model.und_encoder``.

    Returns:
        (R, T, D).
    """
    slots: dict[str, tuple[Tensor, Tensor]] = {}
    if batch.pixel_values is not None:
        slots["und"] = (batch.und_slots, embed_und(model, batch.pixel_values, encoder))
    if batch.image_ids is not None:
        slots["gen"] = (batch.gen_slots, model.embed_gen(batch.image_ids))
    embeds = model.embed_sequence(batch.input_ids, slots)
    # Right padding needs no mask: causal attention never looks to the right.
    mask = None
    if batch.document_ids is not None:
        mask = document_mask(batch.document_ids, batch.branch_ids)
    run = model.language_model.model if decoder is None else decoder
    return run(embeds, positions=batch.positions, mask=mask)


def embed_und(
    model: JanusModel, pixel_values: Tensor, encoder: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """``model.embed_und``, keeping no activations of an encoder that is not trained."""
    trained = any(parameter.requires_grad for parameter in model.und_encoder.parameters())
    with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
        features = (model.und_encoder if encoder is None else encoder)(pixel_values)
    return model.und_aligner(features)


def compute_losses(
    model: JanusModel,
    batch: Batch,
    *,
    decoder: Callable[..., Tensor] | None = None,
    encoder: Callable[[Tensor], Tensor] | None = None,
    num_supervised: int | None = None,
) -> Losses:
    """The training loss of a batch; each head runs on the places that it is supervised at alone.

    Args:
        model: The model.
        batch: From ``collate``.
        decoder: As in ``compute_hidden_states``.
        encoder: Likewise.
        num_supervised: Supervised tokens of the whole step, over which ``total`` is a mean, where
            this batch is a part of it. None: the batch is the whole.

    Raises:
        ValueError: Nothing in the batch is supervised.
    """
    num_text, num_image = len(batch.text_places), len(batch.image_places)
    if num_text + num_image == 0:
        raise ValueError(
            f"nothing to learn in this batch: no supervised token in {', '.join(batch.keys)}"
        )
    hidden = compute_hidden_states(model, batch, decoder=decoder, encoder=encoder)
    hidden = hidden.flatten(0, 1)  # (R*T, D)
    totals: list[Tensor] = []
    sums: dict[Kind, Tensor] = {}
    counts: dict[Kind, int] = {}
    if num_text > 0:
        losses = _cross_entropy(model.text_logits, hidden[batch.text_places], batch.text_targets)
        totals.append(losses.sum())
        by_kind: tuple[tuple[Kind, Any], ...] = (
            ("und", batch.text_is_und),
            ("text", ~batch.text_is_und),
        )
        for kind, chosen in by_kind:
            if chosen.any():
                sums[kind] = losses.detach()[chosen].sum()
                counts[kind] = int(chosen.sum())
    if batch.image_ids is not None:
        targets = batch.image_ids.flatten()
        losses = _cross_entropy(model.image_logits, hidden[batch.image_places], targets)
        totals.append(losses.sum())
        sums["gen"] = losses.detach().sum()
        counts["gen"] = num_image
    total = torch.stack(totals).sum() / (num_supervised or num_text + num_image)
    return Losses(total=total, sums=sums, counts=counts)


def _cross_entropy(head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    """(P, D) hidden states and (P,) targets -> (P,) losses, in fp32."""
    return F.cross_entropy(head(hidden).float(), targets, reduction="none")
