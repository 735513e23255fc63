"""Curves of runs, drawn from their ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openjanus.train.metrics import read_metrics
from openjanus.train.spikes import WATCHED, find_spikes, tell_spikes

LOSSES = ("loss", "loss_und", "loss_text", "loss_gen", "loss_und_image", "l1")
"""Metrics that are drawn where a run has them, each in a panel of its own."""


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean over up to ``window`` values, of what there is near the ends; same length."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def read_lines(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run.

    Raises:
        FileNotFoundError: The folder holds none.
    """
    lines = read_metrics(run / "metrics.jsonl")
    if not lines:
        raise FileNotFoundError(f"no metrics.jsonl in {run}: give the folder of a run")
    return lines


def read_curves(
    run: Path, names: Sequence[str] = LOSSES
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values of those of some metrics that a run recorded.

    Raises:
        FileNotFoundError: The folder holds no metrics.
    """
    lines = read_lines(run)
    curves = {}
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            steps, values = zip(*points, strict=True)
            curves[name] = np.asarray(steps), np.asarray(values, dtype=np.float64)
    return curves


def report_spikes(runs: Sequence[Path]) -> str:
    """The spikes of runs as text, each run under its folder's name.

    Raises:
        FileNotFoundError: A folder holds no metrics.
    """
    labels, parts = _labels(runs), []
    for run in runs:
        lines = read_lines(run)
        parts.append(f"{labels[run]}\n{tell_spikes(lines, find_spikes(lines))}")
    return "\n\n".join(parts)


def draw_curves(runs: Sequence[Path], output: Path, *, spikes: bool = False) -> None:
    """Draw the loss curves of runs beside each other, one panel a loss, smoothed over a 50th.

    Args:
        runs: Folders that hold ``metrics.jsonl``.
        output: The PNG to write.
        spikes: Draw the norms too, and mark every spike where it reached.

    Raises:
        FileNotFoundError: A folder holds no metrics.
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing curves needs matplotlib: pip install openjanus[train]") from (
            error
        )
    shown_names = (*LOSSES, *(name for name in WATCHED if name not in LOSSES and spikes))
    curves = {run: read_curves(run, shown_names) for run in runs}
    marks = {run: find_spikes(read_lines(run)) if spikes else [] for run in runs}
    names = [name for name in shown_names if any(name in found for found in curves.values())]
    labels = _labels(runs)
    figure = Figure(figsize=(4.5 * len(names), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        for number, (run, found) in enumerate(curves.items()):
            if name in found:
                steps, values = found[name]
                shown = smooth(values, max(1, len(values) // 50))
                panel.plot(steps, shown, color=f"C{number}", label=labels[run])
            here = [spike for spike in marks[run] if spike.name == name]
            panel.scatter(
                [spike.step for spike in here],
                [spike.value for spike in here],
                color=f"C{number}",
                marker="^",
            )
        panel.set_title(name)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def _labels(runs: Sequence[Path]) -> dict[Path, str]:
    """Names of folders, with that of the folder around them where several are alike."""
    names = [run.name for run in runs]
    return {
        run: run.name if names.count(run.name) == 1 else f"{run.parent.name}/{run.name}"
        for run in runs
    }
