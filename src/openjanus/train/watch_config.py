"""What a run is watched by: held-out losses, the best checkpoints, and where its values go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from openjanus.rules import require_at_least_one
from openjanus.train.source_config import SourcesConfig

SinkName = Literal["tensorboard", "wandb"]

SINKS: tuple[SinkName, ...] = ("tensorboard", "wandb")


@dataclass(frozen=True, kw_only=True, slots=True)
class ValSourceConfig:
    """A source of samples that are never trained on."""

    type: str
    """Registered name, for instance ``emoji``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the source; checked by the source itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValTaskConfig:
    """An eval task that is run every so many steps."""

    task: str
    """Registered name, for instance ``emoji``."""
    every: int = 1000
    """Steps between runs of it."""
    limit: int | None = None
    """How much is asked, as the task counts it; None asks everything."""
    seed: int = 0
    """Of the task's questions, drawings and intervals."""
    options: dict[str, Any] = field(default_factory=dict)
    """The task's own."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every of a task of val.tasks must be >= 1, got {self.every}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(
                f"limit of a task of val.tasks must be >= 1, got {self.limit}: leave it out for all"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ValConfig:
    """Held-out loss and eval tasks in the middle of a run; nothing of it changes the run's bits."""

    every: int = 0
    """Steps between measurements of the loss on fixed samples; 0 never."""
    samples: int = 64
    """Samples of each kind, dealt evenly to its sources and spread over each."""
    batch_size: int = 16
    """Samples at once."""
    und: list[ValSourceConfig] = field(default_factory=list)
    """Sources of each kind. A kind that the run trains on and that has none here is measured on
    what its training sources hold back (``held_back``), as is a source that is also trained on."""
    text: list[ValSourceConfig] = field(default_factory=list)
    gen: list[ValSourceConfig] = field(default_factory=list)
    tasks: list[ValTaskConfig] = field(default_factory=list)
    """Eval tasks, each by its own clock; scores become metrics named ``eval_TASK_...``."""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"val.every must be >= 0, got {self.every}: 0 never validates")
        for name in ("samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"val.{name} must be >= 1, got {getattr(self, name)}")
        names = [task.task for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"val.tasks must name each task once, got {', '.join(names)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchConfig:
    """Measure losses on samples that are not trained on, to see what a fine-tuning costs."""

    sources: SourcesConfig
    """What is measured: of a face that must not get worse, or of all."""
    samples: int = 64
    """Of each source, its first ones."""
    every: int = 0
    """Steps between measurements; 0 means at the start and at the end alone."""
    margin: float = 0.05
    """Growth of a loss since the start, in nats a token, past which there is a warning."""

    def __post_init__(self) -> None:
        require_at_least_one("watch.samples", self.samples)
        if not (self.every >= 0 and self.margin >= 0):  # nor is NaN
            raise ValueError("watch.every and watch.margin must be >= 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class BestConfig:
    """Which checkpoints are kept for being good."""

    metric: str = "val_loss"
    """A metric of the run that is measured now and then, such as ``val_loss_gen``."""
    mode: Literal["min", "max"] = "min"
    """Whether less of it is better, or more."""
    keep: int = 1
    """How many are kept, beside the newest ones that ``run.keep`` counts."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"run.best.keep must be >= 1, got {self.keep}")
        if self.mode not in ("min", "max"):
            raise ValueError(f"run.best.mode must be min or max, got {self.mode!r}")
        if self.metric.partition("_")[0] == "loss":
            raise ValueError(
                f"run.best.metric is {self.metric!r}, which is of another batch in every step: "
                "take one that is measured on fixed samples, such as val_loss"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbConfig:
    """How the sink ``wandb`` is opened."""

    project: str = "openjanus"
    entity: str | None = None
    """Team or user; None is the account's own."""
    mode: Literal["online", "offline"] = "online"
    """``offline`` writes below the run's folder, for ``wandb sync`` later."""


def check_watch(best: BestConfig | None, patience: int, final_from: str) -> None:
    """Check the options of ``run`` that belong together.

    Raises:
        ValueError: Patience or a best final without ``run.best``.
    """
    if patience < 0:
        raise ValueError(f"run.patience must be >= 0, got {patience}: 0 never stops early")
    if final_from not in ("last", "best"):
        raise ValueError(f"run.final_from must be last or best, got {final_from!r}")
    if best is None:
        for name, is_set in (("patience", patience > 0), ("final_from", final_from == "best")):
            if is_set:
                raise ValueError(
                    f"run.{name} needs run.best, which says what is better: add "
                    "--run.best '{metric: val_loss}'"
                )
