"""Janus' ablation (Table 5) on the emoji world, in one command that goes on where it was stopped.

    python scripts/ablation.py run                        # everything, or as far as it gets
    python scripts/ablation.py run --experiments D E --seeds 1 --groups
    python scripts/ablation.py table --output table.md --picture docs/images/ablation.png
    python scripts/ablation.py publish FOLDER exp-d-1 scratch  # configurations, exams and curves

What is in the table, and what each run costs: docs/ablation.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openjanus.cli import explain
from openjanus.train.ablation import FACES, GROUPS, GUIDANCE, SEEDS, Exam, plan

ROOT = Path("runs/ablation")
TASK = "emoji-faces"
SIZES = {"drawings": 40, "questions": 200, "references": 1000}
"""Of an exam: drawings a tag, questions a column, pictures that drawings are compared with."""
WORLD = {"world": "few", "slots": True, "one_ground": True}
"""What the recipes show."""


def exam_options(
    args: argparse.Namespace, faces: str, split: str, guidance: float | None
) -> dict[str, Any]:
    """The task's options of one exam."""
    options: dict[str, Any] = {"faces": faces, "split": split, **WORLD}
    options |= {name: getattr(args, name) for name in SIZES}
    return options if guidance is None else options | {"guidance_scale": guidance}


def run(args: argparse.Namespace) -> int:
    """Run what is missing; 1 where something failed."""
    import openjanus
    from openjanus.eval.runner import what_differs
    from openjanus.train.queue import run_queue

    def exam(asked: Exam) -> Sequence[str]:
        told = ["exam", str(asked.model), str(asked.output), "--seed", str(asked.seed)]
        told += ["--faces", asked.faces, "--split", asked.split]
        for name in SIZES:
            told += [f"--{name}", str(getattr(args, name))]
        if asked.guidance is not None:
            told += ["--guidance", f"{asked.guidance:g}"]
        return (str(Path(__file__).resolve()), *told)

    def differs(asked: Exam) -> Sequence[str]:
        register_exam()
        return what_differs(
            lambda: openjanus.load(asked.model.resolve()),
            TASK,
            output=asked.output,
            seed=asked.seed,
            options=exam_options(args, asked.faces, asked.split, asked.guidance),
        )

    jobs = plan(
        args.root,
        experiments=args.experiments,
        seeds=args.seeds,
        groups=args.groups,
        guidance=args.guidance,
        exam=exam,
        differs=differs,
        overrides=args.set,
    )
    if args.list:
        for job in jobs:
            after = f"  after {', '.join(job.needs)}" if job.needs else ""
            print(f"{job.name}{after}")
        return 0
    stop_after_s = None if args.hours is None else 3600 * args.hours
    records = run_queue(
        jobs,
        args.root,
        threads=args.threads,
        side_by_side=args.side_by_side,
        stop_after_s=stop_after_s,
    )
    for name, record in records.items():
        print(f"{name}: {record.state}, {record.seconds / 60:.1f} min")
    return int(any(record.state in ("failed", "blocked") for record in records.values()))


def register_exam() -> None:
    """Make the task known, also where the package was installed before it had it."""
    from openjanus.eval.task import register_task
    from openjanus.worlds.emoji.faces_task import FacesTask

    register_task(TASK, FacesTask)


def exam(args: argparse.Namespace) -> int:
    """Examine one model: what a job of the queue does."""
    import openjanus
    from openjanus.eval.runner import run_task

    register_exam()
    run_task(
        lambda: openjanus.load(args.model.resolve()),
        TASK,
        output=args.output,
        seed=args.seed,
        options=exam_options(args, args.faces, args.split, args.guidance),
    )
    return 0


def table(args: argparse.Namespace) -> int:
    """Print the tables of what is there."""
    from openjanus.train.ablation_table import draw_bars, draw_guidance, markdown

    text = markdown(args.root, args.seeds)
    print(text, end="")
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text, encoding="utf-8")
    if args.picture is not None:
        draw_bars(args.root, args.seeds, args.picture)
    if args.guidance_picture is not None:
        draw_guidance(args.root, args.seeds, args.guidance_picture)
    return 0


def publish(args: argparse.Namespace) -> int:
    """Copy what the tables are made of."""
    from openjanus.train.ablation_table import publish

    written = publish(args.root, args.output, args.runs)
    print(f"wrote {len(written)} files of {len(args.runs)} runs to {args.output}")
    return 0


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("run", help="run what is missing")
    one.set_defaults(verb=run)
    one.add_argument("--root", type=Path, default=ROOT)
    one.add_argument("--experiments", nargs="*", default=list(FACES), metavar="LETTER")
    one.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    one.add_argument("--groups", nargs="*", default=list(GROUPS), help=f"of {', '.join(GROUPS)}")
    one.add_argument("--guidance", nargs="*", type=float, default=list(GUIDANCE))
    one.add_argument("--threads", type=int, default=2, help="of each run")
    one.add_argument("--side-by-side", type=int, default=1, help="runs at a time")
    one.add_argument("--hours", type=float, help="start nothing new after so many")
    _add_sizes(one)
    one.add_argument("--list", action="store_true", help="name the jobs and run nothing")
    one.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="--KEY=VALUE",
        help="a key of every recipe, for a miniature: --set=--run.steps=2",
    )
    two = verbs.add_parser("exam", help="examine one model")
    two.set_defaults(verb=exam)
    two.add_argument("model", type=Path)
    two.add_argument("output", type=Path)
    two.add_argument("--seed", type=int, default=0)
    two.add_argument("--faces", default="both")
    two.add_argument("--split", default="held_out", help="cells that questions are about")
    _add_sizes(two)
    two.add_argument("--guidance", type=float)
    three = verbs.add_parser("table", help="tables and verdicts of what is there")
    three.set_defaults(verb=table)
    three.add_argument("--root", type=Path, default=ROOT)
    three.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    three.add_argument("--output", type=Path, help="a markdown file")
    three.add_argument("--picture", type=Path, help="a PNG of bars")
    three.add_argument("--guidance-picture", type=Path, help="a PNG of drawings by guidance")
    four = verbs.add_parser("publish", help="copy what the tables are made of, without weights")
    four.set_defaults(verb=publish)
    four.add_argument("output", type=Path)
    four.add_argument("runs", nargs="+", metavar="RUN", help="a folder in --root")
    four.add_argument("--root", type=Path, default=ROOT)
    return parser.parse_args(given)


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size)


def main(given: Sequence[str]) -> int:
    """Run a verb; what a user did wrong is one line and 2."""
    args = parse(given)
    try:
        return args.verb(args)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, KeyError, OSError, ImportError) as error:
        message = explain(error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
