"""What a batch says must be predicted, and from where."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openjanus.data.collate import collate
from openjanus.data.encoding import encode_sample, with_image_ids
from openjanus.data.samples import IMAGE_MARK, Sample, Turn
from openjanus.data.toy import ToyScenes

PICTURE = np.zeros((8, 8, 3), np.uint8)


def encode(sample, processor, **options):
    return encode_sample(sample, processor, max_length=256, **options)


def drawing(processor, ids, text="a red square", **options):
    sample = Sample(
        key="k/0", kind="gen", turns=(Turn(role="user", text=text),), target=np.asarray(ids)
    )
    return encode(sample, processor, **options)


def test_the_place_before_an_id_predicts_it(processor):
    ids = np.arange(16) + 3
    batch = collate([drawing(processor, ids)], processor)
    prompt = processor.gen_prompt("a red square")
    width = batch.input_ids.shape[1]
    assert width % 32 == 0
    assert batch.input_ids[0, : len(prompt)].tolist() == list(prompt)
    first = int(batch.image_places[0])
    # <begin_of_image> predicts id 0; the last id predicts nothing.
    assert batch.input_ids.flatten()[first] == processor.tokenizer.boi_id
    assert batch.image_places.tolist() == list(range(first, first + 16))
    assert batch.gen_slots.flatten().nonzero().flatten().tolist() == [
        place + 1 for place in batch.image_places.tolist()
    ]
    assert batch.image_ids is not None
    assert batch.image_ids.tolist() == [ids.tolist()]
    assert len(batch.text_places) == 0
    assert batch.attention_mask.sum() == len(prompt) + 16


def test_only_answers_and_their_end_are_supervised(processor):
    turns = (
        Turn(role="user", text=f"{IMAGE_MARK}\nWhich colour?"),
        Turn(role="assistant", text="red"),
        Turn(role="user", text="Which shape?"),
        Turn(role="assistant", text="square"),
    )
    sample = Sample(key="k/1", kind="und", turns=turns, images=(PICTURE,))
    batch = collate([encode(sample, processor)], processor)
    taught = batch.text_targets.tolist()
    eos = processor.tokenizer.eos_id
    text = processor.tokenizer.decode(taught, skip_special=False)
    assert text.replace(processor.config.processor.eos_token, "#") == " red# square#"
    assert taught.count(eos) == 2
    ids = batch.input_ids.flatten()
    assert ids[batch.text_places + 1].tolist() == taught
    assert batch.und_slots.sum() == 16
    assert batch.text_is_und.all()
    assert batch.pixel_values is not None and batch.pixel_values.shape == (1, 3, 32, 32)


def test_prompts_are_supervised_only_when_asked_for(processor):
    sample = ToyScenes(kind="und")[0]
    masked, whole = (encode(sample, processor, mask_prompt=flag) for flag in (True, False))
    assert masked.input_ids == whole.input_ids
    assert sum(masked.loss_mask) < sum(whole.loss_mask)
    for token, counts in zip(whole.input_ids, whole.loss_mask, strict=True):
        special = {
            processor.tokenizer.bos_id,
            processor.tokenizer.boi_id,
            processor.tokenizer.eoi_id,
            processor.tokenizer.image_pad_id,
        }
        assert counts == (token not in special)


def test_plain_forms_are_stage_ones(processor):
    tokenizer = processor.tokenizer
    caption = encode(ToyScenes(kind="und", form="plain")[0], processor)
    picture = (tokenizer.boi_id, *[tokenizer.image_pad_id] * 16, tokenizer.eoi_id)
    words = ToyScenes(kind="und", form="plain").scene(0).caption
    expected = (tokenizer.bos_id, *picture, *tokenizer.encode(words), tokenizer.eos_id)
    assert caption.input_ids == expected
    assert caption.loss_mask == (False,) * 19 + (True,) * (len(expected) - 19)

    named = encode(ToyScenes(kind="gen", form="plain")[0], processor)
    scene = ToyScenes(kind="gen", form="plain").scene(0)
    name = tokenizer.encode(f"{scene.colour} {scene.shape}")
    assert named.input_ids[: len(name) + 2] == (tokenizer.bos_id, *name, tokenizer.boi_id)
    assert named.gen_start == len(name) + 2


def test_a_hidden_prompt_has_the_form_that_guidance_uses(processor):
    shown = drawing(processor, np.arange(16))
    hidden = drawing(processor, np.arange(16), drop_condition=True)
    start = shown.gen_start
    assert start is not None
    assert hidden.gen_start == start
    assert hidden.input_ids[:start] == processor.uncond_prompt(start)
    assert hidden.input_ids[:start] != shown.input_ids[:start]
    # Pads of the prompt are attended like words.
    assert collate([hidden], processor).attention_mask.sum() == start + 16


def test_training_ids_are_those_of_inference(processor):
    sample = ToyScenes(kind="und")[3]
    trained = encode(sample, processor).input_ids
    asked = processor.und_prompt(sample.turns[:1], sample.images).input_ids
    assert trained[: len(asked)] == asked


def test_pictures_to_draw_are_cropped_not_padded(processor):
    # The known defect: targets encoded through the padded understanding path.
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 255
    seen = []

    def encode_to_ids(pixels):
        seen.append(pixels)
        return torch.zeros(len(pixels), 16, dtype=torch.long)

    turns = (Turn(role="user", text="white"),)
    sample = Sample(key="k/2", kind="gen", turns=turns, target=wide)
    kept = drawing(processor, np.arange(16))
    done = with_image_ids([kept, encode(sample, processor)], processor, encode_to_ids)
    assert seen[0].shape == (1, 3, 32, 32)
    assert (seen[0] == 1).all()
    assert done[0] is kept
    assert done[1].target is not None and done[1].target.shape == (16,)


def test_packed_rows_restart_positions_and_keep_documents_apart(processor):
    samples = [drawing(processor, np.full(16, n), text="x" * n) for n in (1, 9, 5)]
    samples.append(encode(ToyScenes(kind="und")[0], processor))
    batch = collate(samples, processor, pack_length=160)
    assert batch.document_ids is not None
    assert len(batch.input_ids) < 4
    tokens = sum(len(sample.input_ids) for sample in samples)
    assert batch.num_tokens == tokens
    for document in range(4):
        here = batch.document_ids == document
        assert batch.positions[here].tolist() == list(range(int(here.sum())))
    assert batch.image_ids is not None
    # Ids come in the order of their slots, whatever the order of the samples was.
    places = batch.image_places.view(3, 16)
    assert (places.diff(dim=0) > 0).all()
    lengths = {1: 0, 9: 8, 5: 4}
    for row, place in zip(batch.image_ids, places, strict=True):
        start = place[0] - batch.positions.flatten()[place[0]]
        extra = lengths[int(row[0])]
        assert place[0] - start == len(samples[0].input_ids) - 17 + extra


def test_samples_past_the_limit_are_named(processor):
    with pytest.raises(ValueError, match=r"k/9 has \d+ tokens, at most 20"):
        encode_sample(
            Sample(
                key="k/9",
                kind="text",
                turns=(Turn(role="assistant", text="long " * 9),),
                form="plain",
            ),
            processor,
            max_length=20,
        )


def test_a_drawing_needs_its_ids(processor):
    sample = encode(ToyScenes(kind="gen")[0], processor)
    with pytest.raises(ValueError, match="with_image_ids"):
        collate([sample], processor)
    with pytest.raises(ValueError, match="at least one"):
        collate([], processor)
