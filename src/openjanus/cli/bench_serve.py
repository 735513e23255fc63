"""Verb on the speed of a server: bench-serve."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from openjanus.cli.parsing import add_verb, parse_seed, print_table, write_json
from openjanus.rules import require


def add_verbs(verbs: Any) -> None:
    """Add this module's verb."""
    parser = add_verb(
        verbs, "bench-serve", _bench, "measure a server of OpenAI's protocol under a load"
    )
    parser.add_argument(
        "--url", default="http://127.0.0.1:8000/v1", help="with its /v1 (%(default)s)"
    )
    parser.add_argument("--api-key", metavar="KEY", help="to ask with")
    parser.add_argument("--model", metavar="NAME", help="to ask for (the server's first)")
    parser.add_argument(
        "--rate", type=float, default=1.0, help="requests that come in a second (%(default)g)"
    )
    parser.add_argument("--requests", type=int, metavar="N", help="how many come (100)")
    parser.add_argument("--seconds", type=float, help="how long they come, in place of --requests")
    parser.add_argument(
        "--mix",
        default="chat=1",
        help="shares of chat, vision, draw and stream-draw: chat=2,draw=1 (%(default)s)",
    )
    parser.add_argument(
        "--arrivals",
        choices=["poisson", "constant"],
        default="poisson",
        help="by chance, or in step (%(default)s)",
    )
    parser.add_argument("--seed", type=parse_seed, default=0, help="of the load (%(default)s)")
    parser.add_argument(
        "--max-tokens", type=int, default=64, help="of a reply, at most (%(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds without a byte (%(default)g)"
    )
    parser.add_argument(
        "--limits",
        metavar="NAME=SECONDS,...",
        help="what a good answer keeps: first, reply, partial, picture",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result is written")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where a picture is written")


def _bench(args: argparse.Namespace) -> None:
    import asyncio

    from tqdm import tqdm

    from openjanus.bench.arrivals import LoadOptions, parse_limits, parse_mix, schedule
    from openjanus.bench.load import model_of, run_load
    from openjanus.bench.load_plot import draw_load
    from openjanus.bench.load_result import Outcome, result_of

    is_counted = args.requests is None and args.seconds is None
    options = LoadOptions(
        rate=args.rate,
        requests=100 if is_counted else args.requests,
        seconds=args.seconds,
        mix=parse_mix(args.mix),
        arrivals=args.arrivals,
        seed=args.seed,
        max_new_tokens=args.max_tokens,
        timeout_s=args.timeout,
        limits=() if args.limits is None else parse_limits(args.limits),
    )
    for name, path in (("--json", args.json), ("--plot", args.plot)):
        require(path is None or not path.is_dir(), f"{name} {path} is a folder: give a file")
    if args.plot is not None:
        importlib.import_module("matplotlib")  # or not: said before a load that takes minutes

    url = args.url.rstrip("/")
    first = model_of(url, key=args.api_key)  # somebody answers there
    model = first if args.model is None else args.model
    arrivals = schedule(options)
    with tqdm(total=len(arrivals), desc="load", unit="request") as bar:
        failed = refused = 0

        def tell(outcome: Outcome) -> None:
            nonlocal failed, refused
            refused += outcome.is_refused
            failed += not (outcome.is_refused or outcome.is_answered)
            bar.set_postfix(refused=refused, failed=failed, refresh=False)
            bar.update()

        outcomes = asyncio.run(
            run_load(
                options,
                url=url,
                model=model,
                key=args.api_key,
                on_outcome=tell,
                arrivals=arrivals,
            )
        )
    result = result_of(outcomes, options, url=url, model=model)
    print_table(result.lines())
    if args.json is not None:
        write_json(args.json, result.as_data())
    if args.plot is not None:
        draw_load(result, outcomes, args.plot)
        print(f"drawn to {args.plot}", file=sys.stderr)
