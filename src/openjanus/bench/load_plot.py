"""A picture of what became of a load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openjanus.bench.arrivals import KINDS, MEASURES_OF, Kind, Measure
from openjanus.bench.load_result import LoadResult, Outcome

COLOURS: dict[Measure, str] = {
    "first word": "C0",
    "first partial": "C2",
    "whole reply": "C1",
    "whole picture": "C4",
}
FAILED, REFUSED, LIMIT = "C3", "0.5", "0.7"


def draw_load(result: LoadResult, outcomes: Sequence[Outcome], output: Path) -> None:
    """Draw a row for each kind: seconds by the time of arrival, and by share of the answers.

    Args:
        result: Of them.
        outcomes: Each a point, in its measures; refusals and errors are crosses.
        output: The picture to write.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing loads needs matplotlib: pip install openjanus[train]") from error
    kinds: list[Kind] = [kind for kind in KINDS if result.of(kind) is not None]
    figure = Figure(figsize=(10, 0.6 + 2.4 * len(kinds)), layout="constrained")
    FigureCanvasAgg(figure)
    rows: Any = figure.subplots(len(kinds), 2, squeeze=False, width_ratios=(3, 2))
    for kind, (by_time, by_share) in zip(kinds, rows, strict=True):
        of_kind = [one for one in outcomes if one.arrival.kind == kind]
        counted = result.of(kind)
        assert counted is not None
        title = f"{kind}: {counted.answered:,} of {counted.sent:,} answered, {counted.good:,} good"
        by_time.set_title(title, fontsize="small", loc="left")
        for measure in MEASURES_OF[kind]:
            _draw_measure(by_time, by_share, of_kind, measure)
        for name, colour, found in (
            ("refused", REFUSED, [one for one in of_kind if one.is_refused]),
            ("failed", FAILED, [o for o in of_kind if not (o.is_refused or o.is_answered)]),
        ):
            if found:
                times = [one.arrival.at_s for one in found], [one.whole_s for one in found]
                by_time.plot(*times, "x", color=colour, label=f"{name} ({len(found):,})", ms=4)
        for measure, limit in result.options.limits:
            if measure in MEASURES_OF[kind]:
                by_time.axhline(limit, color=COLOURS[measure], lw=0.8, ls=":")
                by_share.axhline(limit, color=COLOURS[measure], lw=0.8, ls=":")
        by_time.set(xlabel="due, seconds after the beginning", ylabel="seconds", yscale="log")
        by_share.set(xlabel="share of the answers", yscale="log", xlim=(0, 1))
        if by_time.get_legend_handles_labels()[0]:
            by_time.legend(fontsize="x-small")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def _draw_measure(
    by_time: Any, by_share: Any, outcomes: Sequence[Outcome], measure: Measure
) -> None:
    found = [(one.arrival.at_s, s) for one in outcomes if (s := one.seconds(measure)) is not None]
    if not found:
        return
    colour = COLOURS[measure]
    by_time.plot(*zip(*found, strict=True), ".", color=colour, label=measure, ms=4)
    ascending = sorted(seconds for _, seconds in found)
    shares = [(index + 1) / len(ascending) for index in range(len(ascending))]
    by_share.step(shares, ascending, color=colour, where="pre")
