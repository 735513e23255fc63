"""Floods, bombs, clients that leave, and steps that fail: each over a real connection."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import http.client
import json
import socket
import ssl
import struct
import subprocess
import time
import zlib

import httpx
import pytest

CHAT = "/v1/chat/completions"
DRAW = "/v1/images/generations"


def talk(text: str = "tell me", **options) -> dict:
    return {"messages": [{"role": "user", "content": text}], **options}


def look(*urls: str) -> dict:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "what?"}]}],
        "max_tokens": 2,
    }


def data(file: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"


def message_of(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


def chunk(kind: bytes, body: bytes) -> bytes:
    checked = kind + body
    return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it has many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_client_that_leaves_frees_its_slot_within_two_steps(serve, slowly, until):
    with serve() as server:
        steps = slowly(server.engine, 0.1)
        body = json.dumps(talk(max_tokens=200, temperature=1, seed=1, stream=True)).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\n"
                + f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            until(lambda: server.engine.num_running == 1 and len(steps) >= 3)
        left_at = len(steps)
        until(lambda: not server.engine.has_work)
        assert len(steps) <= left_at + 2
        until(lambda: 'status="499"' in server.get("/metrics").text)
        until(lambda: "openjanus_requests_inside 0.0" in server.get("/metrics").text)


def test_a_client_that_leaves_while_it_waits_is_forgotten(serve, slowly, until):
    with serve() as server:
        slowly(server.engine, 0.05)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url + DRAW, json={"prompt": "x", "n": 10}, timeout=0.3)
        until(lambda: not server.engine.has_work)


def test_a_flood_is_refused_at_once_and_health_answers(serve, slowly, until):
    with serve(max_requests=2) as server, concurrent.futures.ThreadPoolExecutor(32) as pool:
        slowly(server.engine, 0.1)
        held = [pool.submit(server.post, CHAT, talk(max_tokens=20, seed=i)) for i in range(2)]
        until(lambda: server.engine.num_running == 2)
        assert message_of(server.get("/ready"), 503) == "the server is full"

        # Refused before it is read: it is not even JSON.
        refusals = [pool.submit(server.client.post, CHAT, content=b"no json") for _ in range(40)]
        for refusal in refusals:
            response = refusal.result()
            assert "as many as it takes" in message_of(response, 503)
            assert int(response.headers["retry-after"]) >= 1
            assert response.headers["x-request-id"].startswith("req_")
        assert server.get("/health").json() == {"status": "ok"}
        assert [one.result().status_code for one in held] == [200, 200]
        assert server.get("/ready").status_code == 200


def test_who_is_refused_keeps_his_connection_where_his_body_has_come(serve):
    with serve(api_keys=("key",)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.connect()
        sock = connection.sock
        # In one piece: http.client sends a body behind its head, and it may come after the refusal.
        head = f"POST {CHAT} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        for _ in range(3):
            sock.sendall(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
            answer = http.client.HTTPResponse(sock, method="POST")
            answer.begin()
            answer.read()
            assert (answer.status, answer.getheader("connection")) == (401, None)
        # Who asks whether he may send a body is told no, and is not told to send it.
        connection.putrequest("POST", CHAT)
        connection.putheader("Content-Length", "2")
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (401, "close")
        connection.close()


def test_short_answers_do_not_wait_for_an_acknowledgement(server):
    times = []
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for _ in range(41):
        began = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        times.append(time.perf_counter() - began)
    connection.close()
    assert sorted(times)[20] < 0.03


def test_no_two_request_ids_are_alike(server):
    ids = {server.get("/health").headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (data(bomb(60_000, 60_000)), "too many pixels, 16,000,000 are decoded"),
        (data(bomb(5000, 5000)), "5000 x 5000 pixels"),
        (data(bomb(100, 100)), "broken image"),
        (data(b"not a picture"), "not a picture of a known kind"),
        (data(b""), "not a picture"),
        ("data:image/png;base64,!!!!", "broken base64"),
        ("data:image/png;base64,iVBORw0", "broken base64"),
        ("data:image/png;base64,\u00e9\u00e9", "broken base64"),
        ("data:image/png,abc", "must read data:image/png;base64"),
        ("file:///etc/passwd", "must read data:image/png;base64"),
        ("/etc/passwd", "must read data:image/png;base64"),
        ("http://example.com/a.png", "not fetched by this server"),
        ("HTTPS://example.com/a.png", "not fetched by this server"),
    ],
)
def test_what_is_no_picture_is_refused(server, url, says):
    assert says in message_of(server.post(CHAT, look(url)), 400)


def test_a_truncated_picture_is_refused(server, data_url):
    file = base64.b64decode(data_url.partition(",")[2])
    assert "broken" in message_of(server.post(CHAT, look(data(file[:-40]))), 400)


def test_too_many_pictures_are_refused_before_any_is_decoded(server, data_url):
    text = message_of(server.post(CHAT, look(*[data_url] * 8, data(bomb(9, 9)))), 400)
    assert "9 pictures, the server takes 8" in text


def test_a_large_file_is_refused(serve, data_url):
    with serve(max_image_bytes=50) as server:
        assert "more than 50 bytes" in message_of(server.post(CHAT, look(data_url)), 400)


@pytest.mark.parametrize("has_length", [True, False])
def test_a_large_body_is_refused_however_it_comes(serve, has_length):
    with serve(max_body_bytes=1000) as server:
        body = b"x" * 5000
        content = body if has_length else iter([body])
        response = httpx.post(server.url + CHAT, content=content)
        assert "more than 1,000 bytes" in message_of(response, 413)


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/chat/completions HTT", b"GET /health HTTP/1.1\r\nHost: local"]
)
def test_headers_that_do_not_come_end_the_connection(serve, sent):
    with (
        serve(header_timeout_s=0.3) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        client.sendall(sent)
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
        assert time.monotonic() - began < 5


def test_slow_headers_of_a_second_request_end_the_connection_too(serve):
    with (
        serve(header_timeout_s=0.3) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        for _ in range(2):
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"status":"ok"}'):
                answer += client.recv(10_000)
            time.sleep(0.5)  # a kept-alive connection may rest longer than that
        client.sendall(b"GET /hea")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""


def test_a_body_that_does_not_come_is_refused_and_frees_its_place(serve):
    with (
        serve(body_timeout_s=0.3, max_requests=1) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        assert client.recv(10_000).startswith(b"HTTP/1.1 408 ")
        assert server.post(CHAT, talk(max_tokens=2)).status_code == 200


def test_connections_are_counted(serve):
    with serve(max_connections=3) as server:
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        time.sleep(0.1)
        with pytest.raises(httpx.TransportError):
            server.get("/health")
        for one in held:
            one.close()
        time.sleep(0.1)
        assert server.get("/health").status_code == 200


def test_time_that_is_up_ends_an_answer_with_a_typed_error(serve, slowly, until):
    with serve(deadline_s=0.5) as server:
        slowly(server.engine, 0.1)
        assert "longer than 0.5 seconds" in message_of(
            server.post(CHAT, talk(max_tokens=200, seed=1)), 504
        )
        until(lambda: not server.engine.has_work)
        events = server.post(CHAT, talk(max_tokens=200, seed=1, stream=True)).text.split("\n\n")
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        until(lambda: not server.engine.has_work)


def test_a_step_that_fails_fails_its_requests_alone(serve, monkeypatch, caplog):
    with serve() as server:
        step = server.engine.step
        failures = [RuntimeError("the kernel has a secret"), MemoryError()]

        def failing() -> list:
            if failures:
                raise failures.pop(0)
            return step()

        monkeypatch.setattr(server.engine, "step", failing)
        text = message_of(server.post(CHAT, talk(max_tokens=3)), 500)
        assert "secret" not in text
        assert "secret" in caplog.text
        response = server.post(DRAW, {"prompt": "x"})
        assert "not enough memory" in message_of(response, 503)
        assert response.headers["retry-after"]
        assert server.post(CHAT, talk(max_tokens=3)).status_code == 200
        assert not server.engine.has_work


def test_a_prompt_that_cannot_be_run_fails_alone(serve, monkeypatch):
    with serve() as server:
        model = server.room.janus.model
        embed = model.embed_text

        def out_of_memory(ids):
            if ids.shape[-1] > 40:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return embed(ids)

        monkeypatch.setattr(model, "embed_text", out_of_memory)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            other = pool.submit(server.post, CHAT, talk(max_tokens=40, temperature=1, seed=1))
            assert "not enough memory" in message_of(server.post(CHAT, talk("x" * 100)), 503)
            assert other.result().status_code == 200


def test_work_that_fails_outside_the_engine_fails_alone(serve, monkeypatch):
    with serve() as server:
        monkeypatch.setattr(
            "openjanus.serve.images._png", lambda image: (_ for _ in ()).throw(ZeroDivisionError())
        )
        assert "its log has the reason" in message_of(server.post(DRAW, {"prompt": "x"}), 500)
        assert server.post(CHAT, talk(max_tokens=3)).status_code == 200


def test_keys_are_asked_for_and_limited(serve, slowly, until):
    options = {"api_keys": ("one", "two"), "max_requests_per_key": 1}
    with serve(**options) as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
        one, two = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
        for headers in ({}, {"authorization": "Bearer three"}, {"authorization": "Basic one"}):
            response = server.post(CHAT, talk(), headers=headers)
            assert "no valid API key" in message_of(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
        assert server.get("/v1/models").status_code == 401
        assert server.get("/metrics").status_code == 401
        assert server.get("/health").status_code == 200
        assert server.get("/v1/models", headers=one).status_code == 200
        slowly(server.engine, 0.05)
        held = pool.submit(server.post, CHAT, talk(max_tokens=20, seed=1), headers=one)
        until(lambda: server.engine.num_running == 1)
        refused = server.post(CHAT, talk(), headers=one)
        assert "this key has 1 requests" in message_of(refused, 429)
        assert refused.headers["retry-after"]
        assert server.post(CHAT, talk(max_tokens=2), headers=two).status_code == 200
        assert held.result().status_code == 200


def test_without_keys_other_names_of_the_server_are_refused(server):
    response = server.get("/v1/models", headers={"host": "evil.example"})
    assert "loopback names alone" in message_of(response, 403)
    for name in ("localhost:8000", "[::1]:8000", "127.0.0.1"):
        assert server.get("/v1/models", headers={"host": name}).status_code == 200


def test_other_origins_are_closed_unless_they_are_named(server, serve):
    preflight = {
        "origin": "https://page.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, x-stainless-lang",
    }
    closed = httpx.options(server.url + CHAT, headers=preflight)
    assert closed.status_code == 405
    assert "access-control-allow-origin" not in closed.headers
    with serve(cors_origins=("https://page.example",)) as opened:
        answer = httpx.options(opened.url + CHAT, headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        other = httpx.get(opened.url + "/health", headers={"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> dict:
    """``tls_cert`` and ``tls_key`` of this machine."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run([*made, "-out", cert, "-keyout", key], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    return {"tls_cert": cert, "tls_key": key}


