"""Scenes by index: what every source of this world is made of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Unpack

import numpy as np

from openjanus.data.indices import checked_index
from openjanus.worlds.emoji import vocabulary
from openjanus.worlds.emoji.draws import Weighted
from openjanus.worlds.emoji.fetch import shipped_folder
from openjanus.worlds.emoji.fetch_wide import wide_folder
from openjanus.worlds.emoji.sampling import sample_scene
from openjanus.worlds.emoji.scene_options import SceneKeywords, SceneOptions, refuse_others
from openjanus.worlds.emoji.scenes import Scene, render
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import WorldName

# What a random stream is for: what an item shows and what is said of it draw from different ones.
SCENE, WORDS, CROP = 0, 1, 2


class SceneSource:
    """Scenes by index: scene i is a function of (seed, i) and of what shapes scenes alone.

    That is the split, the tags, the artwork with its vendors, `grid`, `two_sizes`, `slots`, `mixed`
    and `one_ground`.

    Args:
        folder: Where the artwork lies, see `SceneOptions`.
        scenes: The other fields of `SceneOptions`.

    Raises:
        FileNotFoundError: The folder holds no sprites.
        ValueError: As in `SceneOptions`, or unknown vendors, or artwork of another world.
    """

    name = "emoji"
    """Of the kind of source, in keys."""

    def __init__(self, folder: str | Path | None = None, **scenes: Unpack[SceneKeywords]) -> None:
        refuse_others(scenes, SceneKeywords, type(self))
        self.options = SceneOptions(folder=folder, **scenes)
        self.sprites = _artwork(self.options)
        if self.options.world != "v0":
            self.name = f"{self.name}-{self.options.world}"
        self._tags = Weighted(self.options.weights)

    def __len__(self) -> int:
        return self.options.length

    def scene(self, index: int) -> Scene:
        """The scene of an index from 0, for ever."""
        options, rng = self.options, self.rng(index, SCENE)
        return sample_scene(
            rng,
            self._tags.pick(rng),
            self.sprites,
            split=options.split,
            grid=options.grid,
            two_sizes=options.two_sizes,
            slots=options.slots,
            mixed=options.mixed,
            one_ground=options.one_ground,
        )

    def picture(self, index: int) -> np.ndarray:
        """The picture of an index, (size, size, 3) uint8."""
        return render(self.scene(index), self.options.size, self.sprites)

    def key(self, index: int) -> str:
        """The item's name in sources of these options: kind of source, split, seed and index."""
        return f"{self.name}/{self.options.split}/{self.options.seed}/{index}"

    def rng(self, index: int, purpose: int) -> np.random.Generator:
        """The random stream of one purpose of one item."""
        return np.random.default_rng([self.options.seed, index, purpose])

    def checked(self, index: int) -> int:
        """An index for `__getitem__`, see `checked_index`."""
        return checked_index(index, self.options.length)


def _artwork(options: SceneOptions) -> Sprites:
    """What shows the scenes of some options."""
    if options.sprites is None:
        return read_artwork(options.folder, options.world, options.vendors)
    _check_world(options.sprites, options.world)
    if options.vendors is None:
        return options.sprites
    return options.sprites.by_vendors(options.vendors)


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
