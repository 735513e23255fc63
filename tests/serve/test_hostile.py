"""Clients that mean no good, or leave: what they hold is theirs for a short time."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import io
import json
import signal
import socket
import threading
import time
from typing import Any

import httpx
import pytest
from PIL import Image

from openjanus.pipeline.artist import Artist
from openjanus.serve import pictures
from openjanus.serve.room import MAX_PAINTING

CHAT = "/v1/chat/completions"
DRAW = "/v1/images/generations"
GET = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"


def talk(text: Any = "tell me", **options) -> dict:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 2, **options}


def look(*sizes: tuple[int, int]) -> dict:
    parts = []
    for size in sizes:
        file = io.BytesIO()
        Image.new("RGB", size, (9, 99, 199)).save(file, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return talk([*parts, {"type": "text", "text": "what?"}])


def raw(path: str, body: dict) -> bytes:
    sent = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent


def is_closed_within(client: socket.socket, seconds: float, trickle: bytes) -> bool:
    """Whether the server ends a connection although bytes go on to come."""
    end = time.monotonic() + seconds
    client.settimeout(0.05)
    while time.monotonic() < end:
        try:
            client.sendall(trickle)
            while client.recv(65536):
                pass
        except TimeoutError:
            continue
        except OSError:
            return True
        return True
    return False


@pytest.fixture
def held(monkeypatch):
    """Pictures are decoded when the event is set; the list has those that were begun."""
    may_go_on, begun, decode = threading.Event(), [], pictures.open_image

    def slow(image):
        begun.append(image.size)
        assert may_go_on.wait(20)
        return decode(image)

    monkeypatch.setattr(pictures, "open_image", slow)
    yield may_go_on, begun
    may_go_on.set()


@pytest.mark.parametrize(
    ("head", "trickle", "status"),
    [
        (b"POST /nothing HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", b"1\r\na\r\n", b"404"),
        (b"POST /v1/images/edits HTTP/1.1\r\nContent-Length: 99999\r\n", b"a", b"400"),
        (b"GET /health HTTP/1.1\r\nContent-Length: 99999\r\n", b"a", b"200"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 99999\r\n", b"a", b"401"),
        (
            b"POST /v1/images/generations HTTP/1.1\r\nContent-Length: 99999999\r\n",
            b"a",
            b"413",
        ),
    ],
)
def test_a_body_that_trickles_after_its_answer_ends_soon(serve, head, trickle, status):
    with (
        serve(linger_s=0.3, api_keys=("key",)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        key = b"" if b"chat" in head else b"Authorization: Bearer key\r\n"
        client.sendall(head + key + b"Host: localhost\r\n\r\n" + trickle)
        answer = client.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"connection: close" in answer.lower()
        assert is_closed_within(client, 5, trickle)


def test_no_more_is_read_after_a_refusal_than_a_body_may_have(serve):
    with (
        serve(api_keys=("key",), max_body_bytes=100_000) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert client.recv(10_000).startswith(b"HTTP/1.1 401")
        part = b"10000\r\n" + b"a" * 65536 + b"\r\n"
        assert is_closed_within(client, 10, part)


def test_a_body_in_crumbs_is_refused(server):
    def crumbs(size: int) -> httpx.Response:
        body = iter([b" " * size] * 2000)
        kind = {"content-type": "application/json"}
        return httpx.post(server.url + DRAW, content=body, headers=kind)

    assert "is no JSON" in crumbs(300).text
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 2000
        )
        answer = client.recv(10_000)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert b"x-request-id" in head
        assert json.loads(body)["error"]["code"] == "bad_http"


def test_what_is_no_http_is_told_so(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, body = client.recv(10_000).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""


def test_who_sends_much_hears_the_refusal(server):
    response = httpx.post(server.url + "/v1/images/edits", content=b"x" * 3_000_000)
    assert "draw from words alone" in response.json()["error"]["message"]


def test_who_reads_nothing_is_cut(serve):
    with (
        serve(write_timeout_s=0.3) as server,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.setblocking(False)
        end = time.monotonic() + 10
        try:
            while time.monotonic() < end:
                with contextlib.suppress(BlockingIOError):
                    client.send(GET * 50)
                time.sleep(0.01)
        except (ConnectionResetError, BrokenPipeError):
            return
        raise AssertionError("the connection was not ended")


def test_who_reads_slowly_is_not(serve):
    number = 60
    with (
        serve(write_timeout_s=0.4) as server,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(GET * number)
        answers, began = bytearray(), time.monotonic()
        client.settimeout(10)
        while answers.count(b"HTTP/1.1 200") < number:
            part = client.recv(65536)
            assert part
            answers += part
            time.sleep(0.005)
        assert time.monotonic() - began > 1


def test_a_client_that_left_keeps_its_place_until_its_work_has_ended(serve, held, until):
    may_go_on, begun = held
    with serve(max_requests=1) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(raw(CHAT, look((8, 8), (9, 9))))
            until(lambda: begun == [(8, 8)])
        until(lambda: 'status="499"' in server.get("/metrics").text)
        assert server.get("/ready").status_code == 503
        assert server.post(CHAT, talk()).status_code == 503
        may_go_on.set()
        until(lambda: server.get("/ready").status_code == 200)
        assert begun == [(8, 8)]  # the second picture was not decoded
        assert server.post(CHAT, talk()).status_code == 200


def test_words_do_not_wait_behind_pictures(serve, held, until):
    may_go_on, begun = held
    with serve() as server, concurrent.futures.ThreadPoolExecutor(3) as pool:
        looking = [pool.submit(server.post, CHAT, look((8, 8))) for _ in range(3)]
        until(lambda: len(begun) == 2)
        assert server.post(CHAT, talk()).status_code == 200
        assert len(begun) == 2  # the third waits
        may_go_on.set()
        assert [one.result().status_code for one in looking] == [200] * 3


def test_pictures_are_made_by_few_threads(serve, monkeypatch):
    """Libraries beneath torch keep memory for each thread that has asked them."""
    decode, seen = Artist.decode, []

    def noted(self, image_ids):
        seen.append(threading.current_thread().name)
        return decode(self, image_ids)

    monkeypatch.setattr(Artist, "decode", noted)
    with serve() as server, concurrent.futures.ThreadPoolExecutor(6) as pool:
        drawn = [pool.submit(server.post, DRAW, {"prompt": "x", "seed": i}) for i in range(6)]
        assert [one.result().status_code for one in drawn] == [200] * 6
    assert len(seen) == 6
    assert len(set(seen)) <= MAX_PAINTING
    assert all(name.startswith("painting") for name in seen)


def test_who_leaves_does_not_wait_for_his_picture(serve, monkeypatch, until):
    may_go_on, begun, decode = threading.Event(), [], Artist.decode

    def slow(self, image_ids):
        begun.append(1)
        assert may_go_on.wait(20)
        return decode(self, image_ids)

    monkeypatch.setattr(Artist, "decode", slow)
    body = {"prompt": "x", "seed": 0}
    with serve(max_requests=3) as server:
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        for client in clients:
            client.sendall(raw(DRAW, body))
        until(lambda: len(begun) == MAX_PAINTING and not server.engine.has_work)
        for client in clients:
            client.close()
        # The one that was not begun is not begun; the others keep their places until they end.
        until(lambda: "openjanus_requests_inside 2.0" in server.get("/metrics").text)
        may_go_on.set()
        until(lambda: "openjanus_requests_inside 0.0" in server.get("/metrics").text)
        assert len(begun) == MAX_PAINTING
        assert server.post(DRAW, body).status_code == 200


def test_pictures_of_a_request_share_their_pixels(serve, monkeypatch):
    monkeypatch.setattr(pictures, "open_image", None)  # none is decoded
    with serve(max_request_pixels=1000) as server:
        response = server.post(CHAT, look((20, 20), (20, 20), (20, 20)))
        assert response.status_code == 400
        assert "picture 2: it and those before have 1,200 pixels" in response.text


def test_n_takes_n_places(serve, slowly, until):
    with serve(max_requests=4) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        refused = server.post(CHAT, talk(n=5)).json()["error"]
        assert (refused["param"], refused["type"]) == ("n", "invalid_request_error")
        slowly(server.engine, 0.05)
        three = pool.submit(server.post, CHAT, talk(n=3, max_tokens=20, temperature=1, seed=1))
        until(lambda: server.engine.num_running == 3)
        full = server.post(DRAW, {"prompt": "x", "n": 2})
        assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")
        assert full.headers["retry-after"]
        assert server.post(CHAT, talk(n=1)).status_code == 200
        assert three.result().status_code == 200
        until(lambda: "openjanus_requests_inside 0.0" in server.get("/metrics").text)


def test_what_runs_when_the_time_to_stop_is_over_is_told_so(serve, slowly, until):
    with serve(drain_s=1) as server, concurrent.futures.ThreadPoolExecutor(3) as pool:
        slowly(server.engine, 0.1)
        options = {"max_tokens": 200, "temperature": 1, "seed": 1}
        whole = pool.submit(httpx.post, server.url + CHAT, json=talk(**options), timeout=20)
        stream = pool.submit(
            httpx.post, server.url + CHAT, json=talk(**options, stream=True), timeout=20
        )
        until(lambda: server.engine.num_running == 2)
        with socket.create_connection(("127.0.0.1", server.port)) as reading:
            reading.sendall(raw(CHAT, talk())[:-5])
            time.sleep(0.1)
            server.server.should_exit = True
            assert whole.result().status_code == 503
            assert whole.result().json()["error"]["code"] == "stopping"
            last = stream.result().text.split("\n\n")[-2]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
            reading.settimeout(10)
            assert b'"stopping"' in b"".join(iter(lambda: reading.recv(10_000), b""))


def test_while_it_stops_it_says_so_and_is_alive(serve, slowly, until):
    with serve(drain_s=30) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        slowly(server.engine, 0.1)
        running = pool.submit(server.post, CHAT, talk(max_tokens=40, temperature=1, seed=1))
        until(lambda: server.engine.num_running == 1)
        server.server.handle_exit(signal.SIGTERM, None)
        for wait_s in (0, 0.5):
            time.sleep(wait_s)
            ready = httpx.get(server.url + "/ready")
            assert (ready.status_code, ready.json()["error"]["code"]) == (503, "stopping")
            assert ready.headers["connection"] == "close"
        assert httpx.get(server.url + "/health").json() == {"status": "ok"}
        refused = httpx.post(server.url + CHAT, json=talk())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        assert running.result().status_code == 200

        def is_gone() -> bool:
            try:
                socket.create_connection(("127.0.0.1", server.port)).close()
            except ConnectionRefusedError:
                return True
            return False

        until(is_gone)


def test_without_keys_all_clients_are_counted_together(serve):
    with serve(requests_per_minute=2, max_requests_per_key=1) as server:
        statuses = [
            server.post(CHAT, talk(), headers={"authorization": f"Bearer {i}"}).status_code
            for i in range(4)
        ]
        assert statuses == [200, 200, 429, 429]


def test_metrics_know_streams_that_failed_and_paths_with_names(serve, slowly, until):
    with serve(deadline_s=0.3) as server:
        slowly(server.engine, 0.1)
        server.post(CHAT, talk(max_tokens=99, stream=True, temperature=1, seed=1))
        server.get("/v1/images/files/abc")
        server.get("/v1/models/tiny")
        until(lambda: 'path="/v1/models/..."' in server.get("/metrics").text)
        text = server.get("/metrics").text
    assert f'openjanus_errors_total{{code="deadline_exceeded",path="{CHAT}"}} 1.0' in text
    assert 'openjanus_requests_total{path="/v1/images/files/...",status="404"} 1.0' in text


def test_heads_and_names_in_capitals_are_answered(server):
    response = httpx.head(server.url + "/health")
    assert (response.status_code, response.content) == (200, b"")
    for name in ("LOCALHOST:8000", "LocalHost"):
        assert server.get("/health", headers={"host": name}).status_code == 200
