"""What is taken, what is refused and why, and what the OpenAPI document says of it."""

from __future__ import annotations

import json
import time

import httpx
import pytest

CHAT = "/v1/chat/completions"
DRAW = "/v1/images/generations"


def talk(**options) -> dict:
    return {"messages": [{"role": "user", "content": "tell me"}], "max_tokens": 2, **options}


def error_of(response: httpx.Response) -> dict:
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    return response.json()["error"]


@pytest.mark.parametrize(
    "neutral",
    [
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}},
        {"user": "x", "store": True, "metadata": {"a": "b"}, "service_tier": "auto"},
        {"stop": "", "top_p": 0, "functions": [], "seed": 0},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}},
        {"modalities": ["text"], "parallel_tool_calls": True, "stream": False, "n": 1},
        {"top_logprobs": 0, "prompt_cache_options": {"mode": "explicit"}, "moderation": None},
        {"model": None, "temperature": None, "seed": None, "stop": None, "logprobs": None},
    ],
)
def test_parameters_that_ask_for_nothing_are_taken(server, neutral):
    whole = server.post(CHAT, talk(**neutral)).json()
    assert (
        whole["choices"][0]["message"]["content"]
        == (server.post(CHAT, talk()).json()["choices"][0]["message"]["content"])
    )


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty", "0.5 would change the result"),
        ({"frequency_penalty": False}, "frequency_penalty", "False would change the result"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "would change the result, which this server"),
        ({"tools": [{"type": "function"}]}, "tools", "give [] or leave it out"),
        ({"response_format": {"type": "json_object"}}, "response_format", "would change"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 11}, "n", "less than or equal to 10"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_completion_tokens": 3}, "max_tokens", "give one of them"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream"),
        ({"stop": ["x", ""]}, "stop.1", "at least 1 character"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": 2**64}, "seed", "less than or equal"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'assistant'"),
        ({"messages": [{"role": "user", "content": ""}]}, None, "question is empty"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, None, "no user message"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages.0.content.0",
            "'text', 'image_url'",
        ),
        (
            {"messages": [{"role": "user", "content": "<image_placeholder> x"}]},
            None,
            "1 <image_placeholder> marks in the texts for 0 images",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(server, body, param, says):
    error = error_of(server.post(CHAT, talk(**body)))
    assert says in error["message"]
    assert param is None or error["param"].startswith(param)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"size": "1024x1024"}, "size", "give '32x32' or 'auto'"),
        ({"quality": "hd"}, "quality", "would change the result"),
        ({"style": "vivid"}, "style", "would change the result"),
        ({"background": "transparent"}, "background", "would change the result"),
        ({"output_format": "webp"}, "output_format", "would change the result"),
        ({"frame_count": 2}, "frame_count", "give 1 or leave it out"),
        ({"n": 11}, "n", "less than or equal to 10"),
        ({"partial_images": 2}, "partial_images", "needs stream"),
        ({"partial_images": 4, "stream": True}, "partial_images", "must be in [0, 3], got 4"),
        ({"response_format": "url", "stream": True}, "response_format", "events carry b64_json"),
        ({"guidance_scale": 1, "negative_prompt": "x"}, None, "does nothing at guidance_scale 1"),
        ({"guidence_scale": 1}, "guidence_scale", "did you mean 'guidance_scale'"),
        ({"prompt": " "}, None, "the prompt is empty"),
        ({"prompt": "x" * 5000}, None, "shorten the prompt"),
        ({"top_k": 0}, "top_k", "greater than or equal to 1"),
    ],
)
def test_drawings_that_cannot_be_made_are_refused_with_the_reason(server, body, param, says):
    error = error_of(server.post(DRAW, {"prompt": "a car", **body}))
    assert says in error["message"]
    assert param is None or error["param"] == param


