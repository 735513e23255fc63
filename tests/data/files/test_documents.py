"""Documents in which pictures of both roles stand between words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from openjanus.data.collate import collate
from openjanus.data.encoding import SampleEncoder, encode_sample, with_image_ids
from openjanus.data.fetching import Crew, Fetcher
from openjanus.data.files.documents import DocumentFile, parse_document
from openjanus.data.mixture import Draw, Mixture
from openjanus.data.samples import DRAW_MARK, IMAGE_MARK, Kind, Sample, Turn
from openjanus.data.stream import SampleStream
from openjanus.train.losses import compute_losses

RED, BLUE = (200, 30, 30), (30, 30, 200)


def text(value):
    return {"type": "text", "text": value}


def seen(value):
    return {"type": "image", "image": value}


def drawn(value):
    return {"type": "target_image", "target_image": value}


STORY = {
    "parts": [
        text("A sketch "),
        seen("red.png"),
        text(" becomes "),
        drawn("blue.png"),
        text(" and then "),
        drawn("red.png"),
        text(" at last."),
    ]
}


@pytest.fixture
def story(write_lines, pictures):
    return DocumentFile(path=str(write_lines("a.jsonl", [STORY])))[0]


def fake_ids(pixels):
    """Ids that tell blue from red: from the mean of the last channel."""
    start = (pixels[:, 2].mean((1, 2)) > 0).long() * 30
    return start[:, None] + torch.arange(16)


def test_a_document_holds_pictures_of_both_roles(story):
    assert story.kind == "gen"
    assert story.turns[0].text == (
        f"A sketch {IMAGE_MARK} becomes {DRAW_MARK} and then {DRAW_MARK} at last."
    )
    assert [tuple(p[0, 0].tolist()) for p in story.images] == [RED]
    assert [tuple(p[0, 0].tolist()) for p in story.targets] == [BLUE, RED]


def test_words_and_ids_are_supervised_and_nothing_else(story, processor):
    encoded = encode_sample(story, processor, max_length=256)
    (done,) = with_image_ids([encoded], processor, fake_ids)
    batch = collate([done], processor)
    tokenizer, ids = processor.tokenizer, batch.input_ids.flatten()
    taught = tokenizer.decode(batch.text_targets.tolist(), skip_special=False)
    eos = processor.config.processor.eos_token
    assert taught == f"A sketch  becomes  and then  at last.{eos}"
    assert ids[batch.text_places + 1].tolist() == batch.text_targets.tolist()

    assert batch.image_ids is not None and batch.pixel_values is not None
    assert batch.image_ids[:, 0].tolist() == [30, 0]
    assert batch.pixel_values.shape[0] == 1
    assert batch.und_slots.sum() == 16 and batch.gen_slots.sum() == 32
    assert not (batch.und_slots & batch.gen_slots).any()
    for number in range(2):
        places = batch.image_places[16 * number : 16 * (number + 1)]
        # The state at <begin_of_image> predicts id 0 ...
        assert ids[places[0]] == tokenizer.boi_id
        assert batch.gen_slots.flatten()[places + 1].all()
        # ... and that of the last id predicts nothing.
        last = int(places[-1]) + 1
        assert ids[last + 1] == tokenizer.eoi_id
        assert last not in batch.image_places and last not in batch.text_places


def test_a_document_is_the_same_alone_and_packed(story, processor, tiny_model):
    encoded = encode_sample(story, processor, max_length=256)
    (done,) = with_image_ids([encoded], processor, fake_ids)
    other = Sample(
        key="o", kind="text", turns=(Turn(role="assistant", text="words"),), form="plain"
    )
    words = encode_sample(other, processor, max_length=256)
    alone = compute_losses(tiny_model, collate([done], processor))
    packed = compute_losses(tiny_model, collate([done, words], processor, pack_length=256))
    assert alone.counts == {"text": len("A sketch  becomes  and then  at last.") + 1, "gen": 32}
    assert float(packed.sums["gen"]) == pytest.approx(float(alone.sums["gen"]), rel=1e-5)


def test_ids_that_are_known_are_left_alone(story, processor):
    encoded = encode_sample(story, processor, max_length=256)
    (done,) = with_image_ids([encoded], processor, fake_ids)

    def never(pixels):
        raise AssertionError("nothing is to be encoded")

    assert with_image_ids([done], processor, never) == [done]
    with pytest.raises(ValueError, match=r"a\.jsonl:1.*needs 16 codebook ids.*with_image_ids"):
        collate([encoded], processor)


@pytest.mark.parametrize("number", [0, 1])
def test_a_picture_without_its_condition_is_what_guidance_leads_away_from(story, processor, number):
    whole = encode_sample(story, processor, max_length=256)
    alone = encode_sample(
        story, processor, max_length=256, drop_condition=True, kept_picture=number
    )
    start, picture = whole.drawings[number]
    assert alone.drawings == ((start, picture),) and alone.picture == number
    # As at inference, with as many places as words and pictures came before.
    assert alone.input_ids[:start] == processor.uncond_prompt(start)
    assert len(alone.input_ids) == start + 16 and alone.images == ()
    (done,) = with_image_ids([alone], processor, fake_ids)
    batch = collate([done], processor)
    assert batch.image_ids is not None and batch.image_ids[:, 0].tolist() == [(30, 0)[number]]
    assert len(batch.text_places) == 0 and not batch.und_slots.any()
    assert batch.pixel_values is None and batch.attention_mask.sum() == start + 16
    assert batch.image_places.tolist() == list(range(start - 1, start + 15))


def test_a_document_that_does_not_fit_does_not_fit_without_its_condition(story, processor):
    length = len(encode_sample(story, processor, max_length=999).input_ids)
    for drop in (False, True):
        with pytest.raises(ValueError, match=rf"a\.jsonl:1 has {length} tokens, at most"):
            encode_sample(story, processor, max_length=length - 1, drop_condition=drop)
    for number in (-1, 2):
        with pytest.raises(ValueError, match=rf"one of its 2 pictures to draw, .*got {number}"):
            encode_sample(
                story, processor, max_length=999, drop_condition=True, kept_picture=number
            )


def dropped(encoder, story, epoch):
    """Which picture is left in an epoch; None where the document is whole."""
    encoded = encoder(story, Draw(kind="gen", source=0, index=0, epoch=epoch))
    return encoded.picture if encoded.gen_start is not None else None


def test_what_is_dropped_depends_on_seed_key_and_epoch_alone(story, processor):
    encoder = SampleEncoder(processor=processor, max_length=256, cond_drop=0.25)
    epochs = range(400)
    found = [dropped(encoder, story, epoch) for epoch in epochs]
    assert 70 < sum(one is not None for one in found) < 130
    assert abs(found.count(0) - found.count(1)) < 40
    # Asked again, in another order, by another encoder.
    again = SampleEncoder(processor=processor, max_length=256, cond_drop=0.25)
    assert [dropped(again, story, epoch) for epoch in reversed(epochs)] == found[::-1]
    assert [dropped(replace(encoder, seed=1), story, epoch) for epoch in epochs] != found
    other = replace(story, key="other")
    assert [dropped(encoder, other, epoch) for epoch in epochs] != found
    never = replace(encoder, cond_drop=0.0)
    assert {dropped(never, story, epoch) for epoch in epochs} == {None}


def test_workers_drop_the_same_documents(write_lines, pictures, processor):
    source = DocumentFile(path=str(write_lines("a.jsonl", [STORY] * 8)), face="gen")
    mixture = Mixture({"gen": [8]}, {"gen": [1]}, (0, 0, 1), seed=3)
    encoder = SampleEncoder(processor=processor, max_length=256, seed=3, cond_drop=0.5)
    fetcher = Fetcher({"gen": [source]}, mixture, encoder)
    taken = []
    for workers in (0, 2):
        crew = Crew(fetcher, workers)
        try:
            one = SampleStream(crew, mixture, batch_size=16).take({})  # two epochs
        finally:
            crew.close()
        taken.append([(sample.key, sample.input_ids, sample.picture) for sample in one.samples])
    assert taken[0] == taken[1]
    assert len({len(ids) for _, ids, _ in taken[0]}) == 3  # whole, and either picture alone


def test_parallel_lists_take_their_role_from_the_option(write_lines, pictures):
    record = {"texts": ["one ", None, " two"], "images": [None, "red.png", None]}
    path = str(write_lines("a.jsonl", [record]))
    und, gen = DocumentFile(path=path), DocumentFile(path=path, listed_as="drawn")
    assert (und[0].kind, len(und[0].images)) == ("und", 1)
    assert (gen[0].kind, len(gen[0].targets)) == ("gen", 1)
    assert gen[0].turns[0].text == f"one {DRAW_MARK} two"


def test_faces_of_documents(write_lines, pictures):
    path = str(write_lines("a.jsonl", [STORY, {"parts": [text("a"), seen("red.png")]}]))
    lines: dict[Kind, int] = {"gen": 1, "und": 2}
    for face, line in lines.items():
        source = DocumentFile(path=path, face=face)
        assert [source.key(i) for i in range(len(source))] == [f"a.jsonl:{line}"]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"parts": []}, "must be a list with a part"),
        ({"parts": [{"type": "picture"}]}, "unknown type 'picture'"),
        ({"parts": [{"type": "image"}]}, "part 0 has no 'image'"),
        ({"parts": [text(3)]}, "text must be a text"),
        ({"parts": [text(f"a {DRAW_MARK}")]}, "spells <draw_placeholder>"),
        ({"words": 1}, "has 'parts', or lists"),
        ({"texts": ["a"], "images": []}, "1 texts beside 0 images"),
        ({"texts": ["a"], "images": ["b"]}, "either a text or a picture"),
    ],
)
def test_what_is_no_document_is_told(record, says):
    with pytest.raises(ValueError, match=says):
        parse_document(record)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"targets": ()}, "1 <draw_placeholder> for 0 pictures to draw"),
        ({"kind": "und"}, "belongs to kind 'gen' alone"),
        ({"target": np.zeros((1, 1, 3), np.uint8)}, "either target or targets"),
        ({"system": "x"}, "belongs to dialogues alone"),
    ],
)
def test_samples_that_contradict_themselves_are_refused(changes, says):
    options = {
        "key": "k",
        "kind": "gen",
        "turns": (Turn(role="assistant", text=f"a {DRAW_MARK}"),),
        "targets": (np.zeros((1, 1, 3), np.uint8),),
        "form": "plain",
    }
    with pytest.raises(ValueError, match=f"sample k: .*{says}"):
        Sample(**(options | changes))


def taught_by(sample, processor, **options):
    (done,) = with_image_ids(
        [encode_sample(sample, processor, max_length=512, **options)], processor, fake_ids
    )
    batch = collate([done], processor)
    ids = batch.input_ids.flatten()
    assert ids[batch.text_places + 1].tolist() == batch.text_targets.tolist()
    return processor.tokenizer.decode(batch.text_targets.tolist(), skip_special=False), batch


def test_where_pictures_come_is_learnt_where_asked(story, processor):
    names = processor.config.processor
    taught, batch = taught_by(story, processor, learn_image_start=True)
    boi = names.boi_token
    # Of the two that are drawn; not of the one to understand, and no end.
    assert taught == f"A sketch  becomes {boi} and then {boi} at last.{names.eos_token}"
    plain, before = taught_by(story, processor)
    assert plain == taught.replace(boi, "")
    assert before.image_places.tolist() == batch.image_places.tolist()


ANSWER = {
    "prompt": "Draw two.",
    "parts": [
        {"type": "text", "text": "First"},
        {"type": "target_image", "target_image": "blue.png"},
        {"type": "text", "text": "and last"},
        {"type": "target_image", "target_image": "red.png"},
    ],
}


@pytest.mark.parametrize("mask_prompt", [True, False])
def test_a_document_may_answer_a_prompt(write_lines, pictures, processor, mask_prompt):
    sample = DocumentFile(path=str(write_lines("a.jsonl", [ANSWER])))[0]
    assert (sample.kind, sample.form) == ("gen", "chat")
    assert [turn.role for turn in sample.turns] == ["user", "assistant"]
    names = processor.config.processor
    options = {"mask_prompt": mask_prompt, "learn_image_start": True}
    taught, batch = taught_by(sample, processor, **options)
    boi, eos = names.boi_token, names.eos_token
    answer = f" First{boi}and last{boi}{eos}"
    asked = f"{names.user_role}: Draw two.\n\n{names.assistant_role}:"
    assert taught == (answer if mask_prompt else asked + answer)
    assert batch.image_ids is not None and batch.image_ids[:, 0].tolist() == [30, 0]
    assert batch.pixel_values is None and not batch.und_slots.any()
    # What is read before the answer is what is asked at inference.
    prompt = processor.und_prompt([Turn(role="user", text="Draw two.")]).input_ids
    assert tuple(batch.input_ids.flatten()[: len(prompt)].tolist()) == prompt


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": " "}, "'prompt' must be words, got ' '"),
        ({"prompt": 3}, "'prompt' must be words, got 3"),
        ({"prompt": f"a {DRAW_MARK}"}, "'prompt' spells <draw_placeholder>"),
        ({"parts": [{"type": "image", "image": "red.png"}]}, "draws its pictures: make each a"),
    ],
)
def test_what_cannot_be_asked_is_told(write_lines, pictures, changes, says):
    source = DocumentFile(path=str(write_lines("a.jsonl", [ANSWER | changes])))
    with pytest.raises(ValueError, match=says):
        source[0]


def test_pictures_are_drawn_in_answers_alone(processor):
    picture = np.zeros((8, 8, 3), np.uint8)
    ask, answer = Turn(role="user", text=f"a {DRAW_MARK}"), Turn(role="assistant", text="b")
    with pytest.raises(ValueError, match="drawn in answers, not in questions"):
        Sample(key="k", kind="gen", turns=(ask, answer), targets=(picture,))
    turns = (
        Turn(role="user", text="draw"),
        Turn(role="assistant", text=f"{IMAGE_MARK} {DRAW_MARK}"),
    )
    seen = Sample(key="k", kind="gen", turns=turns, images=(picture,), targets=(picture,))
    with pytest.raises(ValueError, match="an answer holds <image_placeholder>, a picture to"):
        encode_sample(seen, processor, max_length=256)


def test_a_document_may_draw_without_a_word(write_lines, pictures, processor):
    path = write_lines("a.jsonl", [{"parts": [drawn("red.png")]}, {"parts": [seen("red.png")]}])
    source = DocumentFile(path=str(path), image_root=str(pictures))
    encoded = encode_sample(source[0], processor, max_length=256)
    assert encoded.kind == "gen" and len(encoded.gen_starts) == 1
    assert encoded.input_ids[-1] == processor.tokenizer.eos_id
    with pytest.raises(ValueError, match="must have words"):
        encode_sample(source[1], processor, max_length=256)
