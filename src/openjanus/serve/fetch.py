"""Pictures at http addresses, fetched for clients: never from where only this machine can look.

A name is looked up once, all that it stands for must be public, and the connection goes to one of
these addresses; so no second look-up can lead elsewhere. Each redirect is treated as a new address.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from urllib.parse import SplitResult, urljoin, urlsplit

from openjanus.serve.errors import refused

MAX_REDIRECTS = 3
PORTS = {"http": 80, "https": 443}
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

    def __call__(self, url: str) -> bytes:
        """The bytes at an address.

        Raises:
            ApiError: It is not public, does not answer, or holds too much.
        """
        end = time.monotonic() + self._timeout_s
        for _ in range(MAX_REDIRECTS + 1):
            try:
                found = self._get(url, end)
            except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
                # Why exactly would tell a client what there is around the server.
                raise refused("the picture's address could not be read: send it as data:") from (
                    error
                )
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise refused(f"the picture's address leads on more than {MAX_REDIRECTS} times")

    def _get(self, url: str, end: float) -> bytes | str:
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
            raise refused("a picture's address must be a public one: send the picture as data:")
        connection = _connect(parts, addresses[0], port, end)
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
            return self._read(answer, connection, end)
        finally:
            connection.close()

    def _read(
        self, answer: http.client.HTTPResponse, connection: http.client.HTTPConnection, end: float
    ) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            if connection.sock is not None:
                connection.sock.settimeout(_left(end))
            part = answer.read1(65536)
            if not part:
                return b"".join(parts)
            _left(end)
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise refused(f"the picture's file has more than {self._max_bytes:,} bytes")


def _left(end: float) -> float:
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _connect(parts: SplitResult, address: str, port: int, end: float) -> http.client.HTTPConnection:
    """A connection to an address, which is asked for a name."""
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=_left(end))
    sock = socket.create_connection((address, port), timeout=_left(end))
    try:
        if parts.scheme == "https":
            context = ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=parts.hostname)
    except OSError:
        sock.close()
        raise
    connection.sock = sock
    return connection
