"""The Janus family of unified multimodal models: define, load, train, run, serve and evaluate it.

    import openjanus

    janus = openjanus.load("nano")
    janus.draw("two red apples").sheet().save("apples.png")
    print(janus.chat("What is in the picture?", images=["apples.png"]).text)

Names are imported when they are first used, so that ``import openjanus`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openjanus.config import JanusConfig
    from openjanus.data.collate import collate
    from openjanus.data.encoding import encode_sample
    from openjanus.data.samples import Sample, Turn
    from openjanus.engine.engine import EngineOptions
    from openjanus.model.janus import JanusModel
    from openjanus.pipeline.composition import (
        ComposedImage,
        ComposedPiece,
        ComposeOptions,
        Composition,
    )
    from openjanus.pipeline.janus import Janus
    from openjanus.pipeline.load import build, load
    from openjanus.pipeline.results import (
        Candidates,
        Check,
        Drawing,
        DrawOptions,
        PartialDrawing,
        Piece,
        Reply,
        Usage,
    )
    from openjanus.train.losses import compute_losses

__version__ = "0.1.0"

_HOMES = {
    "Candidates": "openjanus.pipeline.results",
    "Check": "openjanus.pipeline.results",
    "ComposeOptions": "openjanus.pipeline.composition",
    "ComposedImage": "openjanus.pipeline.composition",
    "ComposedPiece": "openjanus.pipeline.composition",
    "Composition": "openjanus.pipeline.composition",
    "DrawOptions": "openjanus.pipeline.results",
    "Drawing": "openjanus.pipeline.results",
    "EngineOptions": "openjanus.engine.engine",
    "Janus": "openjanus.pipeline.janus",
    "JanusConfig": "openjanus.config",
    "JanusModel": "openjanus.model.janus",
    "PartialDrawing": "openjanus.pipeline.results",
    "Piece": "openjanus.pipeline.results",
    "Reply": "openjanus.pipeline.results",
    "Sample": "openjanus.data.samples",
    "Turn": "openjanus.data.samples",
    "Usage": "openjanus.pipeline.results",
    "build": "openjanus.pipeline.load",
    "collate": "openjanus.data.collate",
    "compute_losses": "openjanus.train.losses",
    "encode_sample": "openjanus.data.encoding",
    "load": "openjanus.pipeline.load",
}
"""Public names, and the modules that they come from."""

__all__ = [
    "Candidates",
    "Check",
    "ComposeOptions",
    "ComposedImage",
    "ComposedPiece",
    "Composition",
    "DrawOptions",
    "Drawing",
    "EngineOptions",
    "Janus",
    "JanusConfig",
    "JanusModel",
    "PartialDrawing",
    "Piece",
    "Reply",
    "Sample",
    "Turn",
    "Usage",
    "__version__",
    "build",
    "collate",
    "compute_losses",
    "encode_sample",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'openjanus' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
