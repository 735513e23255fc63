"""What a run hides or cuts of a sample: by seed, key and epoch, and by nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from openjanus.data.encoding import SampleEncoder
from openjanus.data.mixture import Draw
from openjanus.data.samples import Sample, Turn
from openjanus.data.toy import ToyScenes

SAMPLES = [
    Sample(
        key=f"k/{number}",
        kind="gen",
        turns=(Turn(role="user", text="A red square. It is small."),),
        target=np.arange(16),
    )
    for number in range(100)
]


def changed(processor, option, *, seed=0, epoch=0, index=0, samples=SAMPLES):
    """Keys of the samples that half of the time are not told in full."""
    told = SampleEncoder(processor=processor, max_length=256, seed=seed)
    encode = dataclasses.replace(told, **{option: 0.5})
    draw = Draw(kind="gen", source=0, index=index, epoch=epoch)
    return {s.key for s in samples if encode(s, draw) != told(s, draw)}


@pytest.mark.parametrize("option", ["cond_drop", "first_sentence"])
def test_what_is_changed_is_a_function_of_seed_key_and_epoch(processor, option):
    """Not of the worker, nor of what it was given before: these differ from run to run."""
    keys = changed(processor, option)
    assert 30 < len(keys) < 70
    assert changed(processor, option, samples=SAMPLES[::-1]) == keys
    later = changed(processor, option, samples=SAMPLES[50:])
    assert later == keys & {sample.key for sample in SAMPLES[50:]}
    assert changed(processor, option, index=7) == keys
    for other in ({"seed": 1}, {"epoch": 1}):
        assert 20 < len(changed(processor, option, **other) ^ keys) < 80


def test_one_choice_does_not_decide_the_other(processor):
    assert changed(processor, "cond_drop") != changed(processor, "first_sentence")


def test_prompts_are_masked_unless_asked_otherwise(processor):
    sample, draw = ToyScenes(kind="und")[0], Draw(kind="und", source=0, index=0, epoch=0)
    masked, whole = (
        SampleEncoder(processor=processor, max_length=256, **options)(sample, draw)
        for options in ({}, {"mask_prompt": False})
    )
    assert 0 < sum(masked.loss_mask) < sum(whole.loss_mask)
