"""Small charts of how many of each thing there are, with questions whose answers are exact.

Bars, lines and tables can be counted: their scale is ruled, or their numbers are written. A pie can
only be compared. Things stand beside their marks as emoji. What a chart counts and shows side by
side touches no held-out cell, as if the things themselves were shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, Unpack, get_args

import numpy as np
from PIL import Image, ImageDraw

from openjanus.data.samples import Sample
from openjanus.worlds.emoji.captions import enumerate_phrases
from openjanus.worlds.emoji.cells import MAX_COUNT, count_cell, is_held_out
from openjanus.worlds.emoji.commands import typed
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.draws import HowMany, below, pick
from openjanus.worlds.emoji.indexed import SCENE, WORDS, SceneSource
from openjanus.worlds.emoji.sampling import touches_held_out
from openjanus.worlds.emoji.scene_options import ShownKeywords, refuse_others
from openjanus.worlds.emoji.scenes import Scene, SceneObject, render
from openjanus.worlds.emoji.sprites import TINTS, Rgb, Sprites
from openjanus.worlds.emoji.turns import asked_about_picture

ChartKind = Literal["bars", "lines", "pie", "table"]
CHART_KINDS: Final[tuple[ChartKind, ...]] = get_args(ChartKind)

COUNTS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""A count's word at its own index."""

MOST: Final = 9
FEWEST_THINGS, MOST_THINGS = 2, 4
ICON: Final = 0.15
"""Side of an emoji, in sides of the picture."""

GROUNDS: Final[tuple[Rgb, ...]] = ((252, 252, 252), (250, 244, 230), (236, 242, 250))
INK: Final[Rgb] = (60, 64, 72)
RULE: Final[Rgb] = (206, 210, 216)
INKS: Final = ("red", "orange", "green", "blue", "purple", "brown")
"""Of bars and lines, and of a pie's slices in this order from a random one on."""

OVERSAMPLING: Final = 4
LEAST_GAP: Final = 2
"""Between any two numbers of a pie that does not say them."""

QUESTIONS_LIMIT: Final = 4
"""Every chart has so many."""

BASE, TOP = 0.8, 0.12
"""Height of zero and of nine on the ruled scale, in sides of the picture."""
PIE_CENTRE, PIE_RADIUS = 0.5, 0.28
RING: Final = 0.4
"""From a pie's centre to the emoji around it."""

DIGITS: Final = (
    ("111", "101", "101", "101", "111"),
    ("010", "110", "010", "010", "111"),
    ("111", "001", "111", "100", "111"),
    ("111", "001", "111", "001", "111"),
    ("101", "101", "111", "001", "001"),
    ("111", "100", "111", "001", "111"),
    ("111", "100", "111", "101", "111"),
    ("111", "001", "001", "010", "010"),
    ("111", "101", "111", "101", "111"),
    ("111", "101", "111", "001", "111"),
)
"""Our own digits, 3 by 5: a font's would change with whatever library draws it."""

Asked = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart, known exactly."""

    kind: ChartKind
    counts: Mapping[str, int]
    """By concept, in the order shown: 1 to 9, all different."""
    vendor: str
    ink: int
    """Place in `INKS` of the first mark's colour."""
    background: Rgb
    numbered: bool
    """Whether the numbers are written beside the marks."""


def sample_chart(
    rng: np.random.Generator, sprites: Sprites, kinds: tuple[ChartKind, ...] = CHART_KINDS
) -> Chart:
    """Draw a chart of two to four things that touches no held-out cell."""
    while True:
        kind = pick(rng, kinds)
        number = FEWEST_THINGS + below(rng, MOST_THINGS - FEWEST_THINGS + 1)
        names = [sprites.concepts[i] for i in rng.permutation(len(sprites.concepts))[:number]]
        counts = (1 + rng.permutation(MOST)[:number]).tolist()
        chart = Chart(
            kind=kind,
            counts=dict(zip(names, counts, strict=True)),
            vendor=pick(rng, sprites.vendors),
            ink=below(rng, len(INKS)),
            background=pick(rng, GROUNDS),
            numbered=kind == "table" or rng.random() < 0.5,
        )
        gap = min(b - a for a, b in pairwise(sorted(counts)))
        if kind == "pie" and not chart.numbered and gap < LEAST_GAP:
            continue
        if not _meets_held_out(chart, sprites):
            return chart


