"""What every request passes: who it is, whether there is room, how long it may take.

Plain ASGI, around the whole application, so that a refusal costs nothing: before a body is read a
key has been checked and a place has been taken. Every answer gets a request id, every end a line in
the log and in the metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from openjanus.serve.admission import Admission
from openjanus.serve.bodies import BodyMeter
from openjanus.serve.errors import ApiError, stopping
from openjanus.serve.metrics import Metrics
from openjanus.serve.options import ServeOptions, is_loopback
from openjanus.serve.page import is_page_path

LOG = logging.getLogger("openjanus.serve.requests")

WORK_PATHS = ("/v1/chat/completions", "/v1/images/generations")
"""What takes a place."""
FREE_PATHS = ("/health", "/ready", "/openapi.json", "/v1/images/files/")
"""What needs no key: nothing is told there, and a picture's name is as good as a key."""
KNOWN_PATHS = (*WORK_PATHS, "/v1/images/edits", "/v1/images/variations", "/v1/models")
NAMED_PATHS = ("/v1/models/", "/v1/images/files/")
"""What a name follows, which is counted for all names together."""
GRACE_S = 10.0
"""Past the deadline, for a client to read that it has passed."""

Scope = MutableMapping[str, Any]
ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class Visit:
    """A request on its way through, for the log."""

    id: str
    began: float
    key: str = ""
    """Which key it came with, for the log: the beginning of its hash."""
    name: str = ""
    """Whom it is counted for: one of the server's keys, or all clients where there are none."""
    body: bytes = b""
    """Read and measured, of a request that takes a place; who parses it takes it away."""
    has_body: bool = False
    """Whether there is, or may be, something of a body that has not been read."""
    places: int = 1
    """That it takes."""
    ended: asyncio.Future[None] | None = None
    """Done when nothing is worked on for it any more."""
    is_out: bool = False
    """Whether its places have been given back."""
    status: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """What the application adds: model, tokens, pictures."""


class LogLine(dict[str, Any]):
    """What the log says of a request; JSON where it is written as text."""

    def __or__(self, other: Any) -> LogLine:
        return LogLine({**self, **other})

    def __str__(self) -> str:
        return json.dumps(self)


class _Left(Exception):
    """The client went away before its body was whole."""


