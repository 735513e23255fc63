"""The world in Chinese: names, noun phrases, captions, and questions with their answers.

Names are those of emojibase's Chinese data, a label or a tag of the very emoji, but for a few where
the emoji is called by more than the thing ("opening champagne" for a bottle). They are for words
and for understanding alone: nothing that is drawn in training is ever asked for in Chinese.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from openjanus.pinned import npm_pack
from openjanus.worlds.emoji.absence import absent_things, doubtful_things
from openjanus.worlds.emoji.captions import (
    Things,
    clear_relations,
    enumerate_phrases,
    phrase,
    things_of,
)
from openjanus.worlds.emoji.cells import Cell
from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS
from openjanus.worlds.emoji.draws import pick
from openjanus.worlds.emoji.fetch import FORMAT_VERSION, Progress, default_folder, holds, tell
from openjanus.worlds.emoji.packages import EMOJIBASE
from openjanus.worlds.emoji.scenes import Scene, SceneObject, relations


@dataclass(frozen=True, kw_only=True, slots=True)
class ChineseName:
    """How a concept is called and counted."""

    name: str
    measure: str
    """The measure word between a number and the name."""


_NAMES: Final = {
    "person": "人 个",
    "bicycle": "自行车 辆",
    "car": "汽车 辆",
    "motorcycle": "摩托车 辆",
    "airplane": "飞机 架",
    "bus": "公交车 辆",
    "train": "火车 列",
    "truck": "卡车 辆",
    "boat": "船 艘",
    "traffic light": "红绿灯 个",
    "stop sign": "停止标志 个",
    "bird": "鸟 只",
    "cat": "猫 只",
    "dog": "狗 只",
    "horse": "马 匹",
    "sheep": "羊 只",
    "cow": "牛 头",
    "elephant": "大象 头",
    "bear": "熊 只",
    "zebra": "斑马 匹",
    "giraffe": "长颈鹿 只",
    "backpack": "书包 个",
    "umbrella": "雨伞 把",
    "handbag": "手提包 个",
    "tie": "领带 条",
    "suitcase": "行李箱 个",
    "frisbee": "飞盘 个",
    "skis": "滑雪板 副",
    "snowboard": "单板 块",
    "sports ball": "球 个",
    "kite": "风筝 只",
    "skateboard": "滑板 块",
    "surfboard": "冲浪板 块",
    "tennis racket": "球拍 只",
    "bottle": "瓶子 个",
    "wine glass": "酒杯 个",
    "cup": "杯子 个",
    "knife": "刀 把",
    "spoon": "勺子 把",
    "bowl": "碗 个",
    "banana": "香蕉 根",
    "apple": "苹果 个",
    "sandwich": "三明治 个",
    "orange": "橘子 个",
    "broccoli": "西兰花 棵",
    "carrot": "胡萝卜 根",
    "hot dog": "热狗 个",
    "pizza": "披萨 块",
    "donut": "甜甜圈 个",
    "cake": "蛋糕 个",
    "chair": "椅子 把",
    "couch": "沙发 张",
    "potted plant": "盆栽 盆",
    "bed": "床 张",
    "toilet": "马桶 个",
    "tv": "电视机 台",
    "laptop": "笔记本电脑 台",
    "computer mouse": "鼠标 个",
    "computer keyboard": "键盘 个",
    "cell phone": "手机 部",
    "book": "书 本",
    "clock": "钟 个",
    "vase": "花瓶 个",
    "scissors": "剪刀 把",
    "teddy bear": "泰迪熊 只",
    "toothbrush": "牙刷 把",
}

NAMES: Final = MappingProxyType(
    {
        concept: ChineseName(name=told.split()[0], measure=told.split()[1])
        for concept, told in _NAMES.items()
    }
)

OWN_NAMES: Final = ("person", "skis", "surfboard", "cup", "bowl", "vase")
"""Those that emojibase does not have: its emoji is called by another thing, or by more."""

COLOUR_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    dict(
        zip(
            COLOURS,
            ["红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "粉色", "棕色", "黑色", "白色"],
            strict=True,
        )
    )
)
NUMBERS: Final = ("零", "一", "两", "三", "四")
"""Before a measure word, where two is 两."""
SIDES: Final = MappingProxyType(
    {"left of": "左边", "right of": "右边", "above": "上面", "below": "下面"}
)

FRAMES: Final = ("{}", "一张照片：{}", "一幅画：{}", "图里有{}", "图片里是{}")
PROMPT: Final = "一张照片：{}"
"""As GenEval's "a photo of"."""

