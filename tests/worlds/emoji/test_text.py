from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openjanus.worlds.emoji.cells import is_held_out, pair_cell
from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS, NUMBER_WORDS
from openjanus.worlds.emoji.sampling import Split, sample_scene
from openjanus.worlds.emoji.scenes import TAGS
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.text import (
    EmojiText,
    Part,
    Prose,
    load_prose,
    meets_held_out,
    told_question,
    world_question,
)
from openjanus.worlds.emoji.vocabulary import world

NOUNS = {c.name: c.name for c in CONCEPTS.values()} | {c.plural: c.name for c in CONCEPTS.values()}
NAMED = re.compile(
    rf"(?:a|an|of|{'|'.join(NUMBER_WORDS)})(?: (?:{'|'.join(COLOURS)}))? "
    rf"({'|'.join(sorted(NOUNS, key=len, reverse=True))})\b"
)
PROSE = Prose(glosses=("river: a large stream",), dialogues=(("Hello", "Hi"),))


def concepts_in(text: str) -> list[str]:
    """Concepts of the noun phrases of a text; "an orange car" is no orange."""
    return [NOUNS[noun] for noun in NAMED.findall(text)]


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("a glass for green wine", False),
        ("a wine glass that is green", True),  # colour/wine glass/green
        ("Green wine glasses", True),
        ("apple: fruit with red skin", False),  # colour/apple/red is seen
        ("the cat chased the dog", True),  # pair/cat/dog
        ("the car passed the dog", False),  # pair/car/dog is seen
        ("the car stood left of the dog", True),  # two things and a spatial word
        ("two potted plants", True),  # count/potted plant/2
        ("two dogs", False),
        ("the category of dogmas", False),  # parts of words
        ("left of two greens", False),
        ("", False),
    ],
)
def test_prose_that_meets_a_held_out_cell(text: str, met: bool) -> None:
    assert meets_held_out(text) is met


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("six {}s", "count/penguin/6"),
        ("a red {}", "colour/penguin/red"),
        ("a {} and a dog", "pair/dog/penguin"),
        ("a {} eats a key", "pair/key/penguin"),
    ],
)
def test_prose_of_the_wide_world_meets_its_cells(text: str, cell: str) -> None:
    assert meets_held_out(text.format("penguin"), "wide") is is_held_out(cell)
    assert meets_held_out(text.format("penguin")) is False  # no thing of the first world


def test_text_of_the_wide_world_keeps_to_it(wide_sprites: Sprites, tmp_path: Path) -> None:
    source = EmojiText(sprites=wide_sprites, world="wide", parts={"captions": 1.0, "told": 1.0})
    assert source.key(0) == "emoji-text-wide/train/0/0"
    said = " ".join(turn.text for i in range(60) for turn in source[i].turns)
    assert any(f" {concept} " in said for concept in set(world("wide").concepts) - set(CONCEPTS))
    write_prose(tmp_path)
    names = [name for name in world("wide").concepts if name not in CONCEPTS]
    met = [f"{a}: a {b}" for a in names[:20] for b in names[20:40]]
    (tmp_path / "glosses.jsonl").write_text("".join(json.dumps(x) + "\n" for x in met))
    kept = load_prose(tmp_path, name="wide").glosses
    assert 0 < len(kept) < len(load_prose(tmp_path).glosses)


