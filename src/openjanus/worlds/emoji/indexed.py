"""Scenes by index: what every source of this world is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from openjanus.worlds.emoji import vocabulary
from openjanus.worlds.emoji.fetch import shipped_folder
from openjanus.worlds.emoji.fetch_wide import wide_folder
from openjanus.worlds.emoji.sampling import Split, check_mixed, check_tidiness, sample_scene
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, TAGS, Scene, Tag, render
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

# What a random stream is for: what an item shows and what is said of it draw from different ones.
SCENE, WORDS, CROP = 0, 1, 2


class SceneSource:
    """Scenes by index: scene i is a function of (seed, i) and of what shapes scenes alone.

    That is the split, the tags, the artwork with its vendors, `grid`, `two_sizes`, `slots`, `mixed`
    and `one_ground`.

    Args:
        folder: Where `fetch_emoji` wrote, or `fetch_wide`; None takes the shipped sprites, of the
            wide world those in the cache folder. Read once a process.
        sprites: The artwork itself, instead of a folder.
        seed: Names the stream of scenes.
        split: "train" shows no held-out cell, "held_out" one in each scene.
        tags: Weight of each kind of scene; None weighs all alike that the split has.
        size: Side of the pictures in pixels.
        grid: Places a side of the grid that things keep to, see `sample_scene`; None is none.
        two_sizes: Whether things on the grid have two sizes and two grounds, see `sample_scene`.
        slots: Whether such things lie in fixed places too, see `sample_scene`.
        mixed: Share of tinted things in a colour between two of the ten, see `sample_scene`.
        one_ground: Whether such things lie on white where they can, see `sample_scene`.
        vendors: Whose artwork is shown; None shows all.
        world: "v0"; "few", twelve concepts of it, which keeps to a grid in slots alone, as does
            "wide": some five hundred concepts, one to six things of many sizes, some in front of
            others, on plain and on painted grounds.
        length: How many items iteration sees. `scene`, `picture` and `key` take any index.

    Raises:
        FileNotFoundError: The folder holds no sprites.
        ValueError: Unknown or weightless tags, tags that the split lacks, a size or length
            below 1, a grid below 8, for "held_out", or for the wide world without slots, two sizes
            without a grid, slots or one ground without two sizes, a share of mixed colours that is
            none, unknown vendors, both a folder and sprites, or artwork of another world.
    """

    name = "emoji"
    """Of the kind of source, in keys."""

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        sprites: Sprites | None = None,
        seed: int = 0,
        split: Split = "train",
        tags: Mapping[Tag, float] | None = None,
        size: int = 96,
        length: int = VIRTUAL_LENGTH,
        grid: int | None = None,
        two_sizes: bool = False,
        slots: bool = False,
        vendors: Sequence[str] | None = None,
        world: WorldName = "v0",
        mixed: float = 0.0,
        one_ground: bool = False,
    ) -> None:
        if world not in WORLDS:
            raise ValueError(f"world must be one of {', '.join(WORLDS)}, got {world!r}")
        check_tidiness(grid, split, world, two_sizes=two_sizes, slots=slots, one_ground=one_ground)
        check_mixed(mixed, split)
        if grid is not None and grid < LEAST_GRID:
            raise ValueError(f"grid must be at least {LEAST_GRID}, got {grid}: take 12")
        if folder is not None and sprites is not None:
            raise ValueError("a source takes a folder or sprites, got both: leave one out")
        if size < 1 or length < 1:
            raise ValueError(f"size and length must be at least 1, got {size} and {length}")
        if split not in ("train", "held_out"):
            raise ValueError(f"split must be train or held_out, got {split!r}")
        if tags is None:
            tags = ALL_TAGS if split == "train" else COMBINING_TAGS
        _check_tags(tags, split)
        if sprites is None:
            sprites = read_artwork(folder, world, vendors)
        else:
            _check_world(sprites, world)
            sprites = sprites if vendors is None else sprites.by_vendors(vendors)
        self.sprites = sprites
        self.seed = seed
        self.split: Split = split
        self.size = size
        self.length = length
        self.grid = grid
        self.two_sizes = two_sizes
        self.slots = slots
        self.mixed = mixed
        self.one_ground = one_ground
        if world != "v0":
            self.name = f"{self.name}-{world}"
        self._tags = tuple(tags)
        self._edges = np.cumsum(list(tags.values())) / sum(tags.values())

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """The scene of an index from 0, for ever."""
        rng = self.rng(index, SCENE)
        tag = self._tags[int(np.searchsorted(self._edges, rng.random(), side="right"))]
        return sample_scene(
            rng,
            tag,
            self.sprites,
            split=self.split,
            grid=self.grid,
            two_sizes=self.two_sizes,
            slots=self.slots,
            mixed=self.mixed,
            one_ground=self.one_ground,
        )

    def picture(self, index: int) -> np.ndarray:
        """The picture of an index, (size, size, 3) uint8."""
        return render(self.scene(index), self.size, self.sprites)

    def key(self, index: int) -> str:
        """The item's name in sources of these options: kind of source, split, seed and index."""
        return f"{self.name}/{self.split}/{self.seed}/{index}"

    def rng(self, index: int, purpose: int) -> np.random.Generator:
        """The random stream of one purpose of one item."""
        return np.random.default_rng([self.seed, index, purpose])

    def checked(self, index: int) -> int:
        """An index for `__getitem__`, counted from the end when negative.

        Raises:
            IndexError: Outside the length, which is what ends iteration.
        """
        if not -self.length <= index < self.length:
            raise IndexError(f"index must be below the length {self.length}, got {index}")
        return index % self.length


