"""Verbs around runs and installations: train, report, eval, env, and the version."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openjanus.cli.parsing import EXTRAS, add_model, add_verb, load, parse_seed, print_table


def add_verbs(verbs: Any) -> None:
    """Add this module's verbs."""
    _add_train(verbs)
    _add_report(verbs)
    _add_eval(verbs)
    add_verb(verbs, "env", _env, "print versions, the machine and what is installed")


def version(args: argparse.Namespace) -> None:
    """Print the version."""
    import openjanus

    print(f"openjanus {openjanus.__version__}")


def _add_train(verbs: Any) -> None:
    parser = add_verb(verbs, "train", train, "train by a recipe")
    parser.add_argument("--config", required=True, help="recipe: nano/stage2, or a YAML file")
    parser.epilog = "Every key of a recipe is an option too: --run.dir DIR --optim.lr 1e-4"


def train(args: argparse.Namespace) -> None:
    """Train by a recipe; `overrides` are the options that are not the command's own."""
    from openjanus.train.recipes import run_recipe

    print(run_recipe(args.config, args.overrides))


def _add_report(verbs: Any) -> None:
    parser = add_verb(verbs, "report", _report, "draw the curves of runs, and sum them up")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), help="%(default)s")
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="NAME", help="these alone are drawn"
    )


def _report(args: argparse.Namespace) -> None:
    from openjanus.train.report import draw_curves, summarise

    draw_curves(args.runs, args.output, metrics=args.metrics)
    for run in args.runs:
        print(summarise(run))
    print(args.output)


def _add_eval(verbs: Any) -> None:
    parser = add_verb(verbs, "eval", _eval, "measure a model by a task")
    add_model(parser)
    parser.add_argument("--task", required=True, help="for instance emoji")
    parser.add_argument(
        "--limit", type=int, help="drawings a tag, and questions a kind; all when left out"
    )
    parser.add_argument("--seed", type=parse_seed, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder of predictions")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the task, for instance guidance_scale=5; may be repeated",
    )


def _eval(args: argparse.Namespace) -> None:
    from openjanus.eval.runner import run_task

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit must be >= 1, got {args.limit}: leave it out for all")
    summary = run_task(
        load(args),
        args.task,
        limit=args.limit,
        output=args.output,
        seed=args.seed,
        options=dict(_parse_option(text) for text in args.set),
    )
    print(json.dumps(summary, indent=1))


def _parse_option(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; a value is JSON where it can be, else a word."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"--set takes NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _env(args: argparse.Namespace) -> None:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    import openjanus

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    # Which sets of instructions the processor has is known to newer versions of torch alone.
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    print_table(
        {
            "openjanus": openjanus.__version__,
            "python": f"{platform.python_version()} on {platform.platform()}",
            **{
                name: installed(name)
                for name in ("torch", "numpy", "pillow", "safetensors", "tokenizers")
            },
            "processor": f"{abilities.get('cpu_name', platform.processor())}, "
            f"{os.cpu_count()} logical cores, torch uses {torch.get_num_threads()} threads",
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "bfloat16 in hardware": _yes_no(abilities, "avx512_bf16", "amx_bf16"),
            "float16 in hardware": _yes_no(abilities, "avx512_fp16", "amx_fp16"),
            "accelerators": ", ".join(cuda) if cuda else "none",
            **{
                f"extra {extra}": ", ".join(
                    f"{package} {installed(package)}" for package in packages.values()
                )
                for extra, packages in EXTRAS.items()
            },
        }
    )


def _yes_no(abilities: Mapping[str, Any], *names: str) -> str:
    if not abilities:
        return "unknown"
    found = [name for name in names if abilities.get(name)]
    return f"yes ({', '.join(found)})" if found else "no"
