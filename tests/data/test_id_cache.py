"""Codebook ids, kept once and for one tokenizer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from openjanus.data.id_cache import (
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


def known(kept, index):
    ids = kept.get(index)
    assert ids is not None
    return ids.tolist()


def test_ids_are_kept_between_runs(tmp_path):
    first = cache(tmp_path)
    assert first.get(3) is None
    first.put([3, 5], np.array([[0, 1, 2, 63], [9, 9, 9, 9]]))
    first.flush()
    again = cache(tmp_path)
    assert len(again) == 10
    assert known(again, 3) == [0, 1, 2, 63]
    assert known(again, 5) == [9, 9, 9, 9]
    assert again.get(4) is None


def test_a_row_that_a_kill_cut_short_is_unknown(tmp_path):
    cache(tmp_path).put([2], np.array([[1, 2, 3, 4]]))
    ids = np.lib.format.open_memmap(tmp_path / "ids.npy", mode="r+")
    ids[2, 3] = 0
    ids.flush()
    assert cache(tmp_path).get(2) is None


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
    kept.put([0], np.array([[99_999, 0, 65_535, 65_536]]))
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
    before, after = np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3, 3), np.uint8)
    after[1, 2, 0] = 1
    kept = cache(tmp_path)
    kept.put([4], np.array([[1, 2, 3, 4]]), [picture_stamp(before)])
    kept.flush()
    again = cache(tmp_path)
    assert again.get(4, picture_stamp(before)) is not None
    assert again.get(4, picture_stamp(after)) is None
    again.put([4], np.array([[5, 6, 7, 8]]), [picture_stamp(after)])
    assert known(again, 4) == [5, 6, 7, 8]
    assert again.get(4, picture_stamp(after)) is not None
    assert again.get(4, picture_stamp(before)) is None


def test_the_shape_of_a_picture_is_part_of_its_stamp():
    wide, high = np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)
    assert picture_stamp(wide) != picture_stamp(high)
    assert picture_stamp(wide) == picture_stamp(np.asfortranarray(wide))


def test_a_cache_of_version_1_goes_on_for_what_cannot_change(tmp_path):
    kept = cache(tmp_path)
    kept.put([3], np.array([[0, 1, 2, 63]]))
    kept.flush()
    (tmp_path / "stamps.npy").unlink()
    record = json.loads((tmp_path / "cache.json").read_text())
    (tmp_path / "cache.json").write_text(json.dumps(record | {"format_version": 1}))
    again = cache(tmp_path)
    assert known(again, 3) == [0, 1, 2, 63]
    assert again.get(3, picture_stamp(np.zeros((2, 2, 3), np.uint8))) is None
    assert json.loads((tmp_path / "cache.json").read_text())["format_version"] == 2


def test_edited_files_have_a_cache_of_their_own():
    names = {source_digest("toy", {}, print_) for print_ in (None, "a", "b")}
    assert len(names) == 3
    assert fingerprint_of(object()) is None
