"""Where a run's values and samples go beside ``metrics.jsonl``: TensorBoard, wandb.

A sink is a guest. One that fails is named and left out from there on, and the run goes on; what it
was to get stands in the run's folder all the same.
"""

from __future__ import annotations

import html
import importlib
import json
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from openjanus.train.run_config import RunConfig
from openjanus.train.watch_config import SinkName

WANDB_FILE = "wandb.json"


class Sink(Protocol):
    """Takes what a run says."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by name."""
        ...

    def picture(self, step: int, name: str, path: Path) -> None:
        """A PNG."""
        ...

    def text(self, step: int, name: str, words: str) -> None:
        """Lines of text."""
        ...

    def close(self) -> None:
        """The run ends or stops here."""
        ...


class Sinks:
    """Those of a run, none of which can end it.

    Args:
        run: Names them.
        start: Optimizer steps done before.
        wandb_id: Of the run that is gone on with, from its checkpoint.

    Raises:
        ImportError: A package is missing; the message names the extra.
    """

    def __init__(self, run: RunConfig, *, start: int, wandb_id: str | None = None) -> None:
        self._open: dict[SinkName, Sink] = {}
        self.wandb_id = wandb_id
        folder = Path(run.dir)
        if "wandb" in run.sinks:
            self.wandb_id = _wandb_id(folder, wandb_id, fresh=start == 0)
        opens: dict[SinkName, Callable[[], Sink]] = {
            "tensorboard": lambda: TensorBoardSink(folder / "tensorboard", start=start),
            "wandb": lambda: WandbSink(run, str(self.wandb_id)),
        }
        for name in run.sinks:
            try:
                self._open[name] = opens[name]()
            except ImportError:
                raise
            except Exception as error:  # noqa: BLE001 - a service's failure is not the run's
                _warn(name, error)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Send the numbers of a line."""
        flat = dict(flatten(values))
        self._each(lambda sink: sink.log(step, flat))

    def show(self, step: int, samples: Path) -> None:
        """Send what ``sample`` wrote after a step."""
        name = f"step-{step:08d}"
        picture, words = samples / f"{name}.png", samples / f"{name}.txt"
        if picture.is_file():
            self._each(lambda sink: sink.picture(step, "samples", picture))
        if words.is_file():
            told = words.read_text(encoding="utf-8")
            self._each(lambda sink: sink.text(step, "answers", told))

    def close(self) -> None:
        """Close all."""
        self._each(lambda sink: sink.close())
        self._open.clear()

    def _each(self, send: Callable[[Sink], None]) -> None:
        for name, sink in list(self._open.items()):
            try:
                send(sink)
            except Exception as error:  # noqa: BLE001 - a service's failure is not the run's
                del self._open[name]
                _warn(name, error)


def _warn(name: SinkName, error: Exception) -> None:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    warnings.warn(
        f"run.sinks: {name} failed ({reason}) and is left out from here on; metrics.jsonl goes on",
        stacklevel=2,
    )


def flatten(values: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by name; those of nested mappings as ``samples/und``."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}{key}/")
        elif isinstance(value, int | float):
            yield f"{name}{key}", float(value)


def _wandb_id(folder: Path, known: str | None, *, fresh: bool) -> str:
    """The id of the run at wandb: its checkpoint's, its folder's, or a new one; kept in both."""
    path = folder / WANDB_FILE
    if known is None and not fresh and path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))["id"]
    chosen = secrets.token_hex(4) if known is None else known
    path.write_text(json.dumps({"id": chosen}) + "\n", encoding="utf-8")
    return chosen


class TensorBoardSink:
    """Event files; what lies past the step that is gone on from is hidden.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "run.sinks names tensorboard: pip install 'openjanus[train]'"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start > 0 else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, step: int, name: str, path: Path) -> None:
        """A PNG."""
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def text(self, step: int, name: str, words: str) -> None:
        """Lines of text, as they are."""
        self._writer.add_text(name, "\n".join(f"    {line}" for line in words.splitlines()), step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandbSink:
    """A run at wandb. One that is gone on with has the id that it had.

    Steps that had been sent already when a run was killed are refused there a second time; they
    are the same to the bit.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(self, run: RunConfig, run_id: str) -> None:
        try:
            # By name: the types of an extra that developers need not have are not asked for.
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise ImportError("run.sinks names wandb: pip install 'openjanus[wandb]'") from error
        folder = Path(run.dir)
        self._run = self._wandb.init(
            project=run.wandb.project,
            entity=run.wandb.entity,
            mode=run.wandb.mode,
            id=run_id,
            name=folder.name,
            resume="allow",
            dir=str(folder),
            config=_resolved(folder),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by name."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """A PNG."""
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def text(self, step: int, name: str, words: str) -> None:
        """Lines of text, as they are."""
        page = f"<pre>{html.escape(words)}</pre>"
        self._run.log({name: self._wandb.Html(page, inject=False)}, step=step)

    def close(self) -> None:
        """Tell wandb that nothing more comes."""
        self._run.finish()


def _resolved(folder: Path) -> dict[str, Any]:
    """The run's whole configuration, where it was written down."""
    path = folder / "config.yaml"
    if not path.is_file():
        return {}
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))
