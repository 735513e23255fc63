"""The loop that every trainer runs in: progress, metrics, samples, checkpoints, interruption."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from openjanus.train.checkpoint import (
    checkpoint_steps,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from openjanus.train.metrics import MetricsFile
from openjanus.train.parallel import ALONE, World
from openjanus.train.run_config import RunConfig
from openjanus.train.watch import Watch


class Task(Protocol):
    """What a trainer gives the loop."""

    def train_step(self, step: int) -> dict[str, Any]:
        """Do optimizer step ``step`` (from 0); the result has at least ``loss``."""
        ...

    def last_keys(self) -> list[str]:
        """Keys of the samples of the last step, for messages."""
        ...

    def sample(self, folder: Path, step: int) -> None:
        """Write what the model can do after ``step`` steps."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resume needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        ...


class NonFiniteLoss(ValueError):
    """The loss became NaN or infinite; the message names the samples of the step."""


def _check_finite(values: dict[str, Any], task: Task, step: int, folder: Path) -> None:
    for name in ("loss", "grad_norm"):
        if name in values and not math.isfinite(values[name]):
            raise NonFiniteLoss(
                f"{name} is {values[name]} at step {step}; samples: "
                f"{', '.join(task.last_keys())}; lower optim.lr, or look at these samples "
                f"(the newest checkpoint in {folder} is from before)"
            )


@contextmanager
def _stop_on_interrupt() -> Iterator[list[bool]]:
    """SIGINT and SIGTERM ask the loop to stop after the step; a second one is not caught."""
    asked = [False]
    before = {}

    def ask(signum: int, frame: object) -> None:
        asked[0] = True
        signal.signal(signum, before[signum])

    # Python lets the main thread alone have handlers; elsewhere stopping is its owner's business.
    in_main = threading.current_thread() is threading.main_thread()
    for signum in (signal.SIGINT, signal.SIGTERM) if in_main else ():
        before[signum] = signal.signal(signum, ask)
    try:
        yield asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _shown(values: dict[str, Any]) -> dict[str, str]:
    """What the bar says."""
    return {
        name: f"{value:.3f}"
        for name, value in values.items()
        if name.startswith("loss") or name == "val_loss"
    }


def _begin(task: Task, run: RunConfig, world: World) -> tuple[Path, int, dict[str, Any]]:
    """The run's folder, the steps done before, and the checkpoint of then, restored."""
    if not run.dir:
        raise ValueError("run.dir must name a folder: add --run.dir DIR")
    folder = Path(run.dir)
    if run.resume:
        state = load_checkpoint(newest_checkpoint(folder), world=world)
        task.load_state_dict(state["task"])
        return folder, state["step"], state
    if checkpoint_steps(folder):
        raise ValueError(
            f"{folder} holds a run already: add --run.resume true, or give another --run.dir"
        )
    return folder, 0, {}


def run_loop(task: Task, run: RunConfig, *, description: str, world: World = ALONE) -> int:
    """Train to ``run.last_step`` or ``run.stop_at``, the end of ``run.patience`` or a signal.

    Of several processes all run this, and the first writes.

    Returns:
        The number of optimizer steps done, earlier runs included.

    Raises:
        FileNotFoundError: ``resume`` without a checkpoint.
        ValueError: No folder; or the folder holds a run already and ``resume`` is off.
        NonFiniteLoss: The loss is not finite; nothing of that step is saved.
        ImportError: The package of a sink is missing.
    """
    folder, start, state = _begin(task, run, world)
    folder.mkdir(parents=True, exist_ok=True)
    end = run.last_step if run.stop_at is None else min(run.last_step, run.stop_at)
    watch = Watch(task, run, start=start, state=state.get("watch"), writes=world.is_main)
    metrics = MetricsFile(folder / "metrics.jsonl", start_step=start) if world.is_main else None
    done = start

    def save() -> None:
        watch.before_save()
        state = {"step": done, "task": task.state_dict(), "watch": watch.state_dict()}
        save_checkpoint(folder, done, state, keep=run.keep, world=world)

    def sample() -> None:
        task.sample(folder / "samples", done)
        watch.sinks.show(done, folder / "samples")

    bar = tqdm(
        total=end,
        initial=start,
        desc=description,
        unit="step",
        smoothing=0.05,
        disable=not world.is_main,
    )
    shown: dict[str, str] = {}
    stopped = False
    try:
        with _stop_on_interrupt() as asked, bar:
            while done < end and not stopped and not watch.is_over:
                began = time.perf_counter()
                values = task.train_step(done)
                _check_finite(values, task, done + 1, folder)
                done += 1
                seconds = time.perf_counter() - began
                values |= watch.utilisation(values, seconds)
                values["seconds"] = round(seconds, 4)
                measured = watch.measure(done)
                values |= measured
                is_best = watch.judge(done, values)
                bar.update()
                shown |= _shown(values)
                bar.set_postfix(shown, refresh=False)
                # Not where it was merely stopped: whoever goes on has the lines of one run.
                is_due = measured or done % run.log_every == 0 or done == run.last_step
                is_due = is_due or any(name.startswith("watch_") for name in values)
                if metrics is not None and is_due:
                    metrics.write({"step": done, **values})
                    watch.sinks.log(done, values)
                is_last = done == end or watch.is_over
                if (done % run.save_every == 0 or is_best) and not is_last:
                    save()
                if run.sample_every and done % run.sample_every == 0 and not is_last:
                    sample()
                stopped = world.any(asked[0])  # all, after the same step
        if done > start:
            save()
            if not stopped:  # who interrupts does not want to wait for pictures
                sample()
    finally:
        if metrics is not None:
            metrics.close()
        watch.close(is_complete=done == run.last_step or watch.is_over)
    return done
