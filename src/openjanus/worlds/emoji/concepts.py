"""The things and colours of the emoji world: the 66 COCO classes that have an emoji.

Names are GenEval's own (its list of COCO's 80 classes), in COCO's order. Left out, for want of an
emoji: fire hydrant, parking meter, bench, baseball bat, baseball glove, fork, dining table,
tv remote, microwave, oven, toaster, sink, refrigerator, hair drier.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from openjanus.eval import geneval

COLOURS: Final = geneval.COLOURS
"""GenEval's ten colours, in its order: the rules' own list."""

NUMBER_WORDS: Final = ("zero", "one", "two", "three", "four")
"""A count's word at its own index."""


def unmixed(colour: str | None) -> tuple[str, ...]:
    """The colours that a tint is of: both of a mixed one ("blue-green"), none of None."""
    return () if colour is None else tuple(colour.split("-"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """One class of things: how it is called and which emoji pictures it."""

    name: str
    """GenEval's class name, a singular noun except for pairs ("scissors")."""
    code_point: str
    """The emoji's code point in lower-case hexadecimal, without variation selector."""
    group: str
    """COCO's supercategory."""
    plural: str
    """The noun after a number above one."""
    pair: bool = False
    """Whether one of it is "a pair of ..."."""

    @property
    def article(self) -> str:
        """What stands before one of it, without an adjective: "a", "an" or "a pair of"."""
        return "a pair of" if self.pair else indefinite_article(self.name)

    @property
    def counted(self) -> str:
        """What stands after "how many", or a number above one: "cars", "pairs of skis"."""
        return f"pairs of {self.plural}" if self.pair else self.plural


def indefinite_article(word: str) -> str:
    """ "an" before a vowel, else "a": by letter, but for beginnings that sound otherwise."""
    if word.startswith(("uni", "use", "euro", "one-")):
        return "a"
    return "an" if word[0] in "aeiou" or word.startswith("hour") else "a"


def _concept(
    name: str, code_point: str, group: str, plural: str | None = None, *, pair: bool = False
) -> Concept:
    if plural is None:
        plural = f"{name}s"
    return Concept(name=name, code_point=code_point, group=group, plural=plural, pair=pair)


_ALL: Final = (
    _concept("person", "1f9cd", "person", "people"),
    _concept("bicycle", "1f6b2", "vehicle"),
    _concept("car", "1f697", "vehicle"),
    _concept("motorcycle", "1f3cd", "vehicle"),
    _concept("airplane", "2708", "vehicle"),
    _concept("bus", "1f68c", "vehicle", "buses"),
    _concept("train", "1f686", "vehicle"),
    _concept("truck", "1f69a", "vehicle"),
    _concept("boat", "26f5", "vehicle"),
    _concept("traffic light", "1f6a6", "outdoor"),
    _concept("stop sign", "1f6d1", "outdoor"),
    _concept("bird", "1f426", "animal"),
    _concept("cat", "1f408", "animal"),
    _concept("dog", "1f415", "animal"),
    _concept("horse", "1f40e", "animal"),
    _concept("sheep", "1f411", "animal", "sheep"),
    _concept("cow", "1f404", "animal"),
    _concept("elephant", "1f418", "animal"),
    _concept("bear", "1f43b", "animal"),
    _concept("zebra", "1f993", "animal"),
    _concept("giraffe", "1f992", "animal"),
    _concept("backpack", "1f392", "accessory"),
    _concept("umbrella", "2602", "accessory"),
    _concept("handbag", "1f45c", "accessory"),
    _concept("tie", "1f454", "accessory"),
    _concept("suitcase", "1f9f3", "accessory"),
    _concept("frisbee", "1f94f", "sports"),
    _concept("skis", "1f3bf", "sports", "skis", pair=True),
    _concept("snowboard", "1f3c2", "sports"),
    _concept("sports ball", "26bd", "sports"),
    _concept("kite", "1fa81", "sports"),
    _concept("skateboard", "1f6f9", "sports"),
    _concept("surfboard", "1f3c4", "sports"),
    _concept(
        "tennis racket", "1f3f8", "sports"
    ),  # the badminton emoji: the tennis one may be only a ball
    _concept("bottle", "1f37e", "kitchen"),
    _concept("wine glass", "1f377", "kitchen", "wine glasses"),
    _concept("cup", "2615", "kitchen"),
    _concept("knife", "1f52a", "kitchen", "knives"),
    _concept("spoon", "1f944", "kitchen"),
    _concept("bowl", "1f963", "kitchen"),
    _concept("banana", "1f34c", "food"),
    _concept("apple", "1f34e", "food"),
    _concept("sandwich", "1f96a", "food", "sandwiches"),
    _concept("orange", "1f34a", "food"),
    _concept("broccoli", "1f966", "food"),
    _concept("carrot", "1f955", "food"),
    _concept("hot dog", "1f32d", "food"),
    _concept("pizza", "1f355", "food"),
    _concept("donut", "1f369", "food"),
    _concept("cake", "1f382", "food"),
    _concept("chair", "1fa91", "furniture"),
    _concept("couch", "1f6cb", "furniture", "couches"),
    _concept("potted plant", "1fab4", "furniture"),
    _concept("bed", "1f6cf", "furniture"),
    _concept("toilet", "1f6bd", "furniture"),
    _concept("tv", "1f4fa", "electronic"),
    _concept("laptop", "1f4bb", "electronic"),
    _concept("computer mouse", "1f5b1", "electronic", "computer mice"),
    _concept("computer keyboard", "2328", "electronic"),
    _concept("cell phone", "1f4f1", "electronic"),
    _concept("book", "1f4d5", "indoor"),
    _concept("clock", "23f0", "indoor"),
    _concept("vase", "1f3fa", "indoor"),
    _concept("scissors", "2702", "indoor", "scissors", pair=True),
    _concept("teddy bear", "1f9f8", "indoor"),
    _concept("toothbrush", "1faa5", "indoor", "toothbrushes"),
)

CONCEPTS: Final = MappingProxyType({concept.name: concept for concept in _ALL})
"""Every concept by name, in COCO's order."""

TINTABLE: Final = tuple(name for name in CONCEPTS if name != "person")
"""What may be recoloured: all but people, whom GenEval's colour prompts leave out too."""

ALSO_SHOWN: Final = MappingProxyType(
    {"snowboard": "person", "surfboard": "person", "bowl": "spoon", "teddy bear": "bear"}
)
"""What some pictures show besides: nobody is asked whether, or how many times, it is there."""