def write_prose(folder: Path, version: int = 1) -> None:
    (folder / "text.json").write_text(json.dumps({"format_version": version}))
    glosses = ["tree: a tall plant", "chase: as a cat does a dog"]
    dialogues = [["Hello", "Hi"], ["Do you like my cat?", "I have a dog."]]
    for name, lines in (("glosses", glosses), ("dialogues", dialogues)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def test_loaded_prose_leaves_out_what_is_held_out(tmp_path: Path) -> None:
    write_prose(tmp_path)
    prose = load_prose(tmp_path)
    assert prose == Prose(glosses=("tree: a tall plant",), dialogues=(("Hello", "Hi"),))
    assert load_prose(tmp_path, split="held_out") == Prose(glosses=(), dialogues=())


def test_a_fiftieth_of_prose_is_held_out(tmp_path: Path) -> None:
    write_prose(tmp_path)
    glosses = [f"word{i}: a word" for i in range(2000)]
    dialogues = [[f"Hello {i}", "Hi"] for i in range(2000)]
    for name, lines in (("glosses", glosses), ("dialogues", dialogues)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    seen, kept = load_prose(tmp_path), load_prose(tmp_path, split="held_out")
    assert sorted([*seen.glosses, *kept.glosses]) == sorted(glosses)
    assert sorted([*seen.dialogues, *kept.dialogues]) == sorted(map(tuple, dialogues))
    for pieces in (kept.glosses, kept.dialogues):
        assert 20 <= len(pieces) <= 65


def test_loading_prose_teaches(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data fetch emoji"):
        load_prose(tmp_path)
    write_prose(tmp_path, version=99)
    with pytest.raises(ValueError, match=r"format_version 99.*upgrade openjanus"):
        load_prose(tmp_path)


def test_told_questions_follow_from_the_words_and_touch_nothing_held_out(
    sprites: Sprites,
) -> None:
    rng = np.random.default_rng(0)
    answers = set()
    for i in range(2000):
        told = told_question(sample_scene(rng, TAGS[i % len(TAGS)], sprites), rng)
        if told is None:
            continue
        text, answer = told
        words, _, question = text.partition(". ")
        answers.add(answer)
        if answer in COLOURS:
            assert answer in words
        elif answer in CONCEPTS:
            relation = re.search(r"(left of|right of|above|below)", question)
            assert relation is not None
            assert answer in words
        elif answer == "no":
            (asked,) = concepts_in(question)
            assert not any(is_held_out(pair_cell(asked, name)) for name in concepts_in(words))
    assert {"yes", "no", "one", "two", "three", "four", "left", "above"} <= answers
    assert set(COLOURS) <= answers


def test_exams_of_told_questions_ask_of_scenes_alone(sprites: Sprites) -> None:
    splits: tuple[tuple[Split, bool], ...] = (("held_out", True), ("train", False))
    for split, all_told in splits:
        source = EmojiText(sprites=sprites, split=split, parts={"told": 1.0})
        words = [source[i].turns[0].text for i in range(200)]
        assert all(text.startswith("A picture shows") for text in words) == all_told


def test_world_questions_are_right() -> None:
    rng = np.random.default_rng(0)
    exchanges = {world_question(rng) for _ in range(6000)}
    answers: dict[str, set[str]] = {}
    for text, answer in exchanges:
        answers.setdefault(text, set()).add(answer)
    assert answers["What is the opposite of left of?"] == {"right of"}
    assert answers["Which number comes after three?"] == {"four"}
    assert answers["Is a dog an animal?"] == {"yes"}
    assert answers["Are skis an animal?"] == {"no"}
    assert answers["Is orange a colour or a thing?"] == {"both"}
    assert "giraffe" in answers["Name an animal."]
    assert "car" not in answers["Name an animal."]
    several = {text for text, told in answers.items() if len(told) > 1}
    assert all(text.startswith("Name ") for text in several)


def test_text_is_a_function_of_seed_and_index(sprites: Sprites) -> None:
    def texts(seed: int, indices: range) -> list[str]:
        source = EmojiText(sprites=sprites, seed=seed, prose=PROSE, length=100)
        return [" / ".join(turn.text for turn in source[i].turns) for i in indices]

    assert texts(0, range(100)) == texts(0, range(99, -1, -1))[::-1]
    assert texts(0, range(100)) != texts(1, range(100))


@pytest.mark.parametrize(
    ("part", "form"),
    [
        ("captions", "plain"),
        ("glosses", "plain"),
        ("told", "chat"),
        ("words", "chat"),
        ("dialogues", "chat"),
    ],
)
def test_each_part_has_its_form(part: Part, form: str, sprites: Sprites) -> None:
    source = EmojiText(sprites=sprites, prose=PROSE, parts={part: 1.0}, length=20)
    samples = [source[i] for i in range(len(source))]
    assert len(samples) == 20
    for sample in samples:
        assert (sample.kind, sample.form, sample.images) == ("text", form, ())
        roles = ["assistant"] if form == "plain" else ["user", "assistant"]
        assert [turn.role for turn in sample.turns] == roles


def test_prose_is_said_word_for_word(sprites: Sprites) -> None:
    (reply,) = EmojiText(sprites=sprites, prose=PROSE, parts={"dialogues": 1.0})[0].turns[1:]
    assert reply.text == "Hi"
    (gloss,) = EmojiText(sprites=sprites, prose=PROSE, parts={"glosses": 1.0})[0].turns
    assert gloss.text == "river: a large stream"


def test_parts_are_checked_and_prose_is_read_only_where_needed(
    sprites: Sprites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENJANUS_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="data fetch emoji"):
        EmojiText(sprites=sprites)
    assert len(EmojiText(sprites=sprites, parts={"captions": 1.0, "glosses": 0.0})) == 1_000_000
    unknown: Any = {"poems": 1.0}
    with pytest.raises(ValueError, match="parts must weigh some of captions, told"):
        EmojiText(sprites=sprites, parts=unknown)
    with pytest.raises(ValueError, match="one > 0"):
        EmojiText(sprites=sprites, parts={"captions": 0.0})
