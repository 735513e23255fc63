"""A queue of runs, each a process of its own, that goes on wherever it was stopped.

What is complete is left alone, what was stopped goes on from its newest checkpoint, and what needs
something that failed waits for it. A run of another configuration is refused; a result that is
compared, and is not what the job would make now, is put aside and made again. The state lies in
``queue.json``, every job's words in ``logs/NAME.log``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from openjanus.folders import held
from openjanus.train.checkpoint import checkpoint_steps
from openjanus.train.recipes import load_recipe
from openjanus.train.runs import FINAL, TrainConfig
from openjanus.train.same_run import check_same_run

FORMAT_VERSION = 1
STATE_NAME = "queue.json"
LOCK_NAME = "queue.lock"
LOGS = "logs"
COMMAND = "import sys; from openjanus.cli import main; sys.exit(main())"
"""What ``openjanus`` is, for the interpreter that runs the queue."""

JobState = Literal["waiting", "running", "done", "failed", "blocked"]
"""``blocked``: what it needs has failed. ``running`` without a queue is what was stopped."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One process, and what it leaves behind when it is complete."""

    name: str
    """Of its log and its place in the state."""
    command: tuple[str, ...]
    """Arguments behind the interpreter."""
    result: Path
    """Exists once the job is complete, and not before."""
    needs: tuple[str, ...] = ()
    """Jobs that must be complete first; they stand before it in the queue."""
    begun: Path | None = None
    """Folder whose checkpoints mean that the job was stopped on the way; None, that the job itself
    finds what it has done."""
    resume: tuple[str, ...] = ()
    """Arguments that are added then."""
    config: TrainConfig | None = None
    """What a run that is there, complete or stopped, must have been started with."""
    differs: Callable[[], Sequence[str]] | None = None
    """Names of what sets apart what is there, complete or not, from what the job would make now;
    called once what the job needs is complete. None compares nothing."""


