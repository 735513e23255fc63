"""What the grids of samples ask, of every form of a sample."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from openjanus.data.encoding import encode_sample
from openjanus.data.samples import DRAW_MARK, IMAGE_MARK, Kind, Sample, Turn
from openjanus.engine.request import ChatRequest, DrawRequest
from openjanus.train import trial
from openjanus.train.trial import write_trial


def field(red, green, blue):
    return np.full((32, 32, 3), (red, green, blue), np.uint8)


def document(text, kind: Kind = "gen"):
    return Sample(
        key="k",
        kind=kind,
        turns=(Turn(role="assistant", text=text),),
        images=(field(1, 2, 3),) * text.count(IMAGE_MARK),
        targets=tuple(field(n, 0, 250) for n in range(text.count(DRAW_MARK))),
        form="plain",
    )


@pytest.fixture
def ask(tiny_model, processor, tmp_path, monkeypatch):
    """``ask(samples)``: their requests, the lines and the picture that were written."""

    def run(samples):
        asked = []
        real = trial._run

        def noting(engine, requests):
            asked.extend(requests)
            return real(engine, requests)

        monkeypatch.setattr(trial, "_run", noting)
        monkeypatch.setattr(trial, "MAX_NEW_TOKENS", 2)
        write_trial(tiny_model, processor, samples, tmp_path, 7)
        lines = (tmp_path / "step-00000007.txt").read_text(encoding="utf-8").splitlines()
        picture = tmp_path / "step-00000007.png"
        return asked, lines, Image.open(picture) if picture.exists() else None

    return run


def test_a_document_asks_for_its_first_drawing_by_the_words_before_it(ask, processor):
    sample = document(f"A sketch {DRAW_MARK} and then {DRAW_MARK}.")
    (request,), lines, sheet = ask([sample])
    assert isinstance(request, DrawRequest)
    encoded = encode_sample(sample, processor, max_length=999)
    start, _ = encoded.drawings[0]
    assert request.prompt_ids == encoded.input_ids[:start]  # as it is trained
    alone = encode_sample(sample, processor, max_length=999, drop_condition=True)
    assert request.uncond_ids == alone.input_ids[:start]
    assert lines == ["k: draw: A sketch "]
    assert sheet is not None and sheet.getpixel((20, 20)) == (0, 0, 250)


def test_a_document_that_answers_is_asked_for_by_its_template(ask, processor):
    turns = (
        Turn(role="user", text="Show two fields."),
        Turn(role="assistant", text=f"One: {DRAW_MARK} and {DRAW_MARK}."),
    )
    targets = (field(0, 0, 250), field(1, 0, 250))
    sample = Sample(key="k", kind="gen", turns=turns, targets=targets, system="Be brief.")
    (request,), lines, _ = ask([sample])
    encoded = encode_sample(sample, processor, max_length=999)
    assert request.prompt_ids == encoded.input_ids[: encoded.gen_starts[0]]  # as it is trained
    assert lines == ["k: draw: Show two fields. | One: "]


def test_a_picture_in_the_question_of_a_document_is_left_out(ask, processor):
    turns = (
        Turn(role="user", text=f"{IMAGE_MARK} Another one."),
        Turn(role="assistant", text=f"Here: {DRAW_MARK}"),
    )
    seen, drawn = (field(250, 0, 0),), (field(0, 0, 250),)
    sample = Sample(key="k", kind="gen", turns=turns, images=seen, targets=drawn)
    (request,), lines, _ = ask([sample])
    assert processor.tokenizer.image_pad_id not in request.prompt_ids
    assert lines == ["k: draw:  Another one. | Here:  (pictures before it that were left out: 1)"]


def test_what_is_too_long_to_ask_is_named_and_left_out(ask, tiny_config):
    words = "field " * tiny_config.language.max_position_embeddings
    turns = (Turn(role="user", text=words), Turn(role="assistant", text="Red."))
    long = Sample(key="long", kind="text", turns=turns)
    short = Sample(key="short", kind="text", turns=(Turn(role="user", text="?"), turns[1]))
    (request,), lines, _ = ask([long, short])
    assert isinstance(request, ChatRequest)
    assert [line.partition(": ")[0] for line in lines] == ["long", "short"]
    assert "left out: a request takes" in lines[0]


def test_pictures_before_a_drawing_are_left_out_and_told(ask, processor):
    sample = document(f"One {IMAGE_MARK}, two {IMAGE_MARK}: {DRAW_MARK}{DRAW_MARK} x")
    (request,), lines, _ = ask([sample])
    tokenizer = processor.tokenizer
    words = tokenizer.encode("One , two : ")
    assert request.prompt_ids == (tokenizer.bos_id, *words, tokenizer.boi_id)
    assert lines == ["k: draw: One , two :  (pictures before it that were left out: 2)"]


def test_a_document_that_begins_with_a_drawing_is_shown(ask, processor):
    (request,), _, _ = ask([document(f"{DRAW_MARK} a field")])
    assert request.prompt_ids == (processor.tokenizer.bos_id, processor.tokenizer.boi_id)


def test_a_document_that_is_read_goes_on_after_its_first_picture(ask, processor):
    sample = document(f"A lake {IMAGE_MARK} in winter {IMAGE_MARK} and summer.", kind="und")
    (request,), _, sheet = ask([sample])
    assert isinstance(request, ChatRequest) and sheet is None
    whole = encode_sample(sample, processor, max_length=999).input_ids
    end = whole.index(processor.tokenizer.eoi_id) + 1
    assert request.input_ids == whole[:end]
    assert request.images is not None and len(request.images) == 1


def test_a_dialogue_asks_its_first_question_with_its_own_pictures_and_system(ask, processor):
    turns = (
        Turn(role="user", text=f"{IMAGE_MARK}?"),
        Turn(role="assistant", text="Red."),
        Turn(role="user", text=f"{IMAGE_MARK}?"),
        Turn(role="assistant", text="Blue."),
    )
    images = (field(250, 0, 0), field(0, 0, 250))
    sample = Sample(key="k", kind="und", turns=turns, images=images, system="Be brief.")
    (request,), _, _ = ask([sample])
    wanted = processor.und_prompt(turns[:1], images[:1], system="Be brief.")
    assert request.input_ids == wanted.input_ids
    assert request.images is not None and request.images.equal(wanted.images)
