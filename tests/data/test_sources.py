"""Sources by name, and the toy world."""

from __future__ import annotations

from typing import TypedDict, Unpack

import numpy as np
import pytest

from openjanus.data.samples import IMAGE_MARK
from openjanus.data.sources import build_source, register_source, source_names
from openjanus.data.toy import COLOURS, GROUNDS, ToyScenes


def test_a_source_is_built_by_its_name():
    source = build_source("toy", {"kind": "und", "size": 16, "length": 5})
    assert len(source) == 5
    assert source[0].images[0].shape == (16, 16, 3)


def test_an_unknown_name_is_met_with_near_ones():
    with pytest.raises(KeyError, match="'toy-pairs'"):
        build_source("toy-pair", {})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "und", "sise": 32}, "unknown option 'sise'; did you mean 'size'"),
        ({"kind": "und", "size": "32"}, "source 'toy': size must be int, got '32'"),
        ({"kind": "und", "size": True}, "size must be int, got True"),
        ({}, "kind"),
        ({"kind": "draw"}, "kind must be"),
        ({"kind": "und", "length": 0}, "length must be >= 1"),
    ],
)
def test_wrong_options_are_told(options, says):
    with pytest.raises(ValueError, match=says):
        build_source("toy", options)


def test_a_program_can_register_its_own():
    def numbers(*, length: int) -> list[int]:
        return list(range(length))

    register_source("test-numbers", numbers)
    register_source("test-numbers", numbers)  # once more is no conflict
    assert build_source("test-numbers", {"length": 3}) == [0, 1, 2]
    assert "test-numbers" in source_names()
    with pytest.raises(ValueError, match="taken"):
        register_source("test-numbers", list)


class Long(TypedDict):
    length: int


class Sized(Long, total=False):
    size: int | None


class Shared:
    """A source that shares options with others."""

    def __init__(self, *, kind: str, **sized: Unpack[Sized]) -> None:
        self.kind, self.sized = kind, sized


def test_shared_options_are_taken_flat():
    register_source("test-shared", Shared)
    source = build_source("test-shared", {"kind": "und", "length": 3})
    assert (source.kind, source.sized) == ("und", {"length": 3})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sise": 3}, "source 'test-shared': unknown option 'sise'; did you mean 'size'"),
        ({"sized": {"size": 3}}, "unknown option 'sized'"),
        ({"size": "3"}, r"size must be int \| None, got '3'"),
        ({"length": None}, "missing a required argument: 'length'"),
    ],
)
def test_shared_options_are_checked_as_any(options, says):
    register_source("test-shared", Shared)
    given = {"kind": "und", "length": 3} | options
    with pytest.raises(ValueError, match=says):
        build_source("test-shared", {k: v for k, v in given.items() if v is not None})


@pytest.mark.parametrize("kind", ["und", "text", "gen"])
@pytest.mark.parametrize("form", ["chat", "plain"])
def test_toy_samples_are_the_same_for_ever(kind, form):
    first, second = ToyScenes(kind=kind, form=form), ToyScenes(kind=kind, form=form)
    for index in (0, 7, -1):
        a, b = first[index], second[index]
        assert (a.key, a.turns, a.kind, a.form) == (b.key, b.turns, kind, form)
        assert all(np.array_equal(x, y) for x, y in zip(a.images, b.images, strict=True))
    assert first[-1].key == first[len(first) - 1].key
    assert len({first[i].key for i in range(20)}) == 20


def test_what_the_toy_world_says_is_what_it_shows():
    for index in range(30):
        source = ToyScenes(kind="und", form="plain", size=48)
        sample, scene = source[index], source.scene(index)
        assert sample.turns[0].text == f"{IMAGE_MARK}{scene.caption}"
        picture = sample.images[0]
        centre = picture[int(scene.centre[1] * 48), int(scene.centre[0] * 48)]
        assert tuple(centre) == COLOURS[scene.colour]
        assert tuple(picture[0, 0]) == GROUNDS[scene.ground]


def test_iteration_over_a_source_ends():
    source = ToyScenes(kind="text", length=3)
    assert [source[i].key for i in range(3)] == [source[i - 3].key for i in range(3)]
    with pytest.raises(IndexError, match="below the length 3"):
        source[3]
