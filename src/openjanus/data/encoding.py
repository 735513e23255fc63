"""From a source's item to token ids: what a run hides or cuts of it, and nothing that is random."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from openjanus.data.collate import EncodedSample, encode_sample
from openjanus.data.mixture import Draw, stable_hash, stable_uniform
from openjanus.data.samples import Sample, Turn
from openjanus.processor.prompt import Processor

_SENTENCE_END = re.compile(r"(?<=[.!?])\s")


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
            kept_picture=stable_hash("kept", *place) % max(1, len(sample.targets)),
        )


def first_sentence(sample: Sample) -> Sample:
    """A sample told by the first sentence of each of its turns."""
    turns = tuple(
        Turn(role=turn.role, text=_SENTENCE_END.split(turn.text.strip())[0])
        for turn in sample.turns
    )
    return replace(sample, turns=turns)