def _check_tags(tags: Mapping[Tag, float], split: Split) -> None:
    known = ALL_TAGS if split == "train" else COMBINING_TAGS
    unknown = [tag for tag in tags if tag not in known]
    if unknown:
        raise ValueError(f"tags of split {split!r} are {', '.join(known)}, got {unknown}")
    if not tags or min(tags.values()) < 0 or sum(tags.values()) <= 0:
        raise ValueError(f"weights of tags must be >= 0 and one > 0, got {dict(tags)}")


def read_artwork(
    folder: str | Path | None, world: WorldName, vendors: Sequence[str] | None = None
) -> Sprites:
    """A world's artwork, read once a process.

    Args:
        folder: Where it lies; None is the world's own place.
        world: Whose it is.
        vendors: Whose artwork alone; None is everybody's.

    Raises:
        FileNotFoundError: It was not fetched.
        ValueError: It is of another world, or damaged; or unknown vendors.
    """
    sprites = _read_sprites(
        _folder(folder, world), None if vendors is None else tuple(vendors), world
    )
    _check_world(sprites, world)
    return sprites


def _check_world(sprites: Sprites, world: WorldName) -> None:
    if sprites.world.name != world:
        raise ValueError(
            f"artwork of world {sprites.world.name} cannot show world {world}: give the option "
            "world that fits it, or another folder"
        )


def _folder(folder: str | Path | None, world: WorldName) -> Path:
    """Where a world's artwork lies.

    Raises:
        FileNotFoundError: The wide world's was not fetched.
    """
    if world != "wide":
        return shipped_folder() if folder is None else Path(folder)
    place = wide_folder() if folder is None else Path(folder)
    if not (place / "sprites.json").is_file():
        raise FileNotFoundError(
            f"{place} holds no artwork of the wide world: run openjanus data fetch emoji --wide"
        )
    return place


@lru_cache(maxsize=8)
def _read_sprites(folder: Path, vendors: tuple[str, ...] | None, world: WorldName) -> Sprites:
    """Sources of one folder share their sprites, and what is tinted of them."""
    if vendors is not None:
        return _read_sprites(folder, None, world).by_vendors(vendors)
    whole = vocabulary.world(world).part_of
    if whole is not None:
        return _read_sprites(folder, None, whole).in_world(world)
    return Sprites.load(folder)
