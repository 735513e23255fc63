"""Sources by name: a recipe says ``type`` and ``options``, this room finds the class.

A source is map-style: item i is the same for ever, so that a run can be resumed, and any step of
it repeated, without having been there before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol

from openjanus.config import near
from openjanus.data.toy import ToyPairs, ToyPictures, ToyScenes

ENTRY_POINT_GROUP = "openjanus.sources"
"""Packages add sources under this group of entry points."""


class Source(Protocol):
    """Items by index: a ``Sample``, or for the doors' own trainings a picture or a pair."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Item ``index``, the same for ever."""
        ...


SourceFactory = Callable[..., Any]

_FACTORIES: dict[str, SourceFactory] = {
    "toy": ToyScenes,
    "toy-pairs": ToyPairs,
    "toy-pictures": ToyPictures,
}


def register_source(name: str, factory: SourceFactory) -> None:
    """Make a source known to ``build_source`` in this process.

    Raises:
        ValueError: Another factory has the name.
    """
    known = _FACTORIES.setdefault(name, factory)
    if known is not factory:
        raise ValueError(f"source {name!r} is taken by {known!r}: choose another name")


def source_names() -> list[str]:
    """Names of every source that can be built."""
    installed = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    return sorted(installed | set(_FACTORIES))


def build_source(name: str, options: Mapping[str, Any]) -> Any:
    """Build a source.

    Args:
        name: Its registered name, for instance ``toy``.
        options: Keyword arguments of its factory.

    Raises:
        KeyError: Unknown name; the message names near matches.
        ValueError: An option that the source does not have, or lacks, or a value it refuses.
    """
    factory = _factory(name)
    signature = inspect.signature(factory)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in options:
        if key not in signature.parameters and not takes_any:
            raise ValueError(
                f"source {name!r}: unknown option {key!r}; {near(key, list(signature.parameters))}"
            )
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ValueError(f"source {name!r}: {error}: add it to the source's options") from error
    try:
        return factory(**options)
    except (TypeError, AttributeError) as error:  # a value of another type than the option's
        raise ValueError(
            f"source {name!r} cannot be made with {dict(options)} ({error}): check their types"
        ) from error


def _factory(name: str) -> SourceFactory:
    if name in _FACTORIES:
        return _FACTORIES[name]
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return point.load()
    raise KeyError(f"unknown source {name!r}; {near(name, source_names())}")
