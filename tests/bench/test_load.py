"""Loads: when requests come, what is counted of them, and a small server that misbehaves."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from openjanus.bench.arrivals import (
    KINDS,
    Arrival,
    Kind,
    LoadOptions,
    parse_limits,
    parse_mix,
    schedule,
)
from openjanus.bench.bodies import body_of
from openjanus.bench.load_result import (
    Outcome,
    is_good,
    percentile,
    result_of,
    times_of,
)
from openjanus.cli import main

ALL: tuple[tuple[Kind, float], ...] = tuple((kind, 1.0) for kind in KINDS)


def outcome(
    index: int = 0,
    kind: Kind = "chat",
    *,
    at: float = 0.0,
    first: float | None = 0.1,
    whole: float = 0.5,
    status: int | None = 200,
    error: str | None = None,
    num_tokens: int = 0,
) -> Outcome:
    return Outcome(
        arrival=Arrival(index, at, kind, 0),
        late_s=0.0,
        status=status,
        error=error,
        first_s=first,
        whole_s=whole,
        num_tokens=num_tokens,
    )


def test_constant_arrivals_are_in_step():
    options = LoadOptions(rate=4, requests=5, arrivals="constant")
    assert [one.at_s for one in schedule(options)] == [0, 0.25, 0.5, 0.75, 1.0]
    within = LoadOptions(rate=4, seconds=1, arrivals="constant")
    assert [one.at_s for one in schedule(within)] == [0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_have_their_rate_and_spread():
    arrivals = schedule(LoadOptions(rate=20, requests=4001, seed=3))
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 20, rel=0.05)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 == pytest.approx(mean, rel=0.1)  # as of an exponential distribution


def test_a_request_depends_on_the_seed_and_its_number_alone():
    few = schedule(LoadOptions(rate=2, requests=20, mix=ALL, seed=7))
    many = schedule(LoadOptions(rate=8, requests=50, mix=ALL, seed=7))
    for slow, fast in zip(few, many, strict=False):
        assert (slow.kind, slow.content) == (fast.kind, fast.content)
        assert slow.at_s == pytest.approx(4 * fast.at_s)
    assert few != schedule(LoadOptions(rate=2, requests=20, mix=ALL, seed=8))


def test_kinds_come_by_their_shares():
    mix = parse_mix("chat=3, draw=1")
    kinds = [one.kind for one in schedule(LoadOptions(rate=1, requests=2000, mix=mix))]
    assert kinds.count("chat") / len(kinds) == pytest.approx(0.75, abs=0.03)
    assert kinds.count("chat") + kinds.count("draw") == len(kinds)


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (parse_mix, "chta=1", "did you mean 'chat'"),
        (parse_mix, "chat=many", "must read NAME=NUMBER"),
        (parse_limits, "frist=1", "did you mean 'first'"),
        (parse_limits, "first", "must read NAME=NUMBER"),
    ],
)
def test_a_mix_and_limits_say_what_is_wrong(read, text, says):
    with pytest.raises(ValueError, match=says):
        read(text)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"rate": 0}, "rate must be > 0"),
        ({"requests": None}, "either the number"),
        ({"seconds": 3}, "either the number"),
        ({"requests": 0}, "requests must be >= 1"),
        ({"requests": None, "seconds": 1e9}, "at most 1,000,000 requests"),
        ({"mix": (("chat", 1.0), ("chat", 1.0))}, "once at most"),
        ({"mix": (("chat", -1.0),)}, "must be > 0"),
        ({"limits": (("first word", 0.0),)}, "must be > 0"),
    ],
)
def test_options_keep_their_rules(changed, says):
    with pytest.raises(ValueError, match=says):
        LoadOptions(**({"rate": 2.0, "requests": 3} | changed))


def test_percentiles_are_values_that_were_measured():
    values = [float(i) for i in range(1, 101)]
    assert [percentile(values, p) for p in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert percentile([3.0], 50) == percentile([3.0], 99) == 3
    times = times_of([0.3, 0.1, 0.2])
    assert times is not None
    assert (times.p50, times.p90, times.p99, times.most) == (0.2, 0.3, 0.3, 0.3)
    assert times_of([]) is None


def test_good_answers_keep_all_limits_of_their_kind():
    limits = parse_limits("first=0.2,reply=1,partial=2,picture=5")
    assert is_good(outcome(), limits)
    assert not is_good(outcome(first=0.3), limits)
    assert not is_good(outcome(whole=1.5), limits)
    assert not is_good(outcome(error="overloaded", status=503), limits)
    assert is_good(outcome(kind="draw", first=None, whole=4), limits)
    assert not is_good(outcome(kind="draw", first=None, whole=6), limits)
    assert is_good(outcome(kind="stream-draw", first=None, whole=1.9), limits)
    assert not is_good(outcome(kind="stream-draw", first=None, whole=2.1), limits)


def test_a_result_counts_everything_once():
    outcomes = [
        outcome(0, num_tokens=7),
        outcome(1, at=1, first=0.4, num_tokens=3),
        outcome(2, "draw", at=2, first=None, whole=2.0),
        outcome(3, at=2.5, whole=0.01, status=503, error="overloaded", first=None),
        outcome(4, at=3, whole=0.02, status=429, error="too_many_at_once", first=None),
        outcome(5, at=3, status=500, error="failed", first=None),
        outcome(6, at=3, status=None, error="not connected", first=None),
        outcome(7, at=3, error="cut off"),
    ]
    options = LoadOptions(rate=1, requests=8, limits=parse_limits("first=0.2"))
    result = result_of(outcomes, options, url="http://x/v1", model="m")
    assert (result.sent, result.answered, result.good) == (8, 3, 2)
    assert result.seconds == 4.0
    assert (result.goodput, result.good_share) == (0.5, 0.25)
    assert result.tokens == 10
    assert {status: times.p99 for status, times in result.refusals.items()} == {
        "429": 0.02,
        "503": 0.01,
    }
    assert result.errors == {"500 failed": 1, "not connected": 1, "200 cut off": 1}
    assert result.answered + 2 + sum(result.errors.values()) == result.sent
    chat, draw = result.kinds
    assert (chat.sent, chat.answered, chat.good) == (7, 2, 1)
    assert chat.times["first word"].most == 0.4
    assert draw.times["whole picture"].p50 == 2.0
    assert json.loads(json.dumps(result.as_data()))["good_share"] == 0.25
    told = result.lines()
    assert "within first word 0.2 s" in str(told["good"])
    assert str(told["chat, whole reply"]).startswith("p50 500,")
    assert str(told["draw, whole picture"]).startswith("p50 2,")


def test_kinds_of_one_measure_are_told_apart():
    outcomes = [outcome(0, whole=0.25), outcome(1, "vision", whole=0.75)]
    result = result_of(outcomes, LoadOptions(requests=2), url="x", model=None)
    told = result.lines()
    assert "250" in str(told["chat, whole reply"]) and "750" in str(told["vision, whole reply"])


def test_bodies_are_of_their_kind():
    options = LoadOptions(rate=1, requests=1, max_new_tokens=9)
    path, chat = body_of(Arrival(0, 0.0, "chat", 5), options, "m")
    assert (path, chat["model"], chat["max_tokens"]) == ("/chat/completions", "m", 9)
    _, look = body_of(Arrival(0, 0.0, "vision", 5), options, None)
    assert "model" not in look
    assert look["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png")
    path, grow = body_of(Arrival(0, 0.0, "stream-draw", 5), options, None)
    assert (path, grow["stream"]) == ("/images/generations", True)
    assert "stream" not in body_of(Arrival(0, 0.0, "draw", 5), options, None)[1]


class Stub(BaseHTTPRequestHandler):
    """Answers by the seed of a chat: well, refused, failed in several ways; and pictures."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def say(self, status: int, body: str, kind: str = "application/json") -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.say(200, json.dumps({"data": [{"id": "stub"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert body["model"] == "stub" and self.headers["authorization"] == "Bearer k"
        if "prompt" in body and not body.get("stream"):
            return self.say(200, json.dumps({"data": [{"b64_json": "AA=="}]}))
        number = next(self.server.counter)  # pyright: ignore[reportAttributeAccessIssue]
        error = json.dumps({"error": {"message": "no", "type": "t", "code": "stub_code"}})
        if number % 5 == 1:
            return self.say(503, error)
        if number % 5 == 2:
            return self.say(500, error)
        if number % 5 == 3:
            return self.say(200, f"data: {error}\n\n", "text/event-stream")
        if number % 5 == 4:  # a stream without an end
            return self.say(200, 'data: {"choices": []}\n\n', "text/event-stream")
        if "prompt" in body:
            events: list[object] = [
                {"type": f"image_generation.{x}"} for x in ("partial_image", "completed")
            ]
            end = ""
        else:
            events = [{"choices": [{"delta": {"content": text}}]} for text in ("", "hi")]
            events.append({"choices": [], "usage": {"completion_tokens": 2}})
            end = "data: [DONE]\n\n"
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + end
        return self.say(200, text, "text/event-stream")


