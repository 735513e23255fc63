from __future__ import annotations

import numpy as np
import pytest

from openjanus.config import VQConfig
from openjanus.model.vq import VQTokenizer
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.judge_training import TRAIN_TAGS
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import world


@pytest.fixture(scope="session")
def sprites() -> Sprites:
    """Made-up artwork of every concept: shaded ellipses of many shapes, sizes and colours."""
    rng = np.random.default_rng(0)
    return Sprites(
        {
            (concept, vendor): ellipse(rng, 32)
            for concept in CONCEPTS
            for vendor in ("first", "second", "third")
        }
    )


@pytest.fixture(scope="session")
def wide_sprites() -> Sprites:
    """The same of the wide world, smaller; not every concept comes from the second vendor."""
    rng = np.random.default_rng(1)
    images = {}
    for i, concept in enumerate(world("wide").concepts):
        images[concept, "first"] = ellipse(rng, 24)
        if i % 3:
            images[concept, "second"] = ellipse(rng, 24)
    return Sprites(images, "wide")


def ellipse(rng: np.random.Generator, longer: int) -> np.ndarray:
    """(H, W, 4) uint8, as a sprite is."""
    shorter = int(rng.integers(longer * 5 // 16, longer + 1))
    height, width = (longer, shorter) if rng.random() < 0.5 else (shorter, longer)
    y, x = np.mgrid[0:height, 0:width]
    radius = ((x + 0.5) / width * 2 - 1) ** 2 + ((y + 0.5) / height * 2 - 1) ** 2
    image = np.zeros((height, width, 4), dtype=np.uint8)
    shade = 0.6 + 0.4 * (1 - np.clip(radius, 0, 1))
    image[..., :3] = rng.integers(0, 256, 3) * shade[..., None]
    image[..., 3] = np.where(radius <= 1, 255, 0)
    return image


@pytest.fixture(scope="session")
def vq() -> VQTokenizer:
    """An untrained tokenizer of small pictures."""
    config = VQConfig(
        image_size=64,
        base_channels=4,
        channel_multipliers=(1, 1, 1, 1, 1),
        num_res_blocks=1,
        z_channels=4,
        codebook_size=16,
        codebook_dim=4,
        norm_groups=2,
    )
    return VQTokenizer(config).eval().requires_grad_(False)


@pytest.fixture
def source(sprites: Sprites) -> SceneSource:
    """Training-split scenes of the tokenizer's size."""
    return SceneSource(sprites=sprites, seed=1, tags=TRAIN_TAGS, size=64)
