"""What every request passes: who it is, whether there is room, how long it may take.

Plain ASGI, around the whole application, so that a refusal costs nothing: before a body is read a
key has been checked and a place has been taken. Every answer gets a request id, every end a line in
the log and in the metrics.
"""

from __future__ import annotations

import asyncio
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
from openjanus.serve.errors import ApiError
from openjanus.serve.metrics import Metrics
from openjanus.serve.options import ServeOptions, is_loopback
from openjanus.serve.page import is_page_path

LOG = logging.getLogger("openjanus.serve.requests")

WORK_PATHS = ("/v1/chat/completions", "/v1/images/generations")
"""What takes a place."""
FREE_PATHS = ("/health", "/ready", "/openapi.json", "/v1/images/files/")
"""What needs no key: nothing is told there, and a picture's name is as good as a key."""
KNOWN_PATHS = (*WORK_PATHS, "/v1/images/edits", "/v1/images/variations", "/v1/models")
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
    """Which key it came with: the beginning of its hash."""
    status: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """What the application adds: model, tokens, pictures."""


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
        visit = Visit(id=f"req_{uuid.uuid4().hex}", began=time.perf_counter())
        scope.setdefault("state", {})["visit"] = visit

        async def send_marked(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", visit.id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            self._let_in(scope, visit)
            if scope["method"] == "POST" and scope["path"] in WORK_PATHS:
                await self._work(scope, receive, send_marked, visit)
            else:
                await self._app(scope, receive, send_marked)
        except ApiError as error:
            await _refuse(send_marked, error)
        except _Left:
            pass
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
        if self._options.is_open and host and not is_loopback(_name_of(host)):
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

    async def _work(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        self._admission.enter(visit.key)
        self._metrics.inside.set(self._admission.num_inside)
        try:
            body = await self._read(scope, receive)
            await self._answer(scope, body, receive, send, visit)
        finally:
            self._admission.leave(visit.key)
            self._metrics.inside.set(self._admission.num_inside)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, up to the limit.

        Raises:
            ApiError: It is too large, or too slow.
        """
        limit = self._options.max_body_bytes
        too_large = ApiError(
            413, f"the body has more than {limit:,} bytes: send less", code="body_too_large"
        )
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise too_large
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self._options.body_timeout_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Left
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > limit:
                        raise too_large
        except TimeoutError as error:
            raise ApiError(
                408,
                f"the body did not come within {self._options.body_timeout_s:g} seconds",
                code="body_timeout",
            ) from error
        return b"".join(parts)

    async def _answer(
        self, scope: Scope, body: bytes, receive: Receive, send: Send, visit: Visit
    ) -> None:
        """Run the application until it has answered, the client has left, or time is up."""
        left = asyncio.ensure_future(_until_gone(receive))
        messages: list[ASGIMessage] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> ASGIMessage:
            if messages:
                return messages.pop()
            await asyncio.shield(left)
            return {"type": "http.disconnect"}

        answer = asyncio.ensure_future(self._app(scope, replay, send))
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
        path = next((known for known in (*KNOWN_PATHS, *FREE_PATHS) if path == known), "other")
        status = 499 if visit.status is None else visit.status
        self._metrics.requests.labels(path, str(status)).inc()
        if path in WORK_PATHS:
            self._metrics.seconds.labels(path).observe(seconds)
        level = logging.INFO if path not in ("/health", "/ready") else logging.DEBUG
        LOG.log(
            level,
            "%s",
            json.dumps(
                {
                    "request_id": visit.id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "seconds": round(seconds, 4),
                    "key": visit.key,
                    **visit.facts,
                }
            ),
        )


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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
