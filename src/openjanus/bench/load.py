"""A load on a server that speaks OpenAI's protocol: sends what is due, and reads what comes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openjanus.bench.arrivals import Arrival, LoadOptions, schedule
from openjanus.bench.bodies import body_of
from openjanus.bench.load_result import Outcome

if TYPE_CHECKING:
    import httpx

PROBE_S = 10.0
"""For the question which models there are."""


class Broken(Exception):
    """An answer that is none; the argument is the code that it is counted by."""


@dataclass(slots=True)
class _Read:
    """How far an answer has come; times are the clock's."""

    status: int | None = None
    first: float | None = None
    num_tokens: int = 0


def model_of(url: str, *, key: str | None) -> str:
    """What a server calls its first model.

    Args:
        url: With ``/v1``, or whatever stands before ``/models``.
        key: To ask with.

    Raises:
        ConnectionError: Nobody answers there, or no server of this protocol.
        ImportError: httpx is not installed.
    """
    import httpx

    try:
        answer = httpx.get(f"{url}/models", headers=_headers(key), timeout=PROBE_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConnectionError(
            f"no answer from {url}/models ({error}): start the server, or change --url"
        ) from error
    if answer.status_code == 401:
        raise ConnectionError(f"{url} wants an API key: give --api-key")
    try:
        return str(answer.json()["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ConnectionError(
            f"{url}/models answered {answer.status_code} and no list of models: give the address "
            "with its /v1, and --model"
        ) from error


async def run_load(
    options: LoadOptions,
    *,
    url: str,
    model: str | None,
    key: str | None,
    on_outcome: Callable[[Outcome], None],
    arrivals: Sequence[Arrival] | None = None,
) -> list[Outcome]:
    """Send a load; all of it has ended when this returns.

    Args:
        options: What it is made of.
        url: With ``/v1``.
        model: That is asked; None leaves it out.
        key: To ask with; None is none.
        on_outcome: Told of each request as it ends.
        arrivals: Instead of what ``options`` make.

    Returns:
        What became of each, in order of arrival.
    """
    import httpx

    due = schedule(options) if arrivals is None else arrivals
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    timeout = httpx.Timeout(options.timeout_s, pool=None)
    async with httpx.AsyncClient(limits=limits, timeout=timeout, headers=_headers(key)) as client:
        began = time.perf_counter()

        async def one(arrival: Arrival) -> Outcome:
            path, body = body_of(arrival, options, model)
            outcome = await _ask(client, url + path, body, arrival, began)
            on_outcome(outcome)
            return outcome

        async with asyncio.TaskGroup() as group:
            tasks: list[asyncio.Task[Outcome]] = []
            for arrival in due:
                # A loop that is late sends what is due, one after another, without a pause.
                await asyncio.sleep(max(0.0, began + arrival.at_s - time.perf_counter()))
                tasks.append(group.create_task(one(arrival)))
    return [task.result() for task in tasks]


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


async def _ask(
    client: httpx.AsyncClient, url: str, body: Any, arrival: Arrival, began: float
) -> Outcome:
    import httpx

    read, error = _Read(), None
    sent = time.perf_counter()
    try:
        async with client.stream("POST", url, json=body) as answer:
            read.status = answer.status_code
            await _read(answer, body, read)
    except Broken as broken:
        error = str(broken)
    except httpx.TimeoutException:
        error = "timeout"
    except httpx.ConnectError:
        error = "not connected"
    except httpx.TransportError:
        error = "cut off"
    due = began + arrival.at_s
    return Outcome(
        arrival=arrival,
        late_s=max(0.0, sent - due),
        status=read.status,
        error=error,
        first_s=None if read.first is None else read.first - due,
        whole_s=time.perf_counter() - due,
        num_tokens=read.num_tokens,
    )


async def _read(answer: httpx.Response, body: Any, read: _Read) -> None:
    """The whole answer.

    Raises:
        Broken: It is an error, or no whole answer.
    """
    if answer.status_code != 200:
        raise Broken(_code(_parsed(await answer.aread())))
    if not body.get("stream", False):
        found = _parsed(await answer.aread())
        if not (isinstance(found, dict) and found.get("data")):
            raise Broken("no picture")
        return
    is_whole = False
    async for event in _events(answer):
        if event is None:
            is_whole = is_whole or "messages" in body
            continue
        if not isinstance(event, dict):
            raise Broken("no JSON object")
        if "error" in event:
            raise Broken(_code(event))
        kind = event.get("type", "")
        if kind == "image_generation.completed":
            is_whole = True
        elif read.first is None and (kind == "image_generation.partial_image" or _says(event)):
            read.first = time.perf_counter()
        usage = event.get("usage")
        if isinstance(usage, dict) and "messages" in body:
            read.num_tokens = usage.get("completion_tokens", 0)
    if not is_whole:
        raise Broken("cut off")


async def _events(answer: httpx.Response) -> AsyncIterator[Any]:
    """The data of each event, parsed; None is ``[DONE]``."""
    async for line in answer.aiter_lines():
        name, _, value = line.partition(":")
        if name == "data":
            yield None if value.strip() == "[DONE]" else _parsed(value)


def _says(event: dict[str, Any]) -> bool:
    """Whether a chunk of a chat has words."""
    choices = event.get("choices")
    return isinstance(choices, list) and any(
        one.get("delta", {}).get("content") for one in choices if isinstance(one, dict)
    )


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Broken("no JSON") from error


def _code(found: Any) -> str:
    """Of an error's envelope."""
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict):
        return "no error envelope"
    return str(error.get("code") or error.get("type") or "no code")