def test_it_speaks_tls(serve, certificate):
    with serve(**certificate) as server:
        context = ssl.create_default_context(cafile=str(certificate["tls_cert"]))
        url = f"https://localhost:{server.port}/health"
        assert httpx.get(url, verify=context).json() == {"status": "ok"}


def test_handshakes_have_a_time_and_are_counted(serve, certificate):
    with serve(**certificate, header_timeout_s=1, max_connections=3) as server:
        silent = [
            socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(6)
        ]
        began = time.monotonic()
        for client in reversed(silent):  # those that are too many are closed at once
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
            if client is silent[3]:
                assert time.monotonic() - began < 0.9
        assert time.monotonic() - began < 8
        context = ssl.create_default_context(cafile=str(certificate["tls_cert"]))
        url = f"https://localhost:{server.port}/health"
        assert httpx.get(url, verify=context).json() == {"status": "ok"}


def test_logs_have_no_prompts_unless_they_are_asked_for(serve, caplog, data_url):
    caplog.set_level("INFO")
    for option in (False, True):
        caplog.clear()
        with serve(log_prompts=option) as server:
            body = look(data_url)
            body["messages"][0]["content"][1]["text"] = "my secret"
            assert server.post(CHAT, body).status_code == 200
            server.post(DRAW, {"prompt": "another secret"})
        lines = [
            json.loads(record.getMessage())
            for record in caplog.records
            if record.name == "openjanus.serve.requests"
        ]
        assert [line["status"] for line in lines] == [200, 200]
        assert lines[0]["completion_tokens"] <= 2
        assert len({line["request_id"] for line in lines}) == 2
        said = json.dumps(lines)
        assert (said.count("secret") == 2) == option
        assert len(said) < 2000
