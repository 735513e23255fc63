"""What was measured: figures with their units, as a table, as plain data, as a row for others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from openjanus.bench.inputs import BenchOptions
from openjanus.bench.machine import Machine

FORMAT_VERSION = 1

COLUMNS = {
    "one picture": "s / picture",
    "pictures in a batch": "pictures / s",
    "words": "text tokens / s",
    "first word": "first token, s",
    "understanding": "understanding, s",
    "VQ decode": "VQ decode, s",
    "peak memory": "peak memory, GB",
    "image step": "GB/s of a step",
}
"""Figure -> heading of its column in a table of many machines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One thing that was measured."""

    name: str
    value: float
    """The median, or what follows from medians."""
    unit: str
    low: float | None = None
    """Lower quartile of what was timed; None where it is no median of a series."""
    high: float | None = None
    """Upper quartile."""
    theirs: float | None = None
    """The same of what it was measured against."""
    ratio: float | None = None
    """How many times better ours is."""
    read_gb_per_s: float | None = None
    """Weights, keys and values that a step must read, in 10**9 bytes a second."""
    share: float | None = None
    """That by the machine's measured bandwidth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """All that a row of a table needs, and all that made it."""

    model: str
    random_weights: bool
    num_parameters: int
    dtype: str
    quantization: str | None = None
    """In what the decoder's layers are kept; None is ``dtype``."""
    device: str
    against: str | None
    """With its version; None is nothing."""
    machine: Machine
    options: BenchOptions
    figures: tuple[Figure, ...]
    packed_layers: int = 0
    """Laid out for this CPU, as ``Janus.pack`` does."""

    def as_data(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    def figure(self, name: str) -> Figure | None:
        """A figure by its name; None where it was not measured."""
        return next((figure for figure in self.figures if figure.name == name), None)

    def lines(self) -> dict[str, object]:
        """Name -> value, to be read by people."""
        weights = f", {self.quantization}" if self.quantization is not None else ""
        weights += ", random weights" if self.random_weights else ""
        machine = self.machine
        packed = f", {self.packed_layers} layers packed" if self.packed_layers > 0 else ""
        told: dict[str, object] = {
            "model": f"{self.model}, {self.num_parameters / 1e6:,.1f} M parameters{weights}",
            "as": f"{self.dtype} on {self.device}{packed}",
            "machine": f"{machine.accelerator or machine.processor} ({machine.instructions}), "
            f"{machine.num_threads} threads, torch {machine.torch}",
        }
        for figure in self.figures:
            told[figure.name] = _line(figure, self.against)
        return told

    def row(self) -> str:
        """A row of the table in ``docs/benchmarking.md``."""
        machine = self.machine
        cells = [
            f"{machine.accelerator or machine.processor}, {machine.num_threads} threads",
            machine.torch,
            self.model + (" (random)" if self.random_weights else ""),
            self.dtype if self.quantization is None else f"{self.quantization}, {self.dtype}",
            *(_cell(self.figure(name)) for name in COLUMNS),
        ]
        return f"| {' | '.join(cells)} |"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    if figure.read_gb_per_s is not None and figure.share is not None:
        return f"{figure.read_gb_per_s:.1f} ({figure.share:.0%})"
    return _short(figure.value)


def _line(figure: Figure, against: str | None) -> str:
    text = _with_unit(figure.value, figure.unit)
    if figure.low is not None and figure.high is not None:
        low, high = (_with_unit(value, figure.unit) for value in (figure.low, figure.high))
        text += f" ({low} to {high})"
    if figure.read_gb_per_s is not None and figure.share is not None:
        text += f", reads {figure.read_gb_per_s:.1f} GB/s, {figure.share:.0%} of what is possible"
    if figure.theirs is not None and figure.ratio is not None:
        theirs = _with_unit(figure.theirs, figure.unit)
        text += f"; {against} {theirs}, {figure.ratio:.2f}x"
    return text


def _with_unit(value: float, unit: str) -> str:
    if unit == "s" and value < 1:
        return f"{_short(value * 1e3)} ms"
    return f"{_short(value)} {unit}"


def _short(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def headings() -> tuple[str, ...]:
    """Of the columns of a row."""
    return ("machine", "torch", "model", "dtype", *COLUMNS.values())
