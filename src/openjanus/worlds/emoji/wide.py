"""Which emoji the wide world has, and how they are called: a rule over emojibase's English data.

A thing of the wide world is one of the 66 first, under its old name, or an emoji of one of the
`SUBGROUPS` whose label is a noun phrase that can be counted: one to three lower-case words, no
preposition, no colour, no state of another thing. Symbols, flags, people, scenery and buildings of
faith are in none of the subgroups; skin tones exist for people alone. `fetch_wide` applies the rule
and finds the artwork; the outcome ships with the package, for names decide what is held out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from openjanus.worlds.emoji.concepts import COLOURS, CONCEPTS, Concept


def _listed(words: str, mark: str = " ") -> frozenset[str]:
    return frozenset(words.split(mark))


SUBGROUPS: Final = _listed(
    "animal-mammal animal-bird animal-amphibian animal-reptile animal-marine animal-bug "
    "plant-flower plant-other food-fruit food-vegetable food-prepared food-asian food-sweet "
    "drink dishware place-building transport-ground transport-water transport-air hotel time "
    "event award-medal sport game arts-crafts clothing sound music musical-instrument phone "
    "computer light-video book-paper money mail writing office lock tool science medical household"
)
"""Emojibase's subgroups of everyday things."""

LEAST_VENDORS: Final = 2
"""A thing of the wide world is drawn by so many vendors at least."""

_LABEL: Final = re.compile(r"[a-z]+(?:[ -][a-z]+){0,2}")
_JOINTS: Final = _listed("with without of in on over at and behind not showing facing done thirty")
_STATES: Final = _listed(
    "oncoming closed open incoming clinking muted low linked leafless wilted fallen hatching "
    "spouting front-facing small derelict rolled-up broken crossed stuffed hinged tear-off round "
    "pouring steaming roasted old full empty tilted"
)
"""First words of a thing that another emoji shows in another state."""

_PAIRS: Final = _listed(
    "glasses sunglasses goggles jeans shorts briefs gloves socks chopsticks scissors skis"
)
"""Nouns that are plural and one thing: "a pair of"."""

_ENDS_IN_S: Final = frozenset({"rhinoceros"})

_NO_THINGS: Final = _listed(
    (
        # masses and dishes without a plural
        "bread,bacon,butter,salt,oden,sushi,spaghetti,popcorn,custard,sake,mate,ice,shaved ice,"
        "curry rice,cooked rice,canned food,green salad,leafy green,garlic,ginger root,baguette "
        "bread,wood,yarn,thread,soap,money,coral,herb,dna,candy,rock,brick,cooking,yarn,fire,link,"
        "mail,fog,bubbles,fondue,poultry leg,soft ice cream,ice cream,falafel,label,fly,pick,"
        # games, events, signs and abstractions
        "baseball,basketball,volleyball,softball,american football,rugby football,tennis,bowling,"
        "cricket game,field hockey,ice hockey,lacrosse,ping pong,badminton,construction,building "
        "construction,wedding,performing arts,moon viewing ceremony,motorway,airplane departure,"
        "airplane arrival,light rail,metro,station,joker,spade suit,heart suit,diamond suit,club "
        "suit,chart increasing,chart decreasing,locked,unlocked,memo,shower,elevator,e-mail,"
        "mountain railway,suspension railway,railway track,goal net,love hotel,bullseye,seat,"
        "placard,musical score,musical note,speaker low volume,speaker medium volume,speaker high "
        "volume,microbe,wing,level slider,x-ray,hotel"
    ),
    ",",
)
"""Labels of the subgroups that name no thing which can be counted, or not clearly the one shown."""

_IRREGULAR: Final = {
    "mouse": "mice",
    "goose": "geese",
    "knife": "knives",
    "leaf": "leaves",
    "wolf": "wolves",
    "scarf": "scarves",
    "ox": "oxen",
    "die": "dice",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "mango": "mangoes",
    "fish": "fish",
    "sheep": "sheep",
    "deer": "deer",
    "moose": "moose",
    "bison": "bison",
    "squid": "squid",
    "shrimp": "shrimp",
}
"""Plurals of the last words of names, where they end in these."""


