"""The ablation's tables, from what lies in its folder: markdown, and a picture of the bars.

Every figure stands beside the folder of its run, whose ``config.yaml`` is what was run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from PIL import Image

from openjanus.eval.ablation import (
    COLUMNS,
    EXPERIMENTS,
    PAPER,
    UNDERSTANDING,
    Cell,
    Comparison,
    Measured,
    Verdict,
    cell_of,
    verdicts,
)
from openjanus.eval.geneval import TAGS
from openjanus.eval.runner import PREDICTIONS_NAME, SUMMARY_NAME
from openjanus.train.ablation import (
    FACES,
    GROUPS,
    VARIANT_SEED,
    Group,
    exam_folder,
    folder_of,
    run_name,
    shown_folder,
)
from openjanus.train.metrics import read_metrics
from openjanus.train.queue import read_state

TITLES: Mapping[str, str] = {
    "existence_f1": "existence F1",
    "four_choice": "four choices",
    "counting": "counting",
    "relation": "relation",
    "frechet": "FD-judge",
    "geneval": "GenEval rules",
}
WINDOW = 0.1
"""Share of a run whose mean stands for a loss or a norm at a place."""
PLACES = (0.25, 0.5, 0.75, 1.0)
"""Of the run, where convergence is read."""
CURVES = ("loss_und", "loss_gen", "output_norm")
"""Of ``metrics.jsonl``: what is read there."""


def read_exam(folder: Path) -> dict[str, dict[str, Any]] | None:
    """The columns of an exam; None where there is none yet."""
    path = folder / "summary.json"
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))["columns"]


def _unread(folders: Sequence[Path]) -> str:
    """Rates of answers in words that could not be read, of exams that were asked in words."""
    summaries = [json.loads((folder / "summary.json").read_text("utf-8")) for folder in folders]
    rates = [summary.get("parse_failure_rate") for summary in summaries]  # the first had none
    return ", ".join("-" if rate is None else f"{rate:.3f}" for rate in rates) if rates else "-"


def read_runs(
    root: Path, seeds: Sequence[int], where: Callable[[Path, str], Path] = exam_folder
) -> list[Measured]:
    """The experiments' figures, of the runs that were examined.

    Args:
        root: Folder of all runs.
        seeds: Of each experiment.
        where: The exam of a run; ``shown_folder`` is the other one.
    """
    found = []
    for letter in FACES:
        for seed in seeds:
            name = run_name(letter, seed)
            columns = read_exam(where(root, name))
            if columns is not None:
                values = {column: float(cell["value"]) for column, cell in columns.items()}
                found.append(Measured(experiment=letter, seed=seed, columns=values, folder=name))
    return found


def guidance_scales(root: Path, run: str) -> list[float]:
    """Scales at which a run has an exam of drawings, ascending."""
    names = (folder.name for folder in (root / run).glob("exam-guidance-*"))
    return sorted(float(name.removeprefix("exam-guidance-")) for name in names)


def markdown(root: Path, seeds: Sequence[int]) -> str:
    """Everything that the folder has, what is missing named.

    Raises:
        FileNotFoundError: No such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no runs in {root}: begin with scripts/ablation.py run")
    runs = read_runs(root, seeds)
    parts = [
        _table_5(root, runs, seeds),
        _missing(runs, seeds),
        _uneven(root, runs),
        _verdict_list(verdicts(runs)),
        _shown(root, seeds),
        *(_group(root, group) for group in GROUPS.values()),
        _guidance(root, seeds),
        _runs(root),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)])


def _figure(value: float, column: str) -> str:
    return f"{value:.3f}" if column != "frechet" else f"{value:.4g}"


def _cell(cell: Cell | None, column: str) -> str:
    if cell is None:
        return "-"
    mean = _figure(cell.mean, column)
    if cell.interval is None:
        return f"{mean} (one seed)"
    low, high = (_figure(edge, column) for edge in cell.interval)
    return f"{mean} [{low}, {high}]"


