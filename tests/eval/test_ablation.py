"""The ablation's arithmetic, on cases made by hand."""

from __future__ import annotations

import math

import pytest

from openjanus.eval.ablation import (
    UNDERSTANDING,
    Measured,
    above,
    cell_of,
    near,
    student_interval,
    verdict,
    verdicts,
)


def runs_of(
    experiment: str, und: list[float] | None = None, frechet: list[float] | None = None
) -> list[Measured]:
    """One run a seed; ``und`` is the value of every column of understanding."""
    made = []
    for place in range(3):
        columns: dict[str, float] = {}
        if und is not None:
            columns |= dict.fromkeys(UNDERSTANDING, und[place])
        if frechet is not None:
            columns |= {"frechet": frechet[place], "geneval": 0.3}
        made.append(Measured(experiment=experiment, seed=place + 1, columns=columns))
    return made


PAPERS = [
    *runs_of("A", [0.40, 0.41, 0.42], [10.0, 10.2, 10.1]),
    *runs_of("B", [0.55, 0.56, 0.57], [9.0, 9.2, 9.1]),
    *runs_of("C", [0.60, 0.61, 0.62]),
    *runs_of("D", [0.70, 0.71, 0.72], [10.1, 10.2, 10.0]),
    *runs_of("E", [0.71, 0.71, 0.72]),
    *runs_of("F", None, [10.2, 10.1, 10.1]),
]


def test_an_interval_is_students():
    # t of 2 degrees of freedom is 4.303, the standard error of 1, 2, 3 is 1 / sqrt(3).
    assert student_interval([1.0, 2.0, 3.0]) == pytest.approx(
        (2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3))
    )
    assert student_interval([5.0]) is None
    assert student_interval([5.0, 5.0]) == (5.0, 5.0)
    with pytest.raises(ValueError, match="needs 1 to 10 values, got 0"):
        student_interval([])


def test_rows_take_the_seeds_that_have_a_figure():
    runs = runs_of("D", [0.5, 0.7, 0.6], [8.0, 10.0, 9.0])[:2]
    cell = cell_of(runs, "D", "frechet")
    assert cell is not None
    assert (cell.mean, cell.seeds) == (9.0, (1, 2))
    whole = cell_of(runs, "D", "understanding")
    assert whole is not None
    assert whole.mean == pytest.approx(0.6)
    assert cell_of(runs, "E", "frechet") is None
    part = Measured(experiment="E", seed=1, columns={"counting": 0.5})
    assert part.value("understanding") is None
    with pytest.raises(ValueError, match="two runs of seed 1"):
        cell_of([*runs, runs[0]], "D", "frechet")


def test_the_papers_own_picture_agrees_five_times():
    assert [v.outcome for v in verdicts(PAPERS)] == ["agrees"] * 5


def test_the_opposite_agrees_nowhere():
    turned = [
        *runs_of("A", [0.70, 0.71, 0.72], [20.0, 20.4, 20.2]),
        *runs_of("B", [0.60, 0.61, 0.62]),
        *runs_of("C", [0.50, 0.51, 0.52]),
        *runs_of("D", [0.40, 0.41, 0.42], [10.0, 10.2, 10.1]),
        *runs_of("E", [0.60, 0.61, 0.62]),
        *runs_of("F", None, [20.0, 20.4, 20.2]),
    ]
    assert [v.outcome for v in verdicts(turned)] == ["does not agree"] * 5


def test_noise_shows_nothing_either_way():
    noisy = [
        *runs_of("A", [0.4, 0.7, 0.5], [8.0, 12.0, 10.0]),
        *runs_of("B", [0.7, 0.4, 0.6]),
        *runs_of("C", [0.5, 0.8, 0.4]),
        *runs_of("D", [0.8, 0.5, 0.6], [12.0, 8.0, 10.0]),
        *runs_of("E", [0.5, 0.8, 0.6]),
        *runs_of("F", None, [8.0, 12.0, 10.0]),
    ]
    assert [v.outcome for v in verdicts(noisy)] == ["not shown either way"] * 5


def test_no_difference_seen_is_not_yet_equal():
    runs = [*runs_of("D", [0.5, 0.7, 0.6]), *runs_of("E", [0.6, 0.6, 0.6])]
    found = near(runs, "D", "E", "understanding")
    assert found.difference == pytest.approx(0)
    assert found.outcome == "not shown either way"


def test_a_small_sure_difference_is_below_but_not_far_below():
    runs = [*runs_of("D", [0.62, 0.63, 0.64]), *runs_of("A", [0.60, 0.61, 0.62])]
    assert above(runs, "D", "A", "understanding").outcome == "agrees"
    assert above(runs, "D", "A", "understanding", by=0.1).outcome == "does not agree"


def test_pairs_are_of_one_seed():
    # Between seeds the figures differ by far more than between the experiments.
    runs = [*runs_of("D", [0.30, 0.50, 0.71]), *runs_of("A", [0.28, 0.48, 0.69])]
    found = above(runs, "D", "A", "understanding")
    assert found.outcome == "agrees"
    assert found.seeds == (1, 2, 3)
    alone = [run for run in runs if run.experiment == "A" or run.seed == 2]
    assert above(alone, "D", "A", "understanding").outcome == "not shown either way"


def test_distances_are_compared_as_ratios():
    runs = [*runs_of("D", None, [10.0, 20.0, 40.0]), *runs_of("F", None, [11.0, 22.0, 44.0])]
    found = near(runs, "D", "F", "frechet")
    assert found.outcome == "agrees"
    assert found.difference == pytest.approx(-math.log(1.1))


def test_two_that_have_learnt_nothing_are_not_shown_to_be_equal():
    runs = [*runs_of("D", [0.32, 0.33, 0.32]), *runs_of("E", [0.32, 0.33, 0.33])]
    found = near(runs, "D", "E", "understanding")
    assert found.outcome == "not shown either way"
    assert found.wanted.endswith("both above 0.4")
    far = [*runs_of("D", [0.32, 0.33, 0.32]), *runs_of("E", [0.72, 0.73, 0.73])]
    assert near(far, "D", "E", "understanding").outcome == "does not agree"


def test_missing_runs_are_said():
    assert [v.outcome for v in verdicts([])] == ["not run"] * 5
    some = [run for run in PAPERS if run.experiment in "DE"]
    assert [v.outcome for v in verdicts(some)] == ["not run"] * 3 + ["agrees", "not run"]


def test_one_part_against_a_claim_is_enough():
    against = above(PAPERS, "A", "D", "understanding")
    missing = above([], "A", "D", "understanding")
    holds = above(PAPERS, "D", "A", "understanding")
    assert verdict("", holds, against, missing).outcome == "does not agree"
    assert verdict("", holds, missing).outcome == "not run"
