"""A jsonl file that is written item by item and goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openjanus.folders import held

FORMAT_VERSION = 1
SAVE_EVERY = 50
"""Items between notes of how far it has come."""


@contextmanager
def alone_at(output: Path) -> Iterator[None]:
    """Keep other processes away from an output; beside it lies ``<name>.lock``.

    Raises:
        ValueError: Another process writes it.
    """
    refusal = f"another process writes {output}: wait for it, or give another --output"
    with held(output.parent, output.name + ".lock", refusal=refusal):
        yield


def write_each(
    output: Path,
    count: int,
    make: Callable[[int], Mapping[str, Any] | None],
    *,
    job: Mapping[str, Any],
    limit: int | None = None,
    save_every: int = SAVE_EVERY,
) -> dict[str, int]:
    """Write a line for each item, or none; a job that was stopped goes on.

    Beside the file lies ``<name>.job.json``: what is being done, how many items are done and how
    many bytes they took. What was written past that is written again.

    Args:
        output: The file.
        count: Items in all.
        make: Item -> its line, or None to leave it out.
        job: What is done, as plain data; another one does not go on with this file.
        limit: Items done at most in this call.
        save_every: Items that a kill may lose.

    Returns:
        ``done`` items, and ``written`` lines, of all calls.

    Raises:
        ValueError: The file is there and is not of this job, some of it is gone, or another
            process writes it.
    """
    with alone_at(output):
        return go_on_with(output, count, make, job=job, limit=limit, save_every=save_every)


def go_on_with(
    output: Path,
    count: int,
    make: Callable[[int], Mapping[str, Any] | None],
    *,
    job: Mapping[str, Any],
    limit: int | None,
    save_every: int,
) -> dict[str, int]:
    """``write_each`` for one who is alone at what the file belongs to."""
    note = output.with_name(output.name + ".job.json")
    wanted = json.loads(json.dumps({"format_version": FORMAT_VERSION, "items": count, **job}))
    state = {"done": 0, "written": 0, "bytes": 0}
    if note.is_file():
        found = json.loads(note.read_text(encoding="utf-8"))
        if found["job"] != wanted:
            changed = sorted(k for k in wanted if found["job"].get(k) != wanted[k])
            raise ValueError(
                f"{output} was begun with another {', '.join(changed)}: delete it and {note.name}, "
                "or give another --output"
            )
        state = found["state"]
        size = output.stat().st_size if output.is_file() else 0
        if size < state["bytes"]:
            raise ValueError(
                f"{output} has {size} bytes, of the {state['bytes']} that {note.name} tells of: "
                f"put it back, or delete {note.name} and what is left to begin anew"
            )
    elif output.exists():
        raise ValueError(f"{output} is there already: delete it or give another --output")
    else:
        _write_note(note, wanted, state)  # before the file: a kill leaves no file without a note
    end = count if limit is None else min(count, state["done"] + limit)
    with output.open("ab") as file:
        file.truncate(state["bytes"])
        file.seek(0, 2)
        try:
            for index in tqdm(range(state["done"], end), initial=state["done"], total=count):
                line = make(index)
                if line is not None:
                    text = json.dumps(line, ensure_ascii=False) + "\n"
                    # Half a character, which UTF-8 has not, becomes the escape that it was.
                    file.write(text.encode("utf-8", "backslashreplace"))
                state["done"] += 1
                state["written"] += line is not None
                if state["done"] % save_every == 0:
                    _save(note, file, wanted, state)
        finally:
            _save(note, file, wanted, state)
    return {"done": state["done"], "written": state["written"]}


def _save(note: Path, file: Any, job: dict[str, Any], state: dict[str, int]) -> None:
    file.flush()
    state["bytes"] = file.tell()
    _write_note(note, job, state)


def _write_note(note: Path, job: dict[str, Any], state: dict[str, int]) -> None:
    fresh = note.with_name(note.name + ".new")
    fresh.write_text(json.dumps({"job": job, "state": state}, indent=1) + "\n", encoding="utf-8")
    fresh.replace(note)  # a kill leaves the old note or the new one
