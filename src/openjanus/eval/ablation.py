"""Janus' Table 5 as an experiment: rows with intervals, and what they say of the paper's claims.

Everything here is arithmetic on figures that others measured. Seed s of every experiment trains on
the same samples and is asked the same questions, so two experiments are compared seed by seed, and
the interval of their difference is Student's over the seeds: it holds the noise of training and of
the questions alike, and three seeds make it wide. A claim that it does not decide is not decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Interval = tuple[float, float]

UNDERSTANDING: Final = ("existence_f1", "four_choice", "counting", "relation")
"""Columns, 0 to 1, whose plain mean is ``understanding``."""
DRAWING: Final = ("frechet", "geneval")
"""``frechet`` is a distance, the smaller the better; ``geneval`` is 0 to 1."""
COLUMNS: Final = (*UNDERSTANDING, *DRAWING)

EXPERIMENTS: Final[Mapping[str, tuple[str, str]]] = {
    "A": ("VQ for both faces", "und + gen"),
    "B": ("semantic tokenizer for both faces", "und + gen"),
    "C": ("semantic tokenizer", "und"),
    "D": ("SigLIP + VQ (Janus)", "und + gen"),
    "E": ("SigLIP", "und"),
    "F": ("VQ", "gen"),
}
"""Visual encoder and what it is trained on, by the paper's letter."""

PAPER: Final[Mapping[str, tuple[float | None, float | None]]] = {
    "A": (60.1, 8.72),
    "B": (82.4, 7.11),
    "C": (83.9, None),
    "D": (87.0, 8.53),
    "E": (85.9, None),
    "F": (None, 8.92),
}
"""POPE and COCO-FID of Table 5."""

MUCH: Final = 0.10
"""What "far below" is at least, in ``understanding``."""
NEAR: Final = 0.05
"""What "about equal" is at most, in ``understanding`` and in ``geneval``."""
NEAR_RATIO: Final = 1.15
"""And as a ratio of Frechet distances."""

FLOOR: Final[Mapping[str, float]] = {"understanding": 0.40, "geneval": 0.05}
"""Two that have learnt nothing are equal too: "about equal" is shown of means above this alone.
Always yes, and guesses elsewhere, come to 0.32 in ``understanding``."""

T_975: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's 97.5 % quantiles, from 1 degree of freedom on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The figures of one run."""

    experiment: str
    seed: int
    columns: Mapping[str, float]
    """Of ``COLUMNS``, those that its faces have."""
    folder: str = ""
    """Of the run, whose resolved config says what it was."""

    def value(self, column: str) -> float | None:
        """A column, or ``understanding``; None where the run has not all that it is made of."""
        if column != "understanding":
            return self.columns.get(column)
        if any(name not in self.columns for name in UNDERSTANDING):
            return None
        return sum(self.columns[name] for name in UNDERSTANDING) / len(UNDERSTANDING)


