"""Sources by name: a recipe says ``type`` and ``options``, this room finds the class.

A source is map-style: item i is the same for ever, so that a run can be resumed, and any step of
it repeated, without having been there before.
"""

from __future__ import annotations

from typing import Any, Protocol

from openjanus.data.files.captions import CaptionFile, ImageFolder
from openjanus.data.files.chat import ChatFile
from openjanus.data.files.documents import DocumentFile
from openjanus.data.files.parquet import ParquetFile
from openjanus.data.files.tar import TarShards
from openjanus.data.files.text import TextFiles, TextLines
from openjanus.data.toy import ToyDocuments, ToyPairs, ToyPictures, ToyScenes
from openjanus.registry import Registry


class Source(Protocol):
    """Items by index.

    A ``Sample``; or for the doors' own trainings a picture, or a pair of a picture and what it
    shows, a caption or a tuple of ``Region``.
    """

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Item ``index``, the same for ever."""
        ...


SOURCES = Registry(
    "source",
    "openjanus.sources",
    {
        "toy": ToyScenes,
        "toy-documents": ToyDocuments,
        "toy-pairs": ToyPairs,
        "toy-pictures": ToyPictures,
        "chat-jsonl": ChatFile,
        "caption-jsonl": CaptionFile,
        "image-folder": ImageFolder,
        "webdataset": TarShards,
        "parquet": ParquetFile,
        "text-files": TextFiles,
        "text-jsonl": TextLines,
        "document-jsonl": DocumentFile,
    },
)
"""Every source by name; packages add theirs under the group of entry points."""

register_source = SOURCES.register
source_names = SOURCES.names
build_source = SOURCES.build