def icons(chart: Chart, sprites: Sprites) -> Scene:
    """The emoji of a chart and where they stand."""
    things = []
    for name, (x, y) in zip(chart.counts, _icon_centres(chart), strict=True):
        aspect = sprites.aspect(name, chart.vendor)
        half_x, half_y = ICON / 2 * min(1.0, aspect), ICON / 2 * min(1.0, 1 / aspect)
        box = (x - half_x, y - half_y, x + half_x, y + half_y)
        things.append(SceneObject(concept=name, vendor=chart.vendor, colour=None, box=box))
    return Scene(objects=tuple(things), background=chart.background, tag="free")


def _meets_held_out(chart: Chart, sprites: Sprites) -> bool:
    """Whether a count or a pair, a relation of two emoji among it, is held out."""
    counted = (count_cell(name, n) for name, n in chart.counts.items() if 1 < n <= MAX_COUNT)
    return any(map(is_held_out, counted)) or touches_held_out(icons(chart, sprites))


def draw_chart(chart: Chart, size: int, sprites: Sprites) -> np.ndarray:
    """Draw a chart.

    Returns:
        (size, size, 3) uint8.
    """
    side = size * OVERSAMPLING
    image = Image.new("RGB", (side, side), chart.background)
    _MARKS[chart.kind](ImageDraw.Draw(image), chart, side)
    pixels = np.array(image.resize((size, size), Image.Resampling.BOX))
    shown = icons(chart, sprites)
    drawn = render(shown, size, sprites)
    for x0, y0, x1, y1 in (thing.box for thing in shown.objects):
        place = np.s_[round(y0 * size) : round(y1 * size), round(x0 * size) : round(x1 * size)]
        pixels[place] = drawn[place]
    if chart.numbered:
        scale = max(1, round(size / 48))
        for (x, y), count in zip(_number_places(chart), chart.counts.values(), strict=True):
            _write_digit(pixels, count, round(x * size), round(y * size), scale)
    return pixels


def _middles(chart: Chart, low: float = 0.1, high: float = 1.0) -> list[float]:
    step = (high - low) / len(chart.counts)
    return [low + step * (place + 0.5) for place in range(len(chart.counts))]


def _height(count: int) -> float:
    """Where a count lies on the ruled scale; y grows downwards."""
    return BASE - (BASE - TOP) * count / MOST


def _icon_centres(chart: Chart) -> list[tuple[float, float]]:
    if chart.kind == "pie":
        return [
            (PIE_CENTRE + RING * math.cos(angle), PIE_CENTRE + RING * math.sin(angle))
            for angle in _slice_middles(chart)
        ]
    if chart.kind == "table":
        return [(0.25, y) for y in _middles(chart, 0.02, 0.98)]
    return [(x, 0.9) for x in _middles(chart)]


def _number_places(chart: Chart) -> list[tuple[float, float]]:
    """Centres of the numbers."""
    if chart.kind == "table":
        return [(0.7, y) for y in _middles(chart, 0.02, 0.98)]
    if chart.kind == "pie":
        return [
            (PIE_CENTRE + 0.17 * math.cos(angle), PIE_CENTRE + 0.17 * math.sin(angle))
            for angle in _slice_middles(chart)
        ]
    heights = [_height(count) - 0.07 for count in chart.counts.values()]
    return list(zip(_middles(chart), heights, strict=True))


def _edges(chart: Chart) -> list[float]:
    """Angles at which slices begin and the last ends, in radians, clockwise from the top."""
    total = sum(chart.counts.values())
    shares = np.cumsum([0, *chart.counts.values()]) / total
    return [2 * math.pi * float(share) - math.pi / 2 for share in shares]


