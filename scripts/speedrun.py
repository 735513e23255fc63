"""From nothing to a judged nano against the clock: the runs of a recipe, then the judge.

    python scripts/speedrun.py --output runs/speedrun --idea "what is new"
    python scripts/speedrun.py --recipe speedrun/mini --shipped-world --limit 4 --output build/mini

`record.json` in the folder has each part's seconds, losses, and the judge's figures. A run that was
stopped goes on when the command is given again; its clock has been written every few seconds and
goes on as well. The rules are in docs/speedrun.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

from openjanus.eval.record import write_json
from openjanus.presets import PRESETS
from openjanus.train.checkpoint import checkpoint_steps
from openjanus.train.config import JanusTrainConfig
from openjanus.train.metrics import read_metrics
from openjanus.train.recipes import Member, load_members, read_configs
from openjanus.train.runs import TrainConfig
from openjanus.train.semantic_config import SemanticTrainConfig
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.text_tokenizer_config import TokenizerTrainConfig
from openjanus.train.vq_config import VQTrainConfig

FORMAT_VERSION: Final = 1
RECORD_NAME: Final = "record.json"
ROOT: Final = Path(__file__).resolve().parents[1]
COMMAND: Final = [
    *(sys.executable, "-c"),
    "import sys; from openjanus.cli import main; sys.exit(main())",
]
WANTED: Final = 0.45
"""Overall share of drawings of held-out cells that the judge must accept."""
LIMIT: Final = 400
"""Drawings a tag, and questions a kind, of a record."""
SEED: Final = 0
"""Of a record's drawings and questions."""
CPUS: Final = 2
PARAMETERS: Final = 15_500_000
"""A record's model has at most so many, all parts together."""
BEAT: Final = 5.0
"""Seconds between two writings of the clock."""
ENDS: Final = 4
"""A loss fell if the mean of its last quarter lies below that of its first one."""
STOPPED: Final = 130
"""Exit code of a run that was asked to stop."""
Record = dict[str, Any]


def check_rules(members: Sequence[Member], configs: Sequence[tuple[str, TrainConfig]]) -> None:
    """See that nothing starts from weights that are there already, nor sees what is held out.

    Raises:
        ValueError: A part breaks a rule.
    """
    folders = [member.folder for member in members]
    for place, (name, config) in enumerate(configs):
        for start in _starts(config):
            if start.split("/")[0] not in folders[:place] and start not in PRESETS:
                raise ValueError(
                    f"{name} starts from {start!r}: a speedrun starts from nothing, so give a "
                    f"folder of an earlier part ({', '.join(folders[:place])}) or sizes alone"
                )
        for source in _sources(config):
            if source.options.get("split", "train") != "train":
                raise ValueError(
                    f"{name} is shown the split {source.options['split']!r}: only what is not "
                    "held out may be trained on"
                )


def _starts(config: TrainConfig) -> list[str]:
    """Whatever a run reads weights or words from."""
    names = ("language_model", "vq", "und_encoder", "tokenizer", "teacher")
    found = [getattr(config, name, None) for name in names]
    init = getattr(config, "init", None)
    return [
        *(one for one in found if one is not None),
        *([init] if isinstance(init, str) else [] if init is None else init),
    ]


def _sources(config: TrainConfig) -> list[Any]:
    if isinstance(config, JanusTrainConfig):
        return [*config.sources.und, *config.sources.text, *config.sources.gen]
    if isinstance(config, TokenizerTrainConfig):
        return list(config.sources)
    assert isinstance(config, VQTrainConfig | SiglipTrainConfig | SemanticTrainConfig)
    return [config.source]


def open_record(folder: Path, recipe: str, idea: str, limit: int) -> Record:
    """The folder's record, or a new one.

    Raises:
        ValueError: It is of another recipe, commit, or number of drawings.
    """
    path = folder / RECORD_NAME
    own = {"recipe": recipe, "commit": _commit(), "limit": limit, "seed": SEED}
    if path.is_file():
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        if record["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{path}: format_version {record['format_version']} is newer than "
                f"{FORMAT_VERSION}: take a newer scripts/speedrun.py"
            )
        for name, value in own.items():
            if record[name] != value:
                raise ValueError(
                    f"{path} was begun with {name} {record[name]!r}, this is {value!r}: go back to "
                    "it, or give another --output"
                )
        record["sessions"] += 1
        return record | {"idea": idea if idea else record["idea"]}
    return {
        "format_version": FORMAT_VERSION,
        **own,
        "idea": idea,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "sessions": 1,
        "machine": _machine(),
        "world": None,
        "stages": {},
        "training_seconds": 0.0,
        "judging_seconds": 0.0,
        "result": None,
    }


