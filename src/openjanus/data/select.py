"""Which samples of a source are worth training on: by size, by shape, by any score."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from openjanus.data.files.base import ContainerSource, FileSource
from openjanus.data.journal import write_each
from openjanus.data.rewriting import rewrite_each
from openjanus.data.samples import Sample

Score = Callable[[Sample], float]


class BrokenScore(ValueError):
    """A user's function fails: no sample can be judged by it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a sample must be to be kept; its pictures are all those of both roles."""

    min_side: int = 1
    """Least pixels of the shorter side of every picture."""
    max_aspect: float = math.inf
    """Most times that a picture's longer side may be its shorter one."""
    score: str | None = None
    """``module:function`` of a ``Sample``, to a number."""
    min_score: float = 0.0
    """Least score that is kept."""

    def __post_init__(self) -> None:
        if self.min_side < 1:
            raise ValueError(f"min_side must be >= 1, got {self.min_side}")
        if not self.max_aspect >= 1:
            raise ValueError(f"max_aspect must be >= 1, got {self.max_aspect}")


def find_score(name: str) -> Score:
    """The function that ``module:function`` names.

    Raises:
        ValueError: Not of this form, or no such module or function.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(f"a score is named module:function, got {name!r}")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no score {name!r} ({error}): check the name and PYTHONPATH") from error
    if not callable(found):
        raise ValueError(f"{name!r} is no function, but a {type(found).__name__}")
    return cast(Score, found)


def is_kept(sample: Sample, rules: Rules, score: Score | None) -> bool:
    """Whether a sample keeps the rules.

    Raises:
        BrokenScore: The score's function fails.
        ValueError: The score is NaN.
    """
    for picture in sample.pictures:
        short, long = sorted(picture.shape[:2])
        if short < rules.min_side or long > short * rules.max_aspect:
            return False
    return score is None or _score_of(sample, rules, score) >= rules.min_score


def _score_of(sample: Sample, rules: Rules, score: Score) -> float:
    try:
        value = float(score(sample))
    except Exception as error:  # any code of a user: named
        raise BrokenScore(
            f"score {rules.score!r} gives no number for {sample.key} ({type(error).__name__}: "
            f"{error}): mend the function and run this again"
        ) from error
    if math.isnan(value):
        raise ValueError(f"{sample.key}: score {rules.score!r} is not a number (NaN)")
    return value


def filter_source(
    source: FileSource, rules: Rules, output: Path, *, tell: Callable[[str], None]
) -> dict[str, int]:
    """Write what keeps the rules; a job that was stopped goes on.

    Records go to a jsonl file. Shards and tables become shards and tables: ``rewrite_each``.

    Args:
        source: Of a format whose items are records, or whose files hold the pictures.
        rules: Which are kept.
        output: The file, or the folder of files.
        tell: Gets a line for each broken item, which is left out.

    Returns:
        ``done`` items, and ``written`` ones; of shards and tables as ``rewrite_each``.

    Raises:
        BrokenScore: The score's function fails.
        ValueError: The output is not of this job, or does not suit the source.
    """
    score = None if rules.score is None else find_score(rules.score)

    def judge(index: int) -> tuple[bool, str | None]:
        try:
            return is_kept(source[index], rules, score), None
        except BrokenScore:
            raise
        except ValueError as error:
            tell(f"left out: {error}")
            return False, str(error)

    told = {key: str(value) for key, value in asdict(rules).items()}
    job = {"task": "filter", "source": source.fingerprint(), **told}
    if isinstance(source, ContainerSource):

        def become(index: int) -> dict[str, object]:
            wanted, error = judge(index)
            outcome = {"kept": wanted} if error is None else {"error": error}
            return {"key": source.key(index), **outcome}

        return rewrite_each(source, output, become, job=job)

    def make(index: int) -> dict[str, object] | None:
        return source.record(index) if judge(index)[0] else None

    source.require_records()
    return write_each(output, len(source), make, job=job)