def _slice_middles(chart: Chart) -> list[float]:
    edges = _edges(chart)
    return [(a + b) / 2 for a, b in pairwise(edges)]


def _rule(draw: ImageDraw.ImageDraw, side: int) -> None:
    """The scale from 0 to 9, every third line darker."""
    for count in range(MOST + 1):
        y = round(_height(count) * side)
        width = OVERSAMPLING if count % 3 == 0 else OVERSAMPLING // 2
        draw.line((0.08 * side, y, side, y), fill=INK if count == 0 else RULE, width=width)
        if count % 3 == 0:
            draw.line((0.04 * side, y, 0.08 * side, y), fill=INK, width=width)


def _ink(chart: Chart, place: int = 0) -> Rgb:
    return TINTS[INKS[(chart.ink + place) % len(INKS)]][1]


def _bars(draw: ImageDraw.ImageDraw, chart: Chart, side: int) -> None:
    _rule(draw, side)
    half = 0.27 / len(chart.counts)
    for x, count in zip(_middles(chart), chart.counts.values(), strict=True):
        box = ((x - half) * side, _height(count) * side, (x + half) * side, BASE * side)
        draw.rectangle(box, fill=_ink(chart))


def _lines(draw: ImageDraw.ImageDraw, chart: Chart, side: int) -> None:
    _rule(draw, side)
    points = [
        (x * side, _height(count) * side)
        for x, count in zip(_middles(chart), chart.counts.values(), strict=True)
    ]
    draw.line(points, fill=_ink(chart), width=round(0.025 * side))
    radius = 0.03 * side
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_ink(chart))


def _pie(draw: ImageDraw.ImageDraw, chart: Chart, side: int) -> None:
    low, high = (PIE_CENTRE - PIE_RADIUS) * side, (PIE_CENTRE + PIE_RADIUS) * side
    edges = [math.degrees(edge) for edge in _edges(chart)]
    for place, (start, end) in enumerate(pairwise(edges)):
        draw.pieslice((low, low, high, high), start, end, fill=_ink(chart, place))


def _table(draw: ImageDraw.ImageDraw, chart: Chart, side: int) -> None:
    rows = len(chart.counts)
    for row in range(rows + 1):
        y = (0.02 + 0.96 * row / rows) * side
        draw.line((0.05 * side, y, 0.95 * side, y), fill=INK, width=OVERSAMPLING)
    for x in (0.05, 0.45, 0.95):
        draw.line((x * side, 0.02 * side, x * side, 0.98 * side), fill=INK, width=OVERSAMPLING)


_MARKS: Final = {"bars": _bars, "lines": _lines, "pie": _pie, "table": _table}


