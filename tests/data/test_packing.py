"""Rows: full, and never with a sample cut in two."""

from __future__ import annotations

import random

from openjanus.data.packing import pack


def test_rows_hold_every_sample_once_and_no_more_than_they_can():
    generator = random.Random(0)
    lengths = [generator.randint(5, 90) for _ in range(200)]
    rows = pack(lengths, 100)
    assert sorted(index for row in rows for index in row) == list(range(200))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 100
    assert sum(lengths) / (100 * len(rows)) > 0.9
    assert rows == pack(lengths, 100)


def test_a_sample_longer_than_a_row_has_a_row_of_its_own():
    assert pack([30, 5, 5], 10) == [[0], [1, 2]]
