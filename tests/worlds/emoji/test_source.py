from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from openjanus.data.encoding import first_sentence
from openjanus.data.samples import IMAGE_MARK
from openjanus.worlds.emoji.captions import phrase, things_of
from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS
from openjanus.worlds.emoji.questions import DESCRIBE
from openjanus.worlds.emoji.sampling import touches_held_out
from openjanus.worlds.emoji.scenes import TAGS
from openjanus.worlds.emoji.source import EmojiPairs, EmojiPictures, EmojiRegions, EmojiScenes
from openjanus.worlds.emoji.sprites import Sprites

Kind = Literal["und", "gen"]
Form = Literal["chat", "plain"]


@pytest.mark.parametrize("kind", ["und", "gen"])
@pytest.mark.parametrize("form", ["chat", "plain"])
def test_a_sample_is_a_function_of_seed_and_index(kind: Kind, form: Form, sprites: Sprites) -> None:
    first = EmojiScenes(kind=kind, form=form, sprites=sprites, seed=3, size=48)
    again = EmojiScenes(kind=kind, form=form, sprites=sprites, seed=3, size=48)
    other = EmojiScenes(kind=kind, form=form, sprites=sprites, seed=4, size=48)
    samples = [first[i] for i in range(30)]
    for i in reversed(range(30)):
        sample = again[i]
        assert (sample.key, sample.turns) == (samples[i].key, samples[i].turns)
        np.testing.assert_array_equal(sample.images, samples[i].images)
        np.testing.assert_array_equal(sample.target, samples[i].target)
    assert len({sample.key for sample in samples}) == 30
    assert [other[i].turns for i in range(30)] != [sample.turns for sample in samples]


def test_understanding_and_drawing_share_their_scenes(sprites: Sprites) -> None:
    und = EmojiScenes(kind="und", sprites=sprites, seed=1, size=32)
    gen = EmojiScenes(kind="gen", sprites=sprites, seed=1, size=32)
    pictures = EmojiPictures(sprites=sprites, seed=1, size=32)
    for i in range(20):
        np.testing.assert_array_equal(und[i].images[0], gen[i].target)
        np.testing.assert_array_equal(und[i].images[0], pictures[i])


def test_drawing_asks_with_a_caption(sprites: Sprites) -> None:
    source = EmojiScenes(kind="gen", sprites=sprites, size=32)
    for i in range(50):
        sample = source[i]
        assert sample.images == ()
        assert sample.target is not None
        assert sample.target.shape == (32, 32, 3)
        assert [turn.role for turn in sample.turns] == ["user"]
        for x in things_of(source.scene(i)):
            assert phrase(x.concept, count=x.count, colour=x.colour) in sample.turns[0].text


def test_stage_one_draws_single_things_from_their_names(sprites: Sprites) -> None:
    source = EmojiScenes(kind="gen", form="plain", sprites=sprites, size=32)
    for i in range(50):
        (turn,) = source[i].turns
        assert turn.text in CONCEPTS
        assert [x.concept for x in source.scene(i).objects] == [turn.text]
        assert (source[i].form, turn.role) == ("plain", "assistant")
    with pytest.raises(ValueError, match="tags must be single_object"):
        EmojiScenes(kind="gen", form="plain", sprites=sprites, tags={"counting": 1.0})


def test_stage_one_captions_follow_their_picture(sprites: Sprites) -> None:
    sample = EmojiScenes(kind="und", form="plain", sprites=sprites, size=32)[0]
    (turn,) = sample.turns
    assert turn.text.startswith(IMAGE_MARK)
    assert len(turn.text) > len(IMAGE_MARK)
    assert (sample.form, turn.role, len(sample.images)) == ("plain", "assistant", 1)


