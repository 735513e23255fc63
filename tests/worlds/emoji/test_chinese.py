from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openjanus.data.samples import IMAGE_MARK
from openjanus.data.sources import build_source, source_names
from openjanus.pipeline.load import load
from openjanus.train.config import JanusTrainConfig
from openjanus.train.recipes import load_recipe, read_recipe, recipe_names
from openjanus.train.text_tokenizer_config import TokenizerTrainConfig
from openjanus.worlds.emoji import chinese
from openjanus.worlds.emoji.captions import phrase, things_of
from openjanus.worlds.emoji.cells import Cell
from openjanus.worlds.emoji.chinese import (
    COLOUR_NAMES,
    NAMES,
    OWN_NAMES,
    both_captions,
    chinese_phrase,
    chinese_prompt,
    chinese_questions,
    fetch_chinese,
)
from openjanus.worlds.emoji.chinese_source import EmojiChinese
from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS
from openjanus.worlds.emoji.sampling import touches_held_out
from openjanus.worlds.emoji.scenes import Scene, SceneObject
from openjanus.worlds.emoji.sprites import Sprites

HAN = re.compile(r"[\u4e00-\u9fff]")
DOG = SceneObject(concept="dog", vendor="first", colour="red", box=(0.1, 0.4, 0.3, 0.6))
CAR = SceneObject(concept="car", vendor="first", colour="blue", box=(0.7, 0.4, 0.9, 0.6))
PAIR = Scene(objects=(DOG, CAR), background=(0, 0, 0), tag="color_attr")


def test_every_concept_has_a_name_of_its_own() -> None:
    assert list(NAMES) == list(CONCEPTS)
    assert len({known.name for known in NAMES.values()}) == len(NAMES)
    assert list(COLOUR_NAMES) == list(COLOURS)
    assert all(HAN.match(known.name) and len(known.measure) == 1 for known in NAMES.values())


def test_phrases_and_prompts() -> None:
    assert chinese_phrase("cat") == "一只猫"
    assert chinese_phrase("book", count=2, colour="red") == "两本红色的书"
    cell = Cell(tag="position", name="", concepts=("dog", "car"), relation="left of")
    assert chinese_prompt(cell) == "一张照片：一只狗在一辆汽车的左边"
    cell = Cell(tag="color_attr", name="", concepts=("dog", "car"), colours=("red", "blue"))
    assert chinese_prompt(cell) == "一张照片：一只红色的狗和一辆蓝色的汽车"


def test_questions_have_true_answers() -> None:
    asked = {
        pair
        for seed in range(300)
        for pair in chinese_questions(PAIR, np.random.default_rng(seed), 6)
    }
    answers: dict[str, set[str]] = {}
    for question, answer in asked:
        answers.setdefault(question, set()).add(answer)
    assert all(len(found) == 1 for found in answers.values())
    assert answers["狗是什么颜色？"] == {"红色"}
    assert answers["狗在汽车的哪一边？"] == {"左边"}
    assert answers["汽车的左边是什么？"] == {"狗"}
    assert answers["有几辆汽车？"] == {"一辆"}
    assert answers["图里有狗吗？"] == {"有"}
    absent = {question for question, found in answers.items() if found == {"没有"}}
    assert len(absent) > 10
    assert not absent & {"图里有狗吗？", "你看到狗了吗？", "图里有汽车吗？", "你看到汽车了吗？"}


def test_both_languages_tell_the_same(sprites: Sprites) -> None:
    source = EmojiChinese(sprites=sprites, kind="text", seed=1)
    for index in range(300):
        scene = source.scene(index)
        english, told = both_captions(scene, np.random.default_rng(index))
        for things in things_of(scene):
            count = {"count": things.count, "colour": things.colour}
            assert phrase(things.concept, **count) in english
            assert chinese_phrase(things.concept, **count) in told


@pytest.mark.parametrize(
    "options", [{"kind": "text"}, {"kind": "und"}, {"kind": "und", "form": "plain"}]
)
def test_samples_are_deterministic_seen_and_never_drawn(
    options: dict[str, Any], sprites: Sprites
) -> None:
    first, again = (EmojiChinese(sprites=sprites, seed=3, size=16, **options) for _ in range(2))
    for index in reversed(range(150)):
        sample = first[index]
        assert sample.turns == again[index].turns
        assert (sample.kind, sample.target, sample.targets) == (options["kind"], None, ())
        assert HAN.search("".join(turn.text for turn in sample.turns))
        assert len(sample.images) == (options["kind"] == "und")
    assert not any(touches_held_out(first.scene(index)) for index in range(1500))


