"""Connections that keep their time: uvicorn waits for headers for ever, and takes any number."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
import weakref
from typing import Any, ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from openjanus.serve.errors import refused
from openjanus.serve.options import ServeOptions

FEW_PARTS = 512
PART_BYTES = 256
"""Parts of a body have at least so many bytes on average, beyond a few: each costs as much time."""


class _Connection(h11.Connection):
    """Reads HTTP, and no body that comes in crumbs."""

    _num_parts = 0
    _num_bytes = 0

    def next_event(self) -> Any:
        """What has come.

        Raises:
            h11.RemoteProtocolError: Not HTTP, or crumbs.
        """
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._num_parts += 1
            self._num_bytes += len(event.data)
            if self._num_parts > FEW_PARTS + self._num_bytes // PART_BYTES:
                raise h11.RemoteProtocolError(f"chunks of less than {PART_BYTES} bytes")
        elif isinstance(event, h11.EndOfMessage):
            self._num_parts = self._num_bytes = 0
        return event


class ImpatientProtocol(H11Protocol):
    """A connection that may be silent between requests for a while, not within their headers."""

    header_timeout_s: float
    write_timeout_s: float
    answer_timeout_s: float
    max_connections: int

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _unread_since = 0.0
    _unread_bytes = 0

    shaking: ClassVar[weakref.WeakKeyDictionary[ImpatientProtocol, float]]
    """Accepted, before the end of a TLS handshake, with the time when that is given up."""

    @classmethod
    def begin(cls, **options: Any) -> ImpatientProtocol:
        """The protocol of an accepted connection.

        Raises:
            ConnectionRefusedError: There are too many; asyncio closes its socket.
        """
        made = cls(**options)
        now = made.loop.time()
        for late in [one for one, end in cls.shaking.items() if end < now]:
            del cls.shaking[late]  # nobody is told of a handshake that failed
        if len(made.connections) + len(cls.shaking) >= cls.max_connections:
            raise ConnectionRefusedError("too many connections")
        cls.shaking[made] = now + cls.header_timeout_s
        return made

    def __init__(self, config: uvicorn.Config, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.conn = _Connection(h11.SERVER)

    def send_400_response(self, msg: str) -> None:
        """What has come is no HTTP that is taken: said as all errors are, where there is room."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()  # in the middle of an answer
            return
        error = refused(f"{msg} Send HTTP/1.1, its body in few and large parts", code="bad_http")
        body = json.dumps(error.envelope()).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            ("x-request-id", f"req_{uuid.uuid4().hex}"),
        ]
        answer = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        events = (answer, h11.Data(data=body), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def connection_made(self, transport: Any) -> None:
        """Somebody has connected."""
        super().connection_made(transport)
        self.shaking.pop(self, None)
        # Whatever the client has not taken is to be heard of, however little it is; at 0 TLS would
        # be paused from the start.
        transport.set_write_buffer_limits(high=1)
        # asyncio does so for sockets of its own making alone; without it an answer's second write
        # waits for the client to acknowledge the first, 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        super().data_received(data)
        self._expect()

    def on_response_complete(self) -> None:
        """An answer has gone out."""
        super().on_response_complete()
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._forget()
        self._stop_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client has not taken all that was written."""
        super().pause_writing()
        if self._unread is None:
            self._unread_since = self.loop.time()
            self._watch()

    def resume_writing(self) -> None:
        """It has."""
        super().resume_writing()
        self._stop_watching()

    def _watch(self) -> None:
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(self.write_timeout_s, self._look)

    def _look(self) -> None:
        """Go on with a client that has taken something, not with one that takes for ever."""
        is_stuck = self.transport.get_write_buffer_size() >= self._unread_bytes
        if is_stuck or self.loop.time() > self._unread_since + self.answer_timeout_s:
            self.transport.abort()
        else:
            self._watch()

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _expect(self) -> None:
        """Give headers their time, from when the first byte of them could have come."""
        # Between two requests uvicorn's own timer runs, until a byte comes.
        if self.conn.their_state is not h11.IDLE or self.timeout_keep_alive_task is not None:
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(self.header_timeout_s, self._give_up)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self.conn.their_state is h11.IDLE:
            self.transport.abort()


def protocol_class(options: ServeOptions) -> type[ImpatientProtocol]:
    """The protocol with a server's limits: uvicorn takes a class."""
    limits = {
        "header_timeout_s": options.header_timeout_s,
        "write_timeout_s": options.write_timeout_s,
        "answer_timeout_s": options.deadline_s,
        "max_connections": options.max_connections,
        "shaking": weakref.WeakKeyDictionary(),
    }
    return type("Connection", (ImpatientProtocol,), limits)
