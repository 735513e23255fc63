from __future__ import annotations

import numpy as np
import pytest

from openjanus.worlds.emoji.sheet import LINE_HEIGHT, LINES, contact_sheet


def test_pictures_lie_row_by_row_with_words_under_them() -> None:
    pictures = [np.full((10, 20, 3), 40 * (i + 1), dtype=np.uint8) for i in range(5)]
    image = contact_sheet(pictures, ["a car"] * 5, columns=3, scale=2)
    row = 20 + LINES * LINE_HEIGHT + 8
    assert image.size == (3 * (40 + 8), 2 * row)
    sheet = np.asarray(image)
    assert (sheet[4:24, 4:44] == 40).all()
    assert (sheet[row + 4 : row + 24, 52:92] == 200).all()
    assert (sheet[24:row, 4:44] < 128).any()
    assert (sheet[:, 96:][row:] == 255).all()


def test_a_sheet_says_what_it_needs() -> None:
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([], [])
    with pytest.raises(ValueError, match="all of one size"):
        contact_sheet([picture, picture[:2]], ["a", "b"])
    with pytest.raises(ValueError, match="1 pictures and 2 words"):
        contact_sheet([picture], ["a", "b"])
