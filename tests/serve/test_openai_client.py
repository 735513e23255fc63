"""The official client, unchanged, against a server that listens."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from openjanus.pipeline import Janus

GREY = 127


@pytest.fixture(scope="module")
def client(server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key="any",
        max_retries=0,
        _strict_response_validation=True,  # of every field that an answer has
    ) as client:
        yield client


def question(url: str, *more: str) -> list:
    content = [
        {"type": "image_url", "image_url": {"url": one, "detail": "high"}} for one in (url, *more)
    ]
    return [{"role": "user", "content": [*content, {"type": "text", "text": "what is it?"}]}]


def picture_of(encoded: str | None) -> Image.Image:
    assert encoded is not None
    with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=["PNG"]) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.3, "top_p": 0.9}])
def test_a_chat_with_a_picture_is_the_librarys(client, janus: Janus, picture, data_url, options):
    answer = client.chat.completions.create(
        model="tiny", messages=question(data_url), max_completion_tokens=12, seed=5, **options
    )
    expected = janus.chat(
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": picture},
                    {"type": "text", "text": "what is it?"},
                ],
            }
        ],
        max_new_tokens=12,
        seed=5,
        **options,
    )
    choice = answer.choices[0]
    assert choice.message.content == expected.text != ""
    assert choice.finish_reason == expected.finish_reason
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
    assert answer.usage.completion_tokens == expected.usage.completion_tokens
    assert answer.usage.total_tokens == expected.usage.total_tokens


def test_pictures_behind_the_words_are_put_before_them(client, janus: Janus, picture, data_url):
    def asked(*parts: str) -> str | None:
        content = [
            {"type": "image_url", "image_url": {"url": data_url}}
            if part == "picture"
            else {"type": "text", "text": part}
            for part in parts
        ]
        answer = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": content}],
            max_tokens=12,
            temperature=1,
            seed=5,
        )
        return answer.choices[0].message.content

    def expected(text: str) -> str:
        images = [picture] * text.count("<image_placeholder>")
        options = {"max_new_tokens": 12, "temperature": 1.0, "seed": 5}
        return janus.chat(text, images=images, **options).text

    first = expected("<image_placeholder>\nwhat is it?")
    assert asked("picture", "what is it?") == asked("what is it?", "picture") == first
    assert first != expected("what is it?\n<image_placeholder>")
    two = "<image_placeholder>\n<image_placeholder>\none\ntwo"
    assert asked("one", "two", "picture", "picture") == expected(two)
    between = "one\n<image_placeholder>\ntwo"
    assert asked("one", "picture", "two") == expected(between)
    mixed = "one\n<image_placeholder>\ntwo\n<image_placeholder>"
    assert asked("one", "picture", "two", "picture") == expected(mixed)


def test_several_turns_go_on_where_the_last_ended(client, janus: Janus, data_url):
    messages = [{"role": "developer", "content": "Be brief."}, *question(data_url)]
    first = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=8, temperature=1, seed=1
    )
    assert first.choices[0].message.content.strip()
    messages += [first.choices[0].message, {"role": "user", "content": "and?"}]
    second = client.chat.completions.create(model="org/tiny", messages=messages, max_tokens=8)
    assert second.model == "org/tiny"
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_a_streamed_chat_joins_to_the_whole_one(client):
    asked = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "tell me"}],
        "max_tokens": 30,
        "temperature": 1,
        "seed": 3,
        "n": 2,
    }
    whole = client.chat.completions.create(**asked)
    texts, reasons, usage = ["", ""], ["", ""], None
    for chunk in client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_reply_i_is_that_of_seed_plus_i(client, janus: Janus):
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "tell me"}],
        max_tokens=10,
        temperature=1,
        seed=2**64 - 1,
        n=3,
    )
    texts = [choice.message.content for choice in answer.choices]
    seeds = (2**64 - 1, 0, 1)
    options = {"max_new_tokens": 10, "temperature": 1.0}
    assert texts == [janus.chat("tell me", seed=seed, **options).text for seed in seeds]
    assert len(set(texts)) == 3


def test_logprobs_are_those_of_score(client, janus: Janus):
    asked = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "tell me"}],
        "max_tokens": 6,
        "logprobs": True,
        "top_logprobs": 3,
    }
    content = client.chat.completions.create(**asked).choices[0].logprobs.content
    assert len(content) == 6
    for one in content:
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].logprob == one.logprob  # greedy
    streamed = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed += [] if choice.logprobs is None else choice.logprobs.content
    assert streamed == content


def test_a_stop_string_ends_a_reply_and_is_not_part_of_it(client, janus: Janus):
    options = {"seed": 8, "temperature": 1.0}
    whole = janus.chat("tell me", max_new_tokens=60, **options).text
    stop = whole[len(whole) // 2 :][:2]
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "tell me"}],
        max_tokens=60,
        stop=[stop, "never there"],
        **options,
    )
    assert answer.choices[0].message.content == whole.partition(stop)[0].rstrip()
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("form", ["b64_json", "url"])
def test_drawings_are_the_librarys(client, janus: Janus, form):
    answer = client.images.generate(
        model="tiny",
        prompt="a red car",
        n=3,
        size="auto",
        response_format=form,
        quality="auto",
        user="somebody",
        extra_body={"seed": 11, "guidance_scale": 3.0, "negative_prompt": "a dog"},
    )
    expected = janus.draw("a red car", n=3, seed=11, guidance_scale=3.0, negative_prompt="a dog")
    assert len(answer.data) == 3
    for given, picture in zip(answer.data, expected.images, strict=True):
        encoded = given.b64_json
        if form == "url":
            assert encoded is None
            encoded = base64.b64encode(httpx.get(given.url).content).decode()
        assert np.array_equal(np.asarray(picture_of(encoded)), np.asarray(picture))
    assert answer.usage.output_tokens == 3 * janus.config.num_gen_image_tokens
    assert answer.usage.total_tokens == answer.usage.output_tokens + answer.usage.input_tokens
    assert answer.usage.output_tokens_details is not None
    assert answer.usage.output_tokens_details.image_tokens == answer.usage.output_tokens


@pytest.mark.parametrize("count", [0, 1, 3])
def test_partial_images_are_successively_fuller(client, janus: Janus, count):
    events = list(
        client.images.generate(
            model="tiny",
            prompt="a red car",
            stream=True,
            partial_images=count,
            extra_body={"seed": 4},
        )
    )
    *partial, last = events
    assert [event.type for event in events] == [
        *["image_generation.partial_image"] * count,
        "image_generation.completed",
    ]
    shares = []
    for index, event in enumerate(partial):
        assert isinstance(event, ImageGenPartialImageEvent)
        assert event.partial_image_index == index
        pixels = np.asarray(picture_of(event.b64_json))
        shares.append(float((pixels != GREY).any(axis=(1, 2)).mean()))  # rows with something
    assert shares == [(index + 1) / (count + 1) for index in range(count)]
    assert isinstance(last, ImageGenCompletedEvent)
    assert last.usage.output_tokens == janus.config.num_gen_image_tokens
    expected = janus.draw("a red car", seed=4).images[0]
    assert np.array_equal(np.asarray(picture_of(last.b64_json)), np.asarray(expected))


def test_errors_are_typed(client, data_url):
    with pytest.raises(openai.BadRequestError, match="'9x9' is none that these weights draw"):
        client.images.generate(prompt="x", size="9x9")
    with pytest.raises(openai.BadRequestError, match="cannot change a picture"):
        client.images.edit(image=b"x", prompt="x")
    with pytest.raises(openai.NotFoundError) as found:
        client.images.generate(prompt="x", model="tinny")
    assert found.value.code == "model_not_found"
    assert "did you mean 'tiny'" in str(found.value)
    with pytest.raises(openai.BadRequestError, match="holds the special token"):
        client.images.generate(prompt="<|User|> x")
    with pytest.raises(openai.BadRequestError, match="shorten"):
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "long " * 2000}]
        )


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny", "org/tiny"]
    assert client.models.retrieve("org/tiny").id == "org/tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
