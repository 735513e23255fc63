"""Where the samples of a run come from: sources by registered name, with their options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PATH_OPTIONS = frozenset(["path", "image_root", "names"])
"""Options of sources that say where files lie: a resumed run may have others, of the same data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """A source of samples: a name known to the registry, and its options."""

    type: str
    """Registered name, for instance ``emoji``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the source; checked by the source itself."""
    weight: float = 1.0
    """Share among the sources of the same kind, in samples."""
    from_step: int = 0
    """Optimizer step, from 0, from which the source takes part in a Janus's training."""
    until_step: int | None = None
    """Step from which it does so no more; None never."""

    def __post_init__(self) -> None:
        if self.from_step < 0:
            raise ValueError(f"from_step of a source must be >= 0, got {self.from_step}")
        if self.until_step is not None and self.until_step <= self.from_step:
            raise ValueError(
                f"until_step of a source must be > from_step ({self.from_step}), got "
                f"{self.until_step}: leave the source out, or None for the end of the run"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcesConfig:
    """Sources of each kind of sample."""

    und: list[SourceConfig] = field(default_factory=list)
    """Questions and captions about pictures."""
    text: list[SourceConfig] = field(default_factory=list)
    """Words alone."""
    gen: list[SourceConfig] = field(default_factory=list)
    """Pictures to draw."""


def refuse_steps(sources: Sequence[SourceConfig], kind: str) -> None:
    """Raise ``ValueError`` for sources that come and go.

    They are the mixture's, which only a Janus's training has.
    """
    if any(source.from_step > 0 or source.until_step is not None for source in sources):
        raise ValueError(
            f"from_step and until_step belong to the sources of kind janus, this run is of kind "
            f"{kind!r}: leave them out"
        )
