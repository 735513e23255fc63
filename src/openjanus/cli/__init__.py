"""The command `openjanus`: flat verbs, each a thin layer over a room that it imports when it runs.

What a user can get wrong ends in one line on stderr and exit code 2; a mistake of ours keeps its
traceback. Results go to stdout; progress, questions and messages go to stderr.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from openjanus.cli import (
    bench,
    bench_serve,
    conformance,
    data,
    evaluation,
    export,
    models,
    runs,
    serving,
)
from openjanus.cli.parsing import EXTRAS, Parser
from openjanus.rules import near

USER_ERRORS = (ValueError, KeyError, OSError, ImportError)
"""What the rooms raise for whatever a user can cause."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows ``openjanus``; the process's own when None.

    Returns:
        Exit code: 0, 1 where a check found a difference or broken data, 2 after a mistake of the
        user, 130 after Ctrl-C, 141 when the reader of stdout went away.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        args = parse(given)
        with warnings.catch_warnings():
            warnings.showwarning = _say
            # Pillow's, of a size; what is too large is refused by name where pictures are read.
            warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
            args.run(args)
        sys.stdout.flush()
    except (conformance.Disagreement, data.BrokenData) as found:
        print(f"openjanus: {found}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more on its way out, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except USER_ERRORS as error:
        message = explain(error)
        if message is None or "--traceback" in given:
            raise
        print(f"openjanus: {message}", file=sys.stderr)
        return 2
    return 0


def _say(message: Warning | str, category: type[Warning], *_: object) -> None:
    """A warning as a line for the user, who has no use for where it was raised."""
    print(f"openjanus: {message}", file=sys.stderr)


def explain(error: Exception) -> str | None:
    """One line for the user, or None where the error is a mistake of ours."""
    if isinstance(error, ImportError):
        if "pip install" in str(error):
            return str(error)
        for extra, packages in EXTRAS.items():
            if error.name in packages:
                return f"{packages[error.name]} is missing: pip install 'openjanus[{extra}]'"
        return None
    if isinstance(error, KeyError):
        # Our own KeyErrors are sentences; a bare key is a lookup that should have held.
        message = str(error.args[0]) if error.args else ""
        return " ".join(message.split()) if " " in message else None
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split())


def parse(given: list[str]) -> argparse.Namespace:
    """Read the command line; `run` of the result takes the result.

    Raises:
        ValueError: An unknown command or option, or a value that it cannot have.
    """
    parser = Parser(prog="openjanus", description="A model that draws and answers.")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--traceback", action="store_true", help="show where a message comes from")
    verbs = parser.add_subparsers(metavar="COMMAND")
    models.add_verbs(verbs)
    export.add_verbs(verbs)
    data.add_verbs(verbs)
    runs.add_verbs(verbs)
    evaluation.add_verbs(verbs)
    bench.add_verbs(verbs)
    bench_serve.add_verbs(verbs)
    serving.add_verbs(verbs)
    conformance.add_verbs(verbs)

    verb = next((word for word in given if not word.startswith("-")), None)
    if verb is not None and verb not in verbs.choices:
        raise ValueError(f"unknown command {verb!r}; {near(verb, list(verbs.choices))}")
    # Taken before the verb or after it, for it belongs to none.
    args, rest = parser.parse_known_args([word for word in given if word != "--traceback"])
    if args.version:
        args.run = runs.version
        return args
    if verb is None:
        if rest:
            _refuse(rest, parser)
        raise ValueError(f"give a command: {', '.join(verbs.choices)}")
    if hasattr(args, "overrides"):
        args.overrides = rest
    elif rest:
        _refuse(rest, args.parser)
    return args


def _refuse(rest: list[str], parser: argparse.ArgumentParser) -> NoReturn:
    option = next((word for word in rest if word.startswith("-")), None)
    if option is None:
        raise ValueError(f"unexpected argument {rest[0]!r}: put words with spaces in quotes")
    name = option.partition("=")[0]
    known = re.findall(r"--[a-z][a-z-]*", parser.format_usage())
    raise ValueError(f"unknown option {name!r} of {parser.prog}; {near(name, known)}")
