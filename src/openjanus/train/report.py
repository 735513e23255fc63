"""Curves of runs, drawn from their ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openjanus.train.metrics import read_metrics

LOSSES = ("loss", "loss_und", "loss_text", "loss_gen", "l1")
"""Metrics that are drawn where a run has them, each in a panel of its own."""


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean over up to ``window`` values, of what there is near the ends; same length."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def read_curves(run: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values of every loss that a run recorded.

    Raises:
        FileNotFoundError: The folder holds no metrics.
    """
    lines = read_metrics(run / "metrics.jsonl")
    if not lines:
        raise FileNotFoundError(f"no metrics.jsonl in {run}: give the folder of a run")
    curves = {}
    for name in LOSSES:
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            steps, values = zip(*points, strict=True)
            curves[name] = np.asarray(steps), np.asarray(values, dtype=np.float64)
    return curves


def draw_curves(runs: Sequence[Path], output: Path) -> None:
    """Draw the loss curves of runs beside each other, one panel a loss, smoothed over a 50th.

    Args:
        runs: Folders that hold ``metrics.jsonl``.
        output: The PNG to write.

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
    curves = {run: read_curves(run) for run in runs}
    names = [name for name in LOSSES if any(name in found for found in curves.values())]
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