def choose(
    entries: Iterable[Mapping[str, Any]],
    subgroups: Mapping[str, str],
    vendors: Mapping[str, int],
) -> tuple[list[Concept], dict[str, tuple[str, ...]]]:
    """Apply the rule.

    Args:
        entries: Emojibase's `en/data.json`.
        subgroups: Name of each subgroup by its number, of emojibase's `meta/groups.json`.
        vendors: How many vendors draw each code point, in lower case without variation selector.

    Returns:
        The concepts, the first world's and then emojibase's in its order, in groups by subgroup;
        and for each whose picture may be called by another concept's name too, those names.
    """
    listed = sorted((e for e in entries if "order" in e), key=lambda entry: entry["order"])
    entry_of = {code_point_of(entry): entry for entry in listed}
    chosen: dict[str, Concept] = {}
    for known in CONCEPTS.values():
        group = subgroups[str(entry_of[known.code_point]["subgroup"])]
        chosen[known.name] = replace(known, group=group)
    taken = {known.code_point for known in CONCEPTS.values()}
    for code_point, entry in entry_of.items():
        name, group = entry["label"], subgroups.get(str(entry.get("subgroup")), "")
        if code_point in taken or name in chosen or group not in SUBGROUPS:
            continue
        if vendors.get(code_point, 0) < LEAST_VENDORS or not is_countable(name):
            continue
        pair = name.split()[-1] in _PAIRS
        plural = name if pair else plural_of(name)
        chosen[name] = Concept(
            name=name, code_point=code_point, group=group, plural=plural, pair=pair
        )
    tags = {name: set(entry_of[c.code_point].get("tags", ())) for name, c in chosen.items()}
    also: dict[str, tuple[str, ...]] = {}
    for name in chosen:
        named = tuple(
            other
            for other in chosen
            if other != name and (_is_kind_of(name, other) or other in tags[name])
        )
        if named:
            also[name] = named
    return list(chosen.values()), also


def _is_kind_of(name: str, other: str) -> bool:
    """Whether a name says that what it names is a sort of another: "police car", "speedboat"."""
    whole = name.endswith((f" {other}", f"-{other}"))
    return whole or (len(other) > 3 and name.endswith(other))


def code_point_of(entry: Mapping[str, Any]) -> str:
    """An entry's code point as concepts have it."""
    return str(entry["hexcode"]).lower().replace("-fe0f", "")


def is_countable(label: str) -> bool:
    """Whether a label is a noun phrase of one thing, singular or a pair."""
    words = re.split("[ -]", label)
    if not _LABEL.fullmatch(label) or label in _NO_THINGS or words[-1] == "face":
        return False
    if set(words) & (_JOINTS | set(COLOURS)) or label.split(maxsplit=1)[0] in _STATES:
        return False
    return not is_plural(words[-1]) or words[-1] in _PAIRS


def is_plural(word: str) -> bool:
    """Whether a noun looks plural."""
    return word.endswith("s") and not word.endswith(("ss", "us", "is")) and word not in _ENDS_IN_S


def plural_of(name: str) -> str:
    """Plural of a singular noun phrase, by its last word."""
    for singular, plural in _IRREGULAR.items():
        whole = name == singular or name.endswith((f" {singular}", f"-{singular}"))
        if whole or (name.endswith(singular) and singular in ("fish", "leaf")):
            return name.removesuffix(singular) + plural
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"


def check_names(concepts: Sequence[Concept]) -> None:
    """Make sure that names and plurals are told apart, since answers and prompts are read back.

    Raises:
        ValueError: Two concepts share a word form.
    """
    seen: dict[str, str] = {}
    for concept in concepts:
        for form in {concept.name, concept.plural}:
            if form in seen:
                raise ValueError(
                    f"every name and plural must belong to one concept, {form!r} is of "
                    f"{seen[form]!r} and of {concept.name!r}"
                )
            seen[form] = concept.name
