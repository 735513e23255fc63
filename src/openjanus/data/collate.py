"""Samples to one batch of a training step.

The shift between what is read and what is predicted is made here and nowhere else: a batch names
the places whose hidden states predict, and beside them what they predict. So the state at
``<begin_of_image>`` predicts the first id, and the last id of a picture predicts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, takewhile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openjanus.data.packing import pack
from openjanus.data.samples import DRAW_MARK, IMAGE_MARK, KINDS, Kind, Sample, Turn
from openjanus.processor.prompt import Processor

LENGTH_MULTIPLE = 32
"""Rows are padded to a multiple of this, so that few shapes occur."""

PADDING_DOCUMENT = -1

_MARK = re.compile(f"{IMAGE_MARK}|{DRAW_MARK}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSample:
    """A sample as token ids; pictures are still pictures."""

    key: str
    kind: Kind
    input_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    """Which of them are text to be predicted; never BOS, an image slot or a picture's id."""
    images: tuple[np.ndarray, ...] = ()
    """uint8 pictures to understand, in the order of their slots."""
    gen_start: int | None = None
    """Where the picture to draw begins: the place after ``<begin_of_image>``."""
    target: np.ndarray | None = None
    """gen: a uint8 picture, or its (N,) codebook ids."""
    picture: int = 0
    """Which of its item's pictures to draw ``target`` is: one of a document may stand alone."""
    gen_starts: tuple[int, ...] = ()
    """``gen_start`` of each picture that a document draws."""
    targets: tuple[np.ndarray, ...] = ()
    """``target`` of each of them, in the same order."""
    branch_starts: tuple[int, ...] = ()
    """Where branches begin that share what precedes the first and do not see each other."""

    @property
    def drawings(self) -> tuple[tuple[int, np.ndarray | None], ...]:
        """Where each picture to draw begins, and what it is."""
        if self.gen_start is not None:
            return ((self.gen_start, self.target),)
        return tuple(zip(self.gen_starts, self.targets, strict=True))

    def with_targets(self, targets: Sequence[np.ndarray | None]) -> EncodedSample:
        """The same with other pictures or ids to draw, as many as ``drawings``."""
        if self.gen_start is not None:
            return replace(self, target=targets[0])
        return replace(self, targets=tuple(targets))


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


def encode_sample(
    sample: Sample,
    processor: Processor,
    *,
    max_length: int,
    mask_prompt: bool = True,
    drop_condition: bool = False,
    kept_picture: int = 0,
) -> EncodedSample:
    """Tokenize a sample.

    Args:
        sample: What to learn from.
        processor: Of the model; also knows the templates.
        max_length: Most tokens that a sample may have.
        mask_prompt: Supervise answers alone; False also supervises the words of users and of the
            system. Plain forms have no prompt.
        drop_condition: gen: hide the prompt in the very form that guidance uses, BOS and
            ``<begin_of_image>`` kept and everything between a pad (the papers' 10 %). Of a
            document one picture is left, after as many pads as words and pictures came before it.
        kept_picture: Which of a document's pictures to draw that is, from 0.

    Raises:
        ValueError: Too many tokens; or a sample that its kind's form cannot express.
    """
    try:
        if sample.targets:
            encoded = _encode_document(sample, processor)
        elif sample.kind == "gen":
            encoded = _encode_gen(sample, processor, drop_condition)
        elif sample.form == "plain":
            encoded = _encode_plain(sample, processor)
        else:
            encoded = _encode_chat(sample, processor, mask_prompt)
    except ValueError as error:  # a processor knows no samples
        raise ValueError(f"sample {sample.key}: {error}") from error
    if len(encoded.input_ids) > max_length:
        raise ValueError(
            f"sample {sample.key} has {len(encoded.input_ids)} tokens, at most {max_length}: "
            "raise max_length or shorten the sample"
        )
    if sample.targets and drop_condition:  # once it is known to fit: the same in every epoch
        return _picture_alone(encoded, processor, kept_picture)
    return encoded


def _encode_gen(sample: Sample, processor: Processor, drop_condition: bool) -> EncodedSample:
    if len(sample.turns) != 1:
        raise ValueError(f"a drawing has one turn, got {len(sample.turns)}: join them")
    text, tokenizer = sample.turns[0].text, processor.tokenizer
    make_prompt = processor.gen_plain_prompt if sample.form == "plain" else processor.gen_prompt
    prompt = make_prompt(text)
    if drop_condition:
        prompt = processor.drop_condition(prompt)
    num_ids = processor.config.num_gen_image_tokens
    ids = (*prompt, *(tokenizer.pad_id for _ in range(num_ids)))
    return EncodedSample(
        key=sample.key,
        kind="gen",
        input_ids=ids,
        loss_mask=(False,) * len(ids),
        gen_start=len(prompt),
        target=sample.target,
    )


def _encode_plain(sample: Sample, processor: Processor) -> EncodedSample:
    """Stage I and plain text: the turns' words one after another, pictures at their marks."""
    ids, mask = processor.training_plain("".join(turn.text for turn in sample.turns))
    return EncodedSample(
        key=sample.key,
        kind=sample.kind,
        input_ids=tuple(ids),
        loss_mask=tuple(mask),
        images=sample.images,
    )


