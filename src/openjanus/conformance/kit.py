"""Write a kit, and hold an implementation to one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import torch

import openjanus
from openjanus.conformance.checkpoint import VARIANT, build_random_model, write_checkpoint
from openjanus.conformance.compare import Difference, Outcome, Row, compare, table
from openjanus.conformance.files import (
    FORMAT_VERSION,
    Case,
    read_case,
    read_manifest,
    write_case,
    write_manifest,
)
from openjanus.conformance.inputs import INPUTS, Asker
from openjanus.conformance.openjanus import OpenjanusSubject
from openjanus.conformance.vectors import VECTORS, Subject
from openjanus.rules import require
from openjanus.weights.formats import new_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a check found."""

    against: str
    versions: Mapping[str, str]
    """Of what was checked."""
    kit: Mapping[str, Any]
    """What the kit says of itself."""
    rows: tuple[Row, ...]

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Vectors that differ and were not known to."""
        return tuple(row.vector for row in self.rows if row.outcome == "differs")

    def table(self) -> str:
        """For people."""
        return table(self.rows)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "format_version": FORMAT_VERSION,
            "against": self.against,
            "versions": dict(self.versions),
            "kit": dict(self.kit),
            "agrees": not self.unexpected,
            "rows": [row.to_json() for row in self.rows],
        }


def write_kit(folder: Path, *, seed: int = 0) -> None:
    """Write a checkpoint and what must come out of it.

    Args:
        folder: New or empty; it is there when everything in it is.
        seed: Of the weights and of what is asked, >= 0.

    Raises:
        ValueError: The folder holds something, or the seed makes a model with two answers that are
            too close to call.
    """
    with new_folder(folder) as partial:
        write_checkpoint(partial, build_random_model(_generator(seed, "weights")))
        subject = OpenjanusSubject(partial)
        for name, vector in VECTORS.items():
            inputs = INPUTS[name](Asker(subject, _generator(seed, name)))
            write_case(partial, Case(vector, inputs, subject.answer(name, inputs)))
        write_manifest(
            partial,
            {
                "openjanus": openjanus.__version__,
                "torch": torch.__version__,
                "pillow": PIL.__version__,
                "seed": seed,
                "checkpoints": {
                    "deepseek": "the authors' layout, sizes under its key openjanus",
                    "transformers": "the same weights as transformers has them",
                    VARIANT: "both again without weights: roles of Janus-1.3B, other mean and std",
                },
                "vectors": list(VECTORS),
            },
        )


def _generator(seed: int, name: str) -> torch.Generator:
    """Noise of its own for every vector, so that a further one changes no other."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def check_kit(folder: Path, open_subject: Callable[[Path], Subject]) -> Report:
    """Ask an implementation everything that a kit asks.

    Args:
        folder: Of the kit.
        open_subject: Opens the kit's checkpoint with the implementation.

    Raises:
        FileNotFoundError: No kit, or a file of it is missing.
        ValueError: A file is broken, or the kit is newer than this package.
    """
    manifest = read_manifest(folder)
    cases = [read_case(folder, name) for name in manifest["vectors"]]
    subject = open_subject(folder)
    for case in cases:
        require(
            subject.knows(case.vector.name),
            f"{folder} has a vector {case.vector.name!r} that this openjanus cannot ask "
            f"{subject.name}: install a newer one",
        )
    return Report(
        against=subject.name,
        versions=subject.versions,
        kit=manifest,
        rows=tuple(_row(case, subject) for case in cases),
    )


def _row(case: Case, subject: Subject) -> Row:
    name = case.vector.name
    known = subject.known.get(name)
    if name in subject.absent:
        return _told(case, "absent", Difference(False, None, "-"), subject.absent[name])
    note = subject.notes.get(name, "")
    try:
        found = compare(case, subject.answer(name, case.inputs))
    except subject.errors as error:
        found = Difference(False, None, f"fails: {type(error).__name__}")
        note = next(iter(str(error).strip().splitlines()), "")
    if known is None:
        return _told(case, "agrees" if found.agrees else "differs", found, note)
    if found.agrees:
        return _told(case, "gone", found, f"no longer true of it: {known}")
    return _told(case, "known", found, known)


def _told(case: Case, outcome: Outcome, found: Difference, note: str) -> Row:
    vector = case.vector
    return Row(
        vector=vector.name,
        trap=vector.trap,
        kind=vector.kind,
        tolerance=vector.tolerance,
        outcome=outcome,
        amount=found.amount,
        told=found.told,
        note=note,
    )
