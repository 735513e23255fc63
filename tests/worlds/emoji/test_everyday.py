from __future__ import annotations

import re
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest

from openjanus.data.samples import IMAGE_MARK
from openjanus.data.sources import source_names
from openjanus.worlds.emoji.captions import things_of
from openjanus.worlds.emoji.cells import (
    attribution_cell,
    colour_cell,
    count_cell,
    is_held_out,
    pair_cell,
)
from openjanus.worlds.emoji.commands import COMMANDS, wanted
from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS, NUMBER_WORDS
from openjanus.worlds.emoji.dialogues import dialogue
from openjanus.worlds.emoji.everyday import EmojiEveryday
from openjanus.worlds.emoji.sampling import touches_held_out
from openjanus.worlds.emoji.scenes import Scene, SceneObject
from openjanus.worlds.emoji.source import EmojiScenes
from openjanus.worlds.emoji.sprites import Sprites

NOUNS = {c.name: c.name for c in CONCEPTS.values()} | {c.plural: c.name for c in CONCEPTS.values()}
NOUN = "|".join(sorted(NOUNS, key=len, reverse=True))
NUMBERS = {word: n for n, word in enumerate(NUMBER_WORDS)} | {str(n): n for n in range(5)}
NUMBERS |= {"couple of": 2}
NAMED = re.compile(
    rf"\b(?:({'|'.join(NUMBERS)}) )?(?:pairs? of )?(?:({'|'.join(COLOURS)}) )?({NOUN})\b"
    rf"(?: (?:in|that is|that are|coloured) ({'|'.join(COLOURS)}))?"
)
DOG = SceneObject(concept="dog", vendor="first", colour="red", box=(0.1, 0.4, 0.3, 0.6))
CAR = SceneObject(concept="car", vendor="first", colour="blue", box=(0.7, 0.4, 0.9, 0.6))


def cells_in(text: str) -> set[str]:
    """Cells that a text names, phrase by phrase: `meets_held_out` knows no phrases."""
    found = set()
    things = set()
    for number, before, noun, after in NAMED.findall(text.lower()):
        name, colour = NOUNS[noun], before + after
        things.add((name, colour))
        if colour:
            found.add(colour_cell(name, colour))
        if NUMBERS.get(number, 1) > 1:
            found.add(count_cell(name, NUMBERS[number]))
    for (a, colour_a), (b, colour_b) in combinations(sorted(things), 2):
        if a != b:
            found.add(pair_cell(a, b))
            if colour_a and colour_b:
                found.add(attribution_cell(a, colour_a, b, colour_b))
    return found


def test_cells_are_read_from_words() -> None:
    assert cells_in("Draw 3 apples and a dog that is red") == {
        "count/apple/3",
        "colour/dog/red",
        "pair/apple/dog",
    }


@pytest.mark.parametrize(
    "options", [{"kind": "gen"}, {"kind": "und", "most_turns": 8}, {"kind": "und", "form": "plain"}]
)
def test_no_held_out_cell_is_shown_or_said(options: dict[str, Any], sprites: Sprites) -> None:
    source = EmojiEveryday(sprites=sprites, seed=2, **options)
    for index in range(1500):
        assert not touches_held_out(source.scene(index))
        turns = source.turns(index)
        for place in range(0, len(turns), 2):  # two things that are not there are no pair
            said = [turn.text for turn in turns[place : place + 2]]
            words = " ".join(text for text in said if text not in COLOURS)  # nor "orange" a thing
            assert not any(map(is_held_out, cells_in(words))), words


def test_held_out_cells_are_found_where_they_are(sprites: Sprites) -> None:
    source = EmojiEveryday(sprites=sprites, kind="gen", split="held_out", tags={"counting": 1})
    for index in range(50):
        assert any(map(is_held_out, cells_in(source.turns(index)[0].text)))


@pytest.mark.parametrize(
    "options", [{"kind": "gen"}, {"kind": "und"}, {"kind": "und", "form": "plain"}]
)
def test_a_sample_is_a_function_of_seed_and_index(
    options: dict[str, Any], sprites: Sprites
) -> None:
    first, again = (EmojiEveryday(sprites=sprites, seed=3, size=32, **options) for _ in range(2))
    samples = [first[i] for i in range(30)]
    for i in reversed(range(30)):
        assert (again[i].key, again[i].turns) == (samples[i].key, samples[i].turns)
        np.testing.assert_array_equal(again[i].pictures[0], samples[i].pictures[0])
    other = EmojiEveryday(sprites=sprites, seed=4, size=32, **options)
    assert [other[i].turns for i in range(30)] != [sample.turns for sample in samples]


