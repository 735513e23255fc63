"""Unfinished pictures: what they cost by construction, and how near they are to finished ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from openjanus.model.vq import VectorQuantizer, VQTokenizer
from openjanus.pipeline import Janus, load
from openjanus.pipeline.preview import MOST_STATES, Band, Preview, default_states, plan_bands
from openjanus.weights.previewer import save_previewer


@pytest.mark.parametrize("side", [1, 2, 4, 12, 24, 37])
def test_all_states_together_decode_no_more_rows_than_a_picture_has(side: int) -> None:
    for states in range(min(side, MOST_STATES + 1)):
        bands = plan_bands(side, states)
        assert len(bands) == states
        assert sum(band.num_rows for band in bands) <= side
        fresh = [row for band in bands for row in range(band.start, band.end)]
        assert fresh == list(range(len(fresh))) and len(fresh) < side  # each row once, in order
        assert all(band.start < band.end and 0 <= band.above <= band.start for band in bands)


def test_large_pictures_show_more_states() -> None:
    sides = (1, 2, 4, 12, 16, 24, 64)
    assert [default_states(side, is_cheap=False) for side in sides] == [0, 1, 1, 1, 2, 3, 3]


def test_every_row_is_shown_where_that_costs_next_to_nothing() -> None:
    assert [default_states(side, is_cheap=True) for side in (1, 2, 12, 24)] == [0, 1, 11, 23]


@pytest.mark.parametrize("side", [4, 8, 12, 16, 24, 27])
def test_the_first_of_three_is_shown_before_a_quarter_has_passed(side: int) -> None:
    ends = [band.end for band in plan_bands(side, 3)]
    assert ends == sorted(set(ends))
    if side >= 12:  # a fifth of the ids: the prompt and the decoding take time too
        assert ends[0] / side <= 0.2


def test_spare_rows_are_given_to_the_seams() -> None:
    (only,) = plan_bands(24, 1)
    assert (only.end, only.below, only.num_rows) == (12, 6, 18)
    assert [(b.end, b.above, b.below, b.shown_from) for b in plan_bands(24, 2)] == [
        (5, 0, 1, 0),
        (13, 5, 1, 3),
    ]
    assert [(b.start, b.above, b.below) for b in plan_bands(24, 3)] == [
        (0, 0, 1),
        (4, 2, 1),
        (10, 2, 1),
    ]


def test_who_asks_for_every_row_gets_seams_that_do_not_show() -> None:
    bands = plan_bands(24, 23)
    assert [(b.start, b.end) for b in bands] == [(row, row + 1) for row in range(23)]
    assert [b.above for b in bands] == [0, 1, 2, *[3] * 20]
    assert all(b.above + b.below == 4 for b in bands)


@pytest.fixture(scope="module")
def nano() -> Janus:
    return load("nano", device="cpu")


def shown(janus: Janus, ids: Tensor, states: int, *, roughly: bool) -> list[np.ndarray]:
    """The unfinished states of known ids."""
    side = round(len(ids) ** 0.5)
    assert isinstance(janus.model.vq, VQTokenizer)
    preview = Preview(
        janus.model.vq,
        side,
        lambda pixels: janus.processor.decode_picture(pixels)[0],
        janus.previewer if roughly else None,
    )
    return [
        np.asarray(preview.show(band, ids[: side * band.end])).astype(float)
        for band in plan_bands(side, states)
    ]


@pytest.mark.parametrize(
    ("states", "most", "roughly"),
    [(1, 10.0, False), (2, 14.0, False), (3, 18.0, False), (11, 10.0, False), (11, 20.0, True)],
)
def test_previews_are_near_the_finished_picture(
    nano: Janus, states: int, most: float, roughly: bool
) -> None:
    """Grey levels in the mean, of 255; another picture's rows are some 60 off."""
    picture = Image.new("RGB", (96, 96), (120, 130, 140))
    picture.paste((200, 40, 30), (20, 20, 70, 80))
    ids = nano.encode_image(picture)
    whole = np.asarray(nano.decode_image(ids)).astype(float)
    for band, state in zip(
        plan_bands(12, states), shown(nano, ids, states, roughly=roughly), strict=True
    ):
        rows = slice(0, 8 * band.end)
        assert state.shape == whole.shape
        assert np.abs(state[rows] - whole[rows]).mean() < most
        assert (state[8 * band.end :] == 127).all()


class WholeAlone:
    """An image tokenizer that draws whole pictures alone."""

    def __init__(self, vq: VQTokenizer) -> None:
        self.quantize: VectorQuantizer = vq.quantize
        self.encode_to_ids = vq.encode_to_ids
        self.decode_ids = vq.decode_ids


def test_a_tokenizer_that_draws_whole_pictures_alone_is_previewed_too(janus: Janus) -> None:
    assert isinstance(janus.model.vq, VQTokenizer)
    ids = torch.arange(16)
    previews = [
        Preview(vq, 4, lambda pixels: janus.processor.decode_picture(pixels)[0])
        for vq in (WholeAlone(janus.model.vq), janus.model.vq)
    ]
    band = Band(start=0, end=2, above=0, below=2)  # all that is missing: both see the same
    whole, rows = (np.asarray(preview.show(band, ids[:8])) for preview in previews)
    assert np.array_equal(whole, rows)
    assert (whole[16:] == 127).all() and not (whole[:16] == 127).all()


def test_a_nano_shows_every_row_and_draws_what_it_draws_without(nano: Janus) -> None:
    assert nano.previewer is not None, "it lies beside the weights"
    *states, last = nano.draw_stream("a photo of a dog", seed=1)
    assert [len(state.image_ids) for state in states] == [12 * row for row in range(1, 12)]
    assert np.array_equal(
        np.asarray(last.image), np.asarray(nano.draw("a photo of a dog", seed=1).images[0])
    )
    finished = np.asarray(last.image).astype(float)
    for row, state in enumerate(states, 1):
        grown = np.asarray(state.image).astype(float)
        assert np.abs(grown[: 8 * row] - finished[: 8 * row]).mean() < 25
        assert (grown[8 * row :] == 127).all()


def test_what_unfinished_pictures_are_drawn_by_comes_with_the_folder_alone(
    nano: Janus, tmp_path: Path
) -> None:
    nano.save(tmp_path / "copy")
    assert load(tmp_path / "copy", device="cpu").previewer is None
    tokenizer = nano.model.vq
    assert nano.previewer is not None and isinstance(tokenizer, VQTokenizer)
    save_previewer(tmp_path / "copy", nano.previewer, tokenizer)
    assert load(tmp_path / "copy", device="cpu").previewer is not None
