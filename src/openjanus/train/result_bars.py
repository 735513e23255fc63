"""Bars with intervals of what results say, the papers' grey beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openjanus.eval.results import Figure
from openjanus.eval.tables import MAIN, Table

PAPER_COLOUR = "0.75"
BAR = 0.8
"""Share of a place that bars of all rows fill."""


def draw_results(tables: Sequence[Table], output: Path) -> None:
    """Draw a panel for each main figure, and one for the parts of each benchmark.

    The papers' bars stand beside main figures alone: their parts would be more than the runs'.

    Args:
        tables: As `compare` makes them, the main figures first.
        output: The PNG to write.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise ImportError("drawing results needs matplotlib: pip install openjanus[train]") from (
            error
        )
    panels = [
        (table, [column]) for table in tables if table.title == MAIN for column in table.columns
    ]
    for table in tables:
        rows = tuple(row for row in table.rows if not row.paper)
        if table.title != MAIN and rows:
            panels.append((replace(table, rows=rows), [*table.columns]))
    colours = _colours(tables)
    heights = [0.8 + 0.3 * max(3, _bars(table, columns)) for table, columns in panels]
    figure = Canvas(figsize=(9, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(
        len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
    ).flatten()
    for axes, (table, columns) in zip(grid, panels, strict=True):
        axes.set_title(_title(table, columns), fontsize="small", loc="left", wrap=True)
        _draw_panel(axes, table, columns, colours)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def _title(table: Table, columns: Sequence[Any]) -> str:
    """What a panel is about; a lone part says of what it is one."""
    if table.title == MAIN:
        return columns[0].title
    return f"{table.title}: {columns[0].title}" if len(columns) == 1 else table.title


def _colours(tables: Sequence[Table]) -> dict[str, str]:
    runs = dict.fromkeys(row.name for t in tables for row in t.rows if not row.paper)
    return {name: f"C{number % 10}" for number, name in enumerate(runs)}


def _bars(table: Table, columns: Sequence[Any]) -> int:
    return sum(_has(row.figures.get(c.key)) for row in table.rows for c in columns)


def _has(figure: Figure | None) -> bool:
    return figure is not None and figure.value is not None


def _draw_panel(axes: Any, table: Table, columns: Sequence[Any], colours: dict[str, str]) -> None:
    """Bars lie: one a row where there is one column, else the rows of each column together."""
    places, names = 0.0, []
    for column in columns:
        for row in table.rows:
            figure = row.figures.get(column.key)
            if figure is None or figure.value is None:
                continue
            colour = PAPER_COLOUR if row.paper else colours[row.name]
            axes.barh(places, figure.value, BAR, color=colour)
            if figure.interval is not None:
                low, high = figure.interval
                axes.plot([low, high], [places, places], color="black", linewidth=1.5)
            part = "" if len(columns) == 1 else f"{column.title}, "
            names.append((places, f"{part}{row.name}{' (paper)' if row.paper else ''}"))
            places += 1
        places += 0.4
    axes.set_yticks([place for place, _ in names], [name for _, name in names], fontsize="small")
    axes.set_ylim(max(places, 1) - 0.4, -0.6)  # the first one above
    axes.grid(axis="x", alpha=0.3)
    if columns and columns[0].unit == "share":
        axes.set_xlim(0, 1)
    elif columns and columns[0].unit == "percent":
        axes.set_xlim(0, 100)