def test_commands_tell_everything(sprites: Sprites) -> None:
    source = EmojiEveryday(sprites=sprites, kind="gen", size=16)
    for index in range(1000):
        (turn,) = source.turns(index)
        told = {NOUNS[noun]: before + after for _, before, noun, after in NAMED.findall(turn.text)}
        for things in things_of(source.scene(index)):
            words = turn.text.lower()
            assert re.search(rf"\b(?:{things.concept}|{CONCEPTS[things.concept].plural})\b", words)
            assert things.colour is None or things.colour in words
            if things.count > 1:
                assert any(word in words for word, n in NUMBERS.items() if n == things.count), words
        assert told is not None
    assert source[0].target is not None


def test_commands_have_many_wordings(sprites: Sprites) -> None:
    source = EmojiEveryday(sprites=sprites, kind="gen", tags={"single_object": 1})
    said = {source.turns(index)[0].text for index in range(1000)}
    assert len(said) > 700
    assert len(set(COMMANDS)) == len(COMMANDS)


def test_both_ways_to_say_where(sprites: Sprites) -> None:
    scene = Scene(objects=(DOG, CAR), background=(0, 0, 0), tag="position")
    said = {wanted(scene, np.random.default_rng(seed)) for seed in range(400)}
    assert "a red dog to the left of a blue car" in said
    assert "a blue car with a red dog on its left" in said
    assert "a blue car and a red dog, the dog on the left" in said
    assert not any("dog right" in words or "car left" in words for words in said)


def test_dialogues_answer_truly_and_refer_back(sprites: Sprites) -> None:
    scene = Scene(objects=(DOG, CAR), background=(0, 0, 0), tag="color_attr")
    pairs = {
        (question.lower().rstrip("?.!"), answer)
        for seed in range(600)
        for question, answer in dialogue(scene, np.random.default_rng(seed), 6)
    }
    answers: dict[str, set[str]] = {}
    for question, answer in pairs:
        answers.setdefault(question, set()).add(answer)
    assert answers["what's the colour of the dog"] == {"red"}
    assert answers["which side of the car is the dog on"] == {"left"}
    assert answers["what's left of the car"] == {"dog"}
    assert answers["and the car"] == {"blue"}
    assert answers["and dogs"] == {"one"}
    assert answers["and what colour is it"] == {"red", "blue"}
    assert answers["are there more dogs than cars"] == {"no"}
    assert answers["how many things altogether"] == {"two"}
    assert not is_held_out(colour_cell("car", "green"))
    assert answers["is it green"] == {"no"}
    assert answers["is it red"] == {"yes"}  # of the car nobody asks: colour/car/red is held out


def test_it_is_what_was_spoken_of(sprites: Sprites) -> None:
    """Whatever "it" is, its colour is that of what the turn before named."""
    scene = Scene(objects=(DOG, CAR), background=(0, 0, 0), tag="color_attr")
    seen = 0
    for seed in range(800):
        said = dialogue(scene, np.random.default_rng(seed), 5)
        for (before, found), (question, answer) in pairwise(said):
            named = re.search(r"\ba (dog|car)\b", before.lower())
            asks = re.match("(?:and )?what colour is it", question.lower())
            if named and asks and found == "yes":
                seen += 1
                assert answer == {"dog": "red", "car": "blue"}[named[1]]
    assert seen > 5


def test_dialogues_have_a_picture_first_and_no_question_twice(sprites: Sprites) -> None:
    source = EmojiEveryday(sprites=sprites, kind="und", size=16, least_turns=3, most_turns=3)
    lengths = []
    for index in range(200):
        sample = source[index]
        assert sample.turns[0].text.startswith(f"{IMAGE_MARK}\n")
        assert [turn.role for turn in sample.turns] == ["user", "assistant"] * (
            len(sample.turns) // 2
        )
        lengths.append(len(sample.turns) // 2)
    assert set(lengths) <= {1, 2, 3}
    assert np.mean(lengths) > 2.5


def test_bad_options(sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="kind must be und or gen"):
        EmojiEveryday(sprites=sprites, kind="text")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="commands are said in a chat"):
        EmojiEveryday(sprites=sprites, kind="gen", form="plain")
    with pytest.raises(ValueError, match="least_turns <= most_turns <= 12, got 3 and 2"):
        EmojiEveryday(sprites=sprites, kind="und", least_turns=3, most_turns=2)


def test_the_source_is_installed() -> None:
    assert "emoji-everyday" in source_names()


def test_commands_may_be_for_scenes_in_slots(sprites: Sprites) -> None:
    options: dict[str, Any] = {"sprites": sprites, "grid": 12, "two_sizes": True, "slots": True}
    commands, scenes = (kind(kind="gen", **options) for kind in (EmojiEveryday, EmojiScenes))
    assert [commands.scene(i) for i in range(20)] == [scenes.scene(i) for i in range(20)]
    assert commands.scene(3) != EmojiEveryday(kind="gen", sprites=sprites).scene(3)
