"""A server under load and under attack, in a process of its own, part by part.

    python benchmarks/serving.py --output FILE [--only PART ...] [--model NAME] [--seconds S]
        [--minutes M] [--requests N] [--clients N] [--strict] [-- OPTIONS OF openjanus serve]

- `rates`: each kind of request, and all mixed: how many a second when more wait than can be
  answered (`capacity`), and times at 70 % of that.
- `soak`: `--requests` of the mix, spread over `--minutes`; memory by time.
- `flood`: ten times the capacity; how long refusals take, for the flood and for a client beside it.
- `leavers`: `--clients` that go away, before, within and after their bodies and in their answers.
- `pictures`: garbage, truncated files and bombs, each of which must be a 400.
- `hostile`: bodies that cost much to read, and connections that do not end, a kind after another.
- `loris`: `--clients` that send headers, or bodies, a byte at a time, and others beside them.
- `kill`: kill -9 among streams, and a supervisor that starts it again.

Throughout, a process of its own asks `/health` over one connection. Each part says its `figures`,
its `goals` (with whether they are `met`; `--strict` lets them count) and its `faults`: whatever
hung, was cut off, or was answered with an error that is none of the protocol's. Faults end in exit
code 1. Each part has a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from broken_files import broken_files
from health_probe import LEFT
from hostile_clients import ATTACKS
from served import Served, wait_until, watched

from openjanus.bench.arrivals import KINDS, Kind, LoadOptions
from openjanus.bench.load import run_load
from openjanus.bench.load_result import LoadResult, Outcome, result_of, times_of

CHAT = "/v1/chat/completions"
MIX: tuple[tuple[Kind, float], ...] = (
    *(("chat", 6.0), ("vision", 2.0)),
    *(("draw", 1.0), ("stream-draw", 1.0)),
)
UNTYPED = {"cut off", "timeout", "not connected", "no JSON", "no error envelope", "no code"}
"""Errors that no client can understand: nothing that is answered may end so."""
HEALTH_GOAL_S, REFUSAL_GOAL_S = 0.1, 0.05
MEMORY_GOAL = 1.1
"""Of the last quarter of a soak by the second."""
FLOOD = 10.0
PATIENCE_S = 2.0
EASY = 0.7
EMPTY_S = 60.0
"""Until a server without clients has nothing to do."""
TALK = {"messages": [{"role": "user", "content": "What can you draw?"}], "seed": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much of everything."""

    model: str = "nano"
    options: tuple[str, ...] = ()
    """Of the command."""
    seconds: float = 30.0
    """Of each load of ``rates``, and of the flood."""
    minutes: float = 20.0
    requests: int = 5000
    clients: int = 200
    burst: int = 48
    """Requests that wait together where a capacity is measured."""
    kinds: tuple[Kind, ...] = KINDS
    attacks: tuple[str, ...] = tuple(ATTACKS)
    attack_s: float = 8.0
    """How long each goes on, once at least."""
    drip_s: float = 45.0
    """How long slow clients try: past the limits of headers and of bodies."""
    timeout_s: float = 600.0


