"""uvicorn around the application: signals, TLS, slow connections, logs."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import logging
import math
import signal
import socket
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

import uvicorn

from openjanus.bench.machine import read_bandwidth
from openjanus.engine.options import EngineOptions
from openjanus.pipeline import Janus
from openjanus.rules import require
from openjanus.serve.admission import Admission
from openjanus.serve.app import build_app
from openjanus.serve.connection import ImpatientProtocol, protocol_class
from openjanus.serve.gate import LogLine
from openjanus.serve.metrics import Metrics
from openjanus.serve.options import MIB, ServeOptions
from openjanus.serve.room import Room

if sys.platform != "win32":
    import resource

LOG = logging.getLogger("openjanus.serve")

KEEP_ALIVE_S = 15
BACKLOG = 2048
ACCEPTED_AT_ONCE = 32
SPARE_FILES = 64 + ACCEPTED_AT_ONCE
"""Descriptors that are not connections, and connections that are about to be refused."""
SWITCH_S = 0.001
"""After which a thread that computes in Python hands on: the event loop waits that long for each of
them whenever it has something to do, and Python's own 5 ms add up to a late answer."""
BANDWIDTH_BLOCK_BYTES = 256 * MIB
"""Past the caches; given back before anybody is served."""
LAST_WORDS_S = 1.0
"""Before the end of a drain, for errors to go out."""


class _JsonLines(logging.Formatter):
    """A line of JSON a record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        # logging takes a single mapping for all of its arguments.
        line |= record.args if isinstance(record.args, LogLine) else {"text": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def log_to_stderr() -> None:
    """Send what the server and uvicorn log to stderr, a line of JSON each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in ("openjanus.serve", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


class DrainingServer(uvicorn.Server):
    """Refuses new requests from the first signal on, and lets the running ones end."""

    def __init__(
        self, config: uvicorn.Config, admission: Admission, room: Room, drain_s: float
    ) -> None:
        super().__init__(config)
        self._admission = admission
        self._room = room
        self._drain_s = drain_s
        self._stop_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; uvicorn gives TLS handshakes a minute and no limit, and takes 2048 at a time."""
        assert sockets is not None
        loop, config = asyncio.get_running_loop(), self.config
        kind = config.http_protocol_class
        assert isinstance(kind, type) and issubclass(kind, ImpatientProtocol)
        self.lifespan = config.lifespan_class(config)
        self.servers = []
        timeout = None if config.ssl is None else kind.header_timeout_s

        def protocol() -> ImpatientProtocol:
            return kind.begin(config=config, server_state=self.server_state, app_state={})

        for listening in sockets:
            self.servers.append(
                await loop.create_server(
                    protocol,
                    sock=listening,
                    ssl=config.ssl,
                    ssl_handshake_timeout=timeout,
                    ssl_shutdown_timeout=timeout,
                    backlog=ACCEPTED_AT_ONCE,
                )
            )
            listening.listen(BACKLOG)  # asyncio has set the kernel's queue to what it accepts
        self.started = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM, or Ctrl-C; a second one does not wait."""
        self._admission.is_draining = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop listening: not before what runs has ended, or its time is over.

        Until then whoever asks is told that the server stops, by ``/ready`` too; requests that run
        are told that time is up before uvicorn would cut them.
        """
        if not await super().on_tick(counter):
            return False
        now = asyncio.get_running_loop().time()
        if self._stop_at is None:
            self._admission.is_draining = True
            self._stop_at = now + self._drain_s
            self._room.stop_within(max(self._drain_s - LAST_WORDS_S, self._drain_s / 2))
        is_over = now >= self._stop_at or self._admission.num_inside == 0
        return self.force_exit or is_over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening; answers that are still being sent have what is left of the time."""
        now = asyncio.get_running_loop().time()
        left = 0.0 if self._stop_at is None else self._stop_at - now
        self.config.timeout_graceful_shutdown = max(1, math.ceil(left))
        await super().shutdown(sockets)


def build_server(room: Room, options: ServeOptions) -> DrainingServer:
    """A server that is ready to run.

    Args:
        room: Entered by the caller.
        options: How it is run.
    """
    admission = Admission(
        options.max_requests,
        limit_per_key=options.max_requests_per_key,
        per_minute=options.requests_per_minute,
        clock=time.monotonic,
    )
    config = uvicorn.Config(
        build_app(room, options, admission),
        host=options.host,
        port=options.port,
        http=protocol_class(options),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, math.ceil(options.drain_s)),
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )
    return DrainingServer(config, admission, room, options.drain_s)


def listening_socket(options: ServeOptions) -> socket.socket:
    """Where clients connect.

    Raises:
        OSError: The address is taken, or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(
            f"cannot serve {options.host} port {options.port} ({error.strerror}): "
            "choose another --port or --host"
        ) from error


def fit_to_files(options: ServeOptions) -> ServeOptions:
    """Options whose connections this process may have files for; its soft limit is raised for it.

    Without a file left, nobody could connect and each attempt would be logged.

    Raises:
        ValueError: There are not even files for one.
    """
    if sys.platform == "win32":
        return options
    wanted = options.max_connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return options
    most = soft - SPARE_FILES
    require(
        most >= 1, f"the limit of open files must be > {SPARE_FILES}, got {soft}: raise ulimit -n"
    )
    LOG.warning(
        "%d connections at most, not %d: the limit of open files is %d (ulimit -Hn)",
        *(most, options.max_connections, soft),
    )
    return dataclasses.replace(options, max_connections=most)


def run(
    janus: Janus,
    options: ServeOptions,
    *,
    engine_options: EngineOptions | None = None,
    beside: Mapping[str, Janus] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, and end when what runs has been answered.

    Args:
        janus: The model.
        options: How it is served.
        engine_options: How much runs at once.
        beside: Models of the same weights with adapters, by ``options.adapter_names``.

    Raises:
        OSError: The address is taken.
    """
    log_to_stderr()
    options = fit_to_files(options)
    gc.collect()
    sys.setswitchinterval(SWITCH_S)
    metrics = Metrics(read_bandwidth(janus.device, BANDWIDTH_BLOCK_BYTES))
    gc.freeze()  # else a full collection walks the model's objects while nobody is answered
    with (
        listening_socket(options) as listening,
        Room(
            janus,
            max_jobs=options.max_requests,
            metrics=metrics,
            engine_options=engine_options,
            beside=beside,
        ) as room,
    ):
        server = build_server(room, options)
        # A signal may come before uvicorn listens to it, and uvicorn raises it again when it has
        # stopped: that it came is no failure.
        signal.signal(signal.SIGTERM, server.handle_exit)
        where = listening.getsockname()[:2]
        scheme = "http" if options.tls_cert is None else "https"
        LOG.info("serving %s on %s://%s:%s", options.model_names[0], scheme, *where)
        server.run(sockets=[listening])
