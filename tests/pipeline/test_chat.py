from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.pipeline import Janus
from openjanus.processor.chat import parse_messages


def conversation(picture: Image.Image) -> list[dict[str, Any]]:
    """Two pictures, two turns."""
    return [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": picture},
                {"type": "image", "image": picture.rotate(90)},
                {"type": "text", "text": "compare"},
            ],
        },
        {"role": "assistant", "content": "one is turned"},
        {"role": "user", "content": "which?"},
    ]


def test_a_reply_and_its_usage(janus: Janus) -> None:
    reply = janus.chat("what is it?", max_new_tokens=10)
    prompt = janus.processor.und_prompt(_turns("what is it?"))
    assert reply.usage.prompt_tokens == len(prompt.input_ids)
    assert reply.usage.completion_tokens == len(reply.token_ids) <= 10
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + len(reply.token_ids)
    assert reply.finish_reason in ("stop", "length")
    assert reply.text == janus.processor.tokenizer.decode(reply.token_ids).strip()


def _turns(text: str) -> list:
    return list(parse_messages(text).turns)


def test_a_batch_gives_what_single_calls_give(janus: Janus, picture: Image.Image) -> None:
    conversations: list[Any] = ["short", "a much longer question than that", conversation(picture)]
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0, "seed": 9}
    batch = janus.chat_batch(conversations, **options)
    assert batch == [janus.chat(messages, **options) for messages in conversations]
    assert len({reply.token_ids for reply in batch}) == 3


@pytest.mark.parametrize("stop", [(), "e", ("zq", "\n")])
def test_a_stream_gives_what_chat_gives(janus: Janus, picture: Image.Image, stop: Any) -> None:
    options: dict[str, Any] = {"max_new_tokens": 60, "temperature": 1.0, "seed": 1, "stop": stop}
    reply = janus.chat(conversation(picture), **options)
    pieces = list(janus.chat_stream(conversation(picture), **options))
    assert "".join(piece.text for piece in pieces) == reply.text
    assert [piece.reply for piece in pieces] == [None] * (len(pieces) - 1) + [reply]
    assert len(pieces) > 1


def test_pictures_matter_and_are_left_alone(janus: Janus, picture: Image.Image) -> None:
    before = np.array(picture)
    first = janus.chat("what?", images=[picture], max_new_tokens=8)
    second = janus.chat("what?", images=[Image.new("RGB", (9, 9))], max_new_tokens=8)
    assert first.token_ids != second.token_ids
    assert first.usage.prompt_tokens == second.usage.prompt_tokens
    assert np.array_equal(np.array(picture), before)


def test_messages_are_left_alone(janus: Janus, picture: Image.Image) -> None:
    messages, reference = conversation(picture), conversation(picture)
    janus.chat(messages, max_new_tokens=1)
    assert [m["role"] for m in messages] == [m["role"] for m in reference]
    assert messages[0]["content"][2] == reference[0]["content"][2]


def test_temperature_zero_is_greedy_through_every_layer(janus: Janus) -> None:
    replies = [janus.chat("what?", max_new_tokens=6, temperature=0.0, seed=s) for s in (1, 2)]
    assert replies[0].token_ids == replies[1].token_ids
    ids = list(janus.processor.und_prompt(_turns("what?")).input_ids)
    for token in replies[0].token_ids:
        with torch.no_grad():
            hidden = janus.model.language_model.model(janus.model.embed_text(torch.tensor([ids])))
            assert int(janus.model.text_logits(hidden[0, -1]).argmax()) == token
        ids.append(token)
    assert replies[0].token_ids == janus.chat("what?", max_new_tokens=6).token_ids


def test_the_likeliest_of_one_is_greedy_through_every_layer(janus: Janus) -> None:
    greedy = janus.chat("why?", max_new_tokens=6).token_ids
    wild: dict[str, Any] = {"max_new_tokens": 6, "temperature": 50.0, "seed": 1}
    assert janus.chat("why?", **wild).token_ids != greedy
    assert janus.chat("why?", **wild, top_k=1).token_ids == greedy
    assert janus.chat_batch(["why?"], **wild, top_k=1)[0].token_ids == greedy
    *_, last = janus.chat_stream("why?", **wild, top_k=1)
    assert last.reply is not None and last.reply.token_ids == greedy
    composed = [
        janus.compose("why?", max_images=0, max_new_tokens=6, **options).token_ids
        for options in ({}, {"temperature": 50.0, "seed": 1, "top_k": 1})
    ]
    assert composed[0] == composed[1]


