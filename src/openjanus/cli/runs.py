"""Verbs around runs and installations: train, report, env, and the version."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openjanus.cli.parsing import EXTRAS, add_verb, print_table


def add_verbs(verbs: Any) -> None:
    """Add this module's verbs."""
    _add_train(verbs)
    _add_report(verbs)
    add_verb(verbs, "env", _env, "print versions, the machine and what is installed")


def version(args: argparse.Namespace) -> None:
    """Print the version."""
    import openjanus

    print(f"openjanus {openjanus.__version__}")


def _add_train(verbs: Any) -> None:
    parser = add_verb(verbs, "train", train, "train by a recipe")
    parser.add_argument("--config", required=True, help="recipe: nano/stage2, or a YAML file")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be trained and what it takes, without weights or data",
    )
    parser.add_argument(
        "--peak-tflops", type=float, default=312.0, help="of a dry run's device (%(default)s)"
    )
    parser.add_argument(
        "--mfu", type=float, default=0.4, help="share of it that is reached (%(default)s)"
    )
    parser.add_argument(
        "--give-memory-back",
        action="store_true",
        help="give freed memory back to the system: on a CPU less memory, and slower steps",
    )
    parser.epilog = "Every key of a recipe is an option too: --run.dir DIR --optim.lr 1e-4"
    parser.set_defaults(overrides=[])


def train(args: argparse.Namespace) -> None:
    """Train by a recipe; `overrides` are the options that are not the command's own."""
    if args.dry_run:
        from openjanus.train.dry_run import describe_recipe

        options = {"peak_tflops": args.peak_tflops, "mfu": args.mfu}
        print(describe_recipe(args.config, args.overrides, **options))
        return
    if not args.give_memory_back:
        from openjanus.train.host_memory import keep_freed_memory

        keep_freed_memory()  # before torch is imported
    from openjanus.train.parallel import LostProcess, is_first_process
    from openjanus.train.recipes import run_recipe

    try:
        folder = run_recipe(args.config, args.overrides)
    except LostProcess:
        # Threads of gloo still wait for who is gone. One that frees a tensor when Python has ended
        # brings the process down with no word and no exit code of ours.
        atexit.register(_end_at_once)
        raise
    if is_first_process():
        print(folder)


def _end_at_once() -> None:
    """End this process as one that a mistake ended, before Python takes itself down."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def _add_report(verbs: Any) -> None:
    parser = add_verb(verbs, "report", _report, "compare runs, and draw them")
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folder of a run of train or of eval"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="the picture (curves.png, results.png); of both kinds, -curves and -results are added",
    )
    parser.add_argument("--format", choices=["markdown", "json"], default="markdown")
    parser.add_argument(
        "--spikes",
        action="store_true",
        help="say at which steps loss or norms left what they had been, and mark them",
    )
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="NAME", help="these alone are drawn"
    )


def _report(args: argparse.Namespace) -> None:
    from openjanus.eval.results import is_result, read_result
    from openjanus.eval.tables import FORMAT_VERSION, as_data, compare, markdown
    from openjanus.train.report import draw_curves, is_run, report_spikes, summarise
    from openjanus.train.result_bars import draw_results

    if args.output is not None and args.output.is_dir():
        raise ValueError(
            f"--output is a picture, {args.output} is a folder: give {args.output / 'compared.png'}"
        )
    folders = list(dict.fromkeys(args.runs))
    trained = [folder for folder in folders if is_run(folder)]
    judged = [folder for folder in folders if is_result(folder)]
    for folder in folders:
        if folder not in (*trained, *judged):
            raise FileNotFoundError(
                f"{folder} is no run: give a folder that train (metrics.jsonl) or eval "
                "(summary.json) wrote"
            )
    if not trained and (args.spikes or args.metrics):
        option = "--spikes" if args.spikes else "--metrics"
        raise ValueError(f"{option} is about runs of train, and none is given: leave it out")
    curves, bars = _pictures(args.output, both=bool(trained and judged))
    # All are read before anything is drawn: one that cannot be read leaves nothing half done.
    tables = compare([read_result(folder) for folder in judged])
    summaries = {str(folder): summarise(folder) for folder in trained}
    if args.spikes:
        summaries["spikes"] = report_spikes(trained)
    if trained:
        draw_curves(trained, curves, metrics=args.metrics, spikes=args.spikes)
    if judged:
        draw_results(tables, bars)
    pictures = [str(path) for path, some in ((curves, trained), (bars, judged)) if some]
    if args.format == "json":
        told = {"tables": as_data(tables), "runs": summaries, "pictures": pictures}
        print(json.dumps({"format_version": FORMAT_VERSION, **told}, indent=1))
        return
    for text in [*summaries.values(), *([markdown(tables)] if judged else []), *pictures]:
        print(text)


def _pictures(output: Path | None, *, both: bool) -> tuple[Path, Path]:
    """Where curves go, and where bars do."""
    if output is None:
        return Path("curves.png"), Path("results.png")
    if not output.suffix:  # as the picture is written, and so as it is called
        output = output.with_suffix(".png")
    if not both:
        return output, output
    return (
        output.with_stem(f"{output.stem}-curves"),
        output.with_stem(f"{output.stem}-results"),
    )


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
