"""The queue: order, what is left alone, what goes on, what waits; and one real process."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from openjanus.train.checkpoint import checkpoint_path
from openjanus.train.queue import (
    COMMAND,
    Job,
    Record,
    check_jobs,
    read_state,
    run_queue,
    start_process,
    train_job,
)


class Ended:
    """A process that has ended with a code."""

    def __init__(self, code: int) -> None:
        self._code = code

    def poll(self) -> int | None:
        return self._code

    def terminate(self) -> None:
        raise AssertionError("it has ended")

    def wait(self) -> int:
        return self._code


class Theatre:
    """Plays processes: the last argument is the folder whose ``final`` appears, or ``fail``."""

    def __init__(self) -> None:
        self.played: list[tuple[str, ...]] = []
        self.failing: set[str] = set()

    def __call__(self, command, log, environment) -> Ended:
        self.played.append(tuple(command))
        assert environment == {"OMP_NUM_THREADS": "1"}
        log.write_text("said\n")
        if command[0] in self.failing:
            return Ended(2)
        Path(command[1]).mkdir(parents=True)
        return Ended(0)


def job(root: Path, name: str, *needs: str) -> Job:
    final = root / name / "final"
    return Job(
        name=name,
        command=(name, str(final)),
        result=final,
        needs=needs,
        begun=root / name,
        resume=("again",),
    )


def test_jobs_run_once_in_order(tmp_path):
    theatre = Theatre()
    jobs = [job(tmp_path, "a"), job(tmp_path, "b", "a")]
    records = run_queue(jobs, tmp_path, threads=1, starter=theatre)
    assert [played[0] for played in theatre.played] == ["a", "b"]
    assert {name: record.state for name, record in records.items()} == {"a": "done", "b": "done"}
    assert (tmp_path / "logs" / "b.log").read_text() == "said\n"

    run_queue(jobs, tmp_path, threads=1, starter=theatre)
    assert len(theatre.played) == 2
    assert read_state(tmp_path)["a"].sessions == 1


def test_what_needs_a_failed_job_waits_for_it_and_the_rest_runs(tmp_path):
    theatre = Theatre()
    theatre.failing = {"a"}
    jobs = [
        job(tmp_path, "a"),
        job(tmp_path, "b", "a"),
        job(tmp_path, "c", "b"),
        job(tmp_path, "d"),
    ]
    records = run_queue(jobs, tmp_path, threads=1, starter=theatre)
    states = {name: record.state for name, record in records.items()}
    assert states == {"a": "failed", "b": "blocked", "c": "blocked", "d": "done"}
    assert records["a"].returncode == 2

    theatre.failing = set()
    records = run_queue(jobs, tmp_path, threads=1, starter=theatre)
    assert {record.state for record in records.values()} == {"done"}
    assert records["a"].sessions == 2


def test_success_without_a_result_is_a_failure(tmp_path):
    records = run_queue([job(tmp_path, "a")], tmp_path, threads=1, starter=lambda *_: Ended(0))
    assert records["a"].state == "failed"


def test_a_stopped_run_goes_on_from_its_checkpoint(tmp_path):
    theatre = Theatre()
    one = job(tmp_path, "a")
    checkpoint_path(tmp_path / "a", 5).mkdir(parents=True)
    run_queue([one], tmp_path, threads=1, starter=theatre)
    assert theatre.played == [("a", str(one.result), "again")]


def test_nothing_new_is_started_after_the_time(tmp_path):
    theatre = Theatre()
    jobs = [job(tmp_path, "a"), job(tmp_path, "b", "a")]
    records = run_queue(jobs, tmp_path, threads=1, stop_after_s=0.0, starter=theatre)
    assert theatre.played == []
    assert {record.state for record in records.values()} == {"waiting"}


class Slow:
    """A process that ends once so many others have been started."""

    def __init__(self, theatre: SlowTheatre, final: Path, others: int) -> None:
        self._theatre, self._final, self._others = theatre, final, others
        self.is_asked_to_end = False

    def poll(self) -> int | None:
        if len(self._theatre.played) < self._others:
            return None
        self._final.mkdir(parents=True, exist_ok=True)
        return 0

    def terminate(self) -> None:
        self.is_asked_to_end = True

    def wait(self) -> int:
        return -15


class SlowTheatre:
    """Plays processes that run until as many were started as their names' entries say."""

    def __init__(self, until: dict[str, int]) -> None:
        self.until, self.played, self.running = until, [], []

    def __call__(self, command, log, environment) -> Slow:
        name, final = command
        self.played.append(name)
        self.running.append(Slow(self, Path(final), self.until.get(name, 0)))
        return self.running[-1]


