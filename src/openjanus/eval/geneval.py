"""GenEval's rules (Ghosh et al., 2023) as pure functions over what a detector found.

The rules know nothing of networks or pictures: detections come in, a verdict with its reasons goes
out. `metadata` is one line of GenEval's own file:
`{"tag", "include": [{"class", "count", "color"?, "position"?: [relation, index]}],
"exclude"?: [{"class", "count"}], "prompt"}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

TAGS: Final = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The six tags, in GenEval's order."""

COLOURS: Final = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
)

RELATIONS: Final = ("left of", "right of", "above", "below")

SCORE_THRESHOLD: Final = 0.3
"""A detection counts strictly above this score ..."""
COUNTING_SCORE_THRESHOLD: Final = 0.9
"""... and, where things are counted, strictly above this one."""
MAX_OBJECTS: Final = 16
"""Detections kept of a class, the surest first."""
POSITION_SLACK: Final = 0.1
"""Share of both sizes by which an offset is reduced before a relation is read from it."""
RELATION_THRESHOLD: Final = 0.5
"""Share of the offset's length that one axis must exceed for its relation to hold."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in any unit; y grows downwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """One thing that a detector found."""

    class_name: str
    score: float
    """0 to 1."""
    box: Box
    colour: str | None = None
    """One of `COLOURS`; None where the detector cannot tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a picture shows what its prompt asks for."""

    correct: bool
    reasons: tuple[str, ...] = ()
    """What is wrong, in words; empty where nothing is."""


def relations(box_a: Box, box_b: Box) -> frozenset[str]:
    """Where a is, seen from b: none, one or two of `RELATIONS`.

    The offset of the centres is reduced on each axis by `POSITION_SLACK` of both sizes, not below
    0, and divided by the length that it had before.
    """
    offset, reduced = [], []
    for low in (0, 1):
        distance = (box_a[low] + box_a[low + 2] - box_b[low] - box_b[low + 2]) / 2
        slack = POSITION_SLACK * (box_a[low + 2] - box_a[low] + box_b[low + 2] - box_b[low])
        offset.append(distance)
        reduced.append(math.copysign(max(0.0, abs(distance) - slack), distance))
    if reduced == [0, 0]:
        return frozenset()
    length = math.hypot(*offset)
    dx, dy = (part / length for part in reduced)
    held = {
        "left of": dx < -RELATION_THRESHOLD,
        "right of": dx > RELATION_THRESHOLD,
        "above": dy < -RELATION_THRESHOLD,
        "below": dy > RELATION_THRESHOLD,
    }
    return frozenset(name for name, holds in held.items() if holds)


def counted(detections: Sequence[Detection], tag: str) -> dict[str, list[Detection]]:
    """Detections above the tag's threshold by class, the surest first, `MAX_OBJECTS` at most."""
    threshold = COUNTING_SCORE_THRESHOLD if tag == "counting" else SCORE_THRESHOLD
    objects: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda found: -found.score):
        if detection.score > threshold:
            objects.setdefault(detection.class_name, []).append(detection)
    return {name: found[:MAX_OBJECTS] for name, found in objects.items()}


def judge(detections: Sequence[Detection], metadata: Mapping[str, Any]) -> Verdict:
    """Apply GenEval's rules to one picture.

    Args:
        detections: Everything found, of any score, in any order.
        metadata: What was asked for.

    Raises:
        ValueError: The metadata break the format.
    """
    check_metadata(metadata)
    objects = counted(detections, metadata["tag"])
    reasons: list[str] = []
    groups: list[list[Detection] | None] = []
    for entry in metadata["include"]:
        found = objects.get(entry["class"], [])[: entry["count"]]
        reason = _wrong_with(found, entry, groups)
        if reason is not None:
            reasons.append(reason)
        groups.append(found if reason is None else None)
    for entry in metadata.get("exclude", ()):
        number = len(objects.get(entry["class"], []))
        if number >= entry["count"]:
            reasons.append(f"expected fewer than {entry['count']} {entry['class']}, found {number}")
    return Verdict(correct=not reasons, reasons=tuple(reasons))


