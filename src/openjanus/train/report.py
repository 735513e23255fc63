"""Curves and a summary of runs, from what is in their folders: any kind of run, old ones too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openjanus.eval.results import run_labels
from openjanus.rules import near
from openjanus.train.best import best_steps
from openjanus.train.metrics import read_metrics
from openjanus.train.sinks import flatten
from openjanus.train.spikes import find_spikes, tell_spikes

LOSSES = (
    "loss",
    "loss_und",
    "loss_text",
    "loss_gen",
    "loss_und_image",
    "l1",
    "mse",
    "edge",
    "commitment",
)
"""Drawn where a run has them, each in a panel of its own, with what is held out beside them."""

OTHERS = (
    *("lr", "grad_norm", "output_norm", "data_wait", "fill", "supervised_tokens_per_second", "mfu"),
    *("codebook_usage", "codebook_entropy", "image_to_text", "text_to_image"),
)
SHARES = ("data_wait", "fill", "codebook_usage", "image_to_text", "text_to_image")
"""Their panels reach from 0 to 1."""

NORM = "grad_norm_"
SCORE = "eval_"
MOST_SCORES = 8
"""Scores of tasks that are drawn unless they are named."""

COLUMNS = 4
FEW = 40
"""Points up to this number are drawn as points."""

Curves = dict[str, tuple[np.ndarray, np.ndarray]]
"""Steps and values by name."""


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean over up to ``window`` values, of what there is near the ends; same length."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def is_run(folder: Path) -> bool:
    """Whether a folder is one that training wrote its metrics into."""
    return (folder / "metrics.jsonl").is_file()


def read_lines(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run.

    Raises:
        FileNotFoundError: The folder holds none.
    """
    lines = read_metrics(run / "metrics.jsonl")
    if not lines:
        raise FileNotFoundError(f"no metrics.jsonl in {run}: give the folder of a run")
    return lines


def read_curves(run: Path) -> Curves:
    """Steps and values of every number that a run recorded.

    Raises:
        FileNotFoundError: The folder holds no metrics.
    """
    lines = read_lines(run)
    points: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in flatten(line):
            if name != "step":
                points.setdefault(name, []).append((line["step"], value))
    return {
        name: (np.asarray([step for step, _ in some]), np.asarray([value for _, value in some]))
        for name, some in points.items()
    }


def _panels(curves: Sequence[Curves], metrics: Sequence[str]) -> list[str]:
    """Names of the panels that there is something for, in order.

    Raises:
        ValueError: A metric that is asked for and that no run has.
    """
    found = {name for some in curves for name in some}
    if metrics:
        for name in metrics:
            if name not in found:
                raise ValueError(f"no run has a metric {name!r}; {near(name, sorted(found))}")
        return list(metrics)
    losses = [name for name in LOSSES if {name, f"val_{name}"} & found]
    norms = sorted(name for name in found if name.startswith(NORM))
    scores = sorted(name for name in found if name.startswith(SCORE))[:MOST_SCORES]
    others = [name for name in OTHERS if name in found]
    if norms:
        others.insert(others.index("grad_norm") + 1, NORM)
    return [*losses, *others, *scores]


def report_spikes(runs: Sequence[Path]) -> str:
    """The spikes of runs as text, each run under its folder's name.

    Raises:
        FileNotFoundError: A folder holds no metrics.
    """
    labels, parts = run_labels(runs), []
    for run in runs:
        lines = read_lines(run)
        parts.append(f"{labels[run]}\n{tell_spikes(lines, find_spikes(lines))}")
    return "\n\n".join(parts)