@pytest.mark.parametrize("body", [{"model": "m" * 100_000}, {"k" * 100_000: 1}])
def test_what_is_long_is_refused_in_few_words(server, body):
    for path, whole in ((DRAW, {"prompt": "a car", **body}), (CHAT, talk(**body))):
        assert len(error_of(server.post(path, whole))["message"]) < 600


@pytest.mark.parametrize("long", ["word " * 20_000, " x" * 20_000])
def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(server, monkeypatch, long):
    def encode(*_):
        raise AssertionError("a long text was tokenized")

    monkeypatch.setattr(type(server.room.janus.processor.tokenizer), "_encode", encode)
    parts = [{"type": "text", "text": long}]
    for path, param, body in (
        (DRAW, "prompt", {"prompt": long}),
        (DRAW, "negative_prompt", {"prompt": "x", "negative_prompt": long}),
        (CHAT, "messages", {"messages": [{"role": "user", "content": long}]}),
        (CHAT, "messages", {"messages": [{"role": "user", "content": parts}]}),
    ):
        error = error_of(server.post(path, body))
        assert "the context holds 256 tokens" in error["message"]
        assert (error["param"], error["code"]) == (param, "context_length_exceeded")


def test_the_first_system_messages_are_one(server):
    turns = [{"role": "user", "content": "hi"}]
    systems = [
        {"role": "system", "content": "one"},
        {"role": "developer", "content": [{"type": "text", "text": "two"}]},
    ]
    joined = [{"role": "system", "content": "one\n\ntwo"}]
    answers = [
        server.post(CHAT, talk(messages=[*first, *turns])).json() for first in (systems, joined)
    ]
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["usage"] == answers[1]["usage"]
    error = error_of(server.post(CHAT, talk(messages=[*turns, systems[0], *turns])))
    assert "must come before all others" in error["message"]
    assert error["param"] == "messages.1"


@pytest.mark.parametrize("empty", ["", " ", None, [], [{"type": "text", "text": ""}]])
def test_an_empty_reply_may_be_sent_back(server, empty):
    turns = [{"role": "user", "content": "hi"}, {"role": "user", "content": "go on"}]
    turns.insert(1, {"role": "assistant", "content": empty})
    assert server.post(CHAT, talk(messages=turns)).status_code == 200


def test_bytes_of_log_probabilities_join_to_the_text(server):
    choice = server.post(
        CHAT, talk(max_tokens=30, temperature=1, seed=3, logprobs=True, top_logprobs=3)
    ).json()["choices"][0]
    tokens = choice["logprobs"]["content"]
    read = bytes(byte for token in tokens for byte in token["bytes"])
    assert read.decode(errors="replace") == choice["message"]["content"]
    assert "\ufffd" in choice["message"]["content"]  # the tiny model writes parts of characters
    assert all(len(token["top_logprobs"]) == 3 for token in tokens)


def test_a_streamed_request_that_is_wrong_has_a_status_of_its_own(server):
    assert (
        "shorten" in error_of(server.post(DRAW, {"prompt": "x" * 5000, "stream": True}))["message"]
    )
    body = talk(stream=True)
    body["messages"][0]["content"] = "x" * 5000
    assert "shorten" in error_of(server.post(CHAT, body))["message"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"prompt": "\\ud800"}',
        b'{"\\ud800": 1, "prompt": "x"}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "x", "guidance_scale": NaN}',
        b'{"prompt": "x", "temperature": Infinity}',
        b'"text"',
        b"null",
    ],
)
@pytest.mark.parametrize("path", [CHAT, DRAW])
def test_garbage_is_refused(server, path, content):
    headers = {"content-type": "application/json"}
    error_of(server.client.post(path, content=content, headers=headers))


def test_what_is_sent_as_a_form_is_refused(server):
    error_of(server.client.post(DRAW, data={"prompt": "x"}))
    headers = {"content-type": "text/plain"}  # what a page may send anywhere without asking
    error_of(server.client.post(DRAW, content=b'{"prompt": "x"}', headers=headers))


