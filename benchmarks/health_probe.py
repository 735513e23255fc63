"""Ask one path again and again over a kept-alive connection, in a process that does nothing else.

    python benchmarks/health_probe.py HOST PORT PATH [--interval SECONDS] [--body JSON]
        [--patience SECONDS]

A line for each question, "status seconds": a GET, or a POST of the body. Status 0 is a connection
that failed, -1 an answer that was not waited for. Ends when stdin does.
"""

from __future__ import annotations

import argparse
import http.client
import select
import sys
import time

FAILED, LEFT = 0, -1


def ask(connection: http.client.HTTPConnection, path: str, body: str | None) -> int:
    """One question; its status."""
    try:
        headers = {} if body is None else {"content-type": "application/json"}
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
    except TimeoutError:
        connection.close()
        return LEFT
    except (OSError, http.client.HTTPException):
        connection.close()  # the next one opens it anew
        return FAILED
    return answer.status


def main() -> None:
    """Ask until stdin ends."""
    parser = argparse.ArgumentParser(description="Ask one path again and again.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--interval", type=float, default=0.05)
    parser.add_argument("--body")
    parser.add_argument("--patience", type=float, default=60.0)
    asked = parser.parse_args()
    connection = http.client.HTTPConnection(asked.host, asked.port, timeout=asked.patience)
    ask(connection, "/health", None)  # the connection is there before the first is timed
    while not select.select([sys.stdin], [], [], asked.interval)[0]:
        began = time.perf_counter()
        status = ask(connection, asked.path, asked.body)
        print(status, time.perf_counter() - began)
    connection.close()


if __name__ == "__main__":
    main()