def test_a_stop_string_cuts_the_reply_and_frees_the_slot(janus: Janus) -> None:
    options: dict[str, Any] = {"max_new_tokens": 60, "temperature": 1.0, "seed": 1}
    whole = janus.chat("what?", **options)
    middle = whole.text[len(whole.text) // 2 :][:2]
    cut = janus.chat("what?", stop=middle, **options)
    assert cut.text == whole.text[: whole.text.index(middle)].rstrip()
    assert cut.finish_reason == "stop"
    assert len(cut.token_ids) < len(whole.token_ids)
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert not janus._engine.has_work


def test_leaving_a_stream_stops_the_work(janus: Janus) -> None:
    stream = janus.chat_stream("what?", max_new_tokens=100, temperature=1.0, seed=1)
    next(stream)
    assert janus._engine.num_running == 1
    del stream
    assert not janus._engine.has_work


def test_the_system_prompt_as_option_and_as_message(janus: Janus) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
    by_message = janus.chat(messages, max_new_tokens=6)
    by_option = janus.chat("why?", system="be brief", max_new_tokens=6)
    assert (by_message.token_ids, by_message.usage) == (by_option.token_ids, by_option.usage)
    assert by_option.usage.prompt_tokens > janus.chat("why?", max_new_tokens=1).usage.prompt_tokens
    with pytest.raises(ValueError, match="system prompt is given twice"):
        janus.chat(messages, system="again")


def test_score_is_the_probability_of_the_answer(janus: Janus, picture: Image.Image) -> None:
    scores = janus.score(conversation(picture), "the second")
    answer_ids = janus.processor.tokenizer.encode(" the second")
    assert len(scores) == len(answer_ids) + 1  # the end of the sentence
    ids = list(
        janus.processor.und_prompt(
            *_dialogue(conversation(picture)),
        ).input_ids
    )
    images = janus.processor.und_pixels([picture, picture.rotate(90)])
    pad, eos = janus.processor.tokenizer.image_pad_id, janus.processor.tokenizer.eos_id
    for token, score in zip([*answer_ids, eos], scores, strict=True):
        input_ids = torch.tensor([ids])
        with torch.no_grad():
            slots = {"und": (input_ids == pad, janus.model.embed_und(images))}
            embeds = janus.model.embed_sequence(input_ids, slots)
            logits = janus.model.text_logits(janus.model.language_model.model(embeds)[0, -1])
        assert float(score) == pytest.approx(float(logits.log_softmax(-1)[token]), abs=2e-4)
        ids.append(token)


def _dialogue(messages: list) -> tuple:
    dialogue = parse_messages(messages)
    return dialogue.turns, dialogue.images


def test_scoring_refuses_what_it_cannot_do(janus: Janus) -> None:
    with pytest.raises(ValueError, match="the answer is empty"):
        janus.score("why?", " ")
    with pytest.raises(ValueError, match="the context holds 256: shorten"):
        janus.score("why?", "x" * 300)


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([], {}, "messages must be a string or a list"),
        ([{"role": "robot", "content": "x"}], {}, "unknown role 'robot'"),
        ("x" * 300, {}, "the context holds 256"),
        ("a", {"max_new_tokens": 0}, "max_new_tokens must be an integer >= 1"),
        ("a", {"temperature": float("nan")}, "temperature must be finite"),
        ("a", {"temperature": 1e39}, "temperature must be at most 1,000,000, got 1e\\+39"),
        ("a", {"top_k": 0}, "top_k must be an integer >= 1"),
        ("a", {"top_p": 2.0}, "top_p must be in"),
        ("a", {"stop": ("",)}, "stop must hold non-empty strings"),
        ("a", {"images": [b"no picture"]}, "not an image"),
    ],
)
def test_wrong_chats_are_refused(janus: Janus, messages, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        janus.chat(messages, **options)
    with pytest.raises(ValueError, match=message):
        janus.chat_stream(messages, **options)
    assert not janus._engine.has_work


def test_a_missing_picture_is_named(janus: Janus, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        janus.chat("what?", images=[tmp_path / "gone.png"])


def test_a_wrong_conversation_of_a_batch_is_named(janus: Janus) -> None:
    with pytest.raises(ValueError, match=r"conversations\[1\]: messages"):
        janus.chat_batch(["fine", []])
    with pytest.raises(ValueError, match="got a string: use chat"):
        janus.chat_batch("hello")
    assert janus.chat_batch([]) == []


def test_a_picture_without_a_question_is_refused(janus: Janus, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="the question is empty"):
        janus.chat(" ", images=[picture])