def test_understanding_asks_one_to_six_questions_about_one_picture(sprites: Sprites) -> None:
    source = EmojiScenes(kind="und", sprites=sprites, size=32)
    lengths = set()
    for i in range(200):
        turns = source[i].turns
        lengths.add(len(turns))
        assert [turn.role for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert turns[0].text.startswith(f"{IMAGE_MARK}\n")
        asked = [turn.text.removeprefix(f"{IMAGE_MARK}\n") for turn in turns[::2]]
        assert len(set(asked)) == len(asked)
        assert all(turn.text for turn in turns)
    assert lengths == {2, 4, 6, 8, 10, 12}


def test_as_many_questions_as_wanted(sprites: Sprites) -> None:
    source = EmojiScenes(kind="und", sprites=sprites, size=32, least_questions=8, most_questions=10)
    lengths = {len(source[i].turns) for i in range(100)}
    assert lengths == {2, 16, 18, 20}  # a caption, or questions
    for least, most in ((0, 3), (4, 3), (3, 17)):
        with pytest.raises(ValueError, match=f"most_questions <= 16, got {least} and {most}"):
            EmojiScenes(kind="und", sprites=sprites, least_questions=least, most_questions=most)


def test_pairs_are_pictures_with_captions(sprites: Sprites) -> None:
    source = EmojiPairs(sprites=sprites, size=40, length=5)
    pairs = [source[i] for i in range(len(source))]
    assert len(pairs) == len(source) == 5
    for i, (picture, words) in enumerate(pairs):
        np.testing.assert_array_equal(picture, source.picture(i))
        for x in things_of(source.scene(i)):
            assert phrase(x.concept, count=x.count, colour=x.colour) in words


def test_regions_are_things_with_their_names_and_colours(sprites: Sprites) -> None:
    source = EmojiRegions(sprites=sprites, size=40, length=40, tags={"free": 1.0, "colors": 1.0})
    tinted = set()
    for i in range(len(source)):
        picture, regions = source[i]
        np.testing.assert_array_equal(picture, source.picture(i))
        for region, thing in zip(regions, source.scene(i).objects, strict=True):
            assert region.box == thing.box
            assert region.captions[0] == thing.concept
            assert region.captions[1:] == (
                () if thing.colour is None else (f"{thing.colour} thing",)
            )
            tinted.add(thing.colour is not None)
    assert tinted == {True, False}
    with pytest.raises(IndexError, match="below the length 40"):
        source[40]


def test_only_the_kinds_that_are_named_are_asked(sprites: Sprites) -> None:
    source = EmojiScenes(
        kind="und",
        sprites=sprites,
        size=32,
        length=40,
        asks=["by_colour", "relation"],
        tags={"color_attr": 1.0, "single_object": 1.0},
        least_questions=6,
    )
    for i in range(len(source)):
        asked = [turn.text.removeprefix(f"{IMAGE_MARK}\n") for turn in source[i].turns[::2]]
        if source.scene(i).tag == "single_object":
            # Nothing of these kinds can be asked: a caption is.
            assert len(asked) == 1
            assert asked[0] in DESCRIBE
        else:
            assert len(asked) == len(set(asked)) == 6
            assert all(re.search(r"\bthing\b|left of|right of|above|below", text) for text in asked)
    for wrong in ([], ["colors"]):
        with pytest.raises(ValueError, match="asks must be some of existence"):
            EmojiScenes(kind="und", sprites=sprites, asks=wrong)


def test_pictures_go_on_past_the_length(sprites: Sprites) -> None:
    source = EmojiPictures(sprites=sprites, size=32, length=3)
    assert source.picture(1 << 40).shape == (32, 32, 3)
    assert source.key(1 << 40) == f"emoji-pictures/train/0/{1 << 40}"
    np.testing.assert_array_equal(source[-1], source[2])
    with pytest.raises(IndexError, match="below the length 3, got 3"):
        source[3]


def test_dense_pictures_are_crops_with_more_drawing(sprites: Sprites) -> None:
    def drawn(dense: bool) -> float:
        source = EmojiPictures(sprites=sprites, size=32, dense=dense)
        shares = []
        for i in range(100):
            picture = source.picture(i)
            assert picture.shape == (32, 32, 3)
            assert picture.base is None
            shares.append((picture != source.scene(i).background).any(axis=-1).mean())
        return float(np.mean(shares))

    assert drawn(dense=True) > 1.4 * drawn(dense=False)


def test_tags_weigh_kinds_of_scenes(sprites: Sprites) -> None:
    source = EmojiPictures(sprites=sprites, tags={"counting": 3.0, "colors": 1.0, "free": 0.0})
    tags = [source.scene(i).tag for i in range(1000)]
    assert set(tags) == {"counting", "colors"}
    assert 0.7 < tags.count("counting") / 1000 < 0.8
    even = {EmojiPictures(sprites=sprites).scene(i).tag for i in range(100)}
    assert even == set(TAGS)


def test_splits_are_kept(sprites: Sprites) -> None:
    train = EmojiPictures(sprites=sprites)
    held_out = EmojiPictures(sprites=sprites, split="held_out")
    assert not any(touches_held_out(train.scene(i)) for i in range(200))
    assert all(touches_held_out(held_out.scene(i)) for i in range(200))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": {"colours": 1.0}}, r"tags of split 'train' are single_object.*\['colours'\]"),
        ({"tags": {"colors": -1.0}}, "one > 0"),
        ({"tags": {}}, "one > 0"),
        ({"tags": {"free": 1.0}, "split": "held_out"}, r"'held_out' are two_object.*\['free'\]"),
        ({"split": "test"}, "split must be train or held_out, got 'test'"),
        ({"size": 0}, "size and length must be at least 1, got 0"),
        ({"length": 0}, "size and length must be at least 1"),
        ({"folder": "somewhere"}, "a folder or sprites, got both"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, sprites: Sprites) -> None:
    with pytest.raises(ValueError, match=message):
        EmojiPairs(sprites=sprites, **options)


def test_a_kind_of_sample_is_checked(sprites: Sprites) -> None:
    kind: Any = "text"
    with pytest.raises(ValueError, match="text alone is the source emoji-text"):
        EmojiScenes(kind=kind, sprites=sprites)


def test_what_no_exam_asks_is_asked_for_practice_alone(sprites: Sprites) -> None:
    def texts(*, practice: bool) -> str:
        source = EmojiScenes(
            kind="und", sprites=sprites, size=16, practice=practice, least_questions=6
        )
        return " ".join(turn.text for i in range(60) for turn in source[i].turns)

    practised, plain = texts(practice=True), texts(practice=False)
    for frame in ("How many things are there?", "Which thing is "):
        assert frame in practised
    assert "How many things are there?" not in plain
    assert not re.search(rf"Which thing is ({'|'.join(COLOURS)})\?", plain)


@pytest.mark.parametrize(("kind", "form"), [("gen", "chat"), ("und", "plain")])
def test_only_dialogues_about_pictures_branch(kind: Any, form: Any, sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="branched belongs to kind und in form chat"):
        EmojiScenes(kind=kind, form=form, sprites=sprites, branched=True)


def test_a_source_without_artwork_says_how_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data fetch emoji"):
        EmojiPictures(tmp_path)


def test_drawings_may_keep_to_a_grid(sprites: Sprites) -> None:
    source = EmojiScenes(kind="gen", sprites=sprites, grid=12)
    for i in range(20):
        for thing in source.scene(i).objects:
            assert 12 * thing.box[0] == pytest.approx(round(12 * thing.box[0]))
    with pytest.raises(ValueError, match="grid must be at least 8, got 7"):
        EmojiScenes(kind="gen", sprites=sprites, grid=7)
    with pytest.raises(ValueError, match="held_out keep to no grid, got 12"):
        EmojiScenes(kind="gen", sprites=sprites, grid=12, split="held_out")


def test_drawings_may_be_of_one_vendor(sprites: Sprites) -> None:
    vendor = sprites.vendors[-1]
    source = EmojiScenes(kind="gen", sprites=sprites, vendors=[vendor])
    assert {o.vendor for i in range(20) for o in source.scene(i).objects} == {vendor}
    with pytest.raises(ValueError, match=rf"some of .*{vendor}.*got \['nobody'\]"):
        EmojiScenes(kind="gen", sprites=sprites, vendors=["nobody"])
    with pytest.raises(ValueError, match="vendors must be some of"):
        EmojiScenes(kind="gen", sprites=sprites, vendors=[])


def test_drawings_may_be_told_at_length_and_cut_to_their_caption(sprites: Sprites) -> None:
    short = EmojiScenes(kind="gen", sprites=sprites, seed=3)
    long = EmojiScenes(kind="gen", sprites=sprites, seed=3, told="long")
    for index in range(20):
        words = long[index].turns[0].text
        assert first_sentence(long[index]).turns[0].text == f"{short[index].turns[0].text}."
        assert words.count(".") == 1 + len(long.scene(index).objects)
    with pytest.raises(ValueError, match="told must be short, or long for kind gen"):
        EmojiScenes(kind="und", sprites=sprites, told="long")


def test_mixed_colours_are_told_in_captions_of_drawings_alone(sprites: Sprites) -> None:
    source = EmojiScenes(kind="gen", sprites=sprites, tags={"colors": 1.0}, mixed=1.0)
    for index in range(20):
        thing = source.scene(index).objects[0]
        assert thing.colour is not None
        assert "-" in thing.colour
        assert f"{thing.colour} {thing.concept}" in source[index].turns[0].text
    with pytest.raises(ValueError, match="mixed colours are for drawings"):
        EmojiScenes(sprites=sprites, kind="und", mixed=0.5)
