"""Compositions in process: parts, streams, files and refusals."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from openjanus.model.janus import build_model
from openjanus.pipeline import ComposedImage, Composition, Janus
from openjanus.presets import preset
from openjanus.processor.chat import Turn
from openjanus.processor.text import byte_tokenizer


@pytest.fixture(scope="module")
def eager(janus: Janus) -> Janus:
    """``janus``, fond of beginning pictures."""
    return fond_of_pictures(janus)


@torch.no_grad()
def fond_of_pictures(janus: Janus, logit: float = 10.0) -> Janus:
    model, tokenizer = copy.deepcopy(janus.model), janus.processor.tokenizer
    prompt = janus.processor.und_prompt([Turn(role="user", text="Tell a story.")]).input_ids
    words = torch.randint(0, 256, (40,), generator=torch.Generator().manual_seed(1))
    story = torch.cat([torch.tensor(prompt), words])[None]
    usual = model.language_model.model(model.embed_text(story))[0].mean(0)
    model.language_model.lm_head.weight[tokenizer.boi_id] = usual * logit / usual.square().sum()
    return Janus(model, tokenizer)


OPTIONS: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_new_tokens": 40, "max_images": 2}


@pytest.fixture(scope="module")
def composition(eager: Janus) -> Composition:
    return eager.compose("Tell a story.", **OPTIONS)


def codes_of(janus: Janus, ids: tuple[int, ...]) -> list[list[int]]:
    """The pictures of a reply's ids, read off by their marks."""
    first, number = janus.config.text_vocab_size, janus.config.num_gen_image_tokens
    starts = [at for at, token in enumerate(ids) if token == janus.processor.tokenizer.boi_id]
    return [[code - first for code in ids[at + 1 : at + 1 + number]] for at in starts]


def test_parts_are_the_words_and_pictures_of_the_ids(
    eager: Janus, composition: Composition
) -> None:
    pictures = [part for part in composition.parts if isinstance(part, ComposedImage)]
    assert len(pictures) == 2
    assert [p.image_ids.tolist() for p in pictures] == codes_of(eager, composition.token_ids)
    for picture in pictures:
        assert picture.image.tobytes() == eager.decode_image(picture.image_ids).tobytes()
    assert composition.images == tuple(picture.image for picture in pictures)
    words = [part for part in composition.parts if isinstance(part, str)]
    assert words and all(word == word.strip() and word for word in words)
    assert composition.text == "\n\n".join(words)
    first = composition.token_ids.index(eager.processor.tokenizer.boi_id)
    before = eager.processor.tokenizer.decode(composition.token_ids[:first]).strip()
    assert composition.parts[0] == before if before else pictures[0]
    assert composition.usage.completion_tokens == len(composition.token_ids) == 40 + 2 * 17
    assert (composition.finish_reason, composition.seed) == ("length", 3)
    assert composition.options.guidance_scale == eager.config.drawing.guidance_scale
    assert eager.compose("Tell a story.", **OPTIONS).token_ids == composition.token_ids


def test_a_stream_gives_the_same_piece_by_piece(eager: Janus, composition: Composition) -> None:
    pieces = list(eager.compose_stream("Tell a story.", **OPTIONS))
    assert [piece.composition is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    parts: list[str | list[int]] = [""]
    for piece in pieces:
        if piece.image is not None:
            parts += [piece.image.image_ids.tolist(), ""]
        else:
            last = parts.pop()
            assert isinstance(last, str)
            parts.append(last + piece.text)
    whole = [p if isinstance(p, str) else p.image_ids.tolist() for p in composition.parts]
    assert [part for part in parts if part != ""] == whole
    assert pieces[-1].composition is not None
    assert pieces[-1].composition.token_ids == composition.token_ids


def test_a_stream_that_is_closed_leaves_nothing_behind(eager: Janus) -> None:
    stream = eager.compose_stream("Tell a story.", **OPTIONS)
    next(piece for piece in stream if piece.image is not None)
    assert eager._engine.num_running == 1
    assert isinstance(stream, Generator)
    stream.close()
    assert not eager._engine.has_work


def test_pictures_of_the_question_count(eager: Janus, picture: Image.Image) -> None:
    seen = eager.compose("What is this?", images=[picture], **OPTIONS)
    other = Image.new("RGB", (30, 30), (0, 200, 0))
    assert eager.compose("What is this?", images=[other], **OPTIONS).token_ids != seen.token_ids
    plain = eager.compose("<image_placeholder> is", images=[picture], form="plain", **OPTIONS)
    number = eager.config.num_und_image_tokens
    assert plain.usage.prompt_tokens == 1 + number + 2 + len(" is")


def test_a_folder_holds_the_page_and_its_pictures(composition: Composition, tmp_path: Path) -> None:
    composition.save(tmp_path / "out")
    data = json.loads((tmp_path / "out" / "composition.json").read_text(encoding="utf-8"))
    assert (data["format_version"], data["seed"]) == (1, 3)
    assert data["token_ids"] == list(composition.token_ids)
    assert data["options"]["max_images"] == 2
    page = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    at = -1
    for part, record in zip(composition.parts, data["parts"], strict=True):
        if isinstance(part, str):
            assert record == {"type": "text", "text": part}
            continue
        assert record["image_ids"] == part.image_ids.tolist()
        with Image.open(tmp_path / "out" / record["image"]) as image:
            assert image.tobytes() == part.image.tobytes()
        assert page.index(f'src="{record["image"]}"') > at
        at = page.index(f'src="{record["image"]}"')


def test_words_cannot_write_the_page(composition: Composition, tmp_path: Path) -> None:
    dataclasses.replace(composition, parts=("<script>1 & 2",)).save(tmp_path)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;1 &amp; 2" in page


@pytest.mark.parametrize(
    ("messages", "options", "says"),
    [
        ("hi", {"form": "chatt"}, "unknown form 'chatt'; did you mean 'chat'"),
        ([{"role": "user", "content": "hi"}], {"form": "plain"}, "form 'plain' goes on with one"),
        ("hi", {"form": "plain", "system": "Be kind."}, "form 'plain' has no roles"),
        ("  ", {"form": "plain"}, "the text is empty"),
        ("a<end_of_image>", {"form": "plain"}, "special token '<end_of_image>'"),
        ("hi", {"max_images": -1}, "max_images must be"),
        ("hi", {"image_top_p": 0.0}, "image_top_p must be"),
        ("hi " * 166, {}, "a picture takes 18 tokens beside a prompt of"),
    ],
)
def test_what_cannot_be_composed_is_refused(
    janus: Janus, messages: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        janus.compose_stream(messages, **options)  # at the call, not at the first piece


def test_an_unknown_option_is_met_with_near_ones(janus: Janus) -> None:
    with pytest.raises(TypeError, match="no option 'max_image'; did you mean 'max_images'"):
        janus.compose("hi", max_image=1)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("name", ["tiny-chameleon", "tiny-semantic"])
def test_other_models_compose_too(name: str) -> None:
    config = preset(name)
    model = build_model(config, device="cpu")
    model.init_weights(torch.Generator().manual_seed(0))
    eager = fond_of_pictures(Janus(model, byte_tokenizer(config.processor)), 16.0)
    composition = eager.compose("Tell a story.", **OPTIONS)
    assert len(composition.images) == 2
    assert [ids_of(part) for part in composition.parts if isinstance(part, ComposedImage)] == (
        codes_of(eager, composition.token_ids)
    )


def ids_of(part: ComposedImage) -> list[int]:
    ids: Tensor = part.image_ids
    return ids.tolist()