def draw_curves(
    runs: Sequence[Path], output: Path, *, metrics: Sequence[str] = (), spikes: bool = False
) -> None:
    """Draw the curves of runs over each other, one panel a metric.

    Curves of every step are smoothed over a 50th; what is held out is dashed, in the panel of the
    same loss. Gradient norms of parts share a panel, one a run. A dotted line is the best
    checkpoint of a run that keeps one.

    Args:
        runs: Folders that hold ``metrics.jsonl``.
        output: The PNG to write.
        metrics: The panels; empty takes what there is.
        spikes: Mark every spike where it reached.

    Raises:
        FileNotFoundError: A folder holds no metrics.
        ImportError: matplotlib is not installed.
        ValueError: A metric that no run has.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing curves needs matplotlib: pip install openjanus[train]") from (
            error
        )
    curves = {run: read_curves(run) for run in runs}
    marks = {run: find_spikes(read_lines(run)) if spikes else [] for run in runs}
    labels = run_labels(runs)
    panels: list[tuple[str, list[Path]]] = []
    for name in _panels(list(curves.values()), metrics):
        panels += [(name, [run]) for run in runs] if name == NORM else [(name, list(runs))]
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, shown) in zip(grid, panels, strict=False):
        if name == NORM:
            _draw_norms(axes, curves[shown[0]], labels[shown[0]] if len(runs) > 1 else "")
        else:
            for run in shown:
                colour = f"C{list(runs).index(run)}"
                _draw_metric(axes, curves[run], name, colour=colour, label=labels[run])
                here = [spike for spike in marks[run] if spike.name == name]
                places = ([spike.step for spike in here], [spike.value for spike in here])
                axes.scatter(*places, color=colour, marker="^")
                for step in best_steps(run)[:1] if name in LOSSES else ():
                    axes.axvline(step, color=colour, linestyle=":", linewidth=1)
            axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if name in SHARES:
            axes.set_ylim(-0.02, 1.02)
    grid[0].legend(fontsize="small")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def _draw_metric(axes: Any, curves: Curves, name: str, *, colour: str, label: str) -> None:
    if name in curves:
        steps, values = curves[name]
        style = {"marker": ".", "label": label} if len(values) <= FEW else {"label": label}
        shown = values if name == "lr" else smooth(values, max(1, len(values) // 50))
        axes.plot(steps, shown, color=colour, **style)
    held_out = f"val_{name}"
    if held_out in curves:
        steps, values = curves[held_out]
        axes.plot(steps, values, "--", marker=".", color=colour, label=f"{label}, held out")


def _draw_norms(axes: Any, curves: Curves, label: str) -> None:
    """All parts of one run, logarithmic: they lie far apart."""
    names = sorted(name for name in curves if name.startswith(NORM))
    for number, name in enumerate(names):
        steps, values = curves[name]
        shown = smooth(values, max(1, len(values) // 50))
        axes.plot(steps, shown, color=f"C{number}", label=name.removeprefix(NORM))
    axes.set_yscale("log")
    axes.set_title(f"gradient norms by part {label}".strip())
    axes.legend(fontsize="x-small")


def summarise(run: Path) -> str:
    """What a run's values say in a few lines: ends of losses, speed, ratio, norms."""
    curves = read_curves(run)
    lines = [f"{run}: {_state(run, curves)}"]
    for name in (*LOSSES, *(f"val_{loss}" for loss in LOSSES)):
        if name in curves:
            steps, values = curves[name]
            lines.append(
                f"  {name}: {_ends(values)}; least {values.min():.4g} at {_at(steps, values)}"
            )
    lines += [
        f"  {name}: median {np.median(values):.4g}, largest {values.max():.4g}"
        for name, (_, values) in curves.items()
        if name == "grad_norm" or name.startswith(NORM)
    ]
    if "lr" in curves:
        values = curves["lr"][1]
        lines.append(f"  lr: peak {values.max():.3g}, last {values[-1]:.3g}")
    for unit in ("samples", "tokens"):
        if ratio := _ratio(curves, unit):
            lines.append(f"  und : text : gen in {unit}: {ratio}")
    for name in ("data_wait", "fill", "mfu", "tokens_per_second", "supervised_tokens_per_second"):
        if name in curves:
            lines.append(f"  {name}: median {np.median(curves[name][1]):.4g}")
    last = ("codebook_usage", "codebook_entropy", "image_to_text", "text_to_image", "bad_samples")
    scores = [name for name in curves if name.startswith(SCORE)]
    for name in (*last, *scores):
        if name in curves:
            lines.append(f"  {name}: last {curves[name][1][-1]:.4g}")
    return "\n".join(lines)


def _state(run: Path, curves: Curves) -> str:
    steps = int(max(steps[-1] for steps, _ in curves.values()))
    words = [f"{steps} steps", "complete" if (run / "final").is_dir() else "no result"]
    if "seconds" in curves:
        words.insert(1, f"{np.median(curves['seconds'][1]):.3g} s each (median)")
    if found := best_steps(run):
        data = json.loads((run / "best.json").read_text(encoding="utf-8"))
        words.append(f"best {data['metric']} at {found[0]}")
        if data["ended_at"] is not None:
            words.append(f"patience ended at {data['ended_at']}")
    return ", ".join(words)


def _ends(values: np.ndarray) -> str:
    """The first value, and the mean of the last 50th."""
    return f"{values[0]:.4g} to {values[-max(1, len(values) // 50) :].mean():.4g}"


def _at(steps: np.ndarray, values: np.ndarray) -> int:
    return int(steps[values.argmin()])


def _ratio(curves: Curves, unit: str) -> str:
    """The last counts as shares of their sum."""
    names = [f"{unit}/{kind}" for kind in ("und", "text", "gen")]
    if not all(name in curves for name in names):
        return ""
    counts = [curves[name][1][-1] for name in names]
    return " : ".join(f"{count / sum(counts):.3f}" for count in counts)
