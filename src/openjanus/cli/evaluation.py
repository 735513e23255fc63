"""The verb eval: ask and score, draw a benchmark's prompts, score what others found."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openjanus.cli.parsing import DEFAULT_MODEL, add_model, add_verb, load, parse_option, parse_seed
from openjanus.folders import require_no_file
from openjanus.rules import near

SCORED_FROM = {"geneval": "detections", "dpg": "answers", "frechet": "reference"}
"""Task that needs no model -> the option with what is scored beside --data."""

DEFAULT = {"model": DEFAULT_MODEL, "device": "auto", "dtype": "auto"}
"""What these options are where they were not given."""
NAMES_OF = {"geneval": ["detector"], "dpg": [], "frechet": ["features", "resize"]}
"""Such a task -> what --set names: what made its files."""


def add_verbs(verbs: Any) -> None:
    """Add this module's verb."""
    parser = add_verb(verbs, "eval", _eval, "ask a task's questions, and score the answers")
    add_model(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--task", help="emoji, pope, mme, mmbench, seed, gqa, vqav2, mmmu, mmvet, geneval, dpg, ..."
    )
    what.add_argument(
        "--generate-set", type=Path, metavar="PROMPTS", help="draw a benchmark's prompts"
    )
    parser.add_argument("--data", type=Path, help="the benchmark's own files")
    parser.add_argument("--rule", help="how answers are counted, where usages differ")
    parser.add_argument("--layout", help="of --generate-set: geneval, dpg or flat")
    parser.add_argument("--detections", type=Path, help="of geneval: a detector's JSON lines")
    parser.add_argument("--answers", type=Path, help="of dpg: a model's answers, JSON lines")
    parser.add_argument("--reference", type=Path, help="of frechet: features or statistics")
    parser.add_argument(
        "--drawings", type=Path, help="of dpg and frechet: the folder that was drawn into"
    )
    parser.add_argument(
        "--limit", type=int, help="the first so many of each part; all when left out"
    )
    parser.add_argument("--seed", type=parse_seed, default=0)
    parser.add_argument("--output", type=Path, help="folder of predictions or drawings")
    parser.add_argument(
        "--retry-broken", action="store_true", help="ask again what could not be asked before"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the task, for instance guidance_scale=5; may be repeated",
    )


def _eval(args: argparse.Namespace) -> None:
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit must be >= 1, got {args.limit}: leave it out for all")
    if args.output is not None:
        require_no_file(args.output, "--output")
    if args.generate_set is not None:
        summary = _draw_set(args)
    elif args.task in SCORED_FROM:
        summary = _score_files(args)
    else:
        summary = _run_task(args)
    print(json.dumps(summary, indent=1))


def _refuse(args: argparse.Namespace, what: str, *names: str) -> None:
    """Refuse options that would do nothing."""
    given = [
        name for name in names if getattr(args, name) not in (None, False, [], DEFAULT.get(name))
    ]
    if given:
        option = given[0].replace("_", "-")
        raise ValueError(f"{what} does nothing with --{option}: leave it out")


def _need_output(args: argparse.Namespace) -> Path:
    if args.output is None:
        raise ValueError("give --output, the folder that the run writes into")
    return args.output


def _run_task(args: argparse.Namespace) -> dict[str, Any]:
    from openjanus.eval.runner import run_task

    _refuse(args, f"--task {args.task}", "layout", "drawings", *SCORED_FROM.values())
    options = dict(parse_option(text) for text in args.set)
    for name in ("data", "rule"):
        value = getattr(args, name)
        if value is not None:
            options[name] = str(value)
    return run_task(
        lambda: load(args),  # weights take long: what is wrong with the questions is said first
        args.task,
        limit=args.limit,
        output=_need_output(args),
        seed=args.seed,
        options=options,
        retry_broken=args.retry_broken,
    )