class Gate:
    """Around the application.

    Args:
        app: What answers.
        options: The limits.
        admission: Who is inside.
        metrics: Where answers are counted.
    """

    def __init__(
        self, app: Application, *, options: ServeOptions, admission: Admission, metrics: Metrics
    ) -> None:
        self._app = app
        self._options = options
        self._admission = admission
        self._metrics = metrics
        self._keys = [hashlib.sha256(key.encode()).digest() for key in options.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        visit = Visit(id=f"req_{uuid.uuid4().hex}", began=time.perf_counter())
        visit.has_body = (
            headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        )
        if scope["method"] == "HEAD":  # as GET; uvicorn, which keeps its own, sends no body
            scope = {**scope, "method": "GET"}
        scope.setdefault("state", {})["visit"] = visit

        async def send_marked(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", visit.id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    *([(b"connection", b"close")] if self._closes(visit) else []),
                ]
            elif visit.has_body and not message.get("more_body", False):
                # The answer is out; its end, after which the connection is closed, waits a little.
                await send({**message, "more_body": True})
                await self._linger(receive)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        try:
            self._let_in(scope, visit)
            if scope["method"] == "POST" and scope["path"] in WORK_PATHS:
                await self._work(scope, receive, send_marked, visit)
            else:
                await self._app(scope, receive, send_marked)
        except ApiError as error:
            visit.facts["error"] = error.code
            visit.has_body = visit.has_body and not await _is_here(headers, receive)
            await _refuse(send_marked, error)
        except _Left:
            pass
        except asyncio.CancelledError:  # the time that the server had to stop is over
            if visit.status is None:
                visit.has_body = False
                await _refuse(send_marked, stopping())
        finally:
            self._record(scope, visit)

    def _let_in(self, scope: Scope, visit: Visit) -> None:
        """Check who asks.

        Raises:
            ApiError: No such key; or, where there are none, a name of this server that is not its
                own: a page in a browser may have been led here.
        """
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self._options.is_open and host and not is_loopback(_name_of(host).lower()):
            raise ApiError(
                403,
                f"this server answers to loopback names alone, got {host!r}: set an API key to "
                "serve others",
                code="wrong_host",
            )
        given = headers.get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        visit.key = digest.hex()[:8] if key else ""
        if self._options.is_open or scope["method"] == "OPTIONS":
            return
        if scope["path"].startswith(FREE_PATHS) or is_page_path(scope["path"]):
            return
        # All are compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._keys]
        if scheme.lower() != b"bearer" or not any(matches):
            visit.key = ""
            raise ApiError(
                401,
                "no valid API key: send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
            )
        visit.name = str(matches.index(True))

    async def _work(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        self._admission.enter(visit.name)
        self._metrics.inside.set(self._admission.num_inside)

        async def send_on(message: ASGIMessage) -> None:
            # Before the last byte: who has his answer whole may ask again at once.
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            if is_last and (visit.ended is None or visit.ended.done()):
                self._leave(visit)
            await send(message)

        try:
            visit.body = await self._read(scope, receive)
            visit.has_body = False
            await self._answer(scope, receive, send_on, visit)
        finally:
            # Work that was begun goes on for a moment after its client has left.
            if visit.ended is None or visit.ended.done():
                self._leave(visit)
            else:
                visit.ended.add_done_callback(lambda _: self._leave(visit))

    def _closes(self, visit: Visit) -> bool:
        """Whether a connection ends with its answer."""
        return visit.has_body or self._admission.is_draining

    def _leave(self, visit: Visit) -> None:
        if visit.is_out:
            return
        visit.is_out = True
        self._admission.leave(visit.name, visit.places)
        self._metrics.inside.set(self._admission.num_inside)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, up to the limit.

        Raises:
            ApiError: It is too large, too slow, or would take too long to parse.
        """
        meter = BodyMeter(self._options.max_body_bytes)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit():
            meter.expect(int(length))
        parts: list[bytes] = []
        more = True
        try:
            async with asyncio.timeout(self._options.body_timeout_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Left
                    parts.append(message.get("body", b""))
                    meter.add(parts[-1])
                    more = message.get("more_body", False)
        except TimeoutError as error:
            raise ApiError(
                408,
                f"the body did not come within {self._options.body_timeout_s:g} seconds",
                code="body_timeout",
            ) from error
        return b"".join(parts)

    async def _linger(self, receive: Receive) -> None:
        """Take what is left of a body for a while: to close at once would take back the answer."""
        left = self._options.max_body_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.linger_s):
                while left > 0:
                    message = await receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))

    async def _answer(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        """Run the application until it has answered, the client has left, or time is up."""
        left = asyncio.ensure_future(_until_gone(receive))

        async def until_left() -> ASGIMessage:
            await asyncio.shield(left)
            return {"type": "http.disconnect"}

        answer = asyncio.ensure_future(self._app(scope, until_left, send))
        try:
            await asyncio.wait(
                {answer, left},
                return_when=asyncio.FIRST_COMPLETED,
                timeout=self._options.deadline_s + GRACE_S,
            )
            if not answer.done():
                # Gone, or too slow a reader. Its work is given up where it is cancelled.
                visit.status = 499
                answer.cancel()
            await asyncio.gather(answer, return_exceptions=visit.status == 499)
        finally:
            for task in (answer, left):
                task.cancel()
            await asyncio.gather(answer, left, return_exceptions=True)

    def _record(self, scope: Scope, visit: Visit) -> None:
        seconds = time.perf_counter() - visit.began
        path = scope["path"]
        # A client's own paths would make as many series as it likes.
        known = (*KNOWN_PATHS, *FREE_PATHS)
        named = [one for one in NAMED_PATHS if path.startswith(one)]
        path = path if path in known else f"{named[0]}..." if named else "other"
        status = 499 if visit.status is None else visit.status
        self._metrics.requests.labels(path, str(status)).inc()
        if "error" in visit.facts:  # a stream's status was 200 before it failed
            self._metrics.errors.labels(path, str(visit.facts["error"])).inc()
        if path in WORK_PATHS:
            self._metrics.seconds.labels(path).observe(seconds)
        level = logging.INFO if path not in ("/health", "/ready") else logging.DEBUG
        line = LogLine(
            request_id=visit.id,
            method=scope["method"],
            path=scope["path"],
            status=status,
            seconds=round(seconds, 4),
            key=visit.key,
        )
        LOG.log(level, "%s", line | visit.facts)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _is_here(headers: dict[bytes, bytes], receive: Receive) -> bool:
    """Whether all that is left of a body has come; nothing is waited for.

    Who was refused then keeps his connection: to connect anew costs both sides, and him a turn of
    the event loop for each step of it, more than the refusal.
    """
    if b"expect" in headers:  # he waits to be told that he may send it
        return False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            return not (await receive()).get("more_body", False)
    return False


async def _refuse(send: Send, error: ApiError) -> None:
    body = json.dumps(error.envelope(), ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(k.encode(), v.encode()) for k, v in (headers | error.headers).items()],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _name_of(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
