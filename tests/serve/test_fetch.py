from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from openjanus.serve.errors import ApiError
from openjanus.serve.fetch import MAX_FETCHES, Fetcher, is_public

PLACES = {
    "/to-private": "http://127.0.0.2:{port}/picture",
    "/to-metadata": "http://169.254.169.254/latest",
    "/to-name": "http://inside.test:{port}/picture",
    "/to-picture": "/picture",
    "/to-itself": "/to-itself",
    "/to-file": "file:///etc/passwd",
}


class Handler(BaseHTTPRequestHandler):
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        type(self).asked.append((self.path, self.headers["host"]))
        if self.path in PLACES:
            assert isinstance(self.server, ThreadingHTTPServer)
            port = self.server.server_port
            self.send_response(302)
            self.send_header("Location", PLACES[self.path].format(port=port))
            self.end_headers()
            return
        if self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                threading.Event().wait(0.05)
            return
        self.send_response(404 if self.path == "/none" else 200)
        self.end_headers()
        self.wfile.write(b"x" * (5000 if self.path == "/large" else 10))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


@pytest.fixture
def web() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://public.test:{server.server_port}", Handler.asked
        server.shutdown()
        thread.join()


class Names:
    """A name service that tells something else every time it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host == "public.test":
            return ["127.0.0.1"] if self.asked.count(host) == 1 else ["127.0.0.2"]
        return ["127.0.0.2"] if host == "inside.test" else [host]


def fetcher(names: Names, *, timeout_s: float = 5) -> Fetcher:
    return Fetcher(
        max_bytes=1000,
        timeout_s=timeout_s,
        resolve=names,
        allows=lambda address: address == "127.0.0.1",
        ports=None,
    )


def test_a_picture_is_read_from_the_address_that_was_looked_up_once(web):
    url, asked = web
    names = Names()
    assert fetcher(names)(f"{url}/picture?a=b#c") == b"x" * 10
    assert names.asked == ["public.test"]
    assert asked == [("/picture?a=b", url.removeprefix("http://"))]


@pytest.mark.parametrize("path", ["/to-private", "/to-metadata", "/to-name"])
def test_a_redirect_leads_to_no_private_address(web, path):
    url, asked = web
    with pytest.raises(ApiError, match="must be a public one"):
        fetcher(Names())(url + path)
    assert [place for place, _ in asked] == [path]


def test_a_name_is_looked_up_again_where_a_redirect_leads(web):
    url, _ = web
    with pytest.raises(ApiError, match="must be a public one"):  # the second look-up is private
        fetcher(Names())(f"{url}/to-picture")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/to-file", "must be http or https"),
        ("/none", "status 404"),
        ("/large", "more than 1,000 bytes"),
    ],
)
def test_what_cannot_be_read_is_refused(web, path, says):
    with pytest.raises(ApiError, match=says):
        fetcher(Names())(web[0] + path)


def test_redirects_come_to_an_end(web):
    always = Fetcher(
        max_bytes=9,
        timeout_s=5,
        resolve=lambda *_: ["127.0.0.1"],
        allows=lambda _: True,
        ports=None,
    )
    with pytest.raises(ApiError, match="leads on more than 3 times"):
        always(f"{web[0]}/to-itself")


def test_a_slow_answer_ends_in_time(web):
    with pytest.raises(ApiError, match="could not be read"):
        fetcher(Names(), timeout_s=0.4)(f"{web[0]}/slow")


DRIPS = {
    "headers": (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a"),
    "body": (b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
}


@pytest.mark.parametrize("how", DRIPS)
def test_what_drips_ends_in_time_and_so_does_its_thread(how):
    first, drop = DRIPS[how]
    ended = threading.Event()

    def drip(listening: socket.socket) -> None:
        client = listening.accept()[0]
        with client, contextlib.suppress(OSError):
            client.recv(1000)
            client.sendall(first)
            for _ in range(400):
                client.sendall(drop)
                time.sleep(0.02)
        ended.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        fetch, began = fetcher(Names(), timeout_s=0.3), time.monotonic()
        with pytest.raises(ApiError, match="could not be read"):
            fetch(f"http://public.test:{listening.getsockname()[1]}/a")
        assert time.monotonic() - began < 2
        assert ended.wait(5)  # its connection was closed
        thread.join()


def test_a_name_that_is_looked_up_for_long_holds_nobody_up():
    may_go_on = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        may_go_on.wait(20)
        return []

    fetch, began = Fetcher(max_bytes=9, timeout_s=0.1, resolve=resolve), time.monotonic()
    for _ in range(MAX_FETCHES + 2):  # threads that are held up are no more than these
        with pytest.raises(ApiError, match="could not be read"):
            fetch("http://public.test/a")
    assert time.monotonic() - began < 5
    may_go_on.set()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1/a.png", "must be a public one"),
        ("http://localhost/a.png", "must be a public one"),
        ("http://[::1]/a.png", "must be a public one"),
        ("http://10.0.0.1/a.png", "must be a public one"),
        ("http://2130706433/a.png", "must be a public one"),
        ("http://0x7f.1/a.png", "must be a public one"),
        ("http://127.0.0.1:22/a.png", "cannot have port 22"),
        ("http://user:word@8.8.8.8/a.png", "cannot hold a user name"),
        ("http://[::1/a.png", "could not be read"),
        ("http:///a.png", "must be http or https"),
        ("ftp://8.8.8.8/a.png", "must be http or https"),
        ("http://8.8.8.8:99999/a.png", "could not be read"),
    ],
)
def test_addresses_of_this_machine_are_refused(url, says):
    with pytest.raises(ApiError, match=says):
        Fetcher(max_bytes=9, timeout_s=5)(url)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1"),
        *("::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2001::1"),
        *("2001:db8::1", "name", "", "168.63.129.16", "192.0.0.192", "fec0::1"),
    ],
)
def test_private_addresses_are_known(address):
    assert not is_public(address)


def test_a_private_name_and_none_at_all_are_told_alike():
    said = []
    for found in ([], ["10.0.0.1"], OSError("no such name")):

        def resolve(host: str, port: int, found=found) -> list[str]:
            if isinstance(found, OSError):
                raise found
            return found

        with pytest.raises(ApiError) as refused:
            Fetcher(max_bytes=9, timeout_s=5, resolve=resolve)("http://some.test/a")
        said.append(refused.value.message)
    assert len(set(said)) == 1


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "64:ff9b::808:808"]
)
def test_public_addresses_are_known(address):
    assert is_public(address)


def test_the_server_fetches_only_when_it_is_told_to(serve):
    body = {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}],
            }
        ]
    }
    for option, says in ((False, "not fetched by this server"), (True, "must be a public one")):
        with serve(fetch_images=option) as server:
            response = server.post("/v1/chat/completions", body)
            assert response.status_code == 400
            assert says in response.json()["error"]["message"]
