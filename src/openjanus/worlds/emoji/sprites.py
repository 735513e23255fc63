"""The artwork in memory: one sprite a concept and vendor, natural or in one of the ten colours."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from PIL import Image

from openjanus.worlds.emoji.concepts import unmixed
from openjanus.worlds.emoji.fetch import FORMAT_VERSION, shipped_folder
from openjanus.worlds.emoji.grounds import Rgb
from openjanus.worlds.emoji.vocabulary import World, WorldName, world

TINTS: Final[Mapping[str, tuple[Rgb, Rgb, Rgb]]] = MappingProxyType(
    {
        "red": ((115, 0, 10), (222, 26, 34), (255, 112, 100)),
        "orange": ((165, 70, 0), (255, 138, 0), (255, 196, 110)),
        "yellow": ((170, 130, 0), (252, 218, 20), (255, 246, 160)),
        "green": ((0, 70, 22), (34, 158, 56), (140, 222, 140)),
        "blue": ((8, 26, 115), (30, 84, 222), (125, 172, 255)),
        "purple": ((52, 8, 92), (128, 40, 172), (196, 136, 230)),
        "pink": ((196, 62, 124), (252, 134, 190), (255, 210, 232)),
        "brown": ((52, 26, 8), (120, 68, 32), (188, 136, 96)),
        "black": ((0, 0, 0), (30, 30, 33), (108, 108, 114)),
        "white": ((146, 146, 152), (240, 240, 243), (255, 255, 255)),
    }
)
"""Shadow, body and light of each of the ten colours, RGB 0 to 255. What lies half-way between two
of them has their names for its own, "blue-green"."""


DRAWN_KEPT: Final = 4096
"""Sprites kept ready to be drawn, 64 kB each; the first world has 2,148 in all."""

TINTED_KEPT: Final = 64
"""Tinted sprites kept as they are: a scene asks for the mean colour first and then for the look."""

LATTICE: Final = 24
"""Points a side at which outlines are known."""


class Sprites:
    """Every sprite of a world, by concept and vendor, tinted on demand and kept.

    Args:
        images: (H, W, 4) uint8 RGBA with straight alpha, trimmed to what is visible, keyed by
            (concept, vendor). Every concept of `v0` must come from every vendor.
        world_name: Whose artwork it is.

    Raises:
        ValueError: An array is not (H, W, 4) uint8, or a concept lacks a vendor, or the wide world
            has no such concept.
    """

    def __init__(
        self, images: Mapping[tuple[str, str], np.ndarray], world_name: WorldName = "v0"
    ) -> None:
        self.world: World = world(world_name)
        self.concepts = tuple(dict.fromkeys(concept for concept, _ in images))
        self.vendors = tuple(dict.fromkeys(vendor for _, vendor in images))
        known = self.world.concepts
        if world_name != "v0" and not (images and set(self.concepts) <= set(known)):
            raise ValueError(
                f"the world {world_name} has {len(known)} concepts, these sprites have others: "
                "fetch them with this version"
            )
        complete = len(images) == len(self.concepts) * len(self.vendors)
        if not images or (world_name == "v0" and not complete):
            raise ValueError(
                f"every concept must come from every vendor, got {len(images)} sprites for "
                f"{len(self.concepts)} concepts and {len(self.vendors)} vendors"
            )
        for key, image in images.items():
            if image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
                raise ValueError(
                    f"a sprite must be (H, W, 4) uint8, {key} is {image.shape} {image.dtype}"
                )
        self._images = dict(images)
        self._vendors_of: dict[str, tuple[str, ...]] = {}
        for concept, vendor in images:
            self._vendors_of[concept] = (*self._vendors_of.get(concept, ()), vendor)
        self.tintable = tuple(
            name for name in self.world.tintable if world_name == "v0" or name in self._vendors_of
        )
        self._aspects = {key: image.shape[1] / image.shape[0] for key, image in images.items()}
        self._drawn: dict[tuple[str, str, str | None], Image.Image] = {}
        self._means: dict[tuple[str, str, str | None], tuple[float, float, float]] = {}
        self._outlines: dict[tuple[str, str], np.ndarray] = {}
        self._tinted: dict[tuple[str, str, str], np.ndarray] = {}

    @classmethod
    def load(cls, folder: str | Path | None = None) -> Sprites:
        """Read sprites that `fetch_emoji` wrote.

        Args:
            folder: Where they lie; None takes the copy that ships with the package.

        Raises:
            FileNotFoundError: Nothing was fetched into the folder.
            ValueError: The sprites were written by a newer version, or are damaged.
        """
        folder = shipped_folder() if folder is None else Path(folder)
        record_path = folder / "sprites.json"
        if not record_path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no sprites: run openjanus data fetch emoji --folder {folder}"
            )
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if record["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"sprites of {folder} have format_version {record['format_version']}, this "
                f"version reads up to {FORMAT_VERSION}: upgrade openjanus"
            )
        content = (folder / "sprites.npz").read_bytes()
        if hashlib.sha256(content).hexdigest() != record["sprites_sha256"]:
            raise ValueError(
                f"{folder}/sprites.npz must be the file that sprites.json records, its sha256 "
                "differs: delete both and fetch again"
            )
        with np.load(io.BytesIO(content)) as arrays:
            stack, shapes = arrays["rgba"], arrays["shapes"]
        return cls(
            {
                (concept, vendor): np.ascontiguousarray(sprite[:height, :width])
                for (concept, vendor), sprite, (height, width) in zip(
                    record["names"], stack, shapes, strict=True
                )
            },
            record.get("recipe", {}).get("world", "v0"),
        )

    def sha256(self) -> str:
        """Hash of the artwork, for records."""
        digest = hashlib.sha256()
        for key, image in sorted(self._images.items()):
            digest.update(repr((key, image.shape)).encode())
            digest.update(image.tobytes())
        return digest.hexdigest()

    def by_vendors(self, vendors: Sequence[str]) -> Sprites:
        """The same world with the artwork of some vendors alone.

        Raises:
            ValueError: No vendor, or an unknown one.
        """
        unknown = [vendor for vendor in vendors if vendor not in self.vendors]
        if unknown or not vendors:
            raise ValueError(f"vendors must be some of {', '.join(self.vendors)}, got {unknown}")
        return Sprites(
            {key: self._images[key] for key in self._images if key[1] in vendors}, self.world.name
        )

    def in_world(self, name: WorldName) -> Sprites:
        """The artwork of what a smaller world has of this one.

        Raises:
            ValueError: That world is no part of this one.
        """
        part = world(name)
        if part.part_of != self.world.name:
            raise ValueError(f"world {name} is no part of world {self.world.name}")
        images = {key: self._images[key] for key in self._images if key[0] in part.concepts}
        return Sprites(images, name)

    def vendors_of(self, concept: str) -> tuple[str, ...]:
        """Who draws a concept."""
        return self._vendors_of[concept]

    def outline(self, concept: str, vendor: str) -> np.ndarray:
        """(LATTICE, LATTICE) bool: where a sprite covers what is behind it."""
        key = (concept, vendor)
        if key not in self._outlines:
            alpha = Image.fromarray(np.ascontiguousarray(self._images[key][..., 3]))
            small = alpha.resize((LATTICE, LATTICE), Image.Resampling.BOX)
            self._outlines[key] = np.asarray(small) >= 128
        return self._outlines[key]

    def aspect(self, concept: str, vendor: str) -> float:
        """Width over height of a sprite."""
        return self._aspects[concept, vendor]

    def rgba(self, concept: str, vendor: str, colour: str | None = None) -> np.ndarray:
        """(H, W, 4) uint8, straight alpha, natural or tinted.

        Raises:
            KeyError: No such sprite.
            ValueError: The concept takes no tint, or there is no such colour.
        """
        image = self._images[concept, vendor]
        if colour is None:
            return image
        if not set(unmixed(colour)) <= set(TINTS) or concept not in self.world.tintable:
            raise ValueError(
                f"a tint must be one of {', '.join(TINTS)}, or two of them as in blue-green, on "
                f"anything but a person: got {colour!r} on {concept!r}"
            )
        key = (concept, vendor, colour)
        if key not in self._tinted:
            if len(self._tinted) >= TINTED_KEPT:
                del self._tinted[next(iter(self._tinted))]  # the oldest
            self._tinted[key] = tint(image, colour)
        return self._tinted[key]

    def drawn(self, concept: str, vendor: str, colour: str | None = None) -> Image.Image:
        """The sprite with premultiplied alpha (Pillow mode "RGBa"), ready to be resized."""
        key = (concept, vendor, colour)
        if key not in self._drawn:
            if len(self._drawn) >= DRAWN_KEPT:
                del self._drawn[next(iter(self._drawn))]  # the oldest
            self._drawn[key] = Image.fromarray(self.rgba(*key)).convert("RGBa")
        return self._drawn[key]

    def mean_colour(
        self, concept: str, vendor: str, colour: str | None = None
    ) -> tuple[float, float, float]:
        """Mean RGB of a sprite, 0 to 255, weighted by alpha."""
        key = (concept, vendor, colour)
        if key not in self._means:
            image = self.rgba(*key).reshape(-1, 4).astype(np.float64)
            red, green, blue = np.average(image[:, :3], axis=0, weights=image[:, 3]).tolist()
            self._means[key] = (red, green, blue)
        return self._means[key]


@cache
def looks_of(colour: str | None) -> tuple[str, ...]:
    """Every colour that a tint may be taken for; none of None.

    A mixed one looks like both of its own, and like whatever lies as near to it as these do:
    half-way from red to yellow is orange.
    """
    own = unmixed(colour)
    if len(own) < 2:
        return own
    bodies = {name: np.asarray(ramp[1], dtype=np.float64) for name, ramp in TINTS.items()}
    body = np.mean([bodies[name] for name in own], axis=0)
    far = max(float(np.linalg.norm(bodies[name] - body)) for name in own)
    near = [name for name in bodies if float(np.linalg.norm(bodies[name] - body)) <= far]
    return (*own, *(name for name in near if name not in own))


def tint(image: np.ndarray, colour: str) -> np.ndarray:
    """Recolour a sprite, keeping its luminance as shading.

    Luminance is standardised over the sprite first, so that a dark drawing and a pale one come
    out in the same colour; two deviations below the mean are shadow, two above are light.

    Args:
        image: (H, W, 4) uint8, straight alpha.
        colour: One of `TINTS`, or two of them ("blue-green") for what lies half-way.

    Returns:
        (H, W, 4) uint8 with the same alpha.
    """
    luminance = image[..., :3].astype(np.float64) @ (0.299, 0.587, 0.114)  # (H, W)
    alpha = image[..., 3].astype(np.float64)
    mean = np.average(luminance, weights=alpha)
    deviation = np.sqrt(np.average((luminance - mean) ** 2, weights=alpha))
    # The floor keeps a nearly flat drawing flat instead of blowing up its noise.
    shade = np.clip((luminance - mean) / (2 * max(deviation, 12.0)), -1, 1)
    ramps = np.mean([TINTS[name] for name in unmixed(colour)], axis=0)  # (3 shades, RGB)
    channels = [np.interp(shade, (-1, 0, 1), ramp) for ramp in ramps.T]
    tinted = np.stack([*channels, alpha], axis=-1)
    return np.round(tinted).astype(np.uint8)