def _table_5(root: Path, runs: Sequence[Measured], seeds: Sequence[int]) -> str:
    head = ["exp", "visual encoder", "trained on", *TITLES.values(), "understanding", "unread"]
    head += ["paper: POPE", "COCO-FID", "runs"]
    rows = []
    for letter, (encoder, faces) in EXPERIMENTS.items():
        mine = [run.folder for run in runs if run.experiment == letter]
        cells = [_cell(cell_of(runs, letter, column), column) for column in COLUMNS]
        cells.append(_cell(cell_of(runs, letter, "understanding"), "understanding"))
        cells.append(_unread([exam_folder(root, folder) for folder in mine]))
        paper = ["-" if value is None else f"{value:g}" for value in PAPER[letter]]
        where = ", ".join(f"`{folder}`" for folder in mine) if mine else "none yet"
        rows.append([letter, encoder, faces, *cells, *paper, where])
    told = (
        f"Means over seeds {', '.join(map(str, seeds))} with Student's 95 % interval over them. "
        "FD-judge: the smaller the better; its features are the shipped judge's, it is not FID. "
        "Unread: share of the answers in words that are no answer to their question, run by run."
    )
    return f"{told}\n\n{_table(head, rows)}"


def _shown(root: Path, seeds: Sequence[int]) -> str:
    """The columns of understanding where only the scenes are new, not what they show."""
    title = "### New scenes of the cells that training shows\n\n"
    runs = read_runs(root, seeds, shown_folder)
    if not runs:
        return f"{title}Not there yet."
    columns = (*UNDERSTANDING, "understanding")
    rows = []
    for letter in dict.fromkeys(run.experiment for run in runs):
        folders = [shown_folder(root, run.folder) for run in runs if run.experiment == letter]
        cells = [_cell(cell_of(runs, letter, column), column) for column in columns]
        where = ", ".join(f"`{folder.relative_to(root)}`" for folder in folders)
        rows.append([letter, *cells, _unread(folders), where])
    head = ["exp", *(TITLES.get(column, column) for column in columns), "unread", "exams"]
    return f"{title}What no verdict is made of.\n\n{_table(head, rows)}"


def _missing(runs: Sequence[Measured], seeds: Sequence[int]) -> str:
    there = {run.folder for run in runs}
    wanted = [run_name(letter, seed) for letter in FACES for seed in seeds]
    missing = [name for name in wanted if name not in there]
    return f"Not there yet: {', '.join(missing)}." if missing else ""


def _uneven(root: Path, runs: Sequence[Measured]) -> str:
    """A warning where some were asked more than others."""
    sizes: dict[str, set[int]] = {}
    for run in runs:
        for column, cell in (read_exam(exam_folder(root, run.folder)) or {}).items():
            sizes.setdefault(column, set()).add(cell["n"])
    uneven = [
        f"{TITLES[name]} ({sorted(found)})" for name, found in sizes.items() if len(found) > 1
    ]
    if not uneven:
        return ""
    return (
        f"**Exams of different sizes:** {', '.join(uneven)}. Delete those that are not meant, and "
        "run the queue again."
    )


def _difference(comparison: Comparison) -> str:
    if comparison.difference is None:
        return f"{comparison.words}: no pair of runs"
    seeds = f"{len(comparison.seeds)} seed{'s' if len(comparison.seeds) > 1 else ''}"
    told = f"{comparison.words} is {comparison.difference:+.3f}"
    if comparison.interval is not None:
        low, high = comparison.interval
        told += f" [{low:+.3f}, {high:+.3f}]"
    return f"{told} over {seeds}, wanted {comparison.wanted}: {comparison.outcome}"


def _verdict_list(found: Sequence[Verdict]) -> str:
    lines = []
    for place, one in enumerate(found, start=1):
        told = "; ".join(_difference(comparison) for comparison in one.comparisons)
        lines.append(f"{place}. {one.claim}: **{one.outcome}**. {told}.")
    return "\n".join(lines)


