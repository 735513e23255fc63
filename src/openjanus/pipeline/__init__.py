"""What ``load`` returns, and what it gives back: the library's face to Python programs.

``load`` (where models come from), ``janus`` (what they do), ``critic`` (which of some drawings are
kept), ``results`` (frozen things that come out), ``text_stream`` (ids to words as they arrive).
"""

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

__all__ = [
    "Candidates",
    "Check",
    "ComposeOptions",
    "ComposedImage",
    "ComposedPiece",
    "Composition",
    "DrawOptions",
    "Drawing",
    "Janus",
    "PartialDrawing",
    "Piece",
    "Reply",
    "Usage",
    "build",
    "load",
]
