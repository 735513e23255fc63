"""A step as a module: doors that this process does not use, and others wait for."""

from __future__ import annotations

import pytest
import torch

from openjanus.data.collate import collate
from openjanus.data.encoding import encode_sample, with_image_ids
from openjanus.data.toy import ToyScenes
from openjanus.model.vq import VQTokenizer
from openjanus.train.start import fresh_model
from openjanus.train.step import TrainStep, doors_of

ALL = frozenset({"und", "gen", "text"})
PARTS = {
    "und": ("und_encoder.", "und_aligner."),
    "gen": ("gen_embed.", "gen_aligner.", "gen_head."),
    "text": ("language_model.lm_head.",),
}


@pytest.mark.parametrize(
    ("kinds", "idle"), [(("gen", "text"), {"und"}), (("und", "text"), {"gen"}), (("gen",), None)]
)
def test_an_idle_door_is_run_and_counts_nothing(tiny_config, processor, kinds, idle):
    """FSDP gathers a door for its forward: a process without the modality hangs the others."""
    model = fresh_model(tiny_config, 0)
    samples = [encode_sample(ToyScenes(kind=kind)[0], processor, max_length=256) for kind in kinds]
    assert isinstance(model.vq, VQTokenizer)
    batch = collate(with_image_ids(samples, processor, model.vq.encode_to_ids), processor)
    idle = ALL - doors_of(batch) if idle is None else idle
    assert idle == ALL - doors_of(batch)
    step, found = TrainStep(model), []
    for doors in (doors_of(batch), ALL):
        model.zero_grad(set_to_none=True)
        total = step(batch, batch.num_supervised, doors)[0]
        total.backward()
        found.append((total, {name: p.grad for name, p in model.named_parameters()}))
    (alone, before), (total, after) = found
    assert torch.equal(total, alone)
    for name, gradient in after.items():
        if any(name.startswith(PARTS[door]) for door in idle):
            assert before[name] is None, name
            assert gradient is not None and not gradient.any(), name
        elif gradient is not None:
            torch.testing.assert_close(gradient, before[name])
