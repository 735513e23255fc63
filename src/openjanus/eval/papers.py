"""The figures of the papers, as data: what reports print beside those of runs.

Copied from the papers' tables, never measured here. A row is a model as its paper, or the one that
compares with it, states it; a figure that no table has is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

JANUS: Final = "Wu et al. (2024), Janus, arXiv 2410.13848"
JANUS_PRO: Final = "Chen et al. (2025), Janus-Pro, arXiv 2501.17811"
BOTH: Final = f"{JANUS}; {JANUS_PRO}"
FAMILY: Final = ("Janus 1.3B", "Janus-Pro-1B", "Janus-Pro-7B")
"""Models of this family; the other rows are what the papers compare with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperBenchmark:
    """One benchmark as the papers count it."""

    title: str
    task: str
    """Name of the task here that asks it."""
    rule: str | None
    """That of the task's rules which is the papers'; None where there is but one way."""
    files: str
    """Part of the name of a file of the questions that the papers ask; "" where not said."""
    how: str
    """The setting in words, for a header."""
    unit: str
    """"percent", "points" or "share", 0 to 1."""
    source: str
    figures: dict[str, float]
    """By model."""
    parts: dict[str, dict[str, float]]
    """By model, then by part, where the papers print parts."""


def _benchmark(
    title: str,
    task: str,
    how: str,
    figures: dict[str, float],
    *,
    rule: str | None = None,
    files: str = "",
    unit: str = "percent",
    source: str = BOTH,
    parts: dict[str, dict[str, float]] | None = None,
) -> PaperBenchmark:
    return PaperBenchmark(
        title=title,
        task=task,
        rule=rule,
        files=files,
        how=how,
        unit=unit,
        source=source,
        figures=figures,
        parts={} if parts is None else parts,
    )


def _rows(
    columns: tuple[str, ...], rows: dict[str, tuple[float, ...]]
) -> dict[str, dict[str, float]]:
    return {name: dict(zip(columns, values, strict=True)) for name, values in rows.items()}


_GENEVAL: Final = _rows(
    (
        *("single_object", "two_object", "counting", "colors", "position", "color_attr"),
        "overall",
    ),
    {
        "Janus 1.3B": (0.97, 0.68, 0.30, 0.84, 0.46, 0.42, 0.61),
        "Janus-Pro-1B": (0.98, 0.82, 0.51, 0.89, 0.65, 0.56, 0.73),
        "Janus-Pro-7B": (0.99, 0.89, 0.59, 0.90, 0.79, 0.66, 0.80),
        "LlamaGen": (0.71, 0.34, 0.21, 0.58, 0.07, 0.04, 0.32),
        "Show-o": (0.95, 0.52, 0.49, 0.82, 0.11, 0.28, 0.53),
        "SDXL": (0.98, 0.74, 0.39, 0.85, 0.15, 0.23, 0.55),
        "DALL-E 3": (0.96, 0.87, 0.47, 0.83, 0.43, 0.45, 0.67),
        "SD3-Medium": (0.99, 0.94, 0.72, 0.89, 0.33, 0.60, 0.74),
    },
)
_DPG: Final = _rows(
    ("global", "entity", "attribute", "relation", "other", "overall"),
    {
        "Janus 1.3B": (82.33, 87.38, 87.70, 85.46, 86.41, 79.68),
        "Janus-Pro-1B": (87.58, 88.63, 88.17, 88.98, 88.30, 82.63),
        "Janus-Pro-7B": (86.90, 88.90, 89.40, 89.32, 89.48, 84.19),
    },
)


def _overall(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    return {name: parts["overall"] for name, parts in rows.items()}


def _parts(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {part: value for part, value in parts.items() if part != "overall"}
        for name, parts in rows.items()
    }


PAPERS: Final = (
    _benchmark(
        "POPE",
        "pope",
        "F1 of the random split",
        {
            "Janus 1.3B": 87.0,
            "Janus-Pro-1B": 86.2,
            "Janus-Pro-7B": 87.4,
            "Show-o-512": 80.0,
            "VILA-U": 85.8,
            "TokenFlow-XL 13B": 86.8,
        },
        rule="authors",
    ),
    _benchmark(
        "MME-P",
        "mme",
        "perception, of 2000 points",
        {
            "Janus 1.3B": 1338.0,
            "Janus-Pro-1B": 1444.0,
            "Janus-Pro-7B": 1567.1,
            "Show-o-512": 1097.2,
            "VILA-U": 1401.8,
            "TokenFlow-XL 13B": 1545.9,
        },
        rule="official",
        unit="points",
    ),
    _benchmark(
        "MMB",
        "mmbench",
        "DEV_EN, each question once",
        {
            "Janus 1.3B": 69.4,
            "Janus-Pro-1B": 75.5,
            "Janus-Pro-7B": 79.2,
            "TokenFlow-XL 13B": 68.9,
        },
        rule="vanilla",
    ),
    _benchmark(
        "SEED",
        "seed",
        "image part",
        {
            "Janus 1.3B": 63.7,
            "Janus-Pro-1B": 68.3,
            "Janus-Pro-7B": 72.1,
            "VILA-U": 59.0,
            "TokenFlow-XL 13B": 68.7,
        },
        rule="letter",
    ),
    _benchmark(
        "VQAv2",
        "vqav2",
        "VQA accuracy",
        {"Janus 1.3B": 77.3, "VILA-U": 79.4},
        rule="official",
        files="test-dev",  # as is usual; a run on val2014 asks other questions
        source=JANUS,
    ),
    _benchmark(
        "GQA",
        "gqa",
        "exact match",
        {
            "Janus 1.3B": 59.1,
            "Janus-Pro-1B": 59.3,
            "Janus-Pro-7B": 62.0,
            "Show-o-512": 58.0,
            "VILA-U": 60.8,
            "TokenFlow-XL 13B": 62.7,
        },
        rule="exact",
    ),
    _benchmark(
        "MMMU",
        "mmmu",
        "validation split",
        {
            "Janus 1.3B": 30.5,
            "Janus-Pro-1B": 36.3,
            "Janus-Pro-7B": 41.0,
            "Show-o-512": 26.7,
            "Chameleon 7B": 22.4,
            "TokenFlow-XL 13B": 38.7,
        },
        rule="official",
        files="validation",
    ),
    _benchmark(
        "MM-Vet",
        "mmvet",
        "judged by its own evaluator",
        {
            "Janus 1.3B": 34.3,
            "Janus-Pro-1B": 39.8,
            "Janus-Pro-7B": 50.0,
            "VILA-U": 33.5,
            "Chameleon 7B": 8.3,
            "TokenFlow-XL 13B": 40.7,
        },
        rule="answers",
    ),
    _benchmark(
        "GenEval",
        "geneval",
        "photographs; Mask2Former and CLIP judge",
        _overall(_GENEVAL),
        unit="share",
        parts=_parts(_GENEVAL),
    ),
    _benchmark(
        "DPG-Bench",
        "dpg",
        "mPLUG-large answers",
        _overall(_DPG),
        source=JANUS_PRO,
        parts=_parts(_DPG),
    ),
)
"""Tables of understanding, GenEval and DPG-Bench of both papers."""


def paper_benchmark(task: str) -> PaperBenchmark | None:
    """The papers' figures of a task's benchmark, if they have it."""
    return next((one for one in PAPERS if one.task == task), None)
