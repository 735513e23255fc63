"""Questions beside each other: each is learnt as if it were the only one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from openjanus.data.collate import collate
from openjanus.data.encoding import encode_sample
from openjanus.data.samples import IMAGE_MARK, Sample, Turn
from openjanus.model.janus import JanusModel
from openjanus.processor.prompt import Processor
from openjanus.train.losses import compute_hidden_states, compute_losses

ASKED = (("What is this?", "a cup"), ("What colour is it?", "red"), ("Is it new?", "no"))


@pytest.fixture
def make_sample(processor: Processor) -> Callable[..., Sample]:
    size = processor.config.und_image_size
    picture = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)

    def make(asked: tuple[tuple[str, str], ...], *, branched: bool) -> Sample:
        turns: list[Turn] = []
        for number, (question, answer) in enumerate(asked):
            mark = "" if number else f"{IMAGE_MARK}\n"
            turns += [
                Turn(role="user", text=f"{mark}{question}"),
                Turn(role="assistant", text=answer),
            ]
        return Sample(key="k", kind="und", turns=tuple(turns), images=(picture,), branched=branched)

    return make


@pytest.mark.parametrize("pack_length", [None, 256])
def test_each_branch_is_the_question_alone(
    make_sample: Callable[..., Sample],
    processor: Processor,
    tiny_model: JanusModel,
    pack_length: int | None,
) -> None:
    together = encode_sample(make_sample(ASKED, branched=True), processor, max_length=400)
    batch = collate([together, together], processor, pack_length=pack_length)
    hidden = compute_hidden_states(tiny_model, batch).flatten(0, 1)
    found = tiny_model.text_logits(hidden[batch.text_places])
    found = found[: len(found) // 2]
    alone = []
    for one in ASKED:
        single = encode_sample(make_sample((one,), branched=False), processor, max_length=400)
        other = collate([single], processor)
        states = compute_hidden_states(tiny_model, other).flatten(0, 1)
        alone.append((tiny_model.text_logits(states[other.text_places]), other.text_targets))
    assert torch.allclose(found, torch.cat([logits for logits, _ in alone]), atol=1e-4)
    targets = torch.cat([targets for _, targets in alone])
    assert torch.equal(batch.text_targets[: len(targets)], targets)
    in_turn = encode_sample(make_sample(ASKED, branched=False), processor, max_length=400)
    other = collate([in_turn], processor)
    states = compute_hidden_states(tiny_model, other).flatten(0, 1)
    differ = tiny_model.text_logits(states[other.text_places])
    assert not torch.allclose(found, differ, atol=1e-3), "a dialogue is something else"


def test_branches_share_the_picture_and_no_words(
    make_sample: Callable[..., Sample], processor: Processor
) -> None:
    encoded = encode_sample(make_sample(ASKED, branched=True), processor, max_length=400)
    pad = processor.tokenizer.image_pad_id
    assert encoded.input_ids.count(pad) == processor.config.num_und_image_tokens
    assert len(encoded.branch_starts) == 3
    first = encoded.branch_starts[0]
    assert pad in encoded.input_ids[:first] and pad not in encoded.input_ids[first:]
    assert not any(encoded.loss_mask[:first])


def test_supervised_questions_are_predicted_within_their_branch(
    make_sample: Callable[..., Sample], processor: Processor, tiny_model: JanusModel
) -> None:
    sample = make_sample(ASKED, branched=True)
    encoded = encode_sample(sample, processor, max_length=400, mask_prompt=False)
    assert not any(encoded.loss_mask[start] for start in encoded.branch_starts)
    losses = compute_losses(tiny_model, collate([encoded], processor))
    assert losses.counts["und"] == sum(encoded.loss_mask)


def test_what_is_no_row_of_exchanges_has_no_branches() -> None:
    with pytest.raises(ValueError, match="questions and answers in turn"):
        Sample(key="k", kind="text", turns=(Turn(role="assistant", text="a"),), branched=True)
    turns = (Turn(role="user", text="a"), Turn(role="assistant", text="b"))
    with pytest.raises(ValueError, match="branches belong to dialogues, got kind 'text' in form"):
        Sample(key="k", kind="text", turns=turns, form="plain", branched=True)
    with pytest.raises(ValueError, match="it has no turns"):
        Sample(key="k", kind="text", turns=())
