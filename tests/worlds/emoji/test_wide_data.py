"""Sources, questions and exams of the wide world."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openjanus.cli import main
from openjanus.data.id_cache import picture_stamp, source_digest
from openjanus.worlds.emoji.absence import absent_things, doubtful_things
from openjanus.worlds.emoji.captions import FRAMES, caption, phrase, things_of
from openjanus.worlds.emoji.cells import cells_of, is_held_out, pair_cell
from openjanus.worlds.emoji.fetch import save_sprites
from openjanus.worlds.emoji.questions import QUESTION_KINDS, QuestionKind, ask, exam
from openjanus.worlds.emoji.sampling import touches_held_out
from openjanus.worlds.emoji.scenes import Scene, SceneObject
from openjanus.worlds.emoji.source import EmojiPairs, EmojiPictures, EmojiRegions, EmojiScenes
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import COUNT_WORDS, world

WIDE = world("wide")


def test_samples_to_draw_say_what_they_show(wide_sprites: Sprites) -> None:
    source = EmojiScenes(kind="gen", world="wide", sprites=wide_sprites, size=32)
    again = EmojiScenes(kind="gen", world="wide", sprites=wide_sprites, size=32)
    for i in range(60):
        sample = source[i]
        assert sample.key == f"emoji-wide-gen-chat/train/0/{i}"
        np.testing.assert_array_equal(sample.target, again[i].target)
        for x in things_of(source.scene(i)):
            assert phrase(x.concept, count=x.count, colour=x.colour) in sample.turns[0].text
        assert not touches_held_out(source.scene(i))


def test_understanding_and_drawing_share_their_scenes(wide_sprites: Sprites) -> None:
    und = EmojiScenes(kind="und", world="wide", sprites=wide_sprites, seed=1, size=32)
    gen = EmojiScenes(kind="gen", world="wide", sprites=wide_sprites, seed=1, size=32)
    pictures = EmojiPictures(world="wide", sprites=wide_sprites, seed=1, size=32)
    pairs = EmojiPairs(world="wide", sprites=wide_sprites, seed=1, size=32)
    regions = EmojiRegions(world="wide", sprites=wide_sprites, seed=1, size=32)
    for i in range(8):
        for other in (gen[i].target, pictures[i], pairs[i][0], regions[i][0]):
            np.testing.assert_array_equal(und[i].images[0], other)
    assert pairs.key(3) == "emoji-pairs-wide/train/1/3"


def test_only_plain_backgrounds_are_called_plain(wide_sprites: Sprites) -> None:
    source = EmojiPairs(world="wide", sprites=wide_sprites, size=16, tags={"single_object": 1.0})
    rng = np.random.default_rng(0)
    told: Counter[bool] = Counter()
    for i in range(500):
        scene = source.scene(i)
        if FRAMES[-1].removeprefix("{}") in caption(scene, rng):
            told[scene.ground is None] += 1
    assert told[True] > 0
    assert told[False] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world": "narrow"}, "world must be one of v0, wide, few, got 'narrow'"),
        (
            {"world": "wide", "grid": 12},
            "scenes of world wide keep to no grid but in slots, got 12",
        ),
        ({}, "artwork of world wide cannot show world v0"),
        ({"world": "wide", "vendors": ["nobody"]}, "vendors must be some of first, second"),
    ],
)
def test_wrong_options_are_refused(
    options: dict[str, Any], message: str, wide_sprites: Sprites
) -> None:
    with pytest.raises(ValueError, match=message):
        EmojiPairs(sprites=wide_sprites, **options)


def test_missing_artwork_says_how_to_fetch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sprites: Sprites
) -> None:
    monkeypatch.setenv("OPENJANUS_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="data fetch emoji --wide"):
        EmojiScenes(kind="und", world="wide")
    with pytest.raises(ValueError, match="artwork of world v0 cannot show world wide"):
        EmojiScenes(kind="und", world="wide", sprites=sprites)


def things(*named: str) -> Scene:
    """Things side by side."""
    objects = tuple(
        SceneObject(concept=name, vendor="first", colour=None, box=(i / 8, 0.1, i / 8 + 0.1, 0.2))
        for i, name in enumerate(named)
    )
    return Scene(objects=objects, background=(250, 250, 250), tag="free", world="wide")


def test_nobody_is_asked_what_may_be_called_by_another_name() -> None:
    rng = np.random.default_rng(0)
    asked = set()
    for _ in range(300):
        question = ask(things("police car"), rng, "existence", unseen_pairs=True)
        assert question is not None
        asked.add((question.text.lower(), question.answer))
    texts = " ".join(text for text, _ in asked)
    assert "a police car" in texts
    assert len(asked) > 100
    assert not any(f" {phrase('car')}{end}" in texts for end in ("?", " in"))
    counted = {ask(things("police car", "car"), rng, "counting") for _ in range(50)}
    assert all(q is not None and "police" in q.text for q in counted)


def test_what_is_absent_is_of_the_world_and_in_no_doubt() -> None:
    absent = absent_things(["police car"], name="wide")
    assert "penguin" in absent or is_held_out(pair_cell("penguin", "police car"))
    assert not {"police car", "car"} & {*absent}
    assert "car" in doubtful_things(["police car"], "wide")
    assert not any(is_held_out(pair_cell(name, "police car")) for name in absent)
    few = ["penguin", "car", "police car", "key"]
    assert absent_things(["police car"], name="wide", among=few, unseen_pairs=True) == [
        name for name in WIDE.concepts if name in ("penguin", "key")
    ]
    assert set(absent_things(["dog"])) < set(world("v0").concepts)


def test_counting_goes_to_six() -> None:
    question = ask(things(*["penguin"] * 6), np.random.default_rng(0), "counting")
    assert question is not None
    assert question.answer == "six"
    question = ask(things("penguin", "dog", "car", "key", "cup"), np.random.default_rng(0), "total")
    assert question is not None
    assert question.answer == "five"


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_exams_ask_of_held_out_scenes(kind: QuestionKind, wide_sprites: Sprites) -> None:
    asked = exam(kind, 36, 0, wide_sprites)
    assert asked == exam(kind, 36, 0, wide_sprites)
    for scene, question in asked:
        assert any(map(is_held_out, cells_of(scene)))
        assert question.kind == kind
    answers = Counter(question.answer for _, question in asked)
    if kind == "counting":
        assert answers == dict.fromkeys(COUNT_WORDS[1:], 6)
    if kind == "existence":
        assert answers == {"yes": 18, "no": 18}
    if kind == "naming":
        assert len(answers) == 36


def test_adversarial_negatives_are_of_the_same_group(wide_sprites: Sprites) -> None:
    for scene, question in exam("existence", 20, 0, wide_sprites, negatives="adversarial"):
        if question.answer == "no":
            named = [
                name
                for name in WIDE.concepts
                if f" {phrase(name)} in" in question.text
                or question.text.endswith(f" {phrase(name)}?")
            ]
            groups = {WIDE.concepts[x.concept].group for x in scene.objects}
            assert any(WIDE.concepts[name].group in groups for name in named)


def test_the_wide_world_is_checked_shown_and_has_stamps_of_its_own(
    wide_sprites: Sprites, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, images = [], []
    for concept in wide_sprites.concepts[60:80]:
        for vendor in wide_sprites.vendors_of(concept):
            names.append([concept, vendor])
            images.append(wide_sprites.rgba(concept, vendor))
    save_sprites(tmp_path, names, images, {"world": "wide"})
    options = ["kind=gen", "world=wide", f"folder={tmp_path}", "length=3", "size=32"]
    given = [part for option in options for part in ("--set", option)]
    main(["data", "lint", "emoji", *given, "--model", "tiny"])
    assert "3 samples: 3 gen" in capsys.readouterr().out
    page = tmp_path / "page.html"
    main(["data", "show", "emoji", *given, "--model", "tiny", "--n", "2", "--output", str(page)])
    assert page.stat().st_size > 1000
    stamps = [
        picture_stamp(EmojiPictures(tmp_path, world="wide", size=32, seed=seed).picture(5))
        for seed in (1, 1, 2)
    ]
    assert stamps[0] == stamps[1] != stamps[2]
    told = [source_digest("emoji", {"kind": "gen", "world": name}) for name in ("v0", "wide")]
    assert told[0] != told[1]