def student_interval(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean of a few values; None for a single one, of which nothing is known.

    Raises:
        ValueError: No values, or more than there are quantiles for.
    """
    n = len(values)
    if not 1 <= n <= len(T_975) + 1:
        raise ValueError(f"an interval needs 1 to {len(T_975) + 1} values, got {n}")
    if n == 1:
        return None
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    half = T_975[n - 2] * math.sqrt(variance / n)
    return mean - half, mean + half


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A figure of an experiment over its seeds."""

    mean: float
    interval: Interval | None
    seeds: tuple[int, ...]


def cell_of(runs: Sequence[Measured], experiment: str, column: str) -> Cell | None:
    """An experiment's figure over the seeds that have it; None where none has."""
    found = _by_seed(runs, experiment, column)
    if not found:
        return None
    values = list(found.values())
    return Cell(
        mean=sum(values) / len(values), interval=student_interval(values), seeds=tuple(found)
    )


def _by_seed(runs: Sequence[Measured], experiment: str, column: str) -> dict[int, float]:
    """Values by seed, ascending.

    Raises:
        ValueError: Two runs of one seed.
    """
    found: dict[int, float] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        value = run.value(column)
        if run.experiment != experiment or value is None:
            continue
        if run.seed in found:
            raise ValueError(f"experiment {experiment} has two runs of seed {run.seed}: drop one")
        found[run.seed] = value
    return found


Outcome = Literal["agrees", "does not agree", "not shown either way", "not run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two experiments in one column, and what their difference says of a claim."""

    words: str
    """What is compared, for instance "D - A in understanding"."""
    wanted: str
    """What the claim says of it."""
    outcome: Outcome
    difference: float | None = None
    """Mean over the seeds that both have; of Frechet distances the logarithm of their ratio."""
    interval: Interval | None = None
    seeds: tuple[int, ...] = ()


def _differences(
    runs: Sequence[Measured], more: str, less: str, column: str
) -> tuple[tuple[int, ...], list[float]]:
    """``more`` minus ``less``, seed by seed; logarithms for Frechet distances."""
    one, other = _by_seed(runs, more, column), _by_seed(runs, less, column)
    seeds = tuple(seed for seed in one if seed in other)
    if column == "frechet":
        return seeds, [math.log(one[seed] / other[seed]) for seed in seeds]
    return seeds, [one[seed] - other[seed] for seed in seeds]


def _compare(
    runs: Sequence[Measured],
    more: str,
    less: str,
    column: str,
    wanted: str,
    judge: Callable[[float, float], Outcome],
) -> Comparison:
    seeds, values = _differences(runs, more, less, column)
    what = "ln of the ratio of frechet" if column == "frechet" else column
    words = f"{more} - {less} in {what}"
    if not values:
        return Comparison(words=words, wanted=wanted, outcome="not run")
    interval = student_interval(values)
    return Comparison(
        words=words,
        wanted=wanted,
        outcome="not shown either way" if interval is None else judge(*interval),
        difference=sum(values) / len(values),
        interval=interval,
        seeds=seeds,
    )


def above(
    runs: Sequence[Measured], more: str, less: str, column: str, *, by: float = 0.0
) -> Comparison:
    """Whether one experiment is above another by more than something.

    Agrees where the whole interval is above ``by``, does not where all of it is below.
    """

    def judge(low: float, high: float) -> Outcome:
        if low > by:
            return "agrees"
        return "does not agree" if high < by else "not shown either way"

    return _compare(runs, more, less, column, f"above {by:g}", judge)


def near(runs: Sequence[Measured], one: str, other: str, column: str) -> Comparison:
    """Whether two experiments are about equal in a column.

    Agrees where the whole interval lies within the margin, does not where all of it lies outside.
    That no difference was seen is not enough, nor that both have learnt nothing (``FLOOR``).
    """
    margin = math.log(NEAR_RATIO) if column == "frechet" else NEAR
    wanted = f"within +-{margin:.3g}"

    means = [cell_of(runs, name, column) for name in (one, other)]
    learnt = column not in FLOOR or all(cell and cell.mean > FLOOR[column] for cell in means)
    if not learnt:
        wanted += f" and both above {FLOOR[column]:g}"

    def judge(low: float, high: float) -> Outcome:
        if low > margin or high < -margin:
            return "does not agree"
        within = -margin <= low and high <= margin
        return "agrees" if within and learnt else "not shown either way"

    return _compare(runs, one, other, column, wanted, judge)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One claim of the paper, and what our runs say of it."""

    claim: str
    outcome: Outcome
    comparisons: tuple[Comparison, ...]


def verdict(claim: str, *comparisons: Comparison) -> Verdict:
    """A claim of several parts agrees where all do, and does not where one does not."""
    outcomes = [comparison.outcome for comparison in comparisons]
    outcome: Outcome
    if "does not agree" in outcomes:
        outcome = "does not agree"
    elif "not run" in outcomes:
        outcome = "not run"
    elif "not shown either way" in outcomes:
        outcome = "not shown either way"
    else:
        outcome = "agrees"
    return Verdict(claim=claim, outcome=outcome, comparisons=comparisons)


def shared_vq_hurts_understanding_alone(runs: Sequence[Measured]) -> Verdict:
    """A << D in understanding, A ~ D in drawing."""
    return verdict(
        "A << D in understanding, A ~ D in drawing",
        above(runs, "D", "A", "understanding", by=MUCH),
        near(runs, "A", "D", "frechet"),
        near(runs, "A", "D", "geneval"),
    )


def semantic_lies_between(runs: Sequence[Measured]) -> Verdict:
    """A < B < D in understanding."""
    return verdict(
        "A < B < D in understanding",
        above(runs, "B", "A", "understanding"),
        above(runs, "D", "B", "understanding"),
    )


def one_encoder_trades_off(runs: Sequence[Measured]) -> Verdict:
    """C > B in understanding: the encoder of both faces pays for drawing."""
    return verdict("C > B in understanding", above(runs, "C", "B", "understanding"))


def unified_understands_as_well(runs: Sequence[Measured]) -> Verdict:
    """D ~ E in understanding."""
    return verdict("D ~ E in understanding", near(runs, "D", "E", "understanding"))


def unified_draws_as_well(runs: Sequence[Measured]) -> Verdict:
    """D ~ F in drawing."""
    return verdict(
        "D ~ F in drawing", near(runs, "D", "F", "frechet"), near(runs, "D", "F", "geneval")
    )


CLAIMS: Final = (
    shared_vq_hurts_understanding_alone,
    semantic_lies_between,
    one_encoder_trades_off,
    unified_understands_as_well,
    unified_draws_as_well,
)


def verdicts(runs: Sequence[Measured]) -> list[Verdict]:
    """What the runs say of each of the paper's five claims."""
    return [claim(runs) for claim in CLAIMS]