def _commit() -> str:
    """Commit of the code; with a plus where files were changed since."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head, changed = git("rev-parse", "--short=10", "HEAD"), git("status", "--porcelain")
    return "unknown" if head is None else f"{head}+" if changed else head


def _machine() -> dict[str, Any]:
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "processor": abilities.get("cpu_name", platform.processor()),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


class Clock:
    """Adds the time of commands to a record, and writes it again and again meanwhile."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder, self.record = folder, record

    def write(self) -> None:
        """Write the record with its sum."""
        stages = self.record["stages"].values()
        self.record["training_seconds"] = round(sum(stage["seconds"] for stage in stages), 1)
        write_json(self.folder / RECORD_NAME, self.record)

    def run(self, where: Record, name: str, command: Sequence[str]) -> None:
        """Run a command to its end; its seconds are added to `where[name]`.

        A signal to stop is handed on, so that a training writes its checkpoint; the command has a
        session of its own, or a terminal's Ctrl-C would reach it twice, and twice means at once.

        Raises:
            SystemExit: It failed, with its own code, or was stopped.
        """
        before, began, last = where.get(name, 0.0), time.monotonic(), 0.0
        process = subprocess.Popen([*COMMAND, *command], stdout=sys.stderr, start_new_session=True)
        with _handed_on(process) as stopped:
            while process.poll() is None:
                time.sleep(0.1)
                where[name] = round(before + time.monotonic() - began, 1)
                if time.monotonic() - began - last >= BEAT:
                    last = time.monotonic() - began
                    self.write()
        self.write()
        if stopped:
            tell("stopped; the same command goes on from here")
            raise SystemExit(STOPPED)
        if process.returncode != 0:
            tell(f"openjanus {command[0]} failed: mend it and give the same command again")
            raise SystemExit(process.returncode if process.returncode > 0 else 1)


@contextmanager
def _handed_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Hand signals to stop on to a process; gives those that came."""
    came: list[int] = []

    def hand_on(signum: int, _: object) -> None:
        came.append(signum)
        process.send_signal(signum)

    before = {which: signal.signal(which, hand_on) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def fetch_world(clock: Clock, folder: Path, *, shipped: bool) -> None:
    """Render the artwork from its packages, and see whether it is what ships.

    What ships is what is trained on and judged with, in either case: a record must be comparable.
    """
    if clock.record["world"] is not None:
        return
    if shipped:
        clock.record["world"] = {"from": "the package", "seconds": 0.0, "equals_shipped": True}
        clock.write()
        return
    from openjanus.worlds.emoji.fetch import same_sprites

    world: Record = {"from": "npm", "seconds": 0.0}
    place = folder / "world"
    command = ["data", "fetch", "emoji", "--pictures-only", "--folder", str(place)]
    clock.run(world, "seconds", command)
    clock.record["world"] = world | {"equals_shipped": same_sprites(place)}
    clock.write()


def train(clock: Clock, folder: Path, member: Member) -> None:
    """Run one part, or what is left of it."""
    stage = clock.record["stages"].setdefault(
        member.folder, {"recipe": member.recipe, "seconds": 0.0}
    )
    own = folder / member.folder
    if not (own / "final").is_dir():
        tell(f"{member.folder}: {member.recipe}")
        changes = [f"--{key}={json.dumps(value)}" for key, value in member.changes.items()]
        resume = json.dumps(bool(checkpoint_steps(own)))
        command = ["train", "--config", member.recipe, "--run.dir", str(own)]
        clock.run(stage, "seconds", [*command, "--run.resume", resume, *changes])
    if not (own / "final").is_dir():
        tell(f"{member.folder} was stopped; the same command goes on from here")
        raise SystemExit(STOPPED)
    stage |= ends(own)
    clock.write()


def ends(run: Path) -> Record:
    """Steps of a part, and its loss at both ends; of a tokenizer of words neither.

    Of an image tokenizer it is `l1`: its loss has another term once codes are quantized.
    """
    lines = read_metrics(run / "metrics.jsonl")
    if not lines:
        return {}
    name = "l1" if "l1" in lines[0] else "loss"
    values = [float(line[name]) for line in lines]
    few = max(1, len(values) // ENDS)
    first, last = sum(values[:few]) / few, sum(values[-few:]) / few
    return {
        "steps": lines[-1]["step"],
        "loss": name,
        "first": round(first, 4),
        "last": round(last, 4),
    }


def judge(clock: Clock, folder: Path, model: Path) -> None:
    """Draw held-out cells and ask; the shipped judge judges, and is measured beside."""
    record, place = clock.record, folder / "judged"
    if record["result"] is None or not (place / "summary.json").is_file():
        tell(f"judge: {record['limit']} drawings a tag, seed {record['seed']}")
        asked = ["--limit", str(record["limit"]), "--seed", str(record["seed"])]
        command = ["eval", "--model", str(model), "--task", "emoji", *asked]
        clock.run(record, "judging_seconds", [*command, "--output", str(place)])
    summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
    record["result"] = {
        "rules": summary["rules"],
        "drawing": summary["drawing"],
        "understanding": summary["understanding"],
        "parameters": parameters_of(model),
        "judge": summary["judge"],
        "judge_sha256": summary["options"]["judge_sha256"],
        "checkpoint_sha256": summary["checkpoint_sha256"],
    }
    clock.write()


def parameters_of(model: Path) -> int:
    """Numbers that a model has to learn, all its parts together."""
    from openjanus.pipeline.load import describe

    _, shapes, _ = describe(str(model))
    return sum(parameter.numel() for parameter in shapes.parameters())


def below_blind(understanding: Mapping[str, Any]) -> list[str]:
    """Kinds of questions that are answered worse than without the picture."""
    blind = understanding["blind"]
    return [kind for kind in blind if understanding[kind] < blind[kind]]


def failures(record: Mapping[str, Any]) -> list[str]:
    """What a run must have that this one has not, in words: for any run, the miniature too."""
    wrong = []
    for name, stage in record["stages"].items():
        if "first" in stage and not stage["last"] < stage["first"]:
            wrong.append(f"{name}: {stage['loss']} rose, {stage['first']} to {stage['last']}")
        if "first" not in stage and "tokenizer" not in stage["recipe"]:
            wrong.append(f"{name}: no metrics")
    result = record["result"]
    if result is None or not result["drawing"]["n"] > 0:
        wrong.append("nothing was judged")
    elif not result["judge"].get("renders"):
        wrong.append("the judge was not measured beside")
    return wrong


def why_no_record(record: Mapping[str, Any]) -> list[str]:
    """Which of the rules that a program can see keep a run out of the table."""
    said = []
    overall, cpus = record["result"]["drawing"]["overall"], record["machine"]["cpus"]
    if overall < WANTED:
        said.append(f"overall {overall:.3f} is below {WANTED}")
    below = below_blind(record["result"]["understanding"])
    said += [f"answers of {kind} are below blind" for kind in below]
    if record["result"]["parameters"] > PARAMETERS:
        said.append(f"{record['result']['parameters']:,} parameters, more than {PARAMETERS:,}")
    if record["limit"] != LIMIT:
        said.append(f"{record['limit']} drawings a tag, not {LIMIT}")
    if cpus != CPUS:
        said.append(f"{cpus} CPUs, not {CPUS}: taskset -c 0,1 gives two")
    if record["commit"] == "unknown" or record["commit"].endswith("+"):
        said.append(f"the code is of no commit ({record['commit']})")
    if not record["world"]["equals_shipped"]:
        said.append("the world that was rendered is not the one that ships")
    if not record["idea"]:
        said.append("no --idea")
    return said


def table_line(record: Mapping[str, Any]) -> str:
    """The line for the README's table."""
    drawing = record["result"]["drawing"]
    low, high = drawing["ci"]["overall"]
    minutes = round(record["training_seconds"] / 60)
    clock = f"{minutes // 60} h {minutes % 60:02d} min"
    overall = f"{drawing['overall']:.3f} ({low:.3f} to {high:.3f})"
    return f"| {clock} | {overall} | {record['commit']} | {record['idea']} |"


