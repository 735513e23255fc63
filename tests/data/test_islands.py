"""Ids island by island: the same thing has the same ids wherever it lies."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from openjanus.config import VQConfig
from openjanus.data.islands import IslandIds, find_islands
from openjanus.model.vq import VQTokenizer
from openjanus.presets import preset
from openjanus.processor.image import uint8_to_pixel_values
from openjanus.train.runs import init_vq

GRID, STEP = 8, 4
GROUND = (250, 238, 214)


def scene(*things: tuple[int, int, np.ndarray]) -> np.ndarray:
    picture = np.full((GRID * STEP, GRID * STEP, 3), GROUND, dtype=np.uint8)
    for row, column, thing in things:
        picture[row * STEP :, column * STEP :][: thing.shape[0], : thing.shape[1]] = thing
    return picture


def thing(seed: int, rows: int = 2, columns: int = 2) -> np.ndarray:
    shape = (rows * STEP, columns * STEP, 3)
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


class Encoder:
    """Ids that depend on the whole picture, as a real encoder's do; counts what it encodes."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        self.seen += len(pixels)
        tiles = pixels.unflatten(3, (GRID, STEP)).unflatten(2, (GRID, STEP)).sum((1, 3, 5))
        everything = pixels.sum((1, 2, 3), keepdim=False)[:, None, None]
        return ((tiles * 127.5 + everything).round().long() % 1000).flatten(1)


def ids_of(*pictures: np.ndarray, encode=None) -> np.ndarray:
    pixels = uint8_to_pixel_values(np.stack(pictures))
    ids = IslandIds(encode or Encoder(), GRID)(pixels)
    return ids.reshape(-1, GRID, GRID).numpy()


def test_a_thing_has_the_same_ids_in_another_place_and_beside_another():
    cup, tree = thing(1), thing(2, 3, 2)
    alone, moved, beside = ids_of(
        scene((1, 1, cup)), scene((4, 5, cup)), scene((1, 1, cup), (4, 4, tree))
    )
    assert (alone[0:4, 0:4] == moved[3:7, 4:8]).all()
    assert (alone[0:3, 0:3] == beside[0:3, 0:3]).all()
    assert (beside[4:7, 4:6] == ids_of(scene((2, 3, tree)))[0, 2:5, 3:5]).all()
    assert (alone[5:, 5:] == alone[7, 7]).all(), "far ground has one id"
    pixels = uint8_to_pixel_values(np.stack([scene((1, 1, cup)), scene((4, 5, cup))]))
    whole = Encoder()(pixels).reshape(2, GRID, GRID)
    assert (whole[0, 1:3, 1:3] == whole[1, 4:6, 5:7]).all()
    crowded = Encoder()(uint8_to_pixel_values(scene((1, 1, cup), (4, 4, tree))[None]))
    assert (crowded.reshape(GRID, GRID)[1:3, 1:3] != whole[0, 1:3, 1:3]).any(), "not so as a whole"


def test_things_that_touch_are_one_island_and_others_are_not():
    corner = scene((1, 1, thing(1)), (3, 3, thing(2)))
    apart = scene((1, 1, thing(1)), (4, 4, thing(2)))
    assert len(find_islands(corner, GRID)[1]) == 1
    ground, islands = find_islands(apart, GRID)
    assert ground is not None and tuple(ground) == GROUND
    assert [island.shift for island in islands] == [(2, 2), (-1, -1)]
    assert not islands[0].places[4:6, 4:6].any() and not islands[1].places[1:3, 1:3].any()
    shared = islands[0].places & islands[1].places
    assert np.argwhere(shared).tolist() == [[3, 3]], "only where their rims meet"


def test_every_place_of_a_thing_is_its_own_islands():
    picture = scene((0, 0, thing(1, 2, 8)), (3, 6, thing(2, 2, 2)))  # at the rim, as wide as it
    _, islands = find_islands(picture, GRID)
    assert islands[0].places[:2].all()
    assert islands[1].places[3:5, 6:8].all() and not islands[1].places[:2].any()


def test_a_picture_without_plain_ground_is_encoded_as_a_whole():
    photo = thing(5, GRID, GRID)
    ground, islands = find_islands(photo, GRID)
    assert ground is None and len(islands) == 1
    whole = Encoder()(uint8_to_pixel_values(photo[None]))[0].numpy()
    assert (ids_of(photo)[0].ravel() == whole).all()


def test_an_empty_picture_has_one_id():
    assert len(np.unique(ids_of(scene()))) == 1


def test_what_is_known_is_not_encoded_again():
    encode = Encoder()
    tokenize = IslandIds(encode, GRID)
    first = uint8_to_pixel_values(scene((1, 1, thing(1)), (4, 4, thing(2)))[None])
    before = tokenize(first)
    assert encode.seen == 3  # ground and two things
    tokenize(uint8_to_pixel_values(scene((5, 2, thing(1)))[None]))
    assert encode.seen == 3
    assert torch.equal(tokenize(first), before)


def test_with_a_real_tokenizer():
    door = preset("tiny").gen_tokenizer
    assert isinstance(door, VQConfig)
    model = VQTokenizer(door)
    init_vq(model, 0)
    factor = door.downsample_factor
    grid = door.image_size // factor
    picture = np.full((door.image_size, door.image_size, 3), 200, dtype=np.uint8)
    things = np.random.default_rng(0).integers(0, 255, (2, 2 * factor, factor, 3), dtype=np.uint8)
    picture[: 2 * factor, :factor] = things[0]
    beside = picture.copy()
    beside[: 2 * factor, -factor:] = things[1]
    pixels = uint8_to_pixel_values(np.stack([picture, beside]))
    ids = IslandIds(model.encode_to_ids, grid)(pixels)
    alone, crowded = ids.reshape(2, grid, grid)
    assert (alone[:2, 0] == crowded[:2, 0]).all()
    whole = model.encode_to_ids(pixels).reshape(2, grid, grid)
    assert (whole[0, :2, 0] != whole[1, :2, 0]).any(), "the encoder itself sees the neighbour"
    assert model.decode_ids(ids).shape == (2, 3, door.image_size, door.image_size)
