"""Encoded samples to one batch of a training step.

The shift between what is read and what is predicted is made here and nowhere else: a batch names
the places whose hidden states predict, and beside them what they predict. So the state at
``<begin_of_image>`` predicts the first id, and the last id of a picture predicts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openjanus.data.encoding import EncodedSample
from openjanus.data.packing import pack
from openjanus.data.samples import KINDS, Kind
from openjanus.processor.prompt import Processor

LENGTH_MULTIPLE = 32
"""Rows are padded to a multiple of this, so that few shapes occur."""

PADDING_DOCUMENT = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What a training step sees. R rows of T tokens; G pictures to draw, I to understand."""

    input_ids: Tensor
    """(R, T) text ids; slots and padding hold a pad id."""
    attention_mask: Tensor
    """(R, T) bool, True = a real token. Padding is on the right, so causal attention alone keeps
    it from every real token."""
    positions: Tensor
    """(R, T) rotary positions, from 0 in each document."""
    document_ids: Tensor | None
    """(R, T) which sample a token belongs to, where rows are packed; None: one sample a row."""
    spans: tuple[tuple[int, int, int], ...]
    """Row, first token and the one after the last of every sample."""
    branch_ids: Tensor | None
    """(R, T) which branch of its sample a token belongs to, 0 what all of them see; None: there
    are no branches."""
    pixel_values: Tensor | None
    """(I, 3, S, S) pictures to understand, or None."""
    und_slots: Tensor
    """(R, T) bool, where their features go in."""
    image_ids: Tensor | None
    """(G, N) codebook ids to draw, or None."""
    gen_slots: Tensor
    """(R, T) bool, where these ids come back in."""
    image_places: Tensor
    """(G * N,) places in R * T whose hidden states predict ``image_ids``."""
    text_places: Tensor
    """(P,) places in R * T whose hidden states predict ``text_targets``."""
    text_targets: Tensor
    """(P,) text ids."""
    text_is_und: Tensor
    """(P,) bool: the token belongs to an understanding sample."""
    keys: tuple[str, ...]
    """Keys of the samples, in order."""
    num_samples: dict[Kind, int]
    """Samples of each kind."""

    @property
    def num_tokens(self) -> int:
        """Real tokens."""
        return int(self.attention_mask.sum())

    @property
    def num_supervised(self) -> int:
        """Places whose hidden states predict something."""
        return len(self.text_places) + len(self.image_places)

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on a device."""
        moved = {
            item.name: value.to(device)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **moved)


def collate(
    samples: Sequence[EncodedSample],
    processor: Processor,
    *,
    pack_length: int | None = None,
    row_sizes: Sequence[int] | None = None,
) -> Batch:
    """Make one batch.

    Args:
        samples: At least one; pictures to draw given as ids (see ``with_image_ids``).
        processor: Of the model.
        pack_length: Tokens a row, filled with as many samples as fit, none of which sees another.
            None gives each sample a row of its own.
        row_sizes: How many of the samples each row of ``pack_length`` tokens holds, in order,
            where that has been decided before.

    Raises:
        ValueError: No samples, or a picture to draw without its N ids.
    """
    if not samples:
        raise ValueError("a batch needs at least one sample, got none")
    lengths = [len(sample.input_ids) for sample in samples]
    rows, width = _lay_out(lengths, pack_length, row_sizes)
    ordered = [samples[index] for row in rows for index in row]
    starts = _starts(rows, lengths, width)

    size = len(rows) * width
    tokenizer = processor.tokenizer
    input_ids = np.full(size, tokenizer.pad_id, np.int64)
    positions = np.zeros(size, np.int64)
    documents = np.full(size, PADDING_DOCUMENT, np.int64)
    branches = np.zeros(size, np.int64)
    und_slots = np.zeros(size, bool)
    gen_slots = np.zeros(size, bool)
    supervised = np.zeros(size, bool)
    is_und = np.zeros(size, bool)
    num_ids = processor.config.num_gen_image_tokens
    image_ids: list[np.ndarray] = []
    image_places: list[np.ndarray] = []
    for document, (sample, start) in enumerate(zip(ordered, starts, strict=True)):
        here = slice(start, start + len(sample.input_ids))
        ids = np.asarray(sample.input_ids, np.int64)
        input_ids[here] = ids
        positions[here] = np.arange(len(ids))
        for number, at in enumerate(sample.branch_starts, start=1):
            branches[start + at : here.stop] = number
            positions[start + at : here.stop] = sample.branch_starts[0] + np.arange(len(ids) - at)
        documents[here] = document
        supervised[here] = sample.loss_mask
        is_und[here] = sample.kind == "und"
        if sample.gen_start is None:
            und_slots[here] = ids == tokenizer.image_pad_id
        for at, target in sample.drawings:
            first = start + at
            und_slots[first : first + num_ids] = False
            gen_slots[first : first + num_ids] = True
            # One place earlier: <begin_of_image> predicts the first id, the last id nothing.
            image_places.append(np.arange(first - 1, first - 1 + num_ids))
            image_ids.append(_checked_ids(sample.key, target, num_ids))

    text_targets_at = np.flatnonzero(supervised)
    images = [Image.fromarray(image) for sample in ordered for image in sample.images]
    shape = (len(rows), width)
    branched = any(sample.branch_starts for sample in samples)
    masked = pack_length is not None or branched
    return Batch(
        input_ids=torch.from_numpy(input_ids).view(shape),
        attention_mask=torch.from_numpy(documents != PADDING_DOCUMENT).view(shape),
        positions=torch.from_numpy(positions).view(shape),
        document_ids=torch.from_numpy(documents).view(shape) if masked else None,
        spans=_spans(ordered, starts, width),
        branch_ids=torch.from_numpy(branches).view(shape) if branched else None,
        pixel_values=processor.und_pixels(images) if images else None,
        und_slots=torch.from_numpy(und_slots).view(shape),
        image_ids=torch.from_numpy(np.stack(image_ids)) if image_ids else None,
        gen_slots=torch.from_numpy(gen_slots).view(shape),
        image_places=torch.from_numpy(
            np.concatenate(image_places) if image_places else np.zeros(0, np.int64)
        ),
        text_places=torch.from_numpy(text_targets_at - 1),
        text_targets=torch.from_numpy(input_ids[text_targets_at]),
        text_is_und=torch.from_numpy(is_und[text_targets_at]),
        keys=tuple(sample.key for sample in ordered),
        num_samples={kind: sum(sample.kind == kind for sample in ordered) for kind in KINDS},
    )


def _lay_out(
    lengths: list[int], pack_length: int | None, row_sizes: Sequence[int] | None
) -> tuple[list[list[int]], int]:
    """Which samples each row holds, and how many tokens a row has."""
    if row_sizes is not None:
        ends = list(accumulate(row_sizes))
        rows = [list(range(end - size, end)) for size, end in zip(row_sizes, ends, strict=True)]
    elif pack_length is not None:
        rows = pack(lengths, pack_length)
    else:
        rows = [[index] for index in range(len(lengths))]
    width = max(sum(lengths[index] for index in row) for row in rows)
    if row_sizes is not None and pack_length is not None:
        assert width <= pack_length and sum(row_sizes) == len(lengths)
        width = pack_length  # always, so that one shape occurs
    return rows, -(-width // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def _starts(rows: list[list[int]], lengths: list[int], width: int) -> list[int]:
    """Where each sample begins in the flattened rows, in the order of the rows."""
    starts: list[int] = []
    for place, row in enumerate(rows):
        offsets = accumulate((lengths[index] for index in row[:-1]), initial=place * width)
        starts += offsets
    return starts


def _spans(
    samples: Sequence[EncodedSample], starts: Sequence[int], width: int
) -> tuple[tuple[int, int, int], ...]:
    """Row, first token and the one after the last of samples that begin somewhere in R * T."""
    return tuple(
        (start // width, start % width, start % width + len(sample.input_ids))
        for sample, start in zip(samples, starts, strict=True)
    )


def _checked_ids(key: str, target: np.ndarray | None, num_ids: int) -> np.ndarray:
    if target is None or target.shape != (num_ids,):
        shape = None if target is None else target.shape
        raise ValueError(
            f"sample {key}: a picture to draw needs {num_ids} codebook ids, got shape "
            f"{shape}: pass samples through with_image_ids first"
        )
    return target.astype(np.int64)
