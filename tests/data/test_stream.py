"""Broken samples: named, counted, and replaced the same way every time."""

from __future__ import annotations

import pytest

from openjanus.data.encoding import encode_sample
from openjanus.data.fetching import Crew, Fetcher, TooManyBadSamples
from openjanus.data.mixture import Mixture
from openjanus.data.stream import SampleStream
from openjanus.data.toy import ToyScenes


class Breaking(ToyScenes):
    """Every third item cannot be read."""

    def __getitem__(self, index):
        if index % 3 == 0:
            raise OSError(f"unreadable {index}")
        return super().__getitem__(index)


def stream(source, processor, max_length=256):
    mixture = Mixture({"text": [len(source)]}, {"text": [1]}, (0, 1, 0), seed=0)

    def encode(sample, draw):
        return encode_sample(sample, processor, max_length=max_length)

    return SampleStream(Crew(Fetcher({"text": [source]}, mixture, encode)), mixture, batch_size=12)


def test_broken_samples_are_named_and_replaced(processor):
    samples = stream(Breaking(kind="text", length=60), processor)
    step = samples.step(2)
    assert len(step.samples) == 12
    assert step.bad
    for bad in step.bad:
        assert bad.name.startswith("text source 0 item ")
        assert "OSError: unreadable" in bad.reason
    assert [s.key for s in step.samples] == [f"toy-text-chat/0/{d.index}" for d in step.draws]
    again = stream(Breaking(kind="text", length=60), processor).step(2)
    assert (again.draws, again.bad) == (step.draws, step.bad)


def test_samples_that_are_too_long_are_named_by_their_key(processor):
    source = ToyScenes(kind="text", length=60)
    limit = sorted(
        len(encode_sample(source[i], processor, max_length=999).input_ids) for i in range(60)
    )[50]
    bad = [b for step in range(5) for b in stream(source, processor, limit).step(step).bad]
    assert bad
    assert all("toy-text-chat/0/" in b.name and "tokens, at most" in b.reason for b in bad)


def test_a_source_where_nothing_works_is_given_up(processor):
    with pytest.raises(TooManyBadSamples, match=r"in a row.*at most 3"):
        stream(ToyScenes(kind="text", length=60), processor, 3).step(0)


def test_a_source_of_something_else_is_told(processor):
    with pytest.raises(TooManyBadSamples, match="gave a int"):
        stream(range(60), processor).step(0)


def test_a_sample_of_another_kind_is_told(processor):
    with pytest.raises(TooManyBadSamples, match="kind 'und'"):
        stream(ToyScenes(kind="und", length=60), processor).step(0)