@contextlib.contextmanager
def stub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.counter = itertools.count()  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def ask(tmp_path, capsys):
    pytest.importorskip("httpx")

    def run(url: str, *options: str) -> dict:
        file = tmp_path / "load.json"
        words = ["bench-serve", "--url", url, "--api-key", "k", "--json", str(file), *options]
        assert main(words) == 0, capsys.readouterr().err
        return json.loads(file.read_text(encoding="utf-8"))

    return run


def test_the_command_counts_what_a_server_does(ask, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "load.png"
    with stub() as url:
        found = ask(
            url + "/",
            *("--rate", "200", "--requests", "20", "--mix", "chat,vision,stream-draw"),
            *("--limits", "first=60", "--plot", str(picture)),
        )
    assert (found["model"], found["sent"], found["answered"], found["good"]) == ("stub", 20, 4, 4)
    assert found["refusals"]["503"]["count"] == 4
    assert found["errors"] == {"500 stub_code": 4, "200 stub_code": 4, "200 cut off": 4}
    assert found["options"]["rate"] == 200
    assert sum(kind["sent"] for kind in found["kinds"]) == 20
    for kind in found["kinds"]:
        for times in kind["times"].values():
            assert 0 < times["p50"] <= times["p99"] <= times["most"] < 60
    assert picture.stat().st_size > 10_000
    assert "refused, 503" in capsys.readouterr().out


def test_pictures_without_a_stream_are_timed(ask):
    with stub() as url:
        found = ask(url, "--rate", "100", "--requests", "3", "--mix", "draw")
    assert found["answered"] == 3
    assert found["kinds"][0]["times"]["whole picture"]["count"] == 3


def test_the_loop_is_open(ask):
    """A server that takes its time gets the next request all the same."""
    with stub() as url:
        began = time.monotonic()
        found = ask(
            url, "--rate", "20", "--requests", "10", "--arrivals", "constant", "--mix", "draw"
        )
    assert time.monotonic() - began >= 0.45  # nine gaps
    assert found["late"]["p50"] < 0.1


def test_nobody_there_is_said_in_a_line(capsys):
    pytest.importorskip("httpx")
    assert main(["bench-serve", "--url", "http://127.0.0.1:9/v1"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("openjanus: no answer from http://127.0.0.1:9/v1/models")
    assert main(["bench-serve", "--mix", "dance"]) == 2
    assert "no kind 'dance'" in capsys.readouterr().err
