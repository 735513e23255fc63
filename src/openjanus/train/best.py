"""The best checkpoints of a run by a metric, and whether it still gets better.

Nothing here knows what a checkpoint holds: they are steps, and ``best.json`` in the run's folder
names those that keep-N must spare. It is written before the checkpoint that it newly names: a kill
in between leaves a name without a folder, never a folder that is dropped too soon.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openjanus.rules import near
from openjanus.train.watch_config import BestConfig

FORMAT_VERSION = 1
NAME = "best.json"


@dataclass(slots=True)
class Best:
    """The list, as it is worked on.

    Args:
        config: What is better, and how many are kept.
        patience: Measurements without a new best after which the run is over; 0 never.
    """

    config: BestConfig
    patience: int = 0
    entries: list[tuple[int, float]] = field(default_factory=list)
    """Step and value, the best first."""
    waited: int = 0
    """Measurements since the last new best."""
    ended_at: int | None = None
    """Step after which patience was at its end."""

    def add(self, step: int, value: float) -> bool:
        """Take in a measurement; of equal values the earlier is the better.

        Returns:
            Whether it is among those that are kept.

        Raises:
            ValueError: Not a finite number.
        """
        if not math.isfinite(value):
            raise ValueError(
                f"{self.config.metric} is {value} at step {step}, which is neither better nor "
                "worse than anything: look at the samples that it is measured on"
            )
        sign = 1.0 if self.config.mode == "min" else -1.0
        ranked = sorted([*self.entries, (step, value)], key=lambda it: (sign * it[1], it[0]))
        self.entries = ranked[: self.config.keep]
        self.waited = 0 if ranked[0][0] == step else self.waited + 1
        if 0 < self.patience <= self.waited:
            self.ended_at = step
        return any(kept == step for kept, _ in self.entries)

    def read_metric(self, values: dict[str, Any], step: int) -> float:
        """The metric among the values of a measurement.

        Raises:
            ValueError: It is none of them; the message names near ones.
        """
        name = self.config.metric
        if name not in values:
            raise ValueError(
                f"run.best.metric {name!r} was not measured at step {step}; "
                f"{near(name, [key for key in values if isinstance(values[key], float)])}"
            )
        return float(values[name])

    def write(self, folder: Path) -> None:
        """Write ``best.json``, whole or not at all."""
        data = {
            "format_version": FORMAT_VERSION,
            "metric": self.config.metric,
            "mode": self.config.mode,
            **self.state_dict(),
        }
        draft = folder / f"{NAME}.part"
        draft.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        draft.replace(folder / NAME)

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        return {
            "checkpoints": [{"step": step, "value": value} for step, value in self.entries],
            "waited": self.waited,
            "ended_at": self.ended_at,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        self.entries = [(it["step"], it["value"]) for it in state["checkpoints"]]
        self.waited = state["waited"]
        self.ended_at = state["ended_at"]


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / NAME
    if not path.is_file():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version {data['format_version']} is newer than {FORMAT_VERSION}: "
            "install a newer openjanus (pip install -U openjanus)"
        )
    return data


def best_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints that a run keeps for being good, the best first; or none.

    Raises:
        ValueError: Written by a newer openjanus.
    """
    data = _read(folder)
    return [] if data is None else [it["step"] for it in data["checkpoints"]]


def ended_early(folder: Path) -> bool:
    """Whether a run's patience was at its end, which makes it complete."""
    data = _read(folder)
    return data is not None and data["ended_at"] is not None
