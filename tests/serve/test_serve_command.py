"""The command as a process: it serves, drains when it is told to end, and says what is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest

from openjanus.cli import main

CHAT = "/v1/chat/completions"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    code = "import sys; from openjanus.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", "--model", "tiny", "--port", "0"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"on (http://127\.0\.0\.1:\d+)", line)
        if found:
            assert json.loads(line)["text"].startswith("serving tiny")
            return found[1]
    raise AssertionError("it does not serve")


def test_what_runs_is_answered_after_sigterm_and_nobody_else_is_taken(process) -> None:
    url = address_of(process)
    body = {
        "messages": [{"role": "user", "content": "tell me"}],
        "max_tokens": 200,
        "temperature": 1,
        "seed": 1,
        "stream": True,
        "n": 10,
    }
    with (
        httpx.Client(base_url=url, timeout=60) as client,
        client.stream("POST", CHAT, json=body) as response,
    ):
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert sum('"finish_reason":"' in line for line in rest) == 10
    assert process.stderr is not None
    log = process.stderr.read()
    assert process.wait(timeout=30) == 0
    requests = [line for line in map(json.loads, log.splitlines()) if "request_id" in line]
    assert [line["status"] for line in requests] == [200]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


@pytest.mark.long
def test_it_ends_at_once_without_work(process) -> None:
    address_of(process)
    process.send_signal(signal.SIGTERM)
    timer = threading.Timer(30, process.kill)
    timer.start()
    assert process.wait() == 0
    timer.cancel()


def test_an_address_that_is_taken_is_reported_in_a_line(capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--model", "tiny", "--port", port]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"openjanus: cannot serve 127.0.0.1 port {port} (Address already")


def test_an_open_address_without_keys_is_refused_before_anything_is_loaded(
    capsys, tmp_path
) -> None:
    assert main(["serve", "--model", "nothing", "--host", "0.0.0.0"]) == 2
    assert "no API key is set" in capsys.readouterr().err
    file = tmp_path / "keys"
    file.write_text("one\n", encoding="utf-8")
    options = ["--host", "0.0.0.0", "--api-key-file", str(file)]
    assert main(["serve", "--model", "nothing", *options]) == 2
    assert "'nothing'" in capsys.readouterr().err
