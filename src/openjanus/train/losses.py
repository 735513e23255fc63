"""The loss of all three stages: cross-entropy, one mean over every supervised token.

Text and picture ids count alike, as in the papers (Janus, section 3.2: no task weights), where
``LossWeights`` say nothing else. A mean of means would weigh a token by how rare its kind is in the
batch, and is not a number where a kind is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.data.collate import Batch
from openjanus.data.samples import Kind
from openjanus.model.documents import (
    Backend,
    DocumentAttention,
    attend_documents,
    choose_backend,
)
from openjanus.model.janus import Face, JanusModel
from openjanus.train.loss_weights import EQUAL, LossWeights

LossKind = Kind | Literal["und_image"]
"""Kinds of supervised tokens: those of samples, and the ids of pictures to understand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """The loss of a batch."""

    total: Tensor
    """Mean over all supervised tokens by their weights, the z-loss included; the number to
    differentiate."""
    sums: dict[LossKind, Tensor]
    """Detached sums by kind, of the kinds that the batch has, without weights."""
    counts: dict[LossKind, int]
    """Supervised tokens of each of these kinds."""
    z_loss: Tensor | None = None
    """Detached share of ``total`` that is the z-loss; None where it has no weight."""

    def means(self) -> dict[LossKind, float]:
        """Nats a token, by kind."""
        return {kind: float(total) / self.counts[kind] for kind, total in self.sums.items()}


Within = Callable[[], AbstractContextManager[object]]
"""Opens what forwards run in."""


def _opened(within: Within | None) -> AbstractContextManager[object]:
    return nullcontext() if within is None else within()


def compute_hidden_states(
    model: JanusModel,
    batch: Batch,
    *,
    decoder: Callable[..., Tensor] | None = None,
    encoder: Callable[[Tensor], Tensor] | None = None,
    isolation: Backend | None = None,
    within: Within | None = None,
) -> Tensor:
    """Embed a batch by all doors that it uses and run the decoder once.

    Args:
        model: The model.
        batch: From ``collate``.
        decoder: Called in place of ``model.language_model.model``, for instance a compiled one.
        encoder: Called in place of ``model.und_encoder``.
        isolation: How packed samples are kept from each other; None chooses by device.
        within: Opened around all but the decoder, for instance ``cpu_ops.QuickProducts``.

    Returns:
        (R, T, D).
    """
    slots: dict[str, tuple[Tensor, Tensor]] = {}
    with _opened(within):
        if batch.pixel_values is not None:
            slots["und"] = (batch.und_slots, embed_und(model, batch.pixel_values, encoder))
        if batch.image_ids is not None:
            slots["gen"] = (batch.gen_slots, model.embed_gen(batch.image_ids))
        embeds = model.embed_sequence(batch.input_ids, slots)
    # Right padding needs no mask: causal attention never looks to the right.
    mask = None if batch.document_ids is None else _isolate(batch, embeds, isolation)
    run = model.language_model.model if decoder is None else decoder
    return run(embeds, positions=batch.positions, mask=mask)


def _isolate(batch: Batch, embeds: Tensor, backend: Backend | None) -> DocumentAttention:
    """Attention that keeps the samples of a row from each other."""
    assert batch.document_ids is not None
    if backend is None:
        kind = embeds.device.type
        narrow = torch.is_autocast_enabled(kind) and kind == "cuda"
        backend = choose_backend(
            embeds.device,
            torch.get_autocast_dtype(kind) if narrow else embeds.dtype,
            batch.spans,
            *batch.input_ids.shape,
            branched=batch.branch_ids is not None,
        )
    return attend_documents(backend, batch.document_ids, batch.spans, batch.branch_ids)


@torch.no_grad()
def _und_ids(model: JanusModel, batch: Batch) -> Tensor | None:
    """(I, N) ids of the pictures to understand; None where there are none."""
    if not model.config.one_vocabulary:
        raise ValueError(
            "pictures to understand are features here, which nothing predicts: und_images "
            "(und_image_loss) is for a model of one vocabulary"
        )
    return None if batch.pixel_values is None else model.und_encoder(batch.pixel_values)


def _given(features: Tensor, pixel_values: Tensor) -> Tensor:
    """An encoder whose answer is known."""
    return features


