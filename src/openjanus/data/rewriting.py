"""Files that hold pictures and captions, written anew as files of the same kind.

First what becomes of each item is written down, item by item, which goes on where it was stopped.
Then each file is written under another name and put in its place once it is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openjanus.data.files.base import Change, ContainerSource
from openjanus.data.journal import SAVE_EVERY, alone_at, go_on_with

OTHER_SUFFIXES = (".jsonl", ".json", ".tar", ".parquet", ".gz", ".zip", ".csv")
"""Names that a user would not give to a folder."""


def rewrite_each(
    source: ContainerSource,
    output: Path,
    make: Callable[[int], Mapping[str, Any]],
    *,
    job: Mapping[str, Any],
    with_captions: bool = False,
    limit: int | None = None,
    save_every: int = SAVE_EVERY,
) -> dict[str, int]:
    """Write a source's files anew with what becomes of each item; a job that was stopped goes on.

    Beside the output lie ``<name>.items.jsonl``, what became of each item, with the note of
    ``write_each``; and ``<name>.files.json``, the sizes of the files that are whole.

    Args:
        source: Its files.
        output: A folder for files of the same names; of one file also a file.
        make: Item -> its ``key``, and ``{"kept": bool}``, ``{"caption": text}``, or
            ``{"error": text}`` for a broken one, which is left out.
        job: What is done, as plain data; another one does not go on with this output.
        with_captions: Whether ``make`` gives captions.
        limit: Items done at most in this call; a file is written once all of its items are.
        save_every: Items that a kill may lose.

    Returns:
        ``done`` items; of these ``written`` and ``broken`` ones; and whole ``files``.

    Raises:
        ValueError: An output that is an input, that is there and is not of this job, that does
            not suit the source, or that another process writes.
    """
    targets = _targets(source, output)
    items = output.with_name(output.name + ".items.jsonl")
    _whole_of(output, items, targets)  # nothing is left beside what is refused
    with alone_at(output):
        whole = _whole_of(output, items, targets)
        go_on_with(
            items,
            len(source),
            make,
            job={**job, **source.options()},
            limit=limit,
            save_every=save_every,
        )
        return _write_files(source, items, targets, whole, with_captions=with_captions)


def _whole_of(output: Path, items: Path, targets: list[Path]) -> _Whole:
    """The files that are whole; another's file is refused now, not after hours."""
    whole = _Whole(output, is_new=not items.exists())
    for target in targets:
        whole.has(target)
    return whole


def _write_files(
    source: ContainerSource,
    items: Path,
    targets: list[Path],
    whole: _Whole,
    *,
    with_captions: bool,
) -> dict[str, int]:
    """Write the files of whose items all is known, but for whole ones; count what was done."""
    counts = {"done": 0, "written": 0, "broken": 0, "files": 0}
    changes = _changes(items, source, counts)
    for number, target in enumerate(tqdm(targets, desc="writing files", delay=1.0, leave=False)):
        wanted = list(islice(changes, source.count_in(number)))
        if len(wanted) < source.count_in(number):
            break
        if not whole.has(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            try:
                source.rewrite(number, wanted, part, with_captions=with_captions)
                whole.put(part, target)
            finally:
                part.unlink(missing_ok=True)
        counts["files"] += 1
    for _ in changes:  # counts what lies in files that are not whole yet
        pass
    return counts


def _targets(source: ContainerSource, output: Path) -> list[Path]:
    """Where each file of a source goes."""
    files, suffix = source.files, source.suffix
    is_folder = output.is_dir() or output.suffix.lower() not in (suffix, *OTHER_SUFFIXES)
    if not is_folder and output.suffix.lower() != suffix:
        raise ValueError(
            f"{output}: what is read from {suffix} files is written as such, with their pictures: "
            f"give a folder, or for a single file a name that ends with {suffix}"
        )
    if not is_folder and len(files.paths) > 1:
        raise ValueError(
            f"{output} is one file, for {len(files.paths)} that are read: name a folder"
        )
    targets = [output]
    if is_folder:
        if output.is_file():
            raise ValueError(f"{output} is a file: name a folder, or one that ends with {suffix}")
        targets = [output / path.relative_to(files.root) for path in files.paths]
    for target in targets:
        if files.takes(target):
            raise ValueError(
                f"{target} would be one of the files that are read: give an --output elsewhere"
            )
    return targets


class _Whole:
    """Which files of an output are whole, by the sizes that they were given.

    Args:
        output: Of a job.
        is_new: Whether the job has not begun: what an earlier one left tells nothing of it.
    """

    def __init__(self, output: Path, *, is_new: bool) -> None:
        self._root = output.parent
        self._note = output.with_name(output.name + ".files.json")
        self._sizes: dict[str, int] = {}
        if self._note.is_file() and not is_new:
            self._sizes = json.loads(self._note.read_text(encoding="utf-8"))

    def _name(self, target: Path) -> str:
        return target.relative_to(self._root).as_posix()

    def has(self, target: Path) -> bool:
        """Whether a file is there and is of this job.

        Raises:
            ValueError: It is there and is not.
        """
        if not (target.exists() or target.is_symlink()):
            return False
        if target.is_file() and target.stat().st_size == self._sizes.get(self._name(target)):
            return True
        raise ValueError(
            f"{target} is there already, and not as this job wrote it: delete it or give another "
            "--output"
        )

    def put(self, part: Path, target: Path) -> None:
        """Put a file that is whole where it belongs."""
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        # Noted first: a kill between the two leaves a file to be written, not one to be refused.
        self._sizes[self._name(target)] = part.stat().st_size
        fresh = self._note.with_name(self._note.name + ".new")
        fresh.write_text(json.dumps(self._sizes, indent=1) + "\n", encoding="utf-8")
        fresh.replace(self._note)
        part.replace(target)


def _changes(items: Path, source: ContainerSource, counts: dict[str, int]) -> Iterator[Change]:
    """What was written down of each item, counted as it is read.

    Raises:
        ValueError: A line that is not of the item in its place.
    """
    with items.open(encoding="utf-8") as lines:
        for index, line in enumerate(lines):
            item = json.loads(line)
            wanted = source.key(index) if index < len(source) else "no item"
            if item.get("key") != wanted:
                raise ValueError(
                    f"line {index + 1} of {items} is of {item.get('key')}, where {wanted} belongs: "
                    f"delete it and {items.name}.job.json, and what was written of it"
                )
            is_kept = "error" not in item and item.get("kept", True)
            counts["done"] += 1
            counts["written"] += is_kept
            counts["broken"] += "error" in item
            yield Change(is_kept=is_kept, caption=item.get("caption"))
