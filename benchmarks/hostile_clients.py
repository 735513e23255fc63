"""Clients that mean no good, for ``serving.py``: costly bodies, and connections without an end."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

from PIL import Image

PATH = "/v1/chat/completions"
HEAD = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MOST = 16_000_000
"""Bytes, a little fewer than a body may have."""
MESSAGES = [{"role": "user", "content": "hi"}]
TIMEOUT_S = 100.0

Attack = Callable[[int, float], Counter[str]]
"""Goes on at a port until a time of ``time.monotonic``; what came of each attempt: a status,
``cut`` by the server, or ``left``."""


def _posting(make: Callable[[], bytes]) -> Attack:
    """Posts a body again and again."""

    def attack(port: int, end: float) -> Counter[str]:
        body, heard = make(), Counter[str]()
        for number in count():
            if number > 0 and time.monotonic() > end:
                return heard
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            with contextlib.closing(client):
                try:
                    client.request("POST", PATH, body, {"content-type": "application/json"})
                    answer = client.getresponse()
                    answer.read()
                    heard[str(answer.status)] += 1
                except (OSError, http.client.HTTPException):
                    heard["cut"] += 1
        return heard

    return attack


def _with_pictures(number: int, mode: str) -> bytes:
    """A question about pictures as large as they may be, in files of few bytes."""
    file = io.BytesIO()
    Image.new(mode, (4000, 4000)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}] * number
    content.append({"type": "text", "text": "x"})
    return json.dumps(
        {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
    ).encode()


def _with(key: str, value: Any) -> bytes:
    return json.dumps({key: value, "messages": MESSAGES}).encode()


def _with_keys(number: int) -> bytes:
    keys = {f"k{index}": 1 for index in range(number)}
    return json.dumps({**keys, "messages": MESSAGES}).encode()


def _saying(content: str) -> bytes:
    return f'{{"messages": [{{"role": "user", "content": {content}}}]}}'.encode()


def _leave(port: int, end: float) -> Counter[str]:
    """Sends large pictures and goes."""
    body, heard = _with_pictures(2, "I;16"), Counter[str]()
    while time.monotonic() < end or not heard:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as client:
            client.sendall(HEAD % PATH.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(0.05)
        heard["left"] += 1
    return heard


def _do_not_read(port: int, end: float) -> Counter[str]:
    """Asks and asks, and takes no answer."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        while time.monotonic() < end:
            try:
                client.send(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:
                return Counter({"cut": 1})
    return Counter({"left": 1})


def _sending_on(path: str, part: bytes) -> Attack:
    """Sends parts of a body without an end."""

    def attack(port: int, end: float) -> Counter[str]:
        heard: Counter[str] = Counter()
        while time.monotonic() < end or not heard:
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as client:
                with contextlib.suppress(OSError):
                    client.sendall(HEAD % path.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
                    while time.monotonic() < end:
                        client.sendall(part)
                heard["cut" if time.monotonic() < end else "left"] += 1
        return heard

    return attack


ATTACKS: dict[str, Attack] = {
    "a model's name of 16 MB": _posting(
        lambda: _with("model", "ab" * (MOST // 2)),
    ),
    "an unknown key of 16 MB": _posting(
        lambda: _with("ab" * (MOST // 2), 1),
    ),
    "400,000 unknown keys": _posting(lambda: _with_keys(400_000)),
    "15,000 unknown keys": _posting(lambda: _with_keys(15_000)),
    "2,000,000 lists": _posting(
        lambda: _with("metadata", [[]] * 2_000_000),
    ),
    "9,000 empty parts": _posting(lambda: _saying(f"[{', '.join(['{}'] * 9_000)}]")),
    "16 MB of escapes": _posting(lambda: _saying('"' + r"\u0061" * (MOST // 6) + '"')),
    "1.7 MB of escapes": _posting(lambda: _saying('"' + r"\u0061" * 290_000 + '"')),
    "16 MB of words": _posting(lambda: _saying('"' + "a b c d e " * (MOST // 10) + '"')),
    "16 MB of one word": _posting(lambda: _saying('"' + "a" * MOST + '"')),
    "2 MB of Chinese": _posting(lambda: _saying('"' + "字" * 690_000 + '"')),
    "16 MB of spaces": _posting(lambda: b"{" + b" " * MOST + b"}"),
    "pictures of 16 bits": _posting(lambda: _with_pictures(2, "I;16")),
    "pictures with alpha": _posting(lambda: _with_pictures(2, "RGBA")),
    "leaving with pictures": _leave,
    "not reading": _do_not_read,
    "a body of crumbs": _sending_on(PATH, b"1\r\na\r\n" * 20_000),
    "sending on after a 404": _sending_on("/nothing", b"10000\r\n" + b"a" * 65_536 + b"\r\n"),
}
"""By name. Those of fewer bytes are within the limits on what a body is made of, and are parsed."""
