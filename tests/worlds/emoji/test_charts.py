from __future__ import annotations

import numpy as np
import pytest

from openjanus.data.samples import IMAGE_MARK
from openjanus.data.sources import source_names
from openjanus.worlds.emoji.cells import count_cell, is_held_out
from openjanus.worlds.emoji.charts import (
    CHART_KINDS,
    COUNTS,
    DIGITS,
    Chart,
    ChartKind,
    EmojiCharts,
    chart_questions,
    draw_chart,
    icons,
)
from openjanus.worlds.emoji.sampling import touches_held_out
from openjanus.worlds.emoji.sprites import Sprites


def chart_of(kind: ChartKind, *, numbered: bool = False, **counts: int) -> Chart:
    return Chart(
        kind=kind,
        counts=counts,
        vendor="first",
        ink=3,
        background=(252, 252, 252),
        numbered=numbered,
    )


def test_a_chart_is_a_function_of_seed_and_index(sprites: Sprites) -> None:
    first, again = (EmojiCharts(sprites=sprites, seed=2, size=48) for _ in range(2))
    samples = [first[i] for i in range(20)]
    for i in reversed(range(20)):
        assert (again[i].key, again[i].turns) == (samples[i].key, samples[i].turns)
        np.testing.assert_array_equal(again[i].images[0], samples[i].images[0])
    assert samples[0].images[0].shape == (48, 48, 3)
    assert EmojiCharts(sprites=sprites, seed=3)[0].turns != samples[0].turns


def test_no_held_out_cell_is_counted_or_shown_together(sprites: Sprites) -> None:
    source = EmojiCharts(sprites=sprites, seed=1)
    seen = set()
    for index in range(1500):
        chart = source.chart(index)
        seen.add((chart.kind, len(chart.counts)))
        assert not touches_held_out(icons(chart, sprites))
        counted = {count_cell(name, n) for name, n in chart.counts.items() if n in (2, 3, 4)}
        assert not any(map(is_held_out, counted))
        assert len(set(chart.counts.values())) == len(chart.counts)
    assert seen == {(kind, n) for kind in CHART_KINDS for n in (2, 3, 4)}


def test_answers_are_exact() -> None:
    chart = chart_of("bars", cat=3, dog=7, bus=5)
    asked: dict[str, set[str]] = {}
    for seed in range(300):
        for question, answer in chart_questions(chart, np.random.default_rng(seed), 9):
            asked.setdefault(question.lower().rstrip("?."), set()).add(answer)
    assert asked["which is most"] == {"dog"}
    assert asked["which is least"] == {"cat"}
    assert asked["how many buses are there"] == {"five"}
    assert asked["are there more cats than buses"] == {"no"}
    assert asked["more dogs than cats"] == {"yes"}
    assert asked["how many more dogs than cats"] == {"four"}
    assert asked["how many different things"] == {"three"}
    assert asked["read the chart"] == {"three cats, seven dogs and five buses"}
    assert all(len(answers) == 1 for answers in asked.values())


def test_a_pie_without_numbers_is_compared_alone() -> None:
    for numbered in (False, True):
        chart = chart_of("pie", numbered=numbered, cat=3, dog=7)
        answers = {
            answer
            for seed in range(50)
            for _, answer in chart_questions(chart, np.random.default_rng(seed), 9)
        }
        assert (COUNTS[7] in answers) == numbered


def test_bars_are_as_high_as_their_counts(sprites: Sprites) -> None:
    picture = draw_chart(chart_of("bars", cat=3, dog=9), 96, sprites).astype(int)
    blue = (picture[..., 2] - picture[..., 0] > 150)[:76]  # above the emoji
    low, high = blue[:, :48].any(axis=1).sum(), blue[:, 52:].any(axis=1).sum()
    assert high == pytest.approx(3 * low, abs=3)
    assert blue.sum() > 500


def test_numbers_are_written(sprites: Sprites) -> None:
    plain = draw_chart(chart_of("lines", cat=3, dog=9), 96, sprites)
    numbered = draw_chart(chart_of("lines", numbered=True, cat=3, dog=9), 96, sprites)
    assert 60 < (plain != numbered).any(axis=2).sum() < 400
    assert len(set(DIGITS)) == len(DIGITS) == 10


def test_the_source_asks_as_often_as_it_is_told(sprites: Sprites) -> None:
    source = EmojiCharts(sprites=sprites, size=32, least_questions=4, branched=True)
    for index in range(40):
        sample = source[index]
        assert (sample.kind, len(sample.turns), sample.branched) == ("und", 8, True)
        assert sample.turns[0].text.startswith(f"{IMAGE_MARK}\n")
    only = EmojiCharts(sprites=sprites, charts=("pie",))
    assert {only.chart(i).kind for i in range(20)} == {"pie"}
    with pytest.raises(ValueError, match="charts must be some of bars, lines, pie, table"):
        EmojiCharts(sprites=sprites, charts=("maps",))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="most_questions <= 4, got 1 and 5"):
        EmojiCharts(sprites=sprites, most_questions=5)
    assert "emoji-charts" in source_names()
