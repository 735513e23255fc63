"""How long a run is, what it keeps and where it says so: the section ``run`` of every recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from openjanus.train.watch_config import SINKS, BestConfig, SinkName, WandbConfig, check_watch


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """The loop around a training step."""

    dir: str = ""
    """Folder of checkpoints, metrics and samples."""
    steps: int = 1000
    """Optimizer steps of the whole schedule."""
    stop_at: int | None = None
    """Stop after this step without touching the schedule; resume later."""
    early_stop: int | None = None
    """Step at which the run is complete, before the end of its schedule: what comes after it goes
    on from there. None is ``steps``."""
    resume: bool = False
    """Go on from the newest checkpoint in ``dir``."""
    seed: int = 0
    """Names the data order, drops and noise; counter-based, so any step can be repeated."""
    log_every: int = 1
    """Steps between lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept."""
    sample_every: int = 0
    """Steps between sample grids and answers; 0 means at the end alone."""
    best: BestConfig | None = None
    """Checkpoints kept for a metric, beside the newest; None keeps none."""
    patience: int = 0
    """Measurements of ``best.metric`` in a row without a new best after which the run is complete;
    0 never."""
    final_from: Literal["last", "best"] = "last"
    """Which checkpoint of a complete run becomes its result."""
    sinks: list[SinkName] = field(default_factory=list)
    """Where values and samples go beside ``metrics.jsonl``."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    measure_peak: bool = False
    """Time a matrix product at the start, so that each line has the share of it that the step
    reached (``mfu``)."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "save_every", "keep"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"run.{name} must be >= 1, got {value}")
        if self.stop_at is not None and self.stop_at < 1:
            raise ValueError(f"run.stop_at must be >= 1, got {self.stop_at}: leave it out for all")
        if self.early_stop is not None and not 1 <= self.early_stop <= self.steps:
            raise ValueError(
                f"run.early_stop must be in [1, run.steps ({self.steps})], got {self.early_stop}: "
                "leave it out for the whole schedule"
            )
        if self.sample_every < 0:
            raise ValueError(f"run.sample_every must be >= 0, got {self.sample_every}")
        check_watch(self.best, self.patience, self.final_from)
        if len(set(self.sinks)) < len(self.sinks):
            raise ValueError(f"run.sinks must be some of {list(SINKS)}, each once: {self.sinks}")

    @property
    def last_step(self) -> int:
        """Optimizer steps of a complete run."""
        return self.steps if self.early_stop is None else self.early_stop


def check_timeout(process_timeout_s: float) -> None:
    """Raise ``ValueError`` for a wait of no time."""
    if not process_timeout_s > 0:
        raise ValueError(f"process_timeout_s must be > 0, got {process_timeout_s}")