def tell(line: str) -> None:
    """One line of progress."""
    print(f"speedrun: {line}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run everything; 0, or 1 where something that must hold does not."""
    parser = argparse.ArgumentParser(description="From nothing to a judged nano.")
    parser.add_argument("--recipe", default="speedrun/all", help="of kind all (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--idea", default="", help="what is new, for the table")
    parser.add_argument("--limit", type=int, default=LIMIT, help="drawings a tag (%(default)s)")
    parser.add_argument("--shipped-world", action="store_true", help="fetch nothing")
    args = parser.parse_args(arguments)
    try:
        members = load_members(args.recipe)
        check_rules(members, read_configs(args.recipe))
        record = open_record(args.output, args.recipe, args.idea, args.limit)
    except (ValueError, FileNotFoundError) as error:
        print(f"speedrun: {error}", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    clock = Clock(args.output, record)
    clock.write()
    fetch_world(clock, args.output, shipped=args.shipped_world)
    for member in members:
        train(clock, args.output, member)
    judge(clock, args.output, args.output / members[-1].folder / "final")
    wrong = failures(record)
    for line in wrong:
        tell(line)
    for name, stage in record["stages"].items():
        tell(f"{name}: {stage['seconds']:.0f} s {_fall(stage)}".rstrip())
    tell(f"judging, not counted: {record['judging_seconds']:.0f} s")
    for line in why_no_record(record):
        tell(f"no record: {line}")
    print(table_line(record))
    return 1 if wrong else 0


def _fall(stage: Mapping[str, Any]) -> str:
    if "first" not in stage:
        return ""
    return f"({stage['loss']} {stage['first']:g} to {stage['last']:g}, {stage['steps']} steps)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
