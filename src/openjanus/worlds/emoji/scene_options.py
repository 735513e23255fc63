"""Which scenes a source has, and how they are shown: the options that the sources share.

`SceneOptions` has the values, what they mean and what they must keep. A source takes them by
keyword, flat beside its own, so that a recipe says `{kind: gen, size: 96, grid: 12}`; which of them
it takes, one of the typed dictionaries says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict

from openjanus.worlds.emoji.sampling import Split, check_mixed, check_tidiness
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, TAGS, Tag
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import WORLDS, WorldName

VIRTUAL_LENGTH: Final = 1_000_000
"""Length of a source that is not told another; scenes by index go on for ever."""

LEAST_GRID: Final = 8
"""Of a coarser grid things of a scene of four hardly find their places."""

ALL_TAGS: Final[Mapping[Tag, float]] = dict.fromkeys(TAGS, 1.0)
COMBINING_TAGS: Final[Mapping[Tag, float]] = {
    tag: 1.0 for tag in GENEVAL_TAGS if tag != "single_object"
}
"""The tags that have held-out cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneOptions:
    """What shapes the items of a source.

    Raises:
        ValueError: Unknown or weightless tags, tags that the split lacks, a size or length
            below 1, a grid below 8, for "held_out", or for the wide world without slots, two sizes
            without a grid, slots or one ground without two sizes, a share of mixed colours that is
            none, an unknown world or split, or both a folder and sprites.
    """

    folder: str | Path | None = None
    """Where `fetch_emoji` wrote, or `fetch_wide`; None takes the shipped sprites, of the wide world
    those in the cache folder. Read once a process."""
    sprites: Sprites | None = None
    """The artwork itself, instead of a folder."""
    seed: int = 0
    """Names the stream of scenes."""
    split: Split = "train"
    """"train" shows no held-out cell, "held_out" one in each scene."""
    tags: Mapping[Tag, float] | None = None
    """Weight of each kind of scene; None weighs all alike that the split has."""
    size: int = 96
    """Side of the pictures in pixels."""
    length: int = VIRTUAL_LENGTH
    """How many items iteration sees. Scenes, pictures and keys there are of any index."""
    grid: int | None = None
    """Places a side of the grid that things keep to, see `sample_scene`; None is none."""
    two_sizes: bool = False
    """Whether things on the grid have two sizes and two grounds, see `sample_scene`."""
    slots: bool = False
    """Whether such things lie in fixed places too, see `sample_scene`."""
    vendors: Sequence[str] | None = None
    """Whose artwork is shown; None shows all."""
    world: WorldName = "v0"
    """"v0"; "few", twelve concepts of it, which keeps to a grid in slots alone, as does "wide":
    some five hundred concepts, one to six things of many sizes, some in front of others, on plain
    and on painted grounds."""
    mixed: float = 0.0
    """Share of tinted things in a colour between two of the ten, see `sample_scene`."""
    one_ground: bool = False
    """Whether things of two sizes lie on white where they can, see `sample_scene`."""

    def __post_init__(self) -> None:
        if self.world not in WORLDS:
            raise ValueError(f"world must be one of {', '.join(WORLDS)}, got {self.world!r}")
        check_tidiness(
            self.grid,
            self.split,
            self.world,
            two_sizes=self.two_sizes,
            slots=self.slots,
            one_ground=self.one_ground,
        )
        check_mixed(self.mixed, self.split)
        if self.grid is not None and self.grid < LEAST_GRID:
            raise ValueError(f"grid must be at least {LEAST_GRID}, got {self.grid}: take 12")
        if self.folder is not None and self.sprites is not None:
            raise ValueError("a source takes a folder or sprites, got both: leave one out")
        if self.size < 1 or self.length < 1:
            raise ValueError(
                f"size and length must be at least 1, got {self.size} and {self.length}"
            )
        if self.split not in ("train", "held_out"):
            raise ValueError(f"split must be train or held_out, got {self.split!r}")
        unknown = [tag for tag in self.weights if tag not in self._known_tags]
        if unknown:
            known = ", ".join(self._known_tags)
            raise ValueError(f"tags of split {self.split!r} are {known}, got {unknown}")
        weights = self.weights.values()
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"weights of tags must be >= 0 and one > 0, got {dict(self.weights)}")

    @property
    def weights(self) -> Mapping[Tag, float]:
        """Weight of each kind of scene that there is."""
        return self._known_tags if self.tags is None else self.tags

    @property
    def _known_tags(self) -> Mapping[Tag, float]:
        return ALL_TAGS if self.split == "train" else COMBINING_TAGS


class StreamKeywords(TypedDict, total=False):
    """Options of every source; the folder, which may come without its name, is beside them."""

    sprites: Sprites | None
    seed: int
    length: int


class ShownKeywords(StreamKeywords, total=False):
    """Of those that show something."""

    size: int


class TaggedKeywords(StreamKeywords, total=False):
    """Of those that are about scenes."""

    split: Split
    tags: Mapping[Tag, float] | None


class PlacedKeywords(ShownKeywords, TaggedKeywords, total=False):
    """Of those that show scenes."""

    grid: int | None
    two_sizes: bool
    slots: bool
    vendors: Sequence[str] | None


class SceneKeywords(PlacedKeywords, total=False):
    """All there are."""

    world: WorldName
    mixed: float
    one_ground: bool


def refuse_others(given: Mapping[str, Any], keywords: type, source: type) -> None:
    """Refuse a keyword that a typed dictionary lacks, as Python itself does not.

    Raises:
        TypeError: In Python's words.
    """
    for name in given:
        if name not in keywords.__annotations__:
            raise TypeError(
                f"{source.__name__}.__init__() got an unexpected keyword argument {name!r}"
            )
