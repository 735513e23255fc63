"""Confidence intervals by bootstrap over clusters.

Drawings of one prompt fail together, so whole prompts (or cells) are drawn again, never single
drawings.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

Interval = tuple[float, float]

BLOCK = 4_000_000
"""Draws held in memory at once."""


def bootstrap_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of the mean of some values, whole clusters resampled.

    Args:
        values: One a picture or question.
        clusters: What each value belongs to.
        seed: Of the draws.
        samples: How often the clusters are drawn again.
        level: Coverage, between 0 and 1.

    Raises:
        ValueError: No values, not as many clusters, or a level outside (0, 1).
    """
    means = _bootstrap_means(values, clusters, seed=seed, samples=samples)
    return _interval(means, level)


def bootstrap_macro_interval(
    groups: Mapping[str, tuple[Sequence[float], Sequence[Hashable]]],
    *,
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of the plain mean of groups' means, the clusters of each group resampled apart.

    Args:
        groups: (values, clusters) by name; each name draws from a stream of its own.
        seed: Of the draws.
        samples: How often the clusters are drawn again.
        level: Coverage, between 0 and 1.

    Raises:
        ValueError: As `bootstrap_interval`, or no groups.
    """
    if not groups:
        raise ValueError("a bootstrap needs at least one group, got none")
    means = [
        _bootstrap_means(values, clusters, seed=seed, samples=samples, stream=stream)
        for stream, (values, clusters) in enumerate(groups.values())
    ]
    return _interval(np.mean(means, axis=0), level)


def bootstrap_statistic(
    columns: Mapping[str, Sequence[float]],
    clusters: Sequence[Hashable],
    statistic: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    *,
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of a figure made of sums, such as F1 of hits and of what was said.

    Args:
        columns: Values by name, one a question; their sums are what the figure is made of.
        clusters: What each question belongs to; whole clusters are resampled.
        statistic: (samples,) sums by name to (samples,) figures.
        seed: Of the draws.
        samples: How often the clusters are drawn again.
        level: Coverage, between 0 and 1.

    Raises:
        ValueError: As `bootstrap_interval`.
    """
    sums = {
        name: _cluster_draws(values, clusters, seed=seed, samples=samples)[0]
        for name, values in columns.items()
    }
    return _interval(statistic(sums), level)


def _interval(means: np.ndarray, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _bootstrap_means(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    seed: int,
    samples: int,
    stream: int = 0,
) -> np.ndarray:
    """(samples,) means of the values of clusters drawn with replacement."""
    sums, sizes = _cluster_draws(values, clusters, seed=seed, samples=samples, stream=stream)
    return sums / sizes


def _cluster_draws(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    seed: int,
    samples: int,
    stream: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(samples,) sums and numbers of the values of clusters drawn with replacement."""
    if len(values) != len(clusters) or not values:
        raise ValueError(
            "a bootstrap needs values, each with its cluster, got "
            f"{len(values)} values and {len(clusters)} clusters"
        )
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    index = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    owners = np.array([index[cluster] for cluster in clusters])
    sums = np.bincount(owners, weights=np.asarray(values, dtype=np.float64))
    sizes = np.bincount(owners)
    rng = np.random.default_rng([seed, stream])
    drawn_sums, drawn_sizes = [], []
    for start in range(0, samples, max(1, BLOCK // len(index))):
        rows = min(max(1, BLOCK // len(index)), samples - start)
        drawn = rng.integers(len(index), size=(rows, len(index)))
        drawn_sums.append(sums[drawn].sum(axis=1))
        drawn_sizes.append(sizes[drawn].sum(axis=1))
    return np.concatenate(drawn_sums), np.concatenate(drawn_sizes)