@pytest.mark.parametrize(
    "body",
    [
        {"temperature": 1e300},
        {"temperature": 1e-300},
        {"temperature": 1e-300, "top_p": 1e-300},
        {"guidance_scale": 1e300},
        {"guidance_scale": -1e300, "top_k": 10**12, "top_p": 0.5},
        {"guidance_scale": 0},
    ],
)
def test_extreme_numbers_end_in_an_answer_or_a_refusal(server, body):
    assert server.post(DRAW, {"prompt": "a car", **body}).status_code in (200, 400)
    body.pop("guidance_scale", None)
    body.pop("top_k", None)
    assert server.post(CHAT, talk(**body)).status_code in (200, 400)


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/images/variations"])
def test_pictures_are_not_changed(server, path):
    for sent in ({"json": {"prompt": "x"}}, {"files": {"image": b"x"}}, {}):
        error = error_of(server.client.post(path, **sent))
        assert error["code"] == "unsupported"
        assert "draw from words alone" in error["message"]


def test_what_is_not_there_has_the_envelope_too(server):
    for path in ("/nothing", "/v1/completions", "/docs", "/v1/images/files/abc"):
        response = server.get(path)
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "not_found_error"
    response = server.get(CHAT)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert "does not know GET" in response.json()["error"]["message"]


@pytest.mark.parametrize("given", ["https://janus.example/ai", "https://janus.example/ai/"])
def test_addresses_of_pictures_are_those_that_clients_reach(serve, given):
    with serve(public_url=given) as server:
        body = {"prompt": "x", "response_format": "url"}
        url = server.post(DRAW, body).json()["data"][0]["url"]
        start = "https://janus.example/ai/v1/images/files/"
        assert url.startswith(start)
        assert server.get(url.removeprefix("https://janus.example/ai")).status_code == 200


def test_metrics_count_what_was_done(serve):
    with serve() as server:
        server.post(CHAT, talk(n=2))
        server.post(DRAW, {"prompt": "x", "n": 2})
        server.get("/some/path/of/a/client")
        last, deadline = f'openjanus_request_seconds_count{{path="{DRAW}"}}', time.monotonic() + 10
        while last not in (text := server.get("/metrics").text):  # counted once it was sent
            assert time.monotonic() < deadline, text
        lines = text.splitlines()
    values = {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
    }
    assert values['openjanus_ids_total{kind="text"}'] == 4
    assert values['openjanus_ids_total{kind="image"}'] == 32
    assert values[f'openjanus_requests_total{{path="{CHAT}",status="200"}}'] == 1
    assert values['openjanus_requests_total{path="other",status="404"}'] == 1
    assert values['openjanus_time_to_first_token_seconds_count{kind="text"}'] == 1
    assert values['openjanus_time_to_first_token_seconds_count{kind="image"}'] == 1
    assert values[f'openjanus_request_seconds_count{{path="{DRAW}"}}'] == 1
    assert values["openjanus_step_seconds_count"] > 0
    assert values["openjanus_read_bytes_total"] > 1_000_000
    assert values["openjanus_read_bytes_per_second"] > 0
    assert values["openjanus_running"] == values["openjanus_waiting"] == 0
    assert not any("client" in name for name in values)


def test_the_openapi_document_declares_every_answer(server):
    document = server.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *(CHAT, DRAW, "/v1/images/edits", "/v1/images/variations", "/v1/images/files/{name}"),
        *("/v1/models", "/v1/models/{name}", "/health", "/ready", "/metrics"),
    }
    for path in (CHAT, DRAW):
        responses = document["paths"][path]["post"]["responses"]
        assert set(responses) == {
            *("200", "400", "401", "403", "404", "405", "408", "413", "429", "500", "503", "504")
        }
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
        for status, response in responses.items():
            if status != "200":
                schema = response["content"]["application/json"]["schema"]
                assert schema["$ref"].endswith("/ErrorBody")
    schema = document["components"]["schemas"]["ChatBody"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["frequency_penalty"]["enum"] == [0, None]
    assert "422" not in json.dumps(document)