def train_job(
    name: str,
    recipe: str,
    root: Path,
    overrides: Sequence[str] = (),
    *,
    needs: Sequence[str] = (),
) -> Job:
    """The run of a recipe in ``root/name``.

    Args:
        name: Of the job and of its folder.
        recipe: Its id or path.
        root: Folder of all runs.
        overrides: ``--dotted.key=value``.
        needs: Jobs whose results the recipe starts from.

    Raises:
        FileNotFoundError: No such recipe.
        ValueError: A wrong key or value.
    """
    folder = root / name
    config = load_recipe(recipe, (f"--run.dir={folder}", *overrides))
    arguments = ("train", "--config", recipe, "--run.dir", str(folder), *overrides)
    return Job(
        name=name,
        command=("-c", COMMAND, *arguments),
        result=folder / FINAL,
        needs=tuple(needs),
        begun=folder,
        resume=("--run.resume", "true"),
        config=config,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What is known of a job."""

    state: JobState = "waiting"
    sessions: int = 0
    """How often it was started; more than one is a job that went on, or was tried again."""
    seconds: float = 0.0
    """Of all sessions that ended."""
    returncode: int | None = None
    """Of the last one."""


def read_state(root: Path) -> dict[str, Record]:
    """The records of a queue's folder by name; none where nothing was run.

    Raises:
        ValueError: Written by a newer version, or no JSON.
    """
    path = root / STATE_NAME
    if not path.is_file():
        return {}
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it, results stay") from error
    if data["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version {data['format_version']} is newer than {FORMAT_VERSION}: "
            "install a newer openjanus (pip install -U openjanus)"
        )
    return {name: Record(**record) for name, record in data["jobs"].items()}


def _write_state(root: Path, records: Mapping[str, Record]) -> None:
    jobs = {name: dataclasses.asdict(record) for name, record in records.items()}
    draft = root / f"{STATE_NAME}.part"
    text = json.dumps({"format_version": FORMAT_VERSION, "jobs": jobs}, indent=1) + "\n"
    draft.write_text(text, encoding="utf-8")
    draft.replace(root / STATE_NAME)


def check_jobs(jobs: Sequence[Job]) -> None:
    """Raise ``ValueError`` where two jobs share a name, or one needs what is not before it."""
    seen: set[str] = set()
    for job in jobs:
        if job.name in seen:
            raise ValueError(f"two jobs are called {job.name!r}: give each a name of its own")
        missing = [name for name in job.needs if name not in seen]
        if missing:
            raise ValueError(
                f"{job.name} needs {missing[0]!r}, which is not before it in the queue"
            )
        seen.add(job.name)


def _check_runs(jobs: Sequence[Job]) -> None:
    """Refuse runs of other configurations, before hours are spent on what stands before them."""
    for job in jobs:
        there = job.result.exists() or (job.begun is not None and checkpoint_steps(job.begun))
        if job.config is not None and there:
            check_same_run(job.config)


def _put_aside(job: Job) -> None:
    """Move what is there out of the way where the job would make something else now."""
    names = [] if job.differs is None else job.differs()
    if not names:
        return
    folder = job.result.parent
    places = (folder.with_name(f"old-{folder.name}-{n}") for n in count(1))
    place = next(place for place in places if not place.exists())
    folder.rename(place)
    told = f"{job.name}: what was there is of other {', '.join(names)}: put into {place}"
    tqdm.write(told, file=sys.stderr)


Runner = Callable[[Sequence[str], Path, Mapping[str, str]], int]
"""Arguments, log and environment to an exit code."""


def run_process(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
    """Run this interpreter with arguments; what it says is added to the log.

    Returns:
        Its exit code. A stop of the queue (Ctrl-C, SIGTERM) stops it too.
    """
    with log.open("a", encoding="utf-8") as words:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=words,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            close_fds=False,  # the lock
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the queue as Ctrl-C does, so that what it runs is stopped too."""

    def end(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    # Python lets the main thread alone have handlers; elsewhere stopping is its owner's business.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_queue(
    jobs: Sequence[Job],
    root: Path,
    *,
    threads: int,
    stop_after_s: float | None = None,
    runner: Runner = run_process,
) -> dict[str, Record]:
    """Run jobs in order; what is complete is left alone and what failed is tried again.

    What is there of a job that compares, and differs, is put beside its folder as ``old-NAME-1``.

    Args:
        jobs: Each after what it needs.
        root: Folder of the state and the logs.
        threads: Of each process.
        stop_after_s: Start nothing new after so many seconds; None has no end.
        runner: Runs a command; another one is for tests.

    Returns:
        The record of each job, also where some failed.

    Raises:
        ValueError: Jobs out of order, fewer than one thread, another queue runs in the folder, or
            a run in it was started with another configuration.
    """
    check_jobs(jobs)
    if threads < 1:
        raise ValueError(f"threads must be >= 1, got {threads}")
    refusal = (
        f"another queue, or a run that outlived one, is at work in {root}: wait for it, or stop it"
    )
    with held(root, LOCK_NAME, refusal=refusal, inherited=True), _ended_by_sigterm():
        _check_runs(jobs)
        records = read_state(root)
        logs = root / LOGS
        logs.mkdir(exist_ok=True)
        began = time.monotonic()
        for place, job in enumerate(jobs, start=1):
            before = records.get(job.name, Record())
            lacking = [name for name in job.needs if records[name].state != "done"]
            if not lacking:
                _put_aside(job)
            compared = job.differs is None or not lacking
            if job.result.exists() and compared:
                records[job.name] = dataclasses.replace(before, state="done")
                continue
            if lacking:
                failed = any(records[name].state in ("failed", "blocked") for name in lacking)
                state: JobState = "blocked" if failed else "waiting"
                records[job.name] = dataclasses.replace(before, state=state)
                continue
            if stop_after_s is not None and time.monotonic() - began >= stop_after_s:
                records[job.name] = dataclasses.replace(before, state="waiting")
                continue
            sessions = before.sessions + 1
            records[job.name] = dataclasses.replace(before, state="running", sessions=sessions)
            _write_state(root, records)
            resumed = job.begun is not None and bool(checkpoint_steps(job.begun))
            how = "goes on" if resumed else "starts"
            tqdm.write(f"[{place}/{len(jobs)}] {job.name}: {how}", file=sys.stderr)
            command = (*job.command, *(job.resume if resumed else ()))
            environment = {"OMP_NUM_THREADS": str(threads)}
            since, code = time.monotonic(), None
            try:
                code = runner(command, logs / f"{job.name}.log", environment)
            finally:  # a stop of the queue too: its minutes count
                seconds = time.monotonic() - since
                records[job.name] = _after(job, records[job.name], code, seconds)
                _write_state(root, records)
            if records[job.name].state == "failed":
                tqdm.write(f"{job.name} failed, see {logs / job.name}.log", file=sys.stderr)
        _write_state(root, records)
    return {job.name: records[job.name] for job in jobs}


def _after(job: Job, record: Record, code: int | None, seconds: float) -> Record:
    """A job's record after a session; without an exit code it was stopped."""
    state: JobState = "running"
    if code is not None:
        state = "done" if code == 0 and job.result.exists() else "failed"
    return dataclasses.replace(
        record, state=state, seconds=round(record.seconds + seconds, 1), returncode=code
    )
