"""The worlds by name: what there is in each, how it is called, and what may be doubted.

`v0` are the 66 concepts, one to four things a scene, on plain grounds. `wide` are some five
hundred, one to six things, with overlaps and painted grounds; its list of concepts ships as
`wide.json`, made by the rule in `wide`. What both have is called the same, so the same cells are
held out. `few` are twelve of the 66, for experiments that must show something within minutes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final, Literal, get_args

from openjanus.worlds.emoji.concepts import ALSO_SHOWN, CONCEPTS, NUMBER_WORDS, TINTABLE, Concept
from openjanus.worlds.emoji.fetch import FORMAT_VERSION, shipped_folder

WorldName = Literal["v0", "wide", "few"]
WORLDS: Final[tuple[WorldName, ...]] = get_args(WorldName)

WIDE_FILE: Final = "wide.json"

FEW: Final = (
    "car",
    "airplane",
    "train",
    "cat",
    "dog",
    "horse",
    "umbrella",
    "cup",
    "banana",
    "carrot",
    "pizza",
    "clock",
)
"""What the few are: of shapes of their own, and some of them held out in each number."""

COUNT_WORDS: Final = (*NUMBER_WORDS, "five", "six")
"""A count's word at its own index, in any world."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class World:
    """What there is in a world."""

    name: WorldName
    concepts: Mapping[str, Concept]
    """Every concept by name, in order."""
    tintable: tuple[str, ...]
    """What may be recoloured."""
    also_shown: Mapping[str, tuple[str, ...]]
    """Of some concepts, those that their picture shows too or may be called by as well: nobody is
    asked whether, or how many times, these are there."""
    max_count: int
    """Of one concept in a scene, and of things in all."""
    part_of: WorldName | None = None
    """The world whose artwork it shows, and whose judge knows it."""


@cache
def world(name: WorldName) -> World:
    """A world by its name.

    Raises:
        ValueError: There is no such world.
    """
    if name not in WORLDS:
        raise ValueError(f"world must be one of {', '.join(WORLDS)}, got {name!r}")
    if name == "v0":
        also = {shown: (other,) for shown, other in ALSO_SHOWN.items()}
        return World(name=name, concepts=CONCEPTS, tintable=TINTABLE, also_shown=also, max_count=4)
    if name == "few":
        concepts = {concept: CONCEPTS[concept] for concept in FEW}
        return World(
            name=name,
            concepts=MappingProxyType(concepts),
            tintable=FEW,
            also_shown={},
            max_count=4,
            part_of="v0",
        )
    record = json.loads((shipped_folder() / WIDE_FILE).read_text(encoding="utf-8"))
    assert record["format_version"] == FORMAT_VERSION
    also = {shown: tuple(others) for shown, others in record["also_shown"].items()}
    for shown, other in ALSO_SHOWN.items():
        also[shown] = (*also.get(shown, ()), other)
    concepts = {entry["name"]: Concept(**entry) for entry in record["concepts"]}
    return World(
        name=name,
        concepts=MappingProxyType(concepts),
        tintable=tuple(concept for concept in concepts if concept != "person"),
        also_shown=also,
        max_count=6,
    )


def concept_named(name: str) -> Concept:
    """A concept of either world, for its grammar: where both have it they have it alike.

    Raises:
        KeyError: Neither world has it.
    """
    known = CONCEPTS.get(name)
    return world("wide").concepts[name] if known is None else known
