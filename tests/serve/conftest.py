"""A server of the tiny Janus, in threads of the test's own process."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from PIL import Image

from openjanus.engine.engine import Engine
from openjanus.pipeline import Janus
from openjanus.serve.metrics import Metrics
from openjanus.serve.options import ServeOptions
from openjanus.serve.room import Room
from openjanus.serve.server import DrainingServer, build_server, listening_socket


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    url: str
    port: int
    room: Room
    client: httpx.Client
    server: DrainingServer

    @property
    def engine(self) -> Engine:
        return self.room.thread.engine

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.client.post(path, json=body, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)


@contextlib.contextmanager
def running(janus: Janus, **options: Any) -> Iterator[Running]:
    chosen = ServeOptions(model_names=("tiny", "org/tiny"), port=0, **options)
    with (
        listening_socket(chosen) as listening,
        Room(janus, max_jobs=chosen.max_requests, metrics=Metrics()) as room,
    ):
        server = build_server(room, chosen)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        port = listening.getsockname()[1]
        try:
            wait_until(lambda: server.started)
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=60, verify=False) as client:
                yield Running(url, port, room, client, server)
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def wait_until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """``until(condition, seconds=20)`` waits."""
    return wait_until


@pytest.fixture(scope="session")
def serve(janus: Janus) -> Callable[..., contextlib.AbstractContextManager[Running]]:
    """``with serve(option=...) as server``."""
    return lambda **options: running(janus, **options)


@pytest.fixture(scope="session")
def server(janus: Janus) -> Iterator[Running]:
    """With the options as they are."""
    with running(janus) as server:
        yield server


@pytest.fixture(scope="session")
def data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """``slowly(engine, seconds)`` makes its steps take time; the list grows with each."""

    def change(engine: Engine, seconds: float = 0.05) -> list[int]:
        steps: list[int] = []
        step = engine.step

        def slow() -> list[Any]:
            events = step()
            time.sleep(seconds)
            steps.append(len(events))
            return events

        monkeypatch.setattr(engine, "step", slow)
        return steps

    return change
