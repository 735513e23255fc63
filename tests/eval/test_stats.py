from __future__ import annotations

import numpy as np
import pytest

from openjanus.eval import stats
from openjanus.eval.stats import (
    bootstrap_interval,
    bootstrap_macro_interval,
    bootstrap_statistic,
)


def test_the_interval_of_independent_values_is_the_normal_one() -> None:
    values = np.random.default_rng(0).random(400) < 0.7
    low, high = bootstrap_interval(values.tolist(), range(400), seed=0)
    mean = values.mean()
    error = (mean * (1 - mean) / 400) ** 0.5
    assert low == pytest.approx(mean - 1.96 * error, abs=0.01)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.01)


def test_values_of_one_cluster_stand_together() -> None:
    values = [1.0, 0.0] * 50
    alone = bootstrap_interval(sorted(values), range(100), seed=0)
    together = bootstrap_interval(sorted(values), [i // 10 for i in range(100)], seed=0)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])
    # Clusters that all look alike leave nothing to chance.
    assert bootstrap_interval(values, [i // 2 for i in range(100)], seed=0) == (0.5, 0.5)


def test_clusters_of_unlike_size_weigh_by_their_values() -> None:
    low, high = bootstrap_interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"], seed=1)
    assert (low, high) == (0.0, 1.0)


def test_the_seed_decides() -> None:
    values, clusters = [0.0, 1.0, 1.0, 0.0, 1.0], list("abcde")
    first = bootstrap_interval(values, clusters, seed=3, samples=50)
    assert first == bootstrap_interval(values, clusters, seed=3, samples=50)
    assert first != bootstrap_interval(values, clusters, seed=8, samples=50)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(20).tolist()
    whole = bootstrap_interval(values, range(20), seed=0, samples=301)
    monkeypatch.setattr(stats, "BLOCK", 100)
    assert bootstrap_interval(values, range(20), seed=0, samples=301) == whole


def test_the_macro_interval_weighs_groups_alike() -> None:
    groups = {"a": ([1.0] * 1000, range(1000)), "b": ([0.0, 0.0], ["x", "y"])}
    assert bootstrap_macro_interval(groups, seed=0) == (0.5, 0.5)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="0 values and 0 clusters"):
        bootstrap_interval([], [], seed=0)
    with pytest.raises(ValueError, match="1 values and 2 clusters"):
        bootstrap_interval([1.0], ["a", "b"], seed=0)
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        bootstrap_interval([1.0], ["a"], seed=0, level=95)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        bootstrap_interval([1.0], ["a"], seed=0, samples=0)
    with pytest.raises(ValueError, match="at least one group"):
        bootstrap_macro_interval({}, seed=0)


def test_a_figure_of_sums_agrees_with_the_mean():
    values, clusters = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0], [0, 0, 1, 1, 2, 2]
    columns = {"hits": values, "n": [1.0] * 6}
    made = bootstrap_statistic(columns, clusters, lambda s: s["hits"] / s["n"], seed=3)
    assert made == bootstrap_interval(values, clusters, seed=3)


def test_a_figure_of_sums_takes_whole_clusters():
    # Within each cluster the two differ and cancel: no resampling of clusters moves the sum.
    columns = {"x": [1.0, -1.0] * 4}
    made = bootstrap_statistic(columns, [0, 0, 1, 1, 2, 2, 3, 3], lambda s: s["x"], seed=0)
    assert made == (0.0, 0.0)
