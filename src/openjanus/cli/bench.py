"""Verb on speed: bench."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openjanus.cli.parsing import (
    DEFAULT_MODEL,
    add_compile,
    add_model,
    add_verb,
    engine_options,
    load,
    print_table,
    write_json,
)
from openjanus.rules import require, require_at_least_one

if TYPE_CHECKING:
    from openjanus import Janus
    from openjanus.bench.measure import Rival

MAX_THREADS = 1024
"""Of a processor; no machine has more cores for one process to gain by."""


def add_verbs(verbs: Any) -> None:
    """Add this module's verb."""
    parser = add_verb(verbs, "bench", _bench, "measure how fast a model is on this machine")
    add_model(parser)
    add_compile(parser)
    parser.add_argument(
        "--random",
        metavar="PRESET",
        help="an architecture with random weights in the model's place: janus-pro-1b",
    )
    parser.add_argument("--batch", type=int, default=4, help="pictures at once (%(default)s)")
    parser.add_argument("--steps", type=int, default=32, help="timed of each kind (%(default)s)")
    parser.add_argument(
        "--pictures", type=int, default=8, help="timed through each door (%(default)s)"
    )
    parser.add_argument(
        "--whole", type=int, default=0, help="pictures drawn from words to pixels (%(default)s)"
    )
    parser.add_argument("--threads", type=int, help="of the processor; torch's own choice if left")
    parser.add_argument(
        "--against", choices=["transformers"], help="time it too, with the same weights, by turns"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result is written")
    parser.add_argument(
        "--row", action="store_true", help="print a row for the table in docs/benchmarking.md"
    )


def _bench(args: argparse.Namespace) -> None:
    import torch

    from openjanus.bench import BenchOptions, measure

    options = BenchOptions(
        batch=args.batch,
        steps=args.steps,
        pictures=args.pictures,
        whole=args.whole,
        compile=engine_options(args).compile,
    )
    if args.json is not None:
        require(not args.json.is_dir(), f"--json {args.json} is a folder: give a file")
    if args.threads is not None:
        require_at_least_one("--threads", args.threads)
        most = f"--threads must be at most {MAX_THREADS}, got {args.threads}: one a core is best"
        require(args.threads <= MAX_THREADS, most)
        torch.set_num_threads(args.threads)
    rival, against = _rival(args.against)  # before anything is loaded: it may be missing
    janus = _load(args)
    if not args.compile:
        janus.pack()  # as draw and chat do
    result = measure(
        janus,
        options,
        name=args.model if args.random is None else args.random,
        random_weights=args.random is not None,
        rival=rival,
        against=against,
    )
    print_table(result.lines())
    if args.row:
        print(result.row())
    if args.json is not None:
        write_json(args.json, result.as_data())


def _rival(name: str | None) -> tuple[Rival | None, str | None]:
    """Who is timed too, and its version."""
    if name is None:
        return None, None
    from openjanus.bench.transformers import VERSION, Theirs

    return Theirs, f"transformers {VERSION}"


def _load(args: argparse.Namespace) -> Janus:
    if args.random is None:
        return load(args, engine_options(args))
    require(
        args.model == DEFAULT_MODEL,
        f"--random takes the place of --model, got {args.random} and {args.model}: "
        "leave one of them out",
    )
    for option in ("adapter", "revision"):
        require(
            getattr(args, option) is None,
            f"--{option} belongs to a model with weights, and --random has none of its own: "
            "leave one of them out",
        )
    from openjanus.pipeline.load import load_random

    return load_random(
        args.random,
        device=args.device,
        dtype=args.dtype,
        quantize=args.quantize,
        engine_options=engine_options(args),
    )
