"""Verb on serving: serve."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from openjanus.cli.parsing import add_compile, add_model, add_verb, engine_options, load
from openjanus.rules import require


def add_verbs(verbs: Any) -> None:
    """Add this module's verb."""
    parser = add_verb(verbs, "serve", _serve, "answer over HTTP, in OpenAI's protocol")
    add_model(parser, adapter=False)
    add_compile(parser)
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="a LoRA adapter, added to the model; or, by a name, served beside it: may be repeated",
    )
    parser.add_argument(
        "--served-model-name",
        action="append",
        default=[],
        metavar="NAME",
        help="what clients call it (the model's); may be repeated",
    )
    parser.add_argument("--host", default="127.0.0.1", help="(%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="(%(default)s)")
    parser.add_argument(
        "--api-key", action="append", default=[], metavar="KEY", help="may be repeated"
    )
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="keys, one a line; hidden from ps"
    )
    parser.add_argument(
        "--max-requests", type=int, default=64, help="taken at once; more get 503 (%(default)s)"
    )
    parser.add_argument("--max-requests-per-key", type=int, help="at once; more get 429")
    parser.add_argument("--requests-per-minute", type=int, help="of a key; more get 429")
    parser.add_argument("--max-images", type=int, default=8, help="of a request (%(default)s)")
    parser.add_argument(
        "--fetch-images", action="store_true", help="read http(s) pictures, of public addresses"
    )
    parser.add_argument(
        "--deadline", type=float, default=600.0, help="seconds for an answer (%(default)g)"
    )
    parser.add_argument(
        "--drain", type=float, default=60.0, help="seconds after SIGTERM (%(default)g)"
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web pages that may call; may be repeated",
    )
    parser.add_argument(
        "--public-url",
        metavar="URL",
        help="how clients reach it, where a proxy stands between: for addresses of pictures",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM; with --tls-key")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM; with --tls-cert")
    parser.add_argument("--no-page", action="store_true", help="no web page at /")
    parser.add_argument("--log-prompts", action="store_true", help="write what is asked into logs")


def _serve(args: argparse.Namespace) -> None:
    from openjanus.pipeline.load import load_beside
    from openjanus.serve.options import ServeOptions, read_keys
    from openjanus.serve.server import run

    keys = tuple(args.api_key)
    if args.api_key_file is not None:
        keys += read_keys(args.api_key_file)
    args.adapter, adapters = _adapters(args.adapter)
    options = ServeOptions(
        adapter_names=tuple(adapters),
        model_names=tuple(args.served_model_name) or (args.model,),
        host=args.host,
        port=args.port,
        api_keys=keys,
        max_requests=args.max_requests,
        max_requests_per_key=args.max_requests_per_key,
        requests_per_minute=args.requests_per_minute,
        max_images=args.max_images,
        fetch_images=args.fetch_images,
        deadline_s=args.deadline,
        drain_s=args.drain,
        cors_origins=tuple(args.cors_origin),
        public_url=args.public_url,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        page=not args.no_page,
        log_prompts=args.log_prompts,
    )
    janus = load(args)
    if not args.compile:
        janus.pack()  # before others share its weights
    run(
        janus,
        options,
        engine_options=engine_options(args),
        beside={name: load_beside(janus, one) for name, one in adapters.items()},
    )


def _adapters(given: list[str]) -> tuple[Path | None, dict[str, Path]]:
    """The one that is added to the model, and those beside it by name."""
    named: dict[str, Path] = {}
    plain: list[Path] = []
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals:
            plain.append(Path(text))
            continue
        require(bool(name and folder), f"--adapter takes DIR or NAME=DIR, got {text!r}")
        require(name not in named, f"--adapter {name} is given twice: give each a name of its own")
        named[name] = Path(folder)
    require(
        len(plain) + bool(named) <= 1,
        f"--adapter {', '.join(map(str, plain))} without a name is added to the model, and only "
        "one is: give each as NAME=DIR",
    )
    return (plain[0] if plain else None), named
