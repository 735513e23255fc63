"""What the ablation runs: Janus' Table 5 with several seeds, and one-seed variants of its Exp-D.

All of it lies in one folder, where the recipes ``ablation/*`` find each other's results: the parts
that are shared (``text``, ``semantic``), then ``exp-LETTER-SEED``, then the variants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from openjanus.eval.runner import SUMMARY_NAME
from openjanus.rules import near
from openjanus.train.queue import Job, train_job
from openjanus.train.runs import FINAL

Faces = Literal["both", "und", "gen"]
Split = Literal["train", "held_out"]

SEEDS: Final = (1, 2, 3)
VARIANT_SEED: Final = 1
PARTS: Final = ("text", "semantic")
"""Trained once, in this order."""

FACES: Final[dict[str, Faces]] = {
    "A": "both",
    "B": "both",
    "C": "und",
    "D": "both",
    "E": "und",
    "F": "gen",
}
"""Which faces an experiment trains, and so is examined by."""

NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "A": ("text",),
    "B": ("text", "semantic"),
    "C": ("text", "semantic"),
    "D": ("text",),
    "E": ("text",),
    "F": ("text",),
}

GUIDANCE: Final = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Runs of one seed that are to be read side by side."""

    title: str
    rows: tuple[tuple[str, str], ...]
    """(what differs, name of the run); names of experiments are their letters."""


GROUPS: Final[dict[str, Group]] = {
    "drop": Group(
        title="Prompts hidden in 0, 10 or 20 % of the drawings",
        rows=(("0 %", "drop-0"), ("10 %", "D"), ("20 %", "drop-20")),
    ),
    "stability": Group(
        title="What keeps output norms small, from scratch",
        rows=(
            ("none", "scratch"),
            ("qk-norm", "scratch-qk-norm"),
            ("z-loss", "scratch-z-loss"),
            ("norms behind", "scratch-norm-post"),
            ("dropout", "scratch-dropout"),
        ),
    ),
    "stage1": Group(
        title="Janus-Pro's longer stage I and no ImageNet-first",
        rows=(("80 + 320, single things first", "short-stage2"), ("160 + 240", "long-stage2")),
    ),
    "ratio": Group(
        title="7:3:10 against Janus-Pro's 5:1:4",
        rows=(("7:3:10", "D"), ("5:1:4", "ratio-514")),
    ),
    "size": Group(
        title="Two decoders on the same samples, from scratch",
        rows=(("width 128", "scratch-small"), ("width 256", "scratch")),
    ),
    "sentence": Group(
        title="Captions cut to their first sentence in 0 or 25 %",
        rows=(("0 %", "long-captions"), ("25 %", "long-captions-first-25")),
    ),
}

VARIANTS: Final = tuple(
    dict.fromkeys(name for group in GROUPS.values() for _, name in group.rows if name not in FACES)
)

BEFORE: Final = {"short-stage2": "short-stage1", "long-stage2": "long-stage1"}
"""What some variants go on from."""

AFRESH: Final = tuple(run for _, run in (*GROUPS["stability"].rows, *GROUPS["size"].rows))
"""Variants whose decoder begins from nothing, and so waits for no part."""


def run_name(experiment: str, seed: int) -> str:
    """Folder of an experiment's run."""
    return f"exp-{experiment.lower()}-{seed}"


def folder_of(name: str) -> str:
    """Folder of a group's run: a variant's name is its own, an experiment's has the seed."""
    return run_name(name, VARIANT_SEED) if name in FACES else name


def exam_folder(root: Path, run: str, guidance: float | None = None) -> Path:
    """Where the exam of a run lies."""
    return root / run / ("exam" if guidance is None else f"exam-guidance-{guidance:g}")


def shown_folder(root: Path, run: str) -> Path:
    """Where a run's answers about new scenes of the cells that training shows lie."""
    return root / run / "exam-shown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """What a run is to be examined by."""

    model: Path
    output: Path
    seed: int
    faces: Faces
    split: Split = "held_out"
    """Cells that questions are about."""
    guidance: float | None = None
    """Of drawings; None is the model's own."""


ExamCommand = Callable[[Exam], Sequence[str]]
"""An exam to the arguments of the process that takes it."""

ExamDiffers = Callable[[Exam], Sequence[str]]
"""An exam to what sets the one that lies there apart from it: model or options."""


