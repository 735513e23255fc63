"""Spikes of a run: steps at which a number left what it had been just before.

A step is judged by the median of the steps before it and by their median distance from that
median, which a spike among them does not move; so a second spike is seen as the first one was,
and a curve that falls or rises slowly has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

WATCHED = ("loss", "grad_norm", "output_norm")
"""Metrics that are judged."""

WINDOW = 50
"""Lines before a line that it is judged by."""

LEAST_HISTORY = 10
"""A line with fewer before it is not judged."""

THRESHOLD = 8.0
"""Robust standard deviations from which a value is a spike."""

NORMAL = 1.4826
"""Standard deviations of normal noise in its median distance from the median."""

LEAST_SPREAD = 0.01
"""Least spread, as a share of the median: numbers that hardly move would spike at every breath."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spike:
    """A value far above those before it."""

    step: int
    name: str
    """Of the metric."""
    value: float
    usual: float
    """Median of the lines before it."""
    score: float
    """Robust standard deviations above it; infinite for a value that is no number."""
    keys: tuple[str, ...]
    """Samples of the step, where the run logged them (``log_keys``)."""


def find_spikes(
    lines: Sequence[Mapping[str, Any]],
    *,
    names: Sequence[str] = WATCHED,
    window: int = WINDOW,
    threshold: float = THRESHOLD,
) -> list[Spike]:
    """The spikes of a run, in the order of steps.

    Args:
        lines: Of ``metrics.jsonl``, in order; lines without a metric are passed over for it.
        names: Metrics to judge.
        window: Lines before a line that it is judged by.
        threshold: Robust standard deviations above their median that make a spike.

    Raises:
        ValueError: A window with less than ``LEAST_HISTORY`` lines, or a threshold that is not
            above 0.
    """
    if window < LEAST_HISTORY:
        raise ValueError(f"window must be >= {LEAST_HISTORY} lines, got {window}")
    if not threshold > 0:
        raise ValueError(f"threshold must be > 0, got {threshold}")
    spikes: list[Spike] = []
    for name in names:
        before: list[float] = []
        for line in lines:
            if name not in line:
                continue
            value = float(line[name])
            if len(before) >= LEAST_HISTORY:
                usual, score = judge(before[-window:], value)
                if score >= threshold:
                    keys = tuple(line.get("keys", ()))
                    spikes.append(
                        Spike(
                            step=line["step"],
                            name=name,
                            value=value,
                            usual=usual,
                            score=score,
                            keys=keys,
                        )
                    )
            if math.isfinite(value):
                before.append(value)
    return sorted(spikes, key=lambda spike: (spike.step, names.index(spike.name)))


def judge(before: Sequence[float], value: float) -> tuple[float, float]:
    """The median of earlier values, and how many robust deviations a value lies above it."""
    usual = median(before)
    if not math.isfinite(value):
        return usual, math.inf
    spread = NORMAL * median(abs(other - usual) for other in before)
    spread = max(spread, LEAST_SPREAD * abs(usual))
    if spread == 0:
        return usual, math.inf if value > usual else 0.0
    return usual, (value - usual) / spread


def tell_spikes(lines: Sequence[Mapping[str, Any]], spikes: Sequence[Spike]) -> str:
    """What a run's spikes are, as text: a line for each metric, then one for each spike."""
    told: list[str] = []
    for name in WATCHED:
        values = [float(line[name]) for line in lines if name in line]
        if values:
            count = sum(spike.name == name for spike in spikes)
            told.append(
                f"{name}: {count} spikes in {len(values)} lines; median "
                f"{median(values[:WINDOW]):.4g} in the first {min(WINDOW, len(values))}, "
                f"{median(values[-WINDOW:]):.4g} in the last"
            )
    for spike in spikes:
        keys = f"; samples: {', '.join(spike.keys)}" if spike.keys else ""
        told.append(
            f"step {spike.step}: {spike.name} {spike.value:.4g}, usually {spike.usual:.4g} "
            f"({spike.score:.1f} deviations){keys}"
        )
    return "\n".join(told)