def _draw_set(args: argparse.Namespace) -> dict[str, Any]:
    from openjanus.config_file import has_type, type_hints
    from openjanus.eval.drawing_set import SAMPLES, DrawingSet

    idle = ("data", "rule", "retry_broken", "drawings")
    _refuse(args, "--generate-set", *idle, *SCORED_FROM.values())
    if args.layout is None:
        raise ValueError(f"give --layout, one of {', '.join(SAMPLES)}")
    output = _need_output(args)
    options = dict(parse_option(text) for text in args.set)
    known = ("n", "batch_size", "guidance_scale", "temperature", "top_k", "top_p")
    hints = type_hints(DrawingSet.__init__)
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"unknown option {name!r} of a set; known: {', '.join(known)}")
        if not has_type(value, hints[name]):
            raise ValueError(f"{name} must be a number ({hints[name]}), got {value!r}")
    drawn = DrawingSet(prompts=args.generate_set, layout=args.layout, **options)
    drawn.check()
    return drawn.draw(load(args), output, seed=args.seed, limit=args.limit)


def _names(args: argparse.Namespace) -> dict[str, str]:
    """What --set says of how the files were made."""
    known = NAMES_OF[args.task]
    if not known:
        _refuse(args, f"--task {args.task}", "set")
    told = dict(text.partition("=")[::2] for text in args.set)
    for name, value in told.items():
        if name not in known:
            raise ValueError(f"--task {args.task} has no option {name!r}; {near(name, known)}")
        if not value.strip():
            raise ValueError(f"--set {name} needs a name behind it: give --set {name}=NAME")
    missing = [f"--set {name}=NAME" for name in known if name not in told]
    if args.task == "frechet" and missing:
        raise ValueError(
            "a Frechet distance means nothing without its network and how pictures were resized: "
            f"give {' and '.join(missing)}"
        )
    return told


def _require_free(folder: Path, task: str) -> None:
    """Refuse a folder that holds another result, or drawings: their summary would be lost."""
    from openjanus.eval.results import is_result
    from openjanus.eval.runner import SUMMARY_NAME

    path = folder / SUMMARY_NAME
    if not is_result(folder):
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:  # cut off, or none of ours
        found = {}
    if not isinstance(found, dict) or found.get("task") != task:
        raise ValueError(
            f"--output {folder} holds another result than one of {task}: give another folder"
        )


def _score_files(args: argparse.Namespace) -> dict[str, Any]:
    from openjanus.eval.detections import score_drawings
    from openjanus.eval.frechet import score_features
    from openjanus.eval.graph_answers import score_answers
    from openjanus.eval.record import write_json
    from openjanus.eval.runner import PREDICTIONS_NAME, SUMMARY_NAME

    other = SCORED_FROM[args.task]
    idle = [name for name in SCORED_FROM.values() if name != other]
    _refuse(args, f"--task {args.task}", "layout", "rule", "limit", "retry_broken", *idle)
    missing = [name for name in ("data", other) if getattr(args, name) is None]
    if missing:
        raise ValueError(f"--task {args.task} scores files: give --{' and --'.join(missing)}")
    named = _names(args)
    drawings = args.drawings
    if args.task == "geneval":
        _refuse(args, "--task geneval", "drawings")  # --data is that folder
    _refuse(args, f"--task {args.task}", *DEFAULT, "revision", "adapter")
    if args.output is not None:
        _require_free(args.output, args.task)
    lines = None if args.output is None else args.output / PREDICTIONS_NAME
    common = {"seed": args.seed, "predictions": lines}
    how: dict[str, Callable[[], dict[str, Any]]] = {
        "geneval": lambda: score_drawings(
            args.data, args.detections, detector=named.get("detector"), **common
        ),
        "dpg": lambda: score_answers(args.data, args.answers, drawings=drawings, **common),
        "frechet": lambda: score_features(args.data, args.reference, drawings=drawings, **named),
    }
    summary = how[args.task]()
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        write_json(args.output / SUMMARY_NAME, summary)
    return summary
