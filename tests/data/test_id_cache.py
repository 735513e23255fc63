"""Codebook ids, kept once and for one tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from openjanus.data.id_cache import (
    FORMAT_VERSION,
    MIGRATIONS,
    Entries,
    IdCache,
    fingerprint_of,
    module_hash,
    picture_stamp,
    source_digest,
)


def cache(folder, **changes):
    options = {
        "tokenizer_hash": "abc",
        "source": "toy-1",
        "num_items": 10,
        "num_image_tokens": 4,
        "codebook_size": 64,
    }
    return IdCache(folder, **(options | changes))


def picture(value):
    return np.full((2, 2, 3), value, np.uint8)


STAMP = picture_stamp(picture(1))


def known(kept, entry, stamp=STAMP):
    ids = kept.get(entry, stamp)
    return None if ids is None else ids.tolist()


def test_ids_are_kept_between_runs(tmp_path):
    first = cache(tmp_path)
    assert known(first, 3) is None
    first.put(3, np.array([0, 1, 2, 63]), STAMP)
    first.put(5, np.array([9, 9, 9, 9]), STAMP)
    first.flush()
    again = cache(tmp_path)
    assert len(again) == 10
    assert known(again, 3) == [0, 1, 2, 63]
    assert known(again, 5) == [9, 9, 9, 9]
    assert known(again, 4) is None


def test_a_row_that_a_kill_cut_short_is_unknown(tmp_path):
    cache(tmp_path).put(2, np.array([1, 2, 3, 4]), STAMP)
    ids = np.lib.format.open_memmap(tmp_path / "ids.npy", mode="r+")
    ids[2, 3] = 0
    ids.flush()
    assert known(cache(tmp_path), 2) is None


@pytest.mark.parametrize(
    "changes",
    [{"tokenizer_hash": "abd"}, {"source": "toy-2"}, {"num_items": 11}, {"codebook_size": 32}],
)
def test_another_ones_cache_is_refused(tmp_path, changes):
    cache(tmp_path)
    (name,) = changes
    with pytest.raises(ValueError, match=f"another {name}.*delete it"):
        cache(tmp_path, **changes)


def test_a_newer_cache_is_refused(tmp_path):
    cache(tmp_path)
    record = json.loads((tmp_path / "cache.json").read_text())
    (tmp_path / "cache.json").write_text(json.dumps(record | {"format_version": 99}))
    with pytest.raises(ValueError, match="newer"):
        cache(tmp_path)


def test_large_codebooks_fit(tmp_path):
    kept = cache(tmp_path, codebook_size=100_000)
    kept.put(0, np.array([99_999, 0, 65_535, 65_536]), STAMP)
    assert known(kept, 0) == [99_999, 0, 65_535, 65_536]


def test_hashes_follow_what_they_name():
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    other.load_state_dict(one.state_dict())
    assert module_hash(one) == module_hash(other)
    with torch.no_grad():
        other.weight[0, 0] += 1
    assert module_hash(one) != module_hash(other)
    assert source_digest("toy", {"a": 1, "b": 2}) == source_digest("toy", {"b": 2, "a": 1})
    assert source_digest("toy", {"a": 1}) != source_digest("toy", {"a": 2})


def test_ids_of_a_picture_that_changed_under_its_name_are_not_served(tmp_path):
    before, after = picture_stamp(picture(1)), picture_stamp(picture(2))
    kept = cache(tmp_path)
    kept.put(4, np.array([1, 2, 3, 4]), before)
    kept.flush()
    again = cache(tmp_path)
    assert known(again, 4, before) == [1, 2, 3, 4]
    assert known(again, 4, after) is None
    again.put(4, np.array([5, 6, 7, 8]), after)
    assert known(again, 4, after) == [5, 6, 7, 8]
    assert known(again, 4, before) is None


def test_the_shape_of_a_picture_is_part_of_its_stamp():
    wide, high = np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)
    assert picture_stamp(wide) != picture_stamp(high)
    assert picture_stamp(wide) == picture_stamp(np.asfortranarray(wide))


@pytest.mark.parametrize(("version", "kept"), [(1, None), (2, [9, 9, 9, 9])])
def test_ids_of_older_caches_count_where_they_say_of_which_picture_they_are(
    tmp_path, version, kept
):
    """Those of 3 do not: they may be what replaced item 3 when it was broken, or too long."""
    folder = tmp_path / "cache"
    shutil.copytree(Path(__file__).parent / "id_caches" / f"format_{version}", folder)
    assert json.loads((folder / "cache.json").read_text())["format_version"] == version
    again = cache(folder)
    assert known(again, 3) is None
    assert known(again, 5, picture_stamp(picture(7))) == kept
    again.put(3, np.array([4, 3, 2, 1]), STAMP)
    again.flush()
    assert known(cache(folder), 3) == [4, 3, 2, 1]
    assert json.loads((folder / "cache.json").read_text())["format_version"] == 3


def test_every_older_version_has_a_way_to_the_next():
    assert set(MIGRATIONS) == set(range(1, FORMAT_VERSION))


class Drawn:
    """Items that draw several pictures each."""

    def __init__(self, *counts):
        self.counts = counts

    def __len__(self):
        return len(self.counts)

    def num_drawn(self, index):
        return self.counts[index]


def test_each_picture_of_an_item_has_an_entry():
    entries = Entries(Drawn(2, 0, 3))
    assert len(entries) == 5
    found = [[entries.find(index, picture) for picture in range(4)] for index in range(3)]
    assert found == [[0, 1, None, None], [None] * 4, [2, 3, 4, None]]
    assert entries.digest == Entries(Drawn(2, 0, 3)).digest != Entries(Drawn(2, 3, 0)).digest
    assert len(Entries(Drawn())) == 0


def test_an_item_of_another_source_has_one_entry():
    entries = Entries(["a", "b"])
    assert len(entries) == 2 and entries.digest is None
    assert (entries.find(1), entries.find(1, 1)) == (1, None)


def test_edited_files_have_a_cache_of_their_own():
    names = {source_digest("toy", {}, print_) for print_ in (None, "a", "b")}
    assert len(names) == 3
    assert fingerprint_of(object()) is None
