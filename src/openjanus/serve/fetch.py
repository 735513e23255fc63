"""Pictures at http addresses, fetched for clients: never from where only this machine can look.

A name is looked up once, all that it stands for must be public, and the connection goes to one of
these addresses; so no second look-up can lead elsewhere. Each redirect is treated as a new address.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from urllib.parse import SplitResult, urljoin, urlsplit

from openjanus.serve.errors import ApiError, refused

MAX_REDIRECTS = 3
MAX_FETCHES = 8
"""At once; more wait. A name that is looked up cannot be given up, and keeps its thread."""
PORTS = {"http": 80, "https": 443}
_INSIDE = [
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's wire server
        "192.0.0.0/24",  # of protocols; Oracle's metadata
        "fec0::/10",  # site-local, of old
    )
]
"""Not of everybody, whatever ``is_global`` says."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def is_public(text: str) -> bool:
    """Whether an address is one that everybody on the internet reaches alike."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None:
            return False
        if inner is not None:
            address = inner
    if any(address in network for network in _INSIDE):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class Fetcher:
    """Reads what an address holds.

    Args:
        max_bytes: Of an answer.
        timeout_s: For everything, redirects included.
        resolve: The addresses of a name.
        allows: Whether an address may be connected to.
        ports: Ports that may be, of every scheme; None allows all.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        timeout_s: float,
        resolve: Callable[[str, int], list[str]] = resolve,
        allows: Callable[[str], bool] = is_public,
        ports: tuple[int, ...] | None = tuple(PORTS.values()),
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._allows = allows
        self._ports = ports
        self._free = threading.BoundedSemaphore(MAX_FETCHES)

    def __call__(self, url: str) -> bytes:
        """The bytes at an address.

        Raises:
            ApiError: It is not public, does not answer in time, or holds too much.
        """
        attempt = _Attempt(time.monotonic() + self._timeout_s)
        if not self._free.acquire(timeout=self._timeout_s):
            raise _unreadable()
        # A thread of its own: whatever it is held up by, nobody waits longer than was said.
        threading.Thread(target=self._run, args=(url, attempt), daemon=True).start()
        try:
            found = attempt.found.get(timeout=max(0.0, attempt.end - time.monotonic()))
        except Empty as error:
            raise _unreadable() from error
        finally:
            attempt.give_up()
        if isinstance(found, ApiError):
            raise found
        return found

    def _run(self, url: str, attempt: _Attempt) -> None:
        found: bytes | ApiError = _unreadable()
        try:
            found = self._follow(url, attempt)
        except ApiError as error:
            found = error
        finally:
            attempt.found.put(found)
            self._free.release()

    def _follow(self, url: str, attempt: _Attempt) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            try:
                found = self._get(url, attempt)
            except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
                # Why exactly would tell a client what there is around the server.
                raise _unreadable() from error
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise refused(f"the picture's address leads on more than {MAX_REDIRECTS} times")

    def _get(self, url: str, attempt: _Attempt) -> bytes | str:
        """The bytes at an address, or where it leads on to."""
        parts = urlsplit(url)
        port = PORTS.get(parts.scheme) if parts.port is None else parts.port
        if parts.scheme not in PORTS or parts.hostname is None or port is None:
            raise refused("a picture's address must be http or https")
        if parts.username is not None or parts.password is not None:
            raise refused("a picture's address cannot hold a user name")
        if self._ports is not None and port not in self._ports:
            raise refused(f"a picture's address cannot have port {port}")
        addresses = self._resolve(parts.hostname, port)
        if not addresses or not all(map(self._allows, addresses)):
            raise _unreadable()
        connection = _connect(parts, addresses[0], port, attempt)
        try:
            target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
            headers = {"Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            location = answer.getheader("location")
            if 300 <= answer.status < 400 and location is not None:
                return location
            if answer.status != 200:
                raise refused(f"the picture's address answers with status {answer.status}")
            return self._read(answer)
        finally:
            connection.close()

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := answer.read1(65536):
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise refused(f"the picture's file has more than {self._max_bytes:,} bytes")
        return b"".join(parts)


class _Attempt:
    """Somebody waits for an address until a time, and then ends what reads it."""

    def __init__(self, end: float) -> None:
        self.end = end
        self.found: SimpleQueue[bytes | ApiError] = SimpleQueue()
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._is_over = False

    def hold(self, sock: socket.socket) -> None:
        """A connection that is to end with the attempt."""
        with self._lock:
            self._sock = sock
            if self._is_over:
                raise TimeoutError

    def give_up(self) -> None:
        """End the connection, however slowly it drips: its reader wakes up."""
        with self._lock, contextlib.suppress(OSError):
            self._is_over = True
            if self._sock is not None:
                # Not the method of a TLS socket, which would take its state away from the reader.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


def _unreadable() -> ApiError:
    """One answer for all reasons: another for each would tell which names there are inside."""
    return refused(
        "the picture's address could not be read; it must be a public one: send it as data:"
    )


def _left(end: float) -> float:
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _connect(
    parts: SplitResult, address: str, port: int, attempt: _Attempt
) -> http.client.HTTPConnection:
    """A connection to an address, which is asked for a name."""
    assert parts.hostname is not None
    left = _left(attempt.end)
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=left)
    sock = socket.create_connection((address, port), timeout=left)
    try:
        if parts.scheme == "https":
            context = ssl.create_default_context()
            sock = context.wrap_socket(
                sock, server_hostname=parts.hostname, do_handshake_on_connect=False
            )
            attempt.hold(sock)
            sock.do_handshake()
        attempt.hold(sock)
    except OSError:
        sock.close()
        raise
    connection.sock = sock
    return connection
