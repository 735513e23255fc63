from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from openjanus.data.encoding import encode_sample
from openjanus.data.samples import DRAW_MARK, IMAGE_MARK
from openjanus.data.sources import source_names
from openjanus.pipeline.load import load
from openjanus.worlds.emoji.captions import phrase, things_of
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.sampling import touches_held_out
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.stories import EmojiStories

FORMS = [{}, {"form": "chat"}, {"kind": "und"}]


@pytest.mark.parametrize("options", FORMS)
def test_a_story_is_a_function_of_seed_and_index(options: dict[str, Any], sprites: Sprites) -> None:
    first, again = (EmojiStories(sprites=sprites, seed=2, size=32, **options) for _ in range(2))
    samples = [first[i] for i in range(20)]
    for i in reversed(range(20)):
        assert (again[i].key, again[i].turns) == (samples[i].key, samples[i].turns)
        np.testing.assert_array_equal(again[i].pictures, samples[i].pictures)
        assert first.num_drawn(i) == len(samples[i].targets)


def test_no_picture_of_a_story_touches_a_held_out_cell(sprites: Sprites) -> None:
    source = EmojiStories(sprites=sprites, seed=1, most_pictures=4)
    lengths = set()
    for index in range(600):
        story, shown_by = source.story(index)
        lengths.add(len(story.scenes))
        assert not any(map(touches_held_out, story.scenes))
        vendors = {thing.vendor for scene in story.scenes for thing in scene.objects}
        assert vendors == set(shown_by.vendors)
        assert len(vendors) == 1
    assert lengths == {2, 3, 4}


def test_words_tell_what_each_picture_shows(sprites: Sprites) -> None:
    source = EmojiStories(sprites=sprites, seed=4, most_pictures=4)
    for index in range(300):
        story, _ = source.story(index)
        told = ""
        for chapter, scene in zip(story.chapters, story.scenes, strict=True):
            told += f" {chapter.words}"
            for things in things_of(scene):
                assert CONCEPTS[things.concept].name in told or (
                    phrase(things.concept, count=things.count) in told
                )
                assert things.colour is None or things.colour in chapter.words
                if things.count > 1:
                    assert phrase(things.concept, count=things.count) in chapter.words


def test_pictures_of_both_roles(sprites: Sprites) -> None:
    source = EmojiStories(sprites=sprites, size=16)
    roles = set()
    for index in range(60):
        sample = source[index]
        text = sample.turns[0].text
        roles.add((len(sample.images), len(sample.targets)))
        assert text.count(DRAW_MARK) == len(sample.targets) >= 1
        assert (sample.kind, sample.form) == ("gen", "plain")
        assert IMAGE_MARK not in text or text.index(IMAGE_MARK) < text.index(DRAW_MARK)
    assert roles == {(0, 2), (0, 3), (1, 1), (1, 2)}
    und = EmojiStories(sprites=sprites, kind="und", size=16)[0]
    assert (und.kind, und.targets) == ("und", ())
    never = EmojiStories(sprites=sprites, size=16, shown_share=0.0)
    assert not any(never[i].images for i in range(20))


@pytest.mark.parametrize("options", FORMS)
def test_stories_are_encoded(options: dict[str, Any], sprites: Sprites) -> None:
    processor = load("tiny").processor
    source = EmojiStories(sprites=sprites, size=32, **options)
    for index in range(5):
        sample = source[index]
        encoded = encode_sample(sample, processor, max_length=2048)
        assert len(encoded.gen_starts) == len(sample.targets)
        assert len(encoded.images) == len(sample.images)


def test_bad_options(sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="stories without drawings are documents"):
        EmojiStories(sprites=sprites, kind="und", form="chat")
    with pytest.raises(ValueError, match="most_pictures <= 4, got 1 and 3"):
        EmojiStories(sprites=sprites, least_pictures=1)
    with pytest.raises(ValueError, match="shown_share must be from 0 to 1"):
        EmojiStories(sprites=sprites, shown_share=2.0)
    with pytest.raises(ValueError, match="kind must be gen or und"):
        EmojiStories(sprites=sprites, kind="text")  # pyright: ignore[reportArgumentType]
    assert "emoji-stories" in source_names()
