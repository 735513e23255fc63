"""A folder is held by one process at a time, and by none that has died: with real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from openjanus import folders
from openjanus.folders import held

HOLDER = """
import sys
from pathlib import Path
from openjanus.folders import held
with held(Path(sys.argv[1]), "the.lock", refusal="taken"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a folder until it is killed or its input ends."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def take(folder: Path, lock_name: str = "the.lock") -> None:
    with held(folder, lock_name, refusal="taken here"):
        pass


def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(tmp_path):
    folder = tmp_path / "deep" / "run"
    with held_elsewhere(folder) as process:
        with pytest.raises(ValueError, match="taken here"):
            take(folder)
        process.kill()
        process.wait()
        assert (folder / "the.lock").exists()
        take(folder)


def test_a_process_that_ends_its_work_lets_go(tmp_path):
    with held_elsewhere(tmp_path) as process:
        process.communicate("")
        take(tmp_path)


def test_one_process_does_not_hold_a_folder_twice(tmp_path):
    with held(tmp_path, "the.lock", refusal="taken"):
        with pytest.raises(ValueError, match="taken here"):
            take(tmp_path)
        take(tmp_path, "another.lock")


@pytest.mark.parametrize("inherited", [False, True])
def test_whether_what_was_started_holds_it_too(tmp_path, inherited):
    command = [sys.executable, "-c", "print(flush=True); input()"]
    pipe = subprocess.PIPE
    with held(tmp_path, "the.lock", refusal="taken", inherited=inherited):
        left = subprocess.Popen(command, close_fds=False, stdin=pipe, stdout=pipe)
        assert left.stdout is not None
        left.stdout.readline()  # before it runs it still has whatever it is to let go of
    expected = pytest.raises(ValueError, match="taken here") if inherited else nullcontext()
    try:
        with expected:
            take(tmp_path)
    finally:
        left.communicate(b"\n")


def test_a_system_without_locks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "fcntl", None)
    with pytest.warns(UserWarning, match="has no fcntl"):
        take(tmp_path)
    assert not list(tmp_path.iterdir())