EXISTS: Final = ("图里有{}吗？", "你看到{}了吗？", "图片里有没有{}？")
HOW_MANY: Final = ("有几{measure}{name}？", "图里有几{measure}{name}？", "数一数{name}。")
COLOUR_OF: Final = ("{}是什么颜色？", "图里的{}是什么颜色的？")
WHERE: Final = ("{}在{}的哪一边？", "从{1}看，{0}在哪边？")
WHAT_THERE: Final = ("{}的{}是什么？", "什么东西在{}的{}？")
NAMING: Final = ("这是什么？", "图里是什么？", "这叫什么？")
DESCRIBE: Final = ("描述一下这张图。", "图里有什么？", "你看到了什么？", "说说这张图片。")

Asked = tuple[str, str]
"""A question and its one right answer."""


def chinese_phrase(concept: str, *, count: int = 1, colour: str | None = None) -> str:
    """Noun phrase of some things: 一只猫, 三辆红色的汽车."""
    known = NAMES[concept]
    tint = "" if colour is None else f"{COLOUR_NAMES[colour]}的"
    return f"{NUMBERS[count]}{known.measure}{tint}{known.name}"


def chinese_prompt(cell: Cell) -> str:
    """The Chinese counterpart of `captions.prompt_for_cell`."""
    colours = cell.colours if cell.colours else (None,) * len(cell.concepts)
    phrases = [
        chinese_phrase(concept, count=cell.count, colour=colour)
        for concept, colour in zip(cell.concepts, colours, strict=True)
    ]
    if cell.relation is not None:
        return PROMPT.format(_placed(phrases[0], cell.relation, phrases[1]))
    return PROMPT.format("和".join(phrases))


