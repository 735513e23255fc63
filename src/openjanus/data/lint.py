"""What is wrong with a source, and how long its samples are, before a run finds out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from openjanus.data.encoding import encode_sample
from openjanus.data.files.base import FileSource
from openjanus.data.samples import KINDS, Kind, Sample
from openjanus.data.sources import Source
from openjanus.processor.prompt import Processor

NO_LIMIT = 2**31
BAR_WIDTH = 40
BINS = 10


@dataclass(slots=True)
class LintReport:
    """What was found in a source."""

    kinds: Counter[Kind] = field(default_factory=Counter)
    """Whole samples by kind."""
    lengths: list[int] = field(default_factory=list)
    """Tokens of each whole sample."""
    broken: list[str] = field(default_factory=list)
    """One line for each item that cannot be used, which it names."""
    missing: list[str] = field(default_factory=list)
    """Those of them whose picture is not there."""
    too_long: list[tuple[str, int]] = field(default_factory=list)
    """Key and tokens of samples past the limit."""

    @property
    def is_clean(self) -> bool:
        """Whether there are items, and every one can be trained on."""
        return bool(self.lengths) and not (self.broken or self.missing or self.too_long)


def lint(
    source: Source,
    processor: Processor,
    *,
    max_length: int,
    kind: Kind | None = None,
    mask_prompt: bool = True,
    limit: int | None = None,
) -> LintReport:
    """Open and tokenize every item, as training would.

    Args:
        source: What is looked through.
        processor: Whose tokens are counted.
        max_length: Most tokens of a sample.
        kind: The kind of the mixture that the source is for; None allows all.
        mask_prompt: As in training.
        limit: Items looked at, from the first; None for all.
    """
    report = LintReport()
    keys: set[str] = set()
    count = len(source) if limit is None else min(limit, len(source))
    for index in tqdm(range(count), desc="linting", delay=1.0, leave=False):
        name = source.key(index) if isinstance(source, FileSource) else f"item {index}"
        try:
            sample = source[index]
            if not isinstance(sample, Sample):
                raise TypeError(f"the source gave a {type(sample).__name__}, not a Sample")
            if kind is not None and sample.kind != kind:
                raise ValueError(
                    f"{sample.key}: of kind {sample.kind!r} among sources.{kind}: add the option "
                    f"face: {kind}, or move it"
                )
            encoded = encode_sample(sample, processor, max_length=NO_LIMIT, mask_prompt=mask_prompt)
            if sample.key in keys:
                raise ValueError(f"{sample.key}: another sample has this name: rename one")
            keys.add(sample.key)
        except Exception as error:  # noqa: BLE001 - any code of a source: named, as in training
            is_missing = isinstance(error.__cause__, FileNotFoundError)
            found = report.missing if is_missing else report.broken
            named = str(error) if isinstance(error, ValueError) else f"{name}: {error!r}"
            found.append(" ".join(named.split()))
            continue
        report.kinds[sample.kind] += 1
        report.lengths.append(len(encoded.input_ids))
        if len(encoded.input_ids) > max_length:
            report.too_long.append((sample.key, len(encoded.input_ids)))
    return report


def describe(report: LintReport, *, max_length: int, shown: int = 20) -> str:
    """A report as text; of each kind of trouble the first ``shown`` are named."""
    total = sum(report.kinds.values())
    counts = ", ".join(f"{report.kinds[kind]} {kind}" for kind in KINDS if report.kinds[kind])
    nothing = "no sample can be used" if report.broken or report.missing else "it holds nothing"
    lines = [f"{total} samples: {counts}" if counts else nothing]
    long = [f"{key}: {length} tokens" for key, length in report.too_long]
    for name, found in (
        ("broken", report.broken),
        ("missing files", report.missing),
        (f"too long (max_length {max_length})", long),
    ):
        lines.append(f"{name}: {len(found)}")
        lines += [f"  {line}" for line in found[:shown]]
        if len(found) > shown:
            lines.append(f"  and {len(found) - shown} more")
    if report.lengths:
        lines += ["tokens a sample:", *histogram(report.lengths)]
    return "\n".join(lines)


def histogram(lengths: Sequence[int]) -> list[str]:
    """Bars of text over equal ranges of length.

    Raises:
        ValueError: Nothing to count.
    """
    if not lengths:
        raise ValueError("a histogram needs at least one length")
    low, high = min(lengths), max(lengths)
    step = max(1, -(-(high - low + 1) // BINS))
    counts = Counter((length - low) // step for length in lengths)
    most, lines = max(counts.values()), []
    for place in range((high - low) // step + 1):
        begin = low + place * step
        bar = "#" * -(-counts[place] * BAR_WIDTH // most)
        lines.append(f"  {begin:>6}-{begin + step - 1:<6} {counts[place]:>7} {bar}".rstrip())
    return lines
