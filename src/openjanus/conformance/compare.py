"""By how much two answers differ, and what a report makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from openjanus.conformance.files import Case
from openjanus.conformance.vectors import Answers, Kind

Outcome = Literal["agrees", "differs", "known", "gone", "absent"]
"""``known``: it was known to differ. ``gone``: it was, and does not. ``absent``: not asked."""

SHOWN: Mapping[Outcome, str] = {
    "agrees": "yes",
    "differs": "NO",
    "known": "known",
    "gone": "yes",
    "absent": "-",
}
"""What the column ``agrees`` of a table says."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one answer is from another."""

    agrees: bool
    amount: float | None
    """numbers: largest absolute difference; else the share of what is not equal. None: of another
    shape, or not a number."""
    told: str
    """In a few words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a report."""

    vector: str
    trap: str
    kind: Kind
    tolerance: float
    outcome: Outcome
    amount: float | None
    told: str
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def compare(case: Case, found: Answers) -> Difference:
    """Compare an answer with what a kit expects.

    Args:
        case: The vector.
        found: With the same outputs.
    """
    expected = case.expected
    assert set(found) == set(expected), f"{case.vector.name}: {set(found) ^ set(expected)}"
    if case.vector.kind == "exact":
        wrong = [key for key in expected if found[key] != expected[key]]
        told = f"{len(expected) - len(wrong)} of {len(expected)} equal"
        return Difference(not wrong, len(wrong) / len(expected), told)
    pairs: list[tuple[Tensor, Tensor]] = []
    for key, value in expected.items():
        other = found[key]
        assert isinstance(value, Tensor) and isinstance(other, Tensor)
        if value.shape != other.shape:
            told = f"{key}: shape {tuple(other.shape)} for {tuple(value.shape)}"
            return Difference(False, None, told)
        pairs.append((value.flatten(), other.flatten()))
    theirs = torch.cat([other.double() for _, other in pairs])
    ours = torch.cat([value.double() for value, _ in pairs])
    return _RULES[case.vector.kind]((ours - theirs).abs(), case.vector.tolerance)


def _numbers(distance: Tensor, tolerance: float) -> Difference:
    largest = float(distance.max())
    if not torch.isfinite(distance).all():
        return Difference(False, None, "not finite")
    return Difference(largest <= tolerance, largest, f"{largest:.1e}")


def _ids(distance: Tensor, tolerance: float) -> Difference:
    share = float((distance != 0).double().mean())
    return Difference(share == 0, share, f"{1 - share:.1%} equal")


def _bytes(distance: Tensor, tolerance: float) -> Difference:
    share, largest = float((distance != 0).double().mean()), int(distance.max())
    agrees = share <= tolerance and largest <= 1
    told = f"{share:.2%} by up to {largest}" if share > 0 else "0"
    return Difference(agrees, share, told)


_RULES: Mapping[str, Callable[[Tensor, float], Difference]] = {
    "numbers": _numbers,
    "ids": _ids,
    "bytes": _bytes,
}


def allowed(kind: Kind, tolerance: float) -> str:
    """A tolerance in a few words."""
    if kind == "numbers":
        return f"{tolerance:.0e}"
    if kind == "bytes" and tolerance > 0:
        return f"{tolerance:.1%} by 1"
    return "none"


def table(rows: tuple[Row, ...]) -> str:
    """Rows under each other, and below them what is to be said of some."""
    cells = [("vector", "agrees", "by how much", "tolerance")]
    cells += [
        (row.vector, SHOWN[row.outcome], row.told, allowed(row.kind, row.tolerance)) for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    notes = [f"{row.vector}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, *([""] if notes else []), *notes])