def level(lines: Sequence[Mapping[str, Any]], name: str, place: float) -> float | None:
    """A metric's mean over the tenth of a run that ends at a place.

    Args:
        lines: Of ``metrics.jsonl``.
        name: Of the metric.
        place: Share of the run, in (0, 1].
    """
    end = max(1, round(place * len(lines)))
    start = min(end - 1, max(0, end - max(1, round(WINDOW * len(lines)))))
    values = [line[name] for line in lines[start:end] if line.get(name) is not None]
    return sum(values) / len(values) if values else None


def _levels(lines: Sequence[Mapping[str, Any]], name: str) -> str:
    found = [level(lines, name, place) for place in PLACES]
    told = ["-" if value is None else f"{value:.3g}" for value in found]
    return "-" if set(told) == {"-"} else ", ".join(told)


def _group(root: Path, group: Group) -> str:
    head = ["", *TITLES.values(), "unread", "loss und", "loss gen", "output norm", "run"]
    rows, there = [], False
    for what, name in group.rows:
        run = folder_of(name)
        columns = read_exam(exam_folder(root, run))
        if columns is None:
            rows.append([what, *["not there yet"] + ["-"] * (len(head) - 3), f"`{run}`"])
            continue
        there = True
        cells = [_single(columns.get(column), column) for column in COLUMNS]
        cells.append(_unread([exam_folder(root, run)]))
        lines = read_metrics(root / run / "metrics.jsonl")
        curves = [_levels(lines, key) for key in CURVES]
        rows.append([what, *cells, *curves, f"`{run}`"])
    if not there:
        return f"### {group.title}\n\nNot there yet."
    told = (
        f"One seed ({VARIANT_SEED}); intervals over questions and cells alone. Losses and the norm "
        "at a quarter, half, three quarters and the end of the run, each over a tenth of it."
    )
    return f"### {group.title}\n\n{told}\n\n{_table(head, rows)}"


def _single(cell: Mapping[str, Any] | None, column: str) -> str:
    if cell is None:
        return "-"
    value = _figure(cell["value"], column)
    if cell["interval"] is None:
        return value
    low, high = (_figure(edge, column) for edge in cell["interval"])
    return f"{value} [{low}, {high}]"


def _guidance(root: Path, seeds: Sequence[int]) -> str:
    run = run_name("D", seeds[0])
    rows = []
    for scale in guidance_scales(root, run):
        folder = exam_folder(root, run, scale)
        columns = read_exam(folder)
        if columns is not None:
            cells = [_single(columns.get(column), column) for column in ("frechet", "geneval")]
            rows.append([f"{scale:g}", *cells, f"`{folder.relative_to(root)}`"])
    title = "### Guidance\n\n"
    if not rows:
        return f"{title}Not there yet."
    return title + _table(["scale", TITLES["frechet"], TITLES["geneval"], "run"], rows)


def _runs(root: Path) -> str:
    """What each run is traced by: its resolved configuration, its steps and its time."""
    records = read_state(root)
    rows = []
    for folder in sorted(path.parent for path in root.glob("*/config.yaml")):
        lines = read_metrics(folder / "metrics.jsonl")
        record = records.get(folder.name)
        rows.append(
            [
                f"`{folder.name}/config.yaml`",
                str(lines[-1]["step"]) if lines else "-",
                "-" if record is None else f"{record.seconds / 60:.1f}",
                "-" if record is None else str(record.sessions),
                "-" if record is None else record.state,
            ]
        )
    head = ["resolved configuration", "steps", "minutes", "sessions", "state"]
    return f"### Runs\n\n{_table(head, rows)}" if rows else ""


