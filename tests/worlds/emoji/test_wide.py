"""The wide world's words: which emoji it has, by what rule, and how they are called."""

from __future__ import annotations

import re
from typing import Any

import pytest

from openjanus.worlds.emoji.captions import phrase
from openjanus.worlds.emoji.concepts import ALSO_SHOWN, COLOURS, CONCEPTS, Concept
from openjanus.worlds.emoji.prompts import metadata_for_prompt
from openjanus.worlds.emoji.vocabulary import COUNT_WORDS, concept_named, world
from openjanus.worlds.emoji.wide import SUBGROUPS, check_names, choose, is_countable, plural_of

WIDE = world("wide")
GROUPS = {"1": "animal-bird", "2": "transport-ground", "3": "country-flag", "4": "person-sport"}


def entry(label: str, code_point: str, subgroup: int, *tags: str) -> dict[str, Any]:
    order = int(code_point.partition("-")[0], 16)
    return {
        "label": label,
        "hexcode": code_point.upper(),
        "order": order,
        "subgroup": subgroup,
        "tags": list(tags),
    }


@pytest.mark.parametrize(
    ("label", "countable"),
    [
        ("penguin", True),
        ("one-piece swimsuit", True),
        ("sunglasses", True),
        ("octopus", True),
        ("rhinoceros", True),
        ("grapes", False),  # many
        ("glass of milk", False),
        ("Christmas tree", False),
        ("T-Rex", False),
        ("woman’s boot", False),
        ("2nd place medal", False),
        ("green book", False),  # a tint would contradict it
        ("oncoming bus", False),  # a bus
        ("dog face", False),
        ("bacon", False),
        ("tennis", False),
        ("twelve-thirty", False),
        ("sport utility vehicle show", False),  # four words
    ],
)
def test_a_thing_is_a_noun_phrase_that_can_be_counted(label: str, countable: bool) -> None:
    assert is_countable(label) is countable


@pytest.mark.parametrize(
    ("name", "plural"),
    [
        ("potted plant", "potted plants"),
        ("bus", "buses"),
        ("toothbrush", "toothbrushes"),
        ("beverage box", "beverage boxes"),
        ("ferry", "ferries"),
        ("key", "keys"),
        ("computer mouse", "computer mice"),
        ("jellyfish", "jellyfish"),
        ("maple leaf", "maple leaves"),
        ("fox", "foxes"),
        ("ox", "oxen"),
        ("fried shrimp", "fried shrimp"),
        ("game die", "game dice"),
        ("two-hump camel", "two-hump camels"),
        ("potato", "potatoes"),
    ],
)
def test_plurals(name: str, plural: str) -> None:
    assert plural_of(name) == plural


def test_the_rule_takes_countable_things_of_its_groups_that_are_drawn() -> None:
    known = [entry("known", x.code_point, 4) for x in CONCEPTS.values()]
    others = [
        entry("penguin", "fff01", 1, "bird"),
        entry("police car", "fff02-fe0f", 2),
        entry("flag", "fff03", 3),
        entry("ducks", "fff04", 1),
        entry("rare bird", "fff05", 1),
    ]
    drawn = {"fff01": 2, "fff02": 6, "fff03": 6, "fff04": 6, "fff05": 1}
    concepts, also = choose([*reversed(others), *known], GROUPS, drawn)
    assert [x.name for x in concepts] == [*CONCEPTS, "penguin", "police car"]
    assert concepts[-1] == Concept(
        name="police car", code_point="fff02", group="transport-ground", plural="police cars"
    )
    assert {x.group for x in concepts[:66]} == {"person-sport"}
    # A police car may be called a car too, and a penguin, by its tag, a bird.
    assert also["police car"] == ("car",)
    assert also["penguin"] == ("bird",)
    assert "car" not in also


def test_two_things_cannot_share_a_word() -> None:
    fly = Concept(name="fly", code_point="1", group="x", plural="flies")
    many = Concept(name="flies", code_point="2", group="x", plural="flies")
    with pytest.raises(ValueError, match="'flies' is of 'fly' and of 'flies'"):
        check_names([fly, many])
    check_names([fly, Concept(name="deer", code_point="3", group="x", plural="deer")])


def test_the_wide_world_has_the_first_world_in_it_under_the_same_names() -> None:
    concepts = list(WIDE.concepts.values())
    assert len(concepts) == 510
    assert [x.name for x in concepts[:66]] == list(CONCEPTS)
    for old, new in zip(CONCEPTS.values(), concepts, strict=False):
        assert (old.code_point, old.plural, old.pair) == (new.code_point, new.plural, new.pair)
    assert len({x.code_point for x in concepts}) == 510
    assert {x.group for x in concepts[66:]} <= SUBGROUPS
    assert set(WIDE.concepts) - set(WIDE.tintable) == {"person"}
    assert WIDE.max_count == 6
    check_names(concepts)
    for shown, other in ALSO_SHOWN.items():
        assert other in WIDE.also_shown[shown]
    for shown, others in WIDE.also_shown.items():
        assert {shown, *others} <= set(WIDE.concepts)
        assert shown not in others


def test_every_name_is_a_lower_case_noun_phrase_and_no_colour() -> None:
    for x in WIDE.concepts.values():
        assert re.fullmatch(r"[a-z]+([ -][a-z]+){0,2}", x.name)
        assert x.name == "orange" or not set(re.split("[ -]", x.name)) & set(COLOURS)
        assert concept_named(x.name).plural == x.plural


def test_phrases_read_back_as_what_they_were_made_of() -> None:
    for name in WIDE.concepts:
        for count in (1, 2, 5, 6):
            words = phrase(name, count=count)
            line = metadata_for_prompt(f"a photo of {words}", "wide")
            assert line["include"] == [{"class": name, "count": count}]
        if name in WIDE.tintable:
            line = metadata_for_prompt(f"a photo of {phrase(name, colour='red')}", "wide")
            assert line["include"] == [{"class": name, "count": 1, "color": "red"}]
    assert phrase("unicorn") == "a unicorn"
    assert phrase("euro banknote") == "a euro banknote"
    assert phrase("octopus") == "an octopus"
    assert phrase("sunglasses", count=6) == "six pairs of sunglasses"
    assert COUNT_WORDS[6] == "six"
    with pytest.raises(ValueError, match=r"'penguin' of .* is not a thing of this world"):
        metadata_for_prompt("a photo of a penguin")
    with pytest.raises(ValueError, match="from one to four, got 'six'"):
        metadata_for_prompt("a photo of six dogs")


def test_an_unknown_world_is_refused() -> None:
    name: Any = "narrow"
    with pytest.raises(ValueError, match="world must be one of v0, wide, few, got 'narrow'"):
        world(name)
    with pytest.raises(KeyError):
        concept_named("leviathan")
