"""What the loop does for whoever watches a run: validation, best checkpoints, sinks, MFU."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from tqdm import tqdm

from openjanus.train.best import NAME, Best
from openjanus.train.flops import measure_peak
from openjanus.train.run_config import RunConfig
from openjanus.train.sinks import Sinks


@runtime_checkable
class Validated(Protocol):
    """A task that can be measured on what it is not trained on."""

    def validate(self, folder: Path, step: int) -> dict[str, Any]:
        """Values of what is due after ``step`` steps; empty where nothing is."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A task whose steps say how many operations they take, as ``flops``."""

    @property
    def products(self) -> tuple[torch.device, torch.dtype]:
        """Where its matrix products are done, and in what."""
        ...


class Watch:
    """The watching of one run.

    Args:
        task: What is trained.
        run: What is wanted.
        start: Optimizer steps done before.
        state: What ``state_dict`` gave when they were; None for a new run, or an older one.
        writes: Whether this process writes: of several the first, and all judge alike.

    Raises:
        ImportError: A sink's package is missing.
        ValueError: ``run.measure_peak`` for a task that does not count its operations.
    """

    def __init__(
        self,
        task: object,
        run: RunConfig,
        *,
        start: int,
        state: dict[str, Any] | None,
        writes: bool = True,
    ) -> None:
        self._writes = writes
        self.folder = Path(run.dir)
        self._validate = task.validate if isinstance(task, Validated) else None
        known = {} if state is None else state
        self.best: Best | None = None
        if run.best is not None:
            self.best = Best(run.best, run.patience)
            if known.get("best") is not None:
                self.best.load_state_dict(known["best"])
            self.before_save()
        elif writes:
            (self.folder / NAME).unlink(missing_ok=True)
        self._peak = _peak_of(task) if run.measure_peak else None
        run = run if writes else dataclasses.replace(run, sinks=[])
        self.sinks = Sinks(run, start=start, wandb_id=known.get("wandb"))

    @property
    def is_over(self) -> bool:
        """Whether patience is at its end."""
        return self.best is not None and self.best.ended_at is not None

    def measure(self, step: int) -> dict[str, Any]:
        """Validate where it is due."""
        return {} if self._validate is None else self._validate(self.folder, step)

    def judge(self, step: int, values: dict[str, Any]) -> bool:
        """Whether the step is among the best, and its checkpoint to be kept.

        Raises:
            ValueError: The metric is not a finite number, or validation does not give it.
        """
        if self.best is None:
            return False
        name = self.best.config.metric
        validated = name.startswith("val_") and "val_loss" in values
        if name not in values and not validated:
            return False
        is_kept = self.best.add(step, self.best.read_metric(values, step))
        if self.is_over and self._writes:
            tqdm.write(
                f"{name} had no new best in {self.best.waited} measurements: the run is complete "
                f"after step {step}",
                file=sys.stderr,
            )
        return is_kept

    def utilisation(self, values: dict[str, Any], seconds: float) -> dict[str, float]:
        """``mfu``, the share of the measured peak that a step reached, where it is wanted."""
        if self._peak is None:
            return {}
        return {"mfu": round(values["flops"] / seconds / self._peak, 4)}

    def before_save(self) -> None:
        """Name the best checkpoints, so that keep-N spares them."""
        if self.best is not None and self._writes:
            self.best.write(self.folder)

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        best = None if self.best is None else self.best.state_dict()
        return {"best": best, "wandb": self.sinks.wandb_id}

    def close(self, *, is_complete: bool) -> None:
        """Close the sinks."""
        self.sinks.close()
        if is_complete and self.best is not None and not self.best.entries:
            warnings.warn(
                f"run.best.metric {self.best.config.metric!r} was never measured: no checkpoint "
                "was kept for it",
                stacklevel=2,
            )


def _peak_of(task: object) -> float:
    if not isinstance(task, Counted):
        raise ValueError(
            "run.measure_peak is for runs of kind janus, whose operations are counted: leave it out"
        )
    device, dtype = task.products
    peak = measure_peak(device, dtype)
    tqdm.write(f"peak: {peak / 1e12:.3f} TFLOP/s in {dtype} on {device}", file=sys.stderr)
    return peak
