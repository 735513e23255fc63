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
from typing import Any, Final, Literal, Protocol

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
POLL_S: Final = 0.1
"""Between two looks at what runs."""
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


class Process(Protocol):
    """What was started: a ``subprocess.Popen``, or what a test plays."""

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        ...


Starter = Callable[[Sequence[str], Path, Mapping[str, str]], Process]
"""Arguments, log and environment to a process that runs."""


def start_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start this interpreter with arguments; what it says is added to the log."""
    with log.open("a", encoding="utf-8") as words:
        return subprocess.Popen(
            [sys.executable, *command],
            stdout=words,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            close_fds=False,  # the lock
        )


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
    side_by_side: int = 1,
    stop_after_s: float | None = None,
    starter: Starter = start_process,
) -> dict[str, Record]:
    """Run jobs in order; what is complete is left alone and what failed is tried again.

    What is there of a job that compares, and differs, is put beside its folder as ``old-NAME-1``.

    Args:
        jobs: Each after what it needs.
        root: Folder of the state and the logs.
        threads: Of each process.
        side_by_side: Processes at a time; more than one where jobs of one thread each leave CPUs
            idle. A job that must wait for another one lets those behind it pass.
        stop_after_s: Start nothing new after so many seconds; None has no end.
        starter: Starts a command; another one is for tests.

    Returns:
        The record of each job, also where some failed.

    Raises:
        ValueError: Jobs out of order, fewer than one thread or process, another queue runs in the
            folder, or a run in it was started with another configuration.
    """
    check_jobs(jobs)
    for name, value in (("threads", threads), ("side_by_side", side_by_side)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    refusal = (
        f"another queue, or a run that outlived one, is at work in {root}: wait for it, or stop it"
    )
    with held(root, LOCK_NAME, refusal=refusal, inherited=True), _ended_by_sigterm():
        _check_runs(jobs)
        (root / LOGS).mkdir(exist_ok=True)
        end = None if stop_after_s is None else time.monotonic() + stop_after_s
        records = _Work(jobs, root, threads, side_by_side, end, starter).run()
    return {job.name: records[job.name] for job in jobs}


class _Work:
    """What is still to be run, and what runs."""

    def __init__(
        self,
        jobs: Sequence[Job],
        root: Path,
        threads: int,
        side_by_side: int,
        end: float | None,
        starter: Starter,
    ) -> None:
        self._records = read_state(root)
        self._places = {job.name: place for place, job in enumerate(jobs, start=1)}
        self._left = list(jobs)
        self._open = set(self._places)
        """Names of what has no outcome yet, in this session."""
        self._running: dict[str, tuple[Job, Process, float]] = {}
        self._root = root
        self._environment = {"OMP_NUM_THREADS": str(threads)}
        self._side_by_side = side_by_side
        self._end = end
        self._starter = starter

    def run(self) -> dict[str, Record]:
        """Run until nothing is left that can be."""
        try:
            while True:
                self._left = [job for job in self._left if not self._settle(job)]
                if not self._running:
                    break
                time.sleep(POLL_S)
                self._collect()
        finally:  # a stop of the queue too: it stops what runs, and their minutes count
            for _, process, _ in self._running.values():
                process.terminate()
            for job, process, since in self._running.values():
                process.wait()
                self._note(job, None, since)
            _write_state(self._root, self._records)
        return self._records

    def _settle(self, job: Job) -> bool:
        """Start a job, or say what becomes of it; False where it is too early for either."""
        if len(self._running) >= self._side_by_side:
            return False
        pending = [name for name in job.needs if name in self._open]
        lacking = pending or [name for name in job.needs if self._records[name].state != "done"]
        if not lacking:
            _put_aside(job)
        compared = job.differs is None or not lacking
        if job.result.exists() and compared:
            self._set(job, "done")
        elif pending:
            return False
        elif any(self._records[name].state in ("failed", "blocked") for name in lacking):
            self._set(job, "blocked")
        elif lacking or (self._end is not None and time.monotonic() >= self._end):
            self._set(job, "waiting")
        else:
            self._start(job)
        return True

    def _set(self, job: Job, state: JobState) -> None:
        self._open.discard(job.name)
        before = self._records.get(job.name, Record())
        self._records[job.name] = dataclasses.replace(before, state=state)

    def _start(self, job: Job) -> None:
        before = self._records.get(job.name, Record())
        sessions = before.sessions + 1
        self._records[job.name] = dataclasses.replace(before, state="running", sessions=sessions)
        _write_state(self._root, self._records)
        resumed = job.begun is not None and bool(checkpoint_steps(job.begun))
        place = f"[{self._places[job.name]}/{len(self._places)}]"
        tqdm.write(f"{place} {job.name}: {'goes on' if resumed else 'starts'}", file=sys.stderr)
        command = (*job.command, *(job.resume if resumed else ()))
        since = time.monotonic()
        process = self._starter(command, self._log(job), self._environment)
        self._running[job.name] = (job, process, since)

    def _collect(self) -> None:
        """Note what has ended."""
        for name, (job, process, since) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[name]
            self._open.discard(name)
            self._note(job, code, since)
            _write_state(self._root, self._records)
            if self._records[name].state == "failed":
                tqdm.write(f"{name} failed, see {self._log(job)}", file=sys.stderr)

    def _log(self, job: Job) -> Path:
        return self._root / LOGS / f"{job.name}.log"

    def _note(self, job: Job, code: int | None, since: float) -> None:
        """A job's record after a session; without an exit code it was stopped."""
        state: JobState = "running"
        if code is not None:
            state = "done" if code == 0 and job.result.exists() else "failed"
        before = self._records[job.name]
        seconds = round(before.seconds + time.monotonic() - since, 1)
        self._records[job.name] = dataclasses.replace(
            before, state=state, seconds=seconds, returncode=code
        )