def _write_digit(pixels: np.ndarray, digit: int, x: int, y: int, scale: int) -> None:
    """Write a digit about a centre, dark on a pale patch of its own."""
    shape = np.array([[int(dot) for dot in row] for row in DIGITS[digit]], dtype=bool)
    shape = np.pad(shape.repeat(scale, 0).repeat(scale, 1), 1)
    top = min(max(y - shape.shape[0] // 2, 0), pixels.shape[0] - shape.shape[0])
    left = min(max(x - shape.shape[1] // 2, 0), pixels.shape[1] - shape.shape[1])
    patch = pixels[top : top + shape.shape[0], left : left + shape.shape[1]]
    patch[:] = (255, 255, 255)
    patch[shape] = INK


MOST_OF: Final = (
    "which is most?",
    "what is there most of?",
    "which thing has the most?",
    "which one has the highest number?",
    "what comes first?",
)
LEAST_OF: Final = ("which is least?", "what is there least of?", "which thing has the fewest?")
HOW_MANY: Final = (
    "how many {}?",
    "how many {} are there?",
    "how many {} does the chart count?",
    "what is the number of {}?",
)
MORE_THAN: Final = (
    "are there more {} than {}?",
    "more {} than {}?",
    "is the number of {} above that of {}?",
)
HOW_MANY_KINDS: Final = ("how many kinds of things are counted?", "how many different things?")
DIFFERENCE: Final = ("how many more {} than {}?", "how many {} more than {} are there?")
READ_OUT: Final = ("read the chart.", "what does the chart say?", "list all numbers.")


def chart_questions(chart: Chart, rng: np.random.Generator, wanted: int) -> list[Asked]:
    """Different questions about a chart, as many as wanted or as there are, in any order."""
    counts = dict(chart.counts)
    names = list(counts)
    many = {name: CONCEPTS[name].counted for name in names}
    ranked = sorted(names, key=lambda name: counts[name])
    asked = [
        (pick(rng, MOST_OF), ranked[-1]),
        (pick(rng, LEAST_OF), ranked[0]),
        (pick(rng, HOW_MANY_KINDS), COUNTS[len(names)]),
    ]
    a, b = (names[i] for i in rng.permutation(len(names))[:2])
    words = pick(rng, MORE_THAN).format(many[a], many[b])
    asked.append((words, "yes" if counts[a] > counts[b] else "no"))
    if chart.numbered or chart.kind != "pie":
        asked += [(pick(rng, HOW_MANY).format(many[name]), COUNTS[counts[name]]) for name in names]
        more, less = (a, b) if counts[a] > counts[b] else (b, a)
        words = pick(rng, DIFFERENCE).format(many[more], many[less])
        asked.append((words, COUNTS[counts[more] - counts[less]]))
        told = enumerate_phrases([f"{COUNTS[n]} {_counted(name, n)}" for name, n in counts.items()])
        asked.append((pick(rng, READ_OUT), told))
    return [(typed(asked[i][0], rng), asked[i][1]) for i in rng.permutation(len(asked))[:wanted]]


def _counted(name: str, number: int) -> str:
    """What stands after the word of a number: "car", "cars", "pair of skis"."""
    known = CONCEPTS[name]
    if number != 1:
        return known.counted
    return f"pair of {known.plural}" if known.pair else known.name


class EmojiCharts(SceneSource):
    """Charts with questions about them.

    Args:
        charts: Which kinds; None takes all of `CHART_KINDS`.
        least_questions: Asked about one chart; no two are alike.
        most_questions: As many at most.
        branched: Whether each question is asked as if it were the first.

    The folder, sprites, seed, size and length are as in `SceneOptions`.

    Raises:
        ValueError: An unknown kind of chart, or not 1 <= least_questions <= most_questions <= 4, or
            as in `SceneOptions`.
    """

    name = "emoji-charts"

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        charts: tuple[ChartKind, ...] | None = None,
        least_questions: int = 1,
        most_questions: int = 4,
        branched: bool = False,
        **shown: Unpack[ShownKeywords],
    ) -> None:
        refuse_others(shown, ShownKeywords, type(self))
        super().__init__(folder, **shown)
        kinds = CHART_KINDS if charts is None else tuple(charts)
        if not kinds or not set(kinds) <= set(CHART_KINDS):
            raise ValueError(f"charts must be some of {', '.join(CHART_KINDS)}, got {list(kinds)}")
        self.kinds = kinds
        self.num_questions = HowMany(
            things="questions",
            least=least_questions,
            most=most_questions,
            limit=QUESTIONS_LIMIT,
        )
        self.branched = branched

    def chart(self, index: int) -> Chart:
        """The chart of an index from 0, for ever."""
        return sample_chart(self.rng(index, SCENE), self.sprites, self.kinds)

    def picture(self, index: int) -> np.ndarray:
        """The picture of an index, (size, size, 3) uint8."""
        return draw_chart(self.chart(index), self.options.size, self.sprites)

    def __getitem__(self, index: int) -> Sample:
        index = self.checked(index)
        chart, rng = self.chart(index), self.rng(index, WORDS)
        asked = chart_questions(chart, rng, self.num_questions.draw(rng))
        return Sample(
            key=self.key(index),
            kind="und",
            turns=asked_about_picture(asked),
            images=(draw_chart(chart, self.options.size, self.sprites),),
            branched=self.branched,
        )