def _wrong_with(
    found: Sequence[Detection], entry: Mapping[str, Any], groups: Sequence[list[Detection] | None]
) -> str | None:
    """What keeps the found things from being what an entry of `include` asks for, if anything."""
    name, count = entry["class"], entry["count"]
    if len(found) < count:
        return f"expected {count} {name}, found {len(found)}"
    if "color" in entry:
        colours = [thing.colour for thing in found]
        if colours.count(entry["color"]) < count:
            seen = ", ".join(str(colour) for colour in colours)
            return f"expected {count} {entry['color']} {name}, found {seen}"
    if "position" in entry:
        relation, index = entry["position"]
        targets = groups[index]
        if targets is None:
            return f"expected {name} {relation} something that is not there"
        for thing in found:
            for target in targets:
                held = relations(thing.box, target.box)
                if relation not in held:
                    seen = " and ".join(sorted(held)) if held else "in no clear relation to it"
                    return f"expected {name} {relation} {target.class_name}, found it {seen}"
    return None


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Check one line of metadata against the format.

    Raises:
        ValueError: A key is missing or unknown, or a value is out of range.
    """
    _check_keys(metadata, required={"tag", "include"}, allowed={"exclude", "prompt"})
    if metadata["tag"] not in TAGS:
        raise ValueError(f"tag must be one of {', '.join(TAGS)}, got {metadata['tag']!r}")
    for name in ("include", "exclude"):
        entries = metadata.get(name, ())
        if isinstance(entries, str) or not isinstance(entries, Sequence):
            raise ValueError(f"{name} must be a list of what is asked for, got {entries!r}")
    for index, entry in enumerate(metadata["include"]):
        _check_keys(entry, required={"class", "count"}, allowed={"color", "position"})
        if "color" in entry and entry["color"] not in COLOURS:
            raise ValueError(f"color must be one of {', '.join(COLOURS)}, got {entry['color']!r}")
        if "position" in entry and not _is_position(entry["position"], index):
            raise ValueError(
                f"position must be [one of {', '.join(RELATIONS)}; the index of an earlier "
                f"entry], got {entry['position']}"
            )
    for entry in metadata.get("exclude", ()):
        _check_keys(entry, required={"class", "count"}, allowed=set())


def _is_position(position: Any, index: int) -> bool:
    """Whether it is [relation, index of an entry before this one]."""
    if isinstance(position, str) or not isinstance(position, Sequence) or len(position) != 2:
        return False
    relation, target = position
    return relation in RELATIONS and type(target) is int and 0 <= target < index


def _check_keys(entry: Any, *, required: set[str], allowed: set[str]) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"GenEval metadata are mappings of {sorted(required)}, got {entry!r}")
    keys = set(entry)
    if not required <= keys or keys - required - allowed:
        raise ValueError(
            f"a line of GenEval metadata has {sorted(required)} and may have {sorted(allowed)} "
            f"here, got {sorted(keys)}: mend the line"
        )
    if "count" in required and not (type(entry["count"]) is int and entry["count"] >= 1):
        raise ValueError(f"count must be at least 1, a whole number, got {entry['count']!r}")


def tag_scores(correct: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """Mean over the pictures of each tag.

    Args:
        correct: Verdicts by tag.

    Raises:
        ValueError: A tag without pictures.
    """
    empty = [tag for tag, verdicts in correct.items() if not verdicts]
    if empty:
        raise ValueError(f"every tag needs a picture, {', '.join(empty)} has none")
    return {tag: sum(verdicts) / len(verdicts) for tag, verdicts in correct.items()}


def overall(scores: Mapping[str, float]) -> float:
    """The plain mean of the tags' scores, whatever their numbers of pictures."""
    if not scores:
        raise ValueError("overall is the mean of tags' scores, got none")
    return sum(scores.values()) / len(scores)
