from __future__ import annotations

import pytest

from openjanus.data.indices import checked_index


def test_indices_are_those_of_a_list():
    assert [checked_index(i, 3) for i in (0, 2, -1, -3)] == [0, 2, 2, 0]
    for outside in (3, -4):
        with pytest.raises(IndexError, match=f"below the length 3, got {outside}"):
            checked_index(outside, 3)
