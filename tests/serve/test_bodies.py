"""Bodies, without a server: what is costly is refused early, and told in few words."""

from __future__ import annotations

import json
import time

import pytest

from openjanus.serve.bodies import MAX_OTHER_BYTES, BodyMeter, check_is_json, parse_body
from openjanus.serve.errors import ApiError
from openjanus.serve.schema import ChatBody

MIB = 2**20


def metered(body: bytes) -> BodyMeter:
    meter = BodyMeter(16 * MIB)
    for start in range(0, len(body), 65536):
        meter.add(body[start : start + 65536])
    return meter


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[" + b"[]," * 60_000, "commas and brackets"),
        (b"{" + b",".join(b'"k%d":1' % i for i in range(60_000)), "commas and brackets"),
        (b'{"prompt": "' + b"\\u0061" * 600_000, "backslashes"),
        (b'{"prompt": "' + "\u5b57".encode() * (MAX_OTHER_BYTES // 2), "beside files in base64"),
        (b"{" + b" " * (MAX_OTHER_BYTES + 1), "beside files in base64"),
    ],
)
def test_what_takes_long_to_parse_is_refused_while_it_comes(body, says):
    with pytest.raises(ApiError, match=says) as refused:
        metered(body)
    assert refused.value.status == 400


def test_large_pictures_are_no_such_body():
    picture = "data:image/jpeg;base64," + "/9j+" * (2 * MIB)
    part = {"type": "image_url", "image_url": {"url": picture}}
    body = json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode()
    metered(body)
    metered(body[: 12 * MIB].replace(b"/", b"\\/", 250_000))  # as some write it
    assert parse_body(ChatBody, body).messages[0].content is not None


def test_a_body_is_no_larger_than_its_limit_however_it_comes():
    meter = BodyMeter(10)
    meter.expect(10)
    meter.add(b"123456")
    with pytest.raises(ApiError, match="more than 10 bytes"):
        meter.add(b"12345")
    with pytest.raises(ApiError) as refused:
        meter.expect(11)
    assert refused.value.status == 413


def message(content) -> dict:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({f"k{i}": 1 for i in range(15_000)}, "more than 64 parameters"),
        (message([{"type": "text", "text": "x"}] * 300), "at most 256 items"),
        (message([{}] * 8_000), "messages.0.content"),
        (message([{"type": "t" * MIB}]), "does not match"),
        (message([{"type": "text", "text": "x", "k" * MIB: 1}]), "unknown parameter"),
        ({**message("x"), "frequency_penalty": "x" * MIB}, "would change the result"),
        ({**message("x"), "frequency_penalty": [[]] * 8_000}, "would change the result"),
        ({**message("x"), "m" * MIB: 1}, "unknown parameter"),
        ({"messages": [{"role": "user", "k": 1}] * 1000}, "unknown parameter"),
    ],
)
def test_what_is_wrong_with_a_large_body_is_told_soon_and_in_few_words(body, says):
    sent = json.dumps(body).encode()
    metered(sent)
    began = time.process_time()
    with pytest.raises(ApiError, match=says) as refused:
        parse_body(ChatBody, sent)
    assert time.process_time() - began < 0.2
    assert len(refused.value.message) < 1500
    assert len(refused.value.param or "") < 300


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_taken(kind):
    check_is_json(kind)


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data; x=application/json"])
def test_what_a_page_may_send_anywhere_is_refused(kind):
    with pytest.raises(ApiError, match="content-type application/json"):
        check_is_json(kind)
