"""A server in a process of its own, and who watches it from outside; for ``serving.py``."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from openjanus.bench.load_result import Times, times_of

PROBE = Path(__file__).with_name("health_probe.py")
START_S = 180.0
SAMPLE_S = 1.0
MIB = 2**20


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    """Whether it came about in time."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class Served:
    """``openjanus serve`` as a process; started anew where a supervisor is asked for.

    Args:
        options: Of the command.
        is_supervised: Whether it is started again when it ends, as long as this lives.
    """

    def __init__(self, options: Sequence[str], *, is_supervised: bool = False) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._command = [
            *(sys.executable, "-c", "import sys; from openjanus.cli import main; sys.exit(main())"),
            *("serve", "--port", str(self.port), *options),
        ]
        self.url = f"http://127.0.0.1:{self.port}"
        self.num_starts = 0
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed in stop
        self._is_wanted = True
        self._is_supervised = is_supervised
        self._process = self._start()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        if is_supervised:
            self._supervisor.start()

    def _start(self) -> subprocess.Popen[str]:
        self.num_starts += 1
        return subprocess.Popen(self._command, stderr=self._log, text=True, env=_environment())

    def _supervise(self) -> None:
        while self._is_wanted:
            if self._process.poll() is not None and self._is_wanted:
                self._process = self._start()
            time.sleep(0.05)

    def wait_ready(self) -> float:
        """Seconds until requests are taken.

        Raises:
            RuntimeError: It is not in time; the message is the end of its log.
        """
        began = time.monotonic()
        if not wait_until(self._is_ready, START_S):
            raise RuntimeError(f"the server does not start: {self.log()[-2000:]}")
        return time.monotonic() - began

    def _is_ready(self) -> bool:
        if not self._is_supervised and self._process.poll() is not None:
            raise RuntimeError(f"the server has ended: {self.log()[-2000:]}")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
        return False

    def kill(self) -> None:
        """As the kernel does where memory is short."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self._is_wanted = False
        if self._is_supervised:
            self._supervisor.join()
        self._process.terminate()
        try:
            return self._process.wait(90)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._log.close()

    def log(self) -> str:
        """What it has written."""
        self._log.seek(0)
        return self._log.read()

    def resident_bytes(self) -> int:
        """Of its memory; 0 where it is not there."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
            found = re.search(r"VmRSS:\s*(\d+) kB", status)
            return int(found[1]) * 1024 if found else 0
        return 0

    def gauge(self, name: str) -> float:
        """One of the numbers at ``/metrics``."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        found = re.search(rf"^openjanus_{name} (\S+)$", text, re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def is_empty(self) -> bool:
        """Whether nobody is inside, and the engine has nothing to do."""
        return all(self.gauge(name) == 0 for name in ("requests_inside", "running", "waiting"))


@dataclass(slots=True)
class Seen:
    """What a watcher saw: by status, as ``health_probe`` tells it, how many and how long."""

    times: dict[int, Times] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)


@contextlib.contextmanager
def watched(
    server: Served,
    path: str = "/health",
    body: str | None = None,
    *,
    interval_s: float = 0.05,
    patience_s: float = 60.0,
) -> Iterator[Seen]:
    """Somebody asks from a process of its own, and notes memory, until the block ends."""
    command = [sys.executable, str(PROBE), "127.0.0.1", str(server.port), path]
    command += ["--interval", str(interval_s), "--patience", str(patience_s)]
    command += [] if body is None else ["--body", body]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    seen, is_over = Seen(), threading.Event()

    def sample() -> None:
        while not is_over.wait(SAMPLE_S):
            seen.memory.append(server.resident_bytes() // MIB)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield seen
    finally:
        is_over.set()
        sampler.join()
        output, _ = process.communicate()  # which ends its stdin
        found: dict[int, list[float]] = {}
        for line in output.splitlines():
            status, seconds = line.split()
            found.setdefault(int(status), []).append(float(seconds))
        for status, seconds in found.items():
            times = times_of(seconds)
            assert times is not None
            seen.times[status] = times
