"""Samples to token ids, and pictures to draw to codebook ids; what a run hides or cuts of them.

Nothing here is random: what is hidden is a function of (seed, key, epoch).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from PIL import Image
from torch import Tensor

from openjanus.data.mixture import Draw, stable_hash, stable_uniform
from openjanus.data.samples import DRAW_MARK, IMAGE_MARK, Kind, Sample, Turn
from openjanus.processor.prompt import Processor

_MARK = re.compile(f"{IMAGE_MARK}|{DRAW_MARK}")

_SENTENCE_END = re.compile(r"(?<=[.!?])\s")


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
class SampleEncoder:
    """Tokenizes samples; what is hidden or cut depends on (seed, key, epoch) alone."""

    processor: Processor
    """Of the model."""
    max_length: int
    """Tokens a sample may have."""
    seed: int = 0
    """Of the run."""
    mask_prompt: bool = True
    """Supervise answers alone."""
    cond_drop: float = 0.0
    """Share of drawings whose prompt is hidden, in the form that guidance uses. Of a document one
    of its pictures is left, each as often as another."""
    first_sentence: float = 0.0
    """Share of drawings that are told by the first sentence of their caption alone."""
    learn_image_start: bool = False
    """Supervise ``<begin_of_image>`` where documents and answers draw."""
    max_images: int | None = None
    """Pictures to understand that a sample may have."""

    def __call__(self, sample: Sample, draw: Draw) -> EncodedSample:
        """Tokenize a sample.

        Raises:
            ValueError: Too many tokens or pictures, or a form that its kind cannot express.
        """
        place = (self.seed, sample.key, draw.epoch)
        drop = sample.kind == "gen" and stable_uniform("drop", *place) < self.cond_drop
        short = stable_uniform("sentence", *place) < self.first_sentence
        if short and sample.target is not None:  # a document has no caption to cut
            sample = first_sentence(sample)
        if self.max_images is not None and len(sample.images) > self.max_images:
            raise ValueError(
                f"sample {sample.key} has {len(sample.images)} pictures, a pack at most "
                f"{self.max_images}: raise pack_images or split the sample"
            )
        return encode_sample(
            sample,
            self.processor,
            max_length=self.max_length,
            mask_prompt=self.mask_prompt,
            drop_condition=drop,
            learn_image_start=self.learn_image_start,
            kept_picture=stable_hash("kept", *place) % max(1, len(sample.targets)),
        )


def first_sentence(sample: Sample) -> Sample:
    """A sample told by the first sentence of each of its turns."""
    turns = tuple(
        Turn(role=turn.role, text=_SENTENCE_END.split(turn.text.strip())[0])
        for turn in sample.turns
    )
    return replace(sample, turns=turns)


def encode_sample(
    sample: Sample,
    processor: Processor,
    *,
    max_length: int,
    mask_prompt: bool = True,
    drop_condition: bool = False,
    learn_image_start: bool = False,
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
        learn_image_start: Supervise ``<begin_of_image>`` where a document or an answer draws, so
            that the model learns where pictures come.
        kept_picture: Which of a document's pictures to draw is left without a condition, from 0.

    Raises:
        ValueError: Too many tokens; or a sample that its kind's form cannot express.
    """
    try:
        if sample.targets:
            encoded = _encode_document(sample, processor, mask_prompt, learn_image_start)
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


def _encode_document(
    sample: Sample, processor: Processor, mask_prompt: bool, learn_image_start: bool
) -> EncodedSample:
    """Words and pictures of both roles as they come; the slots of those to draw hold pads.

    The place of a picture is the same for both roles, ``<begin_of_image>`` to ``<end_of_image>``.
    The latter is never learnt: it follows the last id by form. The former is where that is asked
    for; otherwise where a picture comes is the document's to say.
    """
    tokenizer = processor.tokenizer
    text = "".join(turn.text for turn in sample.turns)
    is_drawn = [mark == DRAW_MARK for mark in _MARK.findall(text)]
    if sample.form == "plain":
        marked = text.replace(DRAW_MARK, IMAGE_MARK)
        ids, mask = processor.training_plain(marked, needs_words=not any(is_drawn))
    else:
        ids, mask = _encode_drawing_chat(sample, processor, mask_prompt)
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
            new_mask[-1] = learn_image_start
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


def _encode_drawing_chat(
    sample: Sample, processor: Processor, mask_prompt: bool
) -> tuple[list[int], list[bool]]:
    """Ids and mask of a chat whose answers draw; all pictures have the slots of those seen."""
    tokenizer = processor.tokenizer
    if any(turn.role == "assistant" and IMAGE_MARK in turn.text for turn in sample.turns):
        raise ValueError(
            f"an answer holds {IMAGE_MARK}, a picture to understand: write "
            f"{DRAW_MARK} for one that is drawn"
        )
    turns = [replace(turn, text=turn.text.replace(DRAW_MARK, IMAGE_MARK)) for turn in sample.turns]
    ids, mask = processor.training_dialogue(turns, system=sample.system, answers_draw=True)
    never = {tokenizer.boi_id, tokenizer.eoi_id, tokenizer.image_pad_id}
    if not mask_prompt:
        mask = [place > 0 for place in range(len(ids))]
    return ids, [counts and token not in never for token, counts in zip(ids, mask, strict=True)]


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
