"""What is learnt from: dialogues to ids and labels, and batches in the plainest form there is.

A batch here is what every trainer can make its own of: text ids, labels beside them (the id at a
place, predicted one place before, or -100), pictures, and where codebook ids come back in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openjanus.conformance.vectors import Inputs
from openjanus.data.collate import Batch, collate
from openjanus.data.encoding import EncodedSample, encode_sample
from openjanus.data.samples import IMAGE_MARK, Sample, Turn
from openjanus.processor.prompt import Processor

IGNORED = -100
"""The label of what is not learnt: the field's own."""

MAX_LENGTH = 512

Dialogue = Sequence[tuple[str, str]]


def lesson(name: str, kind: str, dialogue: Dialogue, **options: Any) -> dict[str, Any]:
    """A case of ``training_ids`` as plain data.

    Args:
        name: Its own.
        kind: und, text or gen.
        dialogue: (role, text) of every turn.
        options: ``form`` (chat or plain), ``mask_prompt``, ``drop_condition``, where they are not
            chat, true and false.
    """
    turns = [{"role": role, "text": text} for role, text in dialogue]
    told = {"form": "chat", "mask_prompt": True, "drop_condition": False} | options
    return {"name": name, "kind": kind, "turns": turns, **told}


def encode(
    processor: Processor,
    case: Mapping[str, Any],
    images: Sequence[np.ndarray],
    target: np.ndarray | None = None,
) -> EncodedSample:
    """A case as this package encodes it.

    Args:
        processor: Of the model.
        case: From ``lesson``.
        images: A picture for every mark.
        target: gen: (N,) codebook ids.
    """
    sample = Sample(
        key=case["name"],
        kind=case["kind"],
        turns=tuple(Turn(role=turn["role"], text=turn["text"]) for turn in case["turns"]),
        images=tuple(images),
        target=target,
        form=case["form"],
    )
    return encode_sample(
        sample,
        processor,
        max_length=MAX_LENGTH,
        mask_prompt=case["mask_prompt"],
        drop_condition=case["drop_condition"],
    )


def encode_lesson(processor: Processor, case: Mapping[str, Any]) -> dict[str, Tensor]:
    """Ids and labels of a case; of a drawing the prompt alone, for its ids are what is learnt."""
    marks = sum(turn["text"].count(IMAGE_MARK) for turn in case["turns"])
    size = processor.config.und_image_size
    images = [np.zeros((size, size, 3), np.uint8)] * marks
    is_gen = case["kind"] == "gen"
    target = np.zeros(processor.config.num_gen_image_tokens, np.int64) if is_gen else None
    sample = encode(processor, case, images, target)
    ids = torch.tensor(sample.input_ids)
    if is_gen:
        return {"input_ids": ids[: sample.gen_start]}
    return {"input_ids": ids, "labels": ids.where(torch.tensor(sample.loss_mask), IGNORED)}


def to_inputs(samples: Sequence[EncodedSample], processor: Processor) -> dict[str, Tensor]:
    """A batch in its plainest form, each sample a row; ``to_batch`` is the inverse.

    Args:
        samples: Of any kinds; pictures to draw as ids.
        processor: Of the model.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels`` (R, T); ``pixel_values`` (I, 3, S, S) where
        there are pictures to understand; ``image_ids`` (G, N) and ``gen_slots`` (R, T) where there
        are some to draw.
    """
    batch = collate(samples, processor)
    labels = torch.full_like(batch.input_ids, IGNORED).flatten()
    labels[batch.text_places + 1] = batch.text_targets
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "labels": labels.view_as(batch.input_ids),
    }
    if batch.pixel_values is not None:
        inputs["pixel_values"] = batch.pixel_values
    if batch.image_ids is not None:
        inputs |= {"image_ids": batch.image_ids, "gen_slots": batch.gen_slots}
    return inputs


def to_batch(inputs: Inputs, processor: Processor) -> Batch:
    """A batch of this package from its plainest form, shifted where training shifts it.

    Args:
        inputs: From ``to_inputs``.
        processor: Of the model.
    """
    labels, attention_mask = inputs["labels"], inputs["attention_mask"]
    gen_slots = inputs.get("gen_slots", torch.zeros_like(attention_mask))
    targets = iter(inputs.get("image_ids", ()))
    samples = []
    for row, input_ids in enumerate(inputs["input_ids"]):
        length = int(attention_mask[row].sum())
        places = gen_slots[row].nonzero()[:, 0].tolist()
        samples.append(
            EncodedSample(
                key=f"row {row}",
                kind="gen" if places else "text",
                input_ids=tuple(input_ids[:length].tolist()),
                loss_mask=tuple((labels[row, :length] != IGNORED).tolist()),
                gen_start=places[0] if places else None,
                target=next(targets).numpy() if places else None,
            )
        )
    return replace(collate(samples, processor), pixel_values=inputs.get("pixel_values"))
