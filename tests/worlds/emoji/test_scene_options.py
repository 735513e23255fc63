from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

import pytest

from openjanus.data.sources import build_source
from openjanus.worlds.emoji.charts import EmojiCharts
from openjanus.worlds.emoji.chinese_source import EmojiChinese
from openjanus.worlds.emoji.everyday import EmojiEveryday
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.scene_options import SceneKeywords, SceneOptions
from openjanus.worlds.emoji.source import EmojiPictures, EmojiScenes
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.stories import EmojiStories
from openjanus.worlds.emoji.text import EmojiText


def test_keywords_are_the_options_but_the_folder() -> None:
    options = get_type_hints(SceneOptions)
    del options["folder"]
    assert get_type_hints(SceneKeywords) == options


def test_a_source_holds_its_options(sprites: Sprites) -> None:
    source = EmojiScenes(kind="gen", sprites=sprites, seed=3, grid=12, vendors=["first"])
    known = SceneOptions(sprites=sprites, seed=3, grid=12, vendors=["first"])
    assert source.options == known
    assert source.sprites.vendors == ("first",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.options.seed = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_tags_of_none_are_all_of_the_split() -> None:
    assert SceneOptions(tags={"free": 2.0}).weights == {"free": 2.0}
    assert set(SceneOptions().weights) - set(SceneOptions(split="held_out").weights) == {
        "single_object",
        "free",
    }


LEFT_OUT: dict[str, tuple[type, dict[str, Any], set[str]]] = {
    "emoji": (EmojiScenes, {"kind": "gen"}, set()),
    "emoji-pictures": (EmojiPictures, {}, {"mixed", "one_ground"}),
    "emoji-everyday": (EmojiEveryday, {"kind": "gen"}, {"mixed", "world"}),
    "emoji-chinese": (EmojiChinese, {"kind": "und"}, {"mixed", "world", "one_ground"}),
    "emoji-text": (
        EmojiText,
        {"parts": {"captions": 1.0}},
        {"size", "vendors", "grid", "two_sizes", "slots", "mixed", "one_ground"},
    ),
    "emoji-charts": (
        EmojiCharts,
        {},
        {f.name for f in dataclasses.fields(SceneOptions)}
        - {"folder", "sprites", "seed", "size", "length"},
    ),
}
LEFT_OUT["emoji-stories"] = (EmojiStories, {}, LEFT_OUT["emoji-charts"][2])


@pytest.mark.parametrize("name", list(LEFT_OUT))
def test_a_source_refuses_options_that_it_does_not_have(name: str, sprites: Sprites) -> None:
    source, options, left_out = LEFT_OUT[name]
    for field in dataclasses.fields(SceneOptions):
        given: dict[str, Any] = options | {"sprites": sprites, field.name: field.default}
        if field.name in left_out:
            with pytest.raises(ValueError, match=f"unknown option {field.name!r}"):
                build_source(name, given)
            message = f"{source.__name__}.*unexpected keyword argument {field.name!r}"
            with pytest.raises(TypeError, match=message):
                source(**given)
        elif field.name != "sprites":
            assert source(**given).key(3) == build_source(name, given).key(3)


def test_an_unknown_keyword_is_refused(sprites: Sprites) -> None:
    nonsense: dict[str, Any] = {"sprites": sprites, "sead": 1}
    with pytest.raises(TypeError, match=r"SceneSource.*unexpected keyword argument 'sead'"):
        SceneSource(**nonsense)