def _encode_document(sample: Sample, processor: Processor) -> EncodedSample:
    """Words and pictures of both roles as they come; the slots of those to draw hold pads.

    The place of a picture is the same for both roles, ``<begin_of_image>`` to ``<end_of_image>``,
    and neither of these two is learnt: where a picture comes is the document's to say.
    """
    tokenizer = processor.tokenizer
    text = "".join(turn.text for turn in sample.turns)
    is_drawn = [mark == DRAW_MARK for mark in _MARK.findall(text)]
    ids, mask = processor.training_plain(text.replace(DRAW_MARK, IMAGE_MARK))
    num_slots = processor.config.num_und_image_tokens
    num_ids = processor.config.num_gen_image_tokens
    new_ids: list[int] = []
    new_mask: list[bool] = []
    starts: list[int] = []
    at = 0
    for drawn in is_drawn:
        slots = ids.index(tokenizer.image_pad_id, at)
        new_ids += ids[at:slots]
        new_mask += mask[at:slots]
        at = slots + num_slots
        if drawn:
            starts.append(len(new_ids))
        count = num_ids if drawn else num_slots
        new_ids += [tokenizer.pad_id if drawn else tokenizer.image_pad_id] * count
        new_mask += [False] * count
    return EncodedSample(
        key=sample.key,
        kind=sample.kind,
        input_ids=(*new_ids, *ids[at:]),
        loss_mask=(*new_mask, *mask[at:]),
        images=sample.images,
        gen_starts=tuple(starts),
        targets=sample.targets,
    )


def _picture_alone(encoded: EncodedSample, processor: Processor, number: int) -> EncodedSample:
    """A picture of a document without its condition: what guidance leads away from.

    At inference nothing but pads precedes it, so what surrounds it cannot be learnt beside it: the
    words would be told from pads, and a later picture would see an earlier one.
    """
    count = len(encoded.gen_starts)
    if not 0 <= number < count:
        raise ValueError(
            f"sample {encoded.key}: kept_picture must be one of its {count} pictures to draw, "
            f"from 0, got {number}"
        )
    start = encoded.gen_starts[number]
    prompt = processor.drop_condition(encoded.input_ids[:start])
    num_ids = processor.config.num_gen_image_tokens
    ids = (*prompt, *(processor.tokenizer.pad_id for _ in range(num_ids)))
    return EncodedSample(
        key=encoded.key,
        kind=encoded.kind,
        input_ids=ids,
        loss_mask=(False,) * len(ids),
        gen_start=start,
        target=encoded.targets[number],
        picture=number,
    )


def _encode_chat(sample: Sample, processor: Processor, mask_prompt: bool) -> EncodedSample:
    if sample.branched:
        ids, mask, starts = _encode_branches(sample.turns, processor, sample.system)
    else:
        ids, mask = processor.training_dialogue(sample.turns, system=sample.system)
        starts = []
    if not mask_prompt:
        tokenizer = processor.tokenizer
        never = {tokenizer.boi_id, tokenizer.eoi_id, tokenizer.image_pad_id}
        # A branch's first token would be predicted by the branch before it.
        mask = [
            place > 0 and place not in starts and token not in never
            for place, token in enumerate(ids)
        ]
    return EncodedSample(
        key=sample.key,
        kind=sample.kind,
        input_ids=tuple(ids),
        loss_mask=tuple(mask),
        images=sample.images,
        branch_starts=tuple(starts),
    )


def _encode_branches(
    turns: Sequence[Turn], processor: Processor, system: str | None
) -> tuple[list[int], list[bool], list[int]]:
    """Each exchange as a dialogue of its own; ids and mask of what they share, then of the rest.

    Returns:
        Ids, the loss mask, and where each exchange's own part begins.
    """
    opening = turns[0].text[: _end_of_marks(turns[0].text)]
    dialogues = []
    for number in range(0, len(turns), 2):
        question, answer = turns[number], turns[number + 1]
        if number > 0:
            question = replace(question, text=opening + question.text)
        dialogues.append(processor.training_dialogue((question, answer), system=system))
    columns = zip(*(ids for ids, _ in dialogues), strict=False)  # as long as the shortest
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    # Never into an answer: its first token must be predicted within its own branch.
    shared = min(shared, *(mask.index(True) - 1 for _, mask in dialogues))
    all_ids, all_masks, starts = dialogues[0][0][:shared], dialogues[0][1][:shared], []
    for ids, mask in dialogues:
        starts.append(len(all_ids))
        all_ids, all_masks = all_ids + ids[shared:], all_masks + mask[shared:]
    return all_ids, all_masks, starts


def _end_of_marks(text: str) -> int:
    """Where the words begin after the last picture's mark and the line break behind it."""
    end = text.rfind(IMAGE_MARK)
    if end < 0:
        return 0
    end += len(IMAGE_MARK)
    return end + 1 if text[end : end + 1] == "\n" else end


def with_image_ids(
    samples: Sequence[EncodedSample],
    processor: Processor,
    encode_to_ids: Callable[[Tensor], Tensor],
) -> list[EncodedSample]:
    """Replace pictures to draw by their codebook ids.

    Args:
        samples: Any kinds; those that hold ids already are left alone.
        processor: Its generation preprocessing is used, never the padded understanding one.
        encode_to_ids: (G, 3, S, S) in [-1, 1] -> (G, N).
    """
    pictures = [
        Image.fromarray(target)
        for sample in samples
        for _, target in sample.drawings
        if target is not None and target.ndim == 3
    ]
    if not pictures:
        return list(samples)
    ids = iter(encode_to_ids(processor.gen_pixels(pictures)).cpu().numpy())
    return [_with_next_ids(sample, ids) for sample in samples]


def _with_next_ids(sample: EncodedSample, ids: Iterator[np.ndarray]) -> EncodedSample:
    """A sample with the next ids for each of its pictures."""
    if all(target is None or target.ndim == 1 for _, target in sample.drawings):
        return sample
    known = [
        next(ids) if target is not None and target.ndim == 3 else target
        for _, target in sample.drawings
    ]
    return sample.with_targets(known)


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