def test_jobs_run_side_by_side_and_what_waits_lets_others_pass(tmp_path):
    # a runs until two others have begun: that b, which needs it, is passed by c and d.
    theatre = SlowTheatre({"a": 3})
    jobs = [
        job(tmp_path, "a"),
        job(tmp_path, "b", "a"),
        job(tmp_path, "c"),
        job(tmp_path, "d", "c"),
        job(tmp_path, "e", "a", "d"),
    ]
    records = run_queue(jobs, tmp_path, threads=1, side_by_side=2, starter=theatre)
    assert theatre.played == ["a", "c", "d", "b", "e"]
    assert {record.state for record in records.values()} == {"done"}


def test_no_more_run_side_by_side_than_were_asked_for(tmp_path):
    theatre = SlowTheatre({"a": 2, "b": 3, "c": 4})
    most = 0

    def start(command, log, environment) -> Slow:
        nonlocal most
        most = max(most, sum(process.poll() is None for process in theatre.running) + 1)
        return theatre(command, log, environment)

    run_queue(
        [job(tmp_path, name) for name in "abcde"],
        tmp_path,
        threads=1,
        side_by_side=2,
        starter=start,
    )
    assert theatre.played == list("abcde")
    assert most == 2


def test_a_stop_ends_all_that_run_side_by_side(tmp_path):
    theatre = SlowTheatre({"a": 99, "b": 99})

    def start(command, log, environment) -> Slow:
        if len(theatre.played) == 2:
            raise KeyboardInterrupt
        return theatre(command, log, environment)

    jobs = [job(tmp_path, name) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        run_queue(jobs, tmp_path, threads=1, side_by_side=3, starter=start)
    assert [process.is_asked_to_end for process in theatre.running] == [True, True]
    records = read_state(tmp_path)
    assert [records[name].state for name in "abc"] == ["running", "running", "running"]
    assert records["a"].returncode is None


def test_a_second_queue_is_kept_out(tmp_path):
    def inner(*_) -> Ended:
        with pytest.raises(ValueError, match="another queue, or a run that outlived one"):
            run_queue([], tmp_path, threads=1)
        return Ended(1)

    run_queue([job(tmp_path, "a")], tmp_path, threads=1, starter=inner)


def test_a_run_that_outlives_its_queue_keeps_others_out(tmp_path):
    left: list[subprocess.Popen[bytes]] = []

    def killed(*_) -> Ended:
        command = [sys.executable, "-c", "input()"]
        left.append(subprocess.Popen(command, stdin=subprocess.PIPE, close_fds=False))
        return Ended(1)

    run_queue([job(tmp_path, "a")], tmp_path, threads=1, starter=killed)
    with pytest.raises(ValueError, match="a run that outlived one"):
        run_queue([], tmp_path, threads=1)
    left[0].communicate(b"\n")
    run_queue([], tmp_path, threads=1)


def test_a_stop_of_the_queue_stops_what_it_runs(tmp_path):
    """SIGTERM, and not to the whole group: the run ends too, and its minutes are in the record."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom openjanus.train.queue import Job, run_queue\n"
        "root = Path(sys.argv[1])\n"
        "said = 'from pathlib import Path; import sys, time; '\\\n"
        "    'Path(sys.argv[1]).touch(); time.sleep(600)'\n"
        "command = ('-c', said, str(root / 'begun'))\n"
        "job = Job(name='a', command=command, result=root / 'final', needs=(), begun=None)\n"
        "run_queue([job], root, threads=1)\n"
    )
    queue = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    end = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.3)  # the record tells tenths of a second
    queue.terminate()
    assert queue.wait(30) == 128 + signal.SIGTERM
    record = read_state(tmp_path)["a"]
    assert record.state == "running"
    assert record.returncode is None
    assert record.seconds > 0
    run_queue([], tmp_path, threads=1)  # nothing outlived it


def test_a_complete_run_of_another_configuration_is_not_taken(tmp_path):
    one = train_job("vq", "tiny/vq", tmp_path, ["--run.steps=1"])
    assert one.config is not None
    one.result.mkdir(parents=True)
    plain = json.loads(json.dumps(dataclasses.asdict(one.config)))
    (tmp_path / "vq" / "config.yaml").write_text(yaml.safe_dump(plain))
    assert run_queue([one], tmp_path, threads=1)["vq"].state == "done"
    other = train_job("vq", "tiny/vq", tmp_path, ["--run.steps=2"])
    with pytest.raises(ValueError, match=r"started with run\.steps 1, got 2"):
        run_queue([other], tmp_path, threads=1)


def test_a_stopped_run_of_another_configuration_is_refused_before_anything_runs(tmp_path):
    one = train_job("vq", "tiny/vq", tmp_path, ["--run.steps=1"])
    assert one.config is not None
    checkpoint_path(tmp_path / "vq", 1).mkdir(parents=True)
    plain = json.loads(json.dumps(dataclasses.asdict(one.config)))
    (tmp_path / "vq" / "config.yaml").write_text(yaml.safe_dump(plain))
    theatre = Theatre()
    other = train_job("vq", "tiny/vq", tmp_path, ["--run.steps=2"])
    with pytest.raises(ValueError, match=r"started with run\.steps 1, got 2"):
        run_queue([job(tmp_path, "a"), other], tmp_path, threads=1, starter=theatre)
    assert theatre.played == []


def test_a_result_that_differs_is_put_aside_and_made_again(tmp_path, capsys):
    theatre, found = Theatre(), {"b": ["seed", "checkpoint_sha256"]}
    asked: list[str] = []

    def differs() -> list[str]:
        asked.append("b")
        return found.pop("b", [])

    result = tmp_path / "b" / "exam" / "final"
    exam = Job(name="b", command=("b", str(result)), result=result, needs=("a",), differs=differs)
    result.mkdir(parents=True)
    (result.parent / "old").write_text("")
    jobs = [job(tmp_path, "a"), exam]

    theatre.failing = {"a"}
    assert run_queue(jobs, tmp_path, threads=1, starter=theatre)["b"].state == "blocked"
    assert asked == []  # of a model that is not there nothing can be said

    theatre.failing = set()
    records = run_queue(jobs, tmp_path, threads=1, starter=theatre)
    assert [records["b"].state, records["b"].sessions, asked] == ["done", 1, ["b"]]
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert names == ["exam", "old-exam-1"]
    assert (tmp_path / "b" / "old-exam-1" / "old").exists()
    told = [line for line in capsys.readouterr().err.splitlines() if "put into" in line]
    place = tmp_path / "b" / "old-exam-1"
    assert told == [
        f"b: what was there is of other seed, checkpoint_sha256: put into {place}",
    ]

    run_queue(jobs, tmp_path, threads=1, starter=theatre)
    assert [played[0] for played in theatre.played] == ["a", "a", "b"]
    found["b"] = ["seed"]
    run_queue(jobs, tmp_path, threads=1, starter=theatre)
    assert (tmp_path / "b" / "old-exam-2").is_dir()


def test_jobs_out_of_order_are_refused(tmp_path):
    with pytest.raises(ValueError, match="b needs 'a', which is not before it"):
        check_jobs([job(tmp_path, "b", "a"), job(tmp_path, "a")])
    with pytest.raises(ValueError, match="two jobs are called 'a'"):
        check_jobs([job(tmp_path, "a"), job(tmp_path, "a")])
    with pytest.raises(ValueError, match="threads must be >= 1, got 0"):
        run_queue([], tmp_path, threads=0)
    with pytest.raises(ValueError, match="side_by_side must be >= 1, got 0"):
        run_queue([], tmp_path, threads=1, side_by_side=0)


def test_a_broken_or_newer_state_is_refused(tmp_path):
    (tmp_path / "queue.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_state(tmp_path)
    (tmp_path / "queue.json").write_text('{"format_version": 99, "jobs": {}}')
    with pytest.raises(ValueError, match="install a newer openjanus"):
        read_state(tmp_path)


def test_a_process_says_its_words_into_the_log(tmp_path):
    log = tmp_path / "a.log"
    command = ("-c", "import os, sys; print(os.environ['MARK']); sys.exit(3)")
    assert start_process(command, log, {"MARK": "here"}).wait() == 3
    assert start_process(command, log, {"MARK": "there"}).wait() == 3
    assert log.read_text() == "here\nthere\n"


def test_the_run_of_a_recipe_that_cannot_start_is_failed(tmp_path):
    one = train_job("stage2", "tiny/stage2", tmp_path, ["--vq=missing"])
    assert one.command[:2] == ("-c", COMMAND)
    records = run_queue([one], tmp_path, threads=1)
    assert records["stage2"] == Record(
        state="failed", sessions=1, seconds=records["stage2"].seconds, returncode=2
    )
    assert "no vq at" in (tmp_path / "logs" / "stage2.log").read_text()