def both_captions(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A scene told in plain English and in Chinese: the same things in the same order."""
    told = clear_relations(scene)
    if len(scene.objects) == 2 and told and (scene.tag == "position" or rng.random() < 0.4):
        a, relation, b = pick(rng, told)
        english = [phrase(x.concept, colour=x.colour) for x in (a, b)]
        return f" {relation} ".join(english), _placed(_one(a), relation, _one(b))
    shown = things_of(scene)
    shown = tuple(shown[i] for i in rng.permutation(len(shown)))
    english = [phrase(x.concept, count=x.count, colour=x.colour) for x in shown]
    return enumerate_phrases(english), _listed([_things(x) for x in shown])


def chinese_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A scene told in Chinese, in one of several frames."""
    return pick(rng, FRAMES).format(both_captions(scene, rng)[1])


def chinese_questions(scene: Scene, rng: np.random.Generator, wanted: int) -> list[Asked]:
    """Questions about a scene with their answers, none twice; fewer where it has no more."""
    makers = (_exists, _how_many, _colour, _where, _what_there, _naming)
    asked: dict[str, Asked] = {}
    for _ in range(12 * wanted):
        if len(asked) == wanted:
            break
        maker = pick(rng, makers)
        made = maker(scene, rng)
        if made is not None:
            asked.setdefault("naming" if maker is _naming else made[0], made)
    if not asked:
        return [(pick(rng, DESCRIBE), chinese_caption(scene, rng))]
    return list(asked.values())


def fetch_chinese(folder: str | Path | None = None, *, progress: Progress | None = None) -> Path:
    """Fetch emojibase's Chinese names, and check that ours are among them.

    Writes `chinese.json`: of each concept our name, and the label and the tags of its emoji.

    Args:
        folder: Where to write; `default_folder()` when None.
        progress: Told each step.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: npm is not installed.
        RuntimeError: npm failed.
        ValueError: The package is not the pinned one, or does not have a name that is not ours.
    """
    folder = default_folder() if folder is None else Path(folder)
    record_path = folder / "chinese.json"
    if holds(record_path, "source", EMOJIBASE):
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        tell(progress, f"fetching {EMOJIBASE['package']} {EMOJIBASE['version']}")
        tarball = npm_pack(
            EMOJIBASE["package"], EMOJIBASE["version"], EMOJIBASE["sha256"], Path(scratch)
        )
        with tarfile.open(tarball) as archive:
            member = archive.extractfile("package/zh/data.json")
            assert member is not None, f"a regular file of {tarball.name}"
            labels = _read_labels(json.load(member))
    names = {name: _with_origin(name, labels) for name in CONCEPTS}
    folder.mkdir(parents=True, exist_ok=True)
    record = {"format_version": FORMAT_VERSION, "source": EMOJIBASE, "names": names}
    text = json.dumps(record, indent=1, ensure_ascii=False)
    record_path.write_text(f"{text}\n", encoding="utf-8")
    tell(progress, f"{len(names) - len(OWN_NAMES)} of {len(names)} names are emojibase's")
    return folder


def _read_labels(data: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Label and tags by code point, lower-case and without variation selector."""
    return {
        emoji["hexcode"].lower().removesuffix("-fe0f"): [emoji["label"], *emoji.get("tags", ())]
        for emoji in data
    }


def _with_origin(concept: str, labels: dict[str, list[str]]) -> dict[str, Any]:
    found = labels[CONCEPTS[concept].code_point]
    name = NAMES[concept].name
    if (name in found) == (concept in OWN_NAMES):
        raise ValueError(
            f"the Chinese name of {concept!r} must be one of emojibase's, {found}, or one of our "
            f"own, {OWN_NAMES}, and not both: got {name!r}"
        )
    return {"name": name, "emojibase": found}


def _things(things: Things) -> str:
    return chinese_phrase(things.concept, count=things.count, colour=things.colour)


def _one(thing: SceneObject) -> str:
    return chinese_phrase(thing.concept, colour=thing.colour)


def _placed(a: str, relation: str, b: str) -> str:
    return f"{a}在{b}的{SIDES[relation]}"


def _listed(phrases: Sequence[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return f"{'、'.join(phrases[:-1])}和{phrases[-1]}"


def _exists(scene: Scene, rng: np.random.Generator) -> Asked | None:
    present = {thing.concept: None for thing in scene.objects}
    there = rng.random() < 0.5
    sure = [name for name in present if name not in doubtful_things(present)]
    names = sure if there else absent_things(present)
    if not names:
        return None
    return pick(rng, EXISTS).format(NAMES[pick(rng, names)].name), "有" if there else "没有"


def _how_many(scene: Scene, rng: np.random.Generator) -> Asked | None:
    shown = things_of(scene)
    doubtful = doubtful_things({things.concept for things in shown})
    things = pick(rng, shown)
    if things.concept in doubtful or (things.count == 1 and rng.random() < 0.6):
        return None
    known = NAMES[things.concept]
    words = pick(rng, HOW_MANY).format(measure=known.measure, name=known.name)
    return words, f"{NUMBERS[things.count]}{known.measure}"


def _colour(scene: Scene, rng: np.random.Generator) -> Asked | None:
    things = pick(rng, things_of(scene))
    if things.colour is None:
        return None
    return pick(rng, COLOUR_OF).format(NAMES[things.concept].name), COLOUR_NAMES[things.colour]


def _where(scene: Scene, rng: np.random.Generator) -> Asked | None:
    told = clear_relations(scene)
    if not told:
        return None
    a, relation, b = pick(rng, told)
    words = pick(rng, WHERE).format(NAMES[a.concept].name, NAMES[b.concept].name)
    return words, SIDES[relation]


def _what_there(scene: Scene, rng: np.random.Generator) -> Asked | None:
    told = clear_relations(scene)
    if not told:
        return None
    a, relation, b = pick(rng, told)
    if any(x not in (a, b) and relation in relations(x.box, b.box) for x in scene.objects):
        return None
    words = pick(rng, WHAT_THERE).format(NAMES[b.concept].name, SIDES[relation])
    return words, NAMES[a.concept].name


def _naming(scene: Scene, rng: np.random.Generator) -> Asked | None:
    if len({thing.concept for thing in scene.objects}) > 1:
        return None
    return pick(rng, NAMING), NAMES[scene.objects[0].concept].name