def publish(root: Path, output: Path, runs: Sequence[str]) -> list[Path]:
    """Copy what the tables are made of, and neither weights nor answers.

    Of each run its resolved configuration, the summaries of its exams, and ``CURVES`` with the
    steps. What lies in ``output`` already is written over.

    Args:
        root: Folder of all runs.
        output: Folder that gets one of each run's name.
        runs: Names of folders in ``root``.

    Returns:
        The files that were written.

    Raises:
        FileNotFoundError: No such run, or one that was never begun.
    """
    copies: dict[Path, str] = {}
    for run in runs:
        folder = root / run
        if not (folder / "config.yaml").is_file():
            raise FileNotFoundError(f"no run in {folder}: its config.yaml is missing")
        files = [folder / "config.yaml", *sorted(folder.glob(f"exam*/{SUMMARY_NAME}"))]
        copies |= {output / path.relative_to(root): path.read_text("utf-8") for path in files}
        lines = [
            {"step": line["step"]} | {key: round(line[key], 4) for key in CURVES if key in line}
            for line in read_metrics(folder / "metrics.jsonl")
        ]
        if lines:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            copies[output / run / "metrics.jsonl"] = text
    for path, text in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(copies)


def draw_bars(root: Path, seeds: Sequence[int], output: Path) -> None:
    """A panel a column, a bar an experiment, intervals where there are several seeds.

    Raises:
        ImportError: matplotlib is not installed.
        FileNotFoundError: No run was examined yet.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing bars needs matplotlib: pip install openjanus[train]") from error
    runs = read_runs(root, seeds)
    if not runs:
        raise FileNotFoundError(f"no exam in {root}: begin with scripts/ablation.py run")
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, column in zip(figure.subplots(2, 3).flat, COLUMNS, strict=True):
        for place, letter in enumerate(EXPERIMENTS):
            cell = cell_of(runs, letter, column)
            if cell is None:
                axes.text(place, 0, "-", ha="center", va="bottom")
                continue
            axes.bar(place, cell.mean, color=f"C{place}")
            if cell.interval is not None:
                low, high = cell.interval
                error = [[cell.mean - low], [high - cell.mean]]
                axes.errorbar(place, cell.mean, yerr=error, color="black", capsize=4)
        axes.set_xlim(-0.6, len(EXPERIMENTS) - 0.4)
        axes.set_xticks(range(len(EXPERIMENTS)), list(EXPERIMENTS))
        better = " (smaller is better)" if column == "frechet" else ""
        axes.set_title(f"{TITLES[column]}{better}", fontsize=10)
        tops = [run.columns[column] for run in runs if column in run.columns]
        top = max(tops, default=1.0)
        axes.set_ylim(0, top * 1.3 if math.isfinite(top) and top > 0 else 1.0)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


def draw_guidance(root: Path, seeds: Sequence[int], output: Path) -> None:
    """The first drawing of each tag by guidance, each with the same noise in a row.

    Args:
        root: Folder of all runs, with the drawings of their exams.
        seeds: The first one's Exp-D is shown.
        output: A PNG.

    Raises:
        ImportError: matplotlib is not installed.
        FileNotFoundError: No such exam, or its drawings are elsewhere.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install openjanus[train]") from error
    run = run_name("D", seeds[0])
    scales = guidance_scales(root, run)
    if not scales:
        raise FileNotFoundError(f"no exam by guidance in {root / run}: run D with --guidance first")
    figure = Figure(figsize=(1.2 * len(scales), 1.2 * len(TAGS)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(TAGS), len(scales), squeeze=False)
    for column, scale in enumerate(scales):
        folder = exam_folder(root, run, scale)
        for row, found in enumerate(_first_drawings(folder)):
            axes = panels[row, column]
            with Image.open(folder / found["files"][0]) as picture:
                axes.imshow(np.asarray(picture))
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(f"{scale:g}", fontsize=9)
            if column == 0:
                told = fill(found["prompt"].removeprefix("a photo of "), 16)
                axes.set_ylabel(told, fontsize=7, rotation=0, ha="right", va="center")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


def _first_drawings(folder: Path) -> list[dict[str, Any]]:
    """Of an exam's predictions the first that drew each tag."""
    path = folder / PREDICTIONS_NAME
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    drawn = [line for line in lines if "files" in line]
    return [next(line for line in drawn if line["tag"] == tag) for tag in TAGS]