@dataclass(slots=True)
class Part:
    """What came out of one."""

    figures: dict[str, Any] = field(default_factory=dict)
    goals: dict[str, dict[str, float | bool]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def aim(self, name: str, value: float, goal: float) -> None:
        """A goal is met where a value is not above it."""
        self.goals[name] = {"value": value, "goal": goal, "met": value <= goal}

    def expect(self, is_so: bool, fault: str) -> None:
        """What must be so."""
        if not is_so:
            self.faults.append(fault)


def load(
    server: Served, part: Part, sizes: Sizes, *, is_cut: bool = False, **options: Any
) -> tuple[LoadResult, list[Outcome]]:
    """Send a load; what hung or broke is a fault.

    Args:
        server: To be asked.
        part: Where faults go.
        sizes: For the time without a byte after which a request hangs.
        is_cut: Whether connections may end, for the server does.
        options: Of the load.
    """
    chosen = LoadOptions(timeout_s=sizes.timeout_s, **options)
    url = f"{server.url}/v1"
    outcomes = asyncio.run(
        run_load(chosen, url=url, model=None, key=None, on_outcome=lambda _: None)
    )
    allowed = {"cut off", "not connected"} if is_cut else set()
    broken = Counter(one.error for one in outcomes if one.error in UNTYPED - allowed)
    part.expect(not broken, f"requests without an answer that says what it is: {dict(broken)}")
    failed = Counter(one.error for one in outcomes if one.status == 500)
    part.expect(not failed, f"{failed.total()} requests were answered with 500")
    return result_of(outcomes, chosen, url=url, model=None), outcomes


def told(result: LoadResult) -> dict[str, Any]:
    """What of a result a part writes."""
    data = result.as_data()
    return {name: data[name] for name in ("sent", "answered", "seconds", "refusals", "errors")} | {
        "answered_per_s": result.answered / result.seconds,
        "late": data["late"],
        "times": {one.kind: dataclasses.asdict(one)["times"] for one in result.kinds},
    }


def capacity_of(
    server: Served, part: Part, sizes: Sizes, mix: tuple[tuple[Kind, float], ...]
) -> float:
    """Requests a second where more wait than can be answered at once."""
    result, _ = load(server, part, sizes, rate=1e5, requests=sizes.burst, mix=mix, seed=1)
    part.expect(result.answered > 0, f"none of {sizes.burst} requests was answered")
    return max(result.answered, 1) / result.seconds


def rates(server: Served, sizes: Sizes) -> Part:
    """Of each kind, and mixed."""
    part = Part()
    mixes: dict[str, tuple[tuple[Kind, float], ...]] = {"mixed": MIX}
    for kind in sizes.kinds:
        mixes[kind] = ((kind, 1.0),)
    for name, mix in mixes.items():
        capacity = capacity_of(server, part, sizes, mix)
        result, _ = load(
            server, part, sizes, rate=EASY * capacity, seconds=sizes.seconds, mix=mix, seed=2
        )
        part.figures[name] = {"capacity_per_s": capacity, "rate": result.options.rate}
        part.figures[name] |= told(result)
        part.expect(not result.refusals, f"{name}: refused at {EASY:.0%} of the capacity")
    return part


def soak(server: Served, sizes: Sizes) -> Part:
    """A long time."""
    part, seconds = Part(), 60 * sizes.minutes
    with watched(server, interval_s=10.0) as seen:  # its eye on memory is what is wanted
        rate = sizes.requests / seconds
        result, _ = load(server, part, sizes, rate=rate, requests=sizes.requests, mix=MIX, seed=3)
    part.expect(wait_until(server.is_empty, EMPTY_S), "work is left when all have been answered")
    quarter = len(seen.memory) // 4
    part.figures = told(result) | {"memory_mib": seen.memory[:: max(1, len(seen.memory) // 120)]}
    if quarter >= 15:  # of a minute or more, when what is made once has been made
        early, late = (
            sorted(seen.memory[begin : begin + quarter])[quarter // 2]
            for begin in (quarter, len(seen.memory) - quarter)
        )
        part.aim("memory, last quarter by second", late / early, MEMORY_GOAL)
    return part


def flood(server: Served, sizes: Sizes) -> Part:
    """Ten times what it can answer."""
    part = Part()
    capacity = capacity_of(server, part, sizes, MIX)
    body = json.dumps(TALK | {"max_tokens": 1})
    # Who is let in does not stay, for he would not be refused meanwhile.
    with watched(server, CHAT, body, interval_s=0.1, patience_s=PATIENCE_S) as beside:
        result, outcomes = load(
            server, part, sizes, rate=FLOOD * capacity, seconds=sizes.seconds, mix=MIX, seed=4
        )
    part.expect(wait_until(server.is_empty, EMPTY_S), "work is left when all have been answered")
    part.figures = {"capacity_per_s": capacity, "rate": FLOOD * capacity} | told(result)
    # How late this client was is no fault of the server's.
    refused = times_of(one.whole_s - one.late_s for one in outcomes if one.is_refused)
    part.figures["refusal"] = None if refused is None else dataclasses.asdict(refused)
    part.expect(result.answered > 0, "nobody was answered in a flood")
    part.figures["beside"] = {s: dataclasses.asdict(t) for s, t in beside.times.items()}
    part.expect(set(beside.times) <= {LEFT, 200, 429, 503}, f"beside it: {sorted(beside.times)}")
    for status in {429, 503} & set(beside.times):
        part.aim(f"p99 of refusals by {status}, s", beside.times[status].p99, REFUSAL_GOAL_S)
    return part


def _request(body: bytes, path: str = CHAT) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def leavers(server: Served, sizes: Sizes) -> Part:
    """Clients that go away mid-way."""
    part = Part()
    talk = TALK | {"max_tokens": 200, "temperature": 1, "stream": True}
    requests = [
        _request(json.dumps(talk).encode()),
        _request(json.dumps(talk | {"stream": False, "n": 4}).encode()),
        _request(b'{"prompt": "a photo of a red car", "n": 2}', "/v1/images/generations"),
    ]

    def leave(number: int) -> None:
        rng = random.Random(number)
        whole = requests[number % len(requests)]
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            if number % 4 == 0:  # within the body
                client.sendall(whole[: rng.randrange(len(whole))])
                return
            client.sendall(whole)
            if number % 4 == 1 and b'"stream": true' in whole:  # in the answer
                client.recv(1)
            time.sleep(rng.random() * 2)

    began = time.monotonic()
    with ThreadPoolExecutor(min(sizes.clients, 64)) as pool:
        list(pool.map(leave, range(sizes.clients)))
    left = time.monotonic()
    part.expect(wait_until(server.is_empty, EMPTY_S), "work is left of clients that have gone")
    part.figures = {
        "clients": sizes.clients,
        "seconds": left - began,
        "until_empty_s": time.monotonic() - left,
    }
    answer = httpx.post(server.url + CHAT, json=TALK, timeout=sizes.timeout_s)
    part.expect(answer.status_code == 200, f"the next chat is answered with {answer.status_code}")
    return part


def pictures(server: Served, sizes: Sizes) -> Part:
    """Files that are no pictures."""
    part, statuses = Part(), Counter[int]()
    times: list[float] = []

    def send(file: tuple[str, bytes]) -> tuple[str, httpx.Response, float]:
        url = f"data:image/png;base64,{base64.b64encode(file[1]).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}]
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
        began = time.perf_counter()
        answer = httpx.post(server.url + CHAT, json=body, timeout=sizes.timeout_s)
        return file[0], answer, time.perf_counter() - began

    with ThreadPoolExecutor(8) as pool:
        for name, answer, seconds in pool.map(send, broken_files().items()):
            statuses[answer.status_code] += 1
            times.append(seconds)
            is_typed = answer.status_code == 400 and "error" in answer.json()
            part.expect(is_typed, f"{name}: answered with {answer.status_code}")
    found = times_of(times)
    assert found is not None
    part.figures = {"statuses": dict(statuses), "times": dataclasses.asdict(found)}
    return part


def hostile(server: Served, sizes: Sizes) -> Part:
    """Clients that want the event loop, or memory, for themselves."""
    part = Part()
    for name in sizes.attacks:
        with watched(server) as seen:
            heard = ATTACKS[name](server.port, time.monotonic() + sizes.attack_s)
        health = {s: dataclasses.asdict(t) for s, t in seen.times.items()}
        memory = max(seen.memory, default=server.resident_bytes() // 2**20)
        part.figures[name] = {"heard": dict(heard), "memory_mib": memory, "during": health}
        part.expect(set(seen.times) <= {200}, f"{name}: /health was answered with {set(health)}")
        part.expect(not heard["500"], f"{name}: answered with 500")
        if 200 in seen.times:
            part.aim(f"p99 of /health during {name}, s", seen.times[200].p99, HEALTH_GOAL_S)
    part.expect(wait_until(server.is_empty, EMPTY_S), "work is left of what was refused")
    answer = httpx.post(server.url + CHAT, json=TALK, timeout=sizes.timeout_s)
    part.expect(answer.status_code == 200, f"the next chat is answered with {answer.status_code}")
    return part


def loris(server: Served, sizes: Sizes) -> Part:
    """Clients that send a byte at a time."""
    part = Part()
    whole = _request(json.dumps(TALK).encode())
    head = whole.index(b"\r\n\r\n") + 4
    starts = {"headers": 20, "body": head + 1}
    ended: dict[str, list[float]] = {name: [] for name in starts}

    def drip(number: int) -> None:
        name = list(starts)[number % len(starts)]
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=1.0) as client:
            client.sendall(whole[: starts[name]])
            at = starts[name]
            while time.monotonic() - began < sizes.drip_s:
                try:
                    # Never to the end: the last byte is kept back.
                    client.sendall(whole[at : at + 1] if at < len(whole) - 1 else b"")
                    at += 1
                    if client.recv(4096) == b"":
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            else:
                return
        ended[name].append(time.monotonic() - began)

    with ThreadPoolExecutor(sizes.clients) as pool:
        slow = [pool.submit(drip, number) for number in range(sizes.clients)]
        result, _ = load(server, part, sizes, rate=1.0, seconds=sizes.drip_s, seed=6)
        for one in slow:
            one.result()
    part.figures = told(result) | {"clients": sizes.clients}
    for name, seconds in ended.items():
        times, wanted = times_of(seconds), (sizes.clients + (name == "headers")) // 2
        part.figures[f"closed, slow {name}"] = None if times is None else dataclasses.asdict(times)
        is_due = sizes.drip_s > {"headers": 15, "body": 35}[name]
        part.expect(
            len(seconds) == wanted or not is_due,
            f"{wanted - len(seconds)} of {wanted} connections with slow {name} are still open",
        )
    return part


def kill(server: Served, sizes: Sizes) -> Part:
    """Kill -9 among streams; the supervisor starts it again."""
    part = Part()
    before = httpx.post(server.url + CHAT, json=TALK, timeout=sizes.timeout_s).json()
    with ThreadPoolExecutor(1) as pool:
        streams = pool.submit(
            load, server, part, sizes, is_cut=True, rate=1e5, requests=sizes.burst, mix=MIX, seed=7
        )
        wait_until(lambda: server.gauge("running") > 0, 30)
        killed = time.monotonic()
        server.kill()
        result, _ = streams.result()
        part.figures = told(result) | {"until_all_know_s": time.monotonic() - killed}
    part.expect(
        result.answered
        + sum(result.errors.values())
        + sum(t.count for t in result.refusals.values())
        == result.sent,
        "a request was lost",
    )
    server.wait_ready()
    part.figures["until_ready_s"] = time.monotonic() - killed
    part.expect(server.num_starts == 2, f"it was started {server.num_starts} times")
    after = httpx.post(server.url + CHAT, json=TALK, timeout=sizes.timeout_s).json()
    part.expect(after["choices"] == before["choices"], "the same seed gives another reply")
    return part


PARTS: dict[str, Callable[[Served, Sizes], Part]] = {
    "rates": rates,
    "soak": soak,
    "flood": flood,
    "leavers": leavers,
    "pictures": pictures,
    "hostile": hostile,
    "loris": loris,
    "kill": kill,
}


def run_part(name: str, server: Served, sizes: Sizes) -> Part:
    """One, with ``/health`` asked throughout."""
    with watched(server) as seen:
        part = PARTS[name](server, sizes)
    part.figures["health"] = {s: dataclasses.asdict(t) for s, t in seen.times.items()}
    if name != "kill":  # where it is not there for a while
        part.expect(set(seen.times) == {200}, f"/health was answered with {sorted(seen.times)}")
        if 200 in seen.times:
            part.aim("p99 of /health, s", seen.times[200].p99, HEALTH_GOAL_S)
    return part


def serve_part(name: str, sizes: Sizes) -> Part:
    """One, with a server of its own, which must end well."""
    server = Served(["--model", sizes.model, *sizes.options], is_supervised=name == "kill")
    try:
        server.wait_ready()
        part = run_part(name, server, sizes)
        part.expect("Traceback" not in server.log(), "the server's log has a traceback")
    finally:
        code = server.stop()
    part.expect(code == 0, f"the server ended with {code}")
    return part


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="A server under load, part by part.")
    sizes = Sizes()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--model", default=sizes.model)
    for name in ("seconds", "minutes"):
        parser.add_argument(f"--{name}", type=float, default=getattr(sizes, name))
    for name in ("requests", "clients", "burst"):
        parser.add_argument(f"--{name}", type=int, default=getattr(sizes, name))
    parser.add_argument("--strict", action="store_true", help="goals count too")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="of openjanus serve")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    """All parts that are asked for; 1 where one has a fault."""
    asked = parse(words)
    names = ("model", "seconds", "minutes", "requests", "clients", "burst")
    sizes = Sizes(**{name: getattr(asked, name) for name in names}, options=tuple(asked.options))
    found: dict[str, Any] = {}
    is_good = True
    for name in asked.only:
        part = serve_part(name, sizes)
        found[name] = dataclasses.asdict(part)
        missed = [goal for goal, one in part.goals.items() if not one["met"]]
        is_good &= not part.faults and not (asked.strict and missed)
        print(f"{name}: {json.dumps(part.goals)}", *part.faults, sep="\n  ", flush=True)
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"sizes": dataclasses.asdict(sizes), "parts": found}, indent=1)
        asked.output.write_text(text + "\n", encoding="utf-8")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