def plan(
    root: Path,
    *,
    experiments: Sequence[str],
    seeds: Sequence[int],
    groups: Sequence[str],
    guidance: Sequence[float],
    exam: ExamCommand,
    differs: ExamDiffers | None = None,
    overrides: Sequence[str] = (),
) -> list[Job]:
    """The queue's jobs: parts that are needed, then experiments seed by seed, then groups.

    Args:
        root: Folder of all runs.
        experiments: Letters of ``FACES``.
        seeds: Of each experiment.
        groups: Names of ``GROUPS``.
        guidance: Scales at which the first seed of D draws, where D is among the experiments.
        exam: How a run is examined.
        differs: How an exam that is there is compared; one that differs is taken again. None takes
            any for done.
        overrides: ``--dotted.key=value`` for every run; the same ones each time, or the queue's
            runs refuse to go on.

    Raises:
        ValueError: An unknown experiment or group, a seed below 0, or nothing to run.
    """
    _check(experiments, seeds, groups)
    making = _Making(root, exam, differs, overrides)
    wanted = list(dict.fromkeys(name for group in groups for _, name in GROUPS[group].rows))
    making.parts([*experiments, *wanted])
    for seed in seeds:
        for letter in experiments:
            making.experiment(letter, seed)
    for name in wanted:
        if name in FACES:
            making.experiment(name, VARIANT_SEED)
        else:
            making.variant(name)
    if "D" in experiments and seeds:
        for scale in guidance:
            making.examine(run_name("D", seeds[0]), seeds[0], "gen", scale)
    return list(making.jobs.values())


class _Making:
    """Jobs by name, in order, none twice."""

    def __init__(
        self,
        root: Path,
        exam: ExamCommand,
        differs: ExamDiffers | None,
        overrides: Sequence[str],
    ) -> None:
        self.jobs: dict[str, Job] = {}
        self._root = root
        self._exam = exam
        self._differs = differs
        self._overrides = tuple(overrides)

    def parts(self, names: Sequence[str]) -> None:
        """What experiments and variants start from."""
        needed = {part for name in names for part in _needs(name)}
        for part in PARTS:
            if part in needed:
                self._train(part, part, ())

    def experiment(self, letter: str, seed: int) -> None:
        """A run of Table 5, and its exam."""
        name = run_name(letter, seed)
        if name not in self.jobs:
            own = (f"--run.seed={seed}",)
            self._train(name, f"exp-{letter.lower()}", NEEDS[letter], own)
            self.examine(name, seed, FACES[letter])
            if FACES[letter] != "gen":
                self.examine_shown(name, seed)

    def variant(self, name: str) -> None:
        """A run of one seed, what it goes on from, and its exam."""
        before = BEFORE.get(name)
        if before is not None:
            self._train(before, before, _needs(name))
        self._train(name, name, _needs(name) if before is None else (before,))
        self.examine(name, VARIANT_SEED, "both")

    def examine(self, run: str, seed: int, faces: Faces, scale: float | None = None) -> None:
        """The exam of a run."""
        model, output = self._root / run / FINAL, exam_folder(self._root, run, scale)
        self._take(run, Exam(model=model, output=output, seed=seed, faces=faces, guidance=scale))

    def examine_shown(self, run: str, seed: int) -> None:
        """Its answers about new scenes of the cells that training shows."""
        model, output = self._root / run / FINAL, shown_folder(self._root, run)
        self._take(run, Exam(model=model, output=output, seed=seed, faces="und", split="train"))

    def _take(self, run: str, exam: Exam) -> None:
        name = f"{run}-{exam.output.name}"
        self.jobs[name] = Job(
            name=name,
            command=tuple(self._exam(exam)),
            result=exam.output / SUMMARY_NAME,
            needs=(run,),
            differs=None if self._differs is None else partial(self._differs, exam),
        )

    def _train(self, name: str, recipe: str, needs: Sequence[str], own: Sequence[str] = ()) -> None:
        more = (*self._overrides, *own)
        self.jobs[name] = train_job(name, f"ablation/{recipe}", self._root, more, needs=needs)


def _needs(name: str) -> tuple[str, ...]:
    """The parts that an experiment or variant begins with."""
    return () if name in AFRESH else NEEDS.get(name, ("text",))


def _check(experiments: Sequence[str], seeds: Sequence[int], groups: Sequence[str]) -> None:
    for names, known, what in ((experiments, FACES, "experiment"), (groups, GROUPS, "group")):
        for name in names:
            if name not in known:
                raise ValueError(f"unknown {what} {name!r}; {near(name, list(known))}")
    if any(seed < 0 for seed in seeds):
        raise ValueError(f"seeds must be >= 0, got {list(seeds)}")
    if not (experiments and seeds) and not groups:
        raise ValueError("there is nothing to run: name experiments with seeds, or groups")