def test_nothing_is_drawn_from_chinese(sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="nothing is drawn from Chinese in training"):
        EmojiChinese(sprites=sprites, kind="gen")  # pyright: ignore[reportArgumentType]
    for name in recipe_names():
        if read_recipe(name)["kind"] != "all":
            config = load_recipe(name, ["--run.dir", "somewhere"])
            if isinstance(config, JanusTrainConfig):
                assert not any("chinese" in source.type for source in config.sources.gen), name


@pytest.mark.parametrize("name", ["emoji", "emoji-everyday", "emoji-stories"])
def test_no_source_that_draws_has_a_chinese_word(name: str) -> None:
    source = build_source(name, {"kind": "gen", "size": 16})
    for index in range(60):
        assert not HAN.search("".join(turn.text for turn in source[index].turns))


def test_told_scenes_are_asked_only_what_they_tell(sprites: Sprites) -> None:
    source = EmojiChinese(sprites=sprites, kind="text", parts={"told": 1}, tags={"two_object": 1})
    asked = 0
    for index in range(400):
        question, _, answer = " ".join(turn.text for turn in source.turns(index)).partition("。")
        if any(place in answer for place in ("左边", "右边", "上面", "下面")):
            asked += 1
            assert "在" in question
    assert asked > 5


def test_bad_options(sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="parts belong to kind text"):
        EmojiChinese(sprites=sprites, kind="und", parts={"names": 1})
    with pytest.raises(ValueError, match="parts must weigh some of names, captions, told"):
        EmojiChinese(sprites=sprites, kind="text", parts={"poems": 1})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="branched belongs to kind und"):
        EmojiChinese(sprites=sprites, kind="text", branched=True)
    with pytest.raises(ValueError, match="most_questions <= 8, got 1 and 9"):
        EmojiChinese(sprites=sprites, kind="und", most_questions=9)
    assert "emoji-chinese" in source_names()
    sample = EmojiChinese(sprites=sprites, kind="und", size=16, branched=True)[0]
    assert sample.branched
    assert sample.turns[0].text.startswith(IMAGE_MARK)


def pack(folder: Path, change: dict[str, str] | None = None) -> Path:
    """A package with the names that we use, and others for what we name ourselves."""
    emoji = [
        {
            "hexcode": concept.code_point.upper(),
            "label": "别的" if name in OWN_NAMES else (change or {}).get(name, NAMES[name].name),
        }
        for name, concept in CONCEPTS.items()
    ]
    data = json.dumps(emoji).encode()
    path = folder / "names.tgz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("package/zh/data.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return path


def test_names_are_checked_against_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(chinese, "npm_pack", lambda *pinned: pack(tmp_path))
    lines: list[str] = []
    folder = fetch_chinese(tmp_path / "world", progress=lines.append)
    assert lines == ["fetching emojibase-data 17.0.0", "60 of 66 names are emojibase's"]
    record = json.loads((folder / "chinese.json").read_text(encoding="utf-8"))
    assert record["names"]["cat"] == {"name": "猫", "emojibase": ["猫"]}
    monkeypatch.setattr(chinese, "npm_pack", None)  # not asked for again
    assert fetch_chinese(folder) == folder
    monkeypatch.setattr(chinese, "npm_pack", lambda *pinned: pack(tmp_path, {"cat": "狮子"}))
    with pytest.raises(ValueError, match=r"name of 'cat' must be one of emojibase's, \['狮子'\]"):
        fetch_chinese(tmp_path / "other")


def test_the_first_tokenizer_can_write_chinese() -> None:
    """It is byte-level: nothing is lost, though no merge was learnt for it."""
    tokenizer = load("nano-v0").processor.tokenizer
    for known in NAMES.values():
        assert tokenizer.decode(tokenizer.encode(known.name)) == known.name


def test_the_tokenizer_of_the_next_nano_reads_chinese() -> None:
    config = load_recipe("nano-v1/tokenizer", ["--run.dir", "somewhere"])
    assert isinstance(config, TokenizerTrainConfig)
    kinds = [s.options["kind"] for s in config.sources if s.type == "emoji-chinese"]
    assert kinds == ["text", "und"]
