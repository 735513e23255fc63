"""Verb on other places to run a model: export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from openjanus.cli.parsing import DEFAULT_MODEL, add_adapter, add_verb, load


def add_verbs(verbs: Any) -> None:
    """Add this module's verb and its kinds."""
    export = verbs.add_parser("export", help="write a model for another place to run it")
    kinds = export.add_subparsers(dest="kind", metavar="WHAT", required=True)
    web = add_verb(kinds, "web", _web, "a page that draws and answers in a browser, offline")
    web.add_argument("folder", metavar="DIR", type=Path, help="new folder")
    web.add_argument(
        "--model", default=DEFAULT_MODEL, help="preset, folder or hub id (%(default)s)"
    )
    web.add_argument("--revision", help="of a hub id: a branch, a tag or a commit")
    add_adapter(web)
    web.add_argument(
        "--runtime",
        type=Path,
        metavar="FOLDER",
        help="an unpacked npm package onnxruntime-web; npm fetches one when left out",
    )
    web.set_defaults(device="cpu", dtype="float32", quantize=None)


def _web(args: argparse.Namespace) -> None:
    from openjanus.web.export import export_web
    from openjanus.web.graphs import require_exporter
    from openjanus.weights.formats import require_new

    require_new(args.folder)
    require_exporter()  # before anything is loaded
    export_web(load(args), args.folder, runtime=args.runtime)
    print(args.folder / "index.html")
