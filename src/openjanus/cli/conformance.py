"""Verb on facts that every implementation of the family can be held to: conformance."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openjanus.cli.parsing import add_verb, parse_seed

if TYPE_CHECKING:
    from openjanus.conformance.vectors import Subject

AGAINST = ("openjanus", "transformers")


class Disagreement(Exception):
    """A check ran and did not come out as expected: exit code 1."""


def add_verbs(verbs: Any) -> None:
    """Add this module's verb."""
    conformance = verbs.add_parser("conformance", help="write a conformance kit, check against it")
    kinds = conformance.add_subparsers(dest="kind", metavar="WHAT", required=True)
    write = add_verb(kinds, "write", _write, "write a checkpoint and what comes out of it")
    write.add_argument("folder", metavar="DIR", type=Path, help="new folder")
    write.add_argument("--seed", type=parse_seed, default=0, help="of the weights (%(default)s)")
    check = add_verb(kinds, "check", _check, "hold an implementation to a kit")
    check.add_argument("folder", metavar="DIR", type=Path, help="folder of a kit")
    check.add_argument("--against", required=True, choices=AGAINST, help="what is asked")
    check.add_argument("--output", type=Path, help="JSON file of the report")


def _write(args: argparse.Namespace) -> None:
    from openjanus.conformance import write_kit

    write_kit(args.folder, seed=args.seed)
    print(args.folder)


def _check(args: argparse.Namespace) -> None:
    from openjanus.conformance import check_kit
    from openjanus.conformance.files import write_json

    if args.output is not None and args.output.is_dir():
        raise ValueError(f"--output {args.output} is a folder: give a file")
    report = check_kit(args.folder, _subject(args.against))
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    print(f"{args.folder}, written by openjanus {report.kit['openjanus']}, asked of {versions}")
    print()
    print(report.table())
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(report.to_json(), args.output)
        print(f"written to {args.output}", file=sys.stderr)
    if report.unexpected:
        raise Disagreement(
            f"{len(report.unexpected)} of {len(report.rows)} vectors differ: "
            f"{', '.join(report.unexpected)}"
        )


def _subject(against: str) -> Callable[[Path], Subject]:
    """Who answers; what it needs is imported now."""
    if against == "transformers":
        from openjanus.conformance.transformers import TransformersSubject

        return TransformersSubject
    from openjanus.conformance.openjanus import OpenjanusSubject

    return OpenjanusSubject
