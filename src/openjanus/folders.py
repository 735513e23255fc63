"""The folder that a run writes into: it can be one, and one process at a time is at work in it.

Nothing here imports torch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None


def require_no_file(folder: Path, name: str) -> None:
    """Raise ``ValueError`` where a file lies at a path that is to be a folder, or on its way.

    Args:
        folder: What will be written into; it need not be there.
        name: What the user calls it.
    """
    for path in (folder, *folder.parents):
        if path.is_file():
            raise ValueError(f"{name} is a folder, {path} is a file: give another")


@contextmanager
def held(folder: Path, lock_name: str, *, refusal: str, inherited: bool = False) -> Iterator[None]:
    """Make a folder and keep other processes out of it; the lock ends with the process that has it.

    Args:
        folder: What is held.
        lock_name: File in it that carries the lock. It stays, and means nothing by itself.
        refusal: What a second process is told.
        inherited: Whether the processes that this one starts have the lock too, so that one that
            outlives it goes on holding the folder.

    Raises:
        ValueError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        text = f"this system has no fcntl: a second process in {folder} would not be kept out"
        warnings.warn(text, stacklevel=3)
        yield
        return
    with (folder / lock_name).open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(refusal) from error
        os.set_inheritable(lock.fileno(), inherited)
        yield