def embed_und(
    model: JanusModel, pixel_values: Tensor, encoder: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """``model.embed_und``, keeping no activations of an encoder that is not trained."""
    trained = any(parameter.requires_grad for parameter in model.und_encoder.parameters())
    with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
        features = (model.und_encoder if encoder is None else encoder)(pixel_values)
    return model.align_und(features)


def supervised_weight(batch: Batch, weights: LossWeights = EQUAL, *, num_und_ids: int = 0) -> float:
    """What the supervised tokens of a batch weigh together: their number, where all count alike.

    Args:
        batch: From ``collate``.
        weights: Of a token of each kind.
        num_und_ids: Ids of its pictures to understand that are learnt too.
    """
    num_und = int(batch.text_is_und.sum())
    num_text = len(batch.text_places) - num_und
    return (
        num_und * weights.und
        + num_text * weights.text
        + len(batch.image_places) * weights.gen
        + num_und_ids * weights.und_image
    )


def compute_losses(
    model: JanusModel,
    batch: Batch,
    *,
    decoder: Callable[..., Tensor] | None = None,
    encoder: Callable[[Tensor], Tensor] | None = None,
    num_supervised: float | None = None,
    isolation: Backend | None = None,
    within: Within | None = None,
    z_loss: float = 0.0,
    und_images: bool = False,
    weights: LossWeights = EQUAL,
) -> Losses:
    """The training loss of a batch; each head runs on the places that it is supervised at alone.

    Args:
        model: The model.
        batch: From ``collate``.
        decoder: As in ``compute_hidden_states``.
        encoder: Likewise.
        num_supervised: What the supervised tokens of the whole step weigh (``supervised_weight``;
            their number, where all count alike), over which ``total`` is a mean, where this batch
            is a part of it. None: the batch is the whole.
        isolation: As in ``compute_hidden_states``.
        within: Likewise.
        z_loss: Weight of the mean of log^2 Z, where Z is what the softmax of either head divides
            by: it keeps logits from growing together, which the cross-entropy does not feel
            (Chameleon: 1e-5).
        und_images: Learn to predict the ids of pictures to understand as well (Chameleon learns
            every token); for models of one vocabulary.
        weights: What a token of each kind counts. ``sums`` and ``counts`` do not feel them.

    Raises:
        ValueError: Nothing in the batch is supervised, or all that is has weight 0, or
            ``und_images`` with a model whose pictures to understand are no ids.
    """
    und_ids = _und_ids(model, batch) if und_images else None
    if und_ids is not None:
        encoder = partial(_given, und_ids)
    num_und = 0 if und_ids is None else und_ids.numel()
    num_text, num_image = len(batch.text_places), len(batch.image_places)
    whole = num_supervised or supervised_weight(batch, weights, num_und_ids=num_und)
    if num_text + num_image + num_und == 0 or whole == 0:
        raise ValueError(
            f"nothing to learn in this batch: no supervised token in {', '.join(batch.keys)}"
            + ("" if weights == EQUAL else " that loss_weights count")
        )
    hidden = compute_hidden_states(
        model, batch, decoder=decoder, encoder=encoder, isolation=isolation, within=within
    )
    hidden = hidden.flatten(0, 1)  # (R*T, D)
    totals: list[Tensor] = []
    squares: list[Tensor] = []
    sums: dict[LossKind, Tensor] = {}
    counts: dict[LossKind, int] = {}

    def add(face: Face, places: Tensor, targets: Tensor, weight: Tensor | float) -> Tensor:
        with _opened(within):
            logits, targets = model.logits_for_loss(hidden[places], targets, face)
        logits = logits.float()
        losses = F.cross_entropy(logits, targets, reduction="none")  # (P,)
        totals.append((losses * weight).sum())
        if z_loss > 0:
            squares.append((logits.logsumexp(-1).square() * weight).sum())
        return losses.detach()

    if num_text > 0:
        is_und = batch.text_is_und
        weight = torch.where(is_und, weights.und, weights.text)
        losses = add("text", batch.text_places, batch.text_targets, weight)
        by_kind: tuple[tuple[Kind, Any], ...] = (
            ("und", is_und),
            ("text", ~is_und),
        )
        for kind, chosen in by_kind:
            if chosen.any():
                sums[kind] = losses[chosen].sum()
                counts[kind] = int(chosen.sum())
    if batch.image_ids is not None:
        losses = add("image", batch.image_places, batch.image_ids.flatten(), weights.gen)
        sums["gen"] = losses.sum()
        counts["gen"] = num_image
    if und_ids is not None:
        places = batch.und_slots.flatten().nonzero()[:, 0] - 1
        losses = add("image", places, und_ids.flatten(), weights.und_image)
        sums["und_image"] = losses.sum()
        counts["und_image"] = num_und
    total = torch.stack(totals).sum() / whole
    if not squares:
        return Losses(total=total, sums=sums, counts=counts)
    z = z_loss * torch.stack(squares).sum() / whole
    return Losses(total=total + z, sums=sums, counts=counts, z_loss=z.detach())
