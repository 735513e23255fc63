from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from openjanus.worlds.emoji.draws import HowMany, Weighted, check_parts


def test_weights_are_shares() -> None:
    rng = np.random.default_rng(0)
    some = Weighted({"a": 3.0, "never": 0.0, "b": 1.0})
    drawn = Counter(some.pick(rng) for _ in range(2000))
    assert set(drawn) == {"a", "b"}
    assert 0.7 < drawn["a"] / 2000 < 0.8


@pytest.mark.parametrize("parts", [{}, {"a": 0.0}, {"a": 1.0, "b": -1.0}, {"c": 1.0}])
def test_parts_are_known_and_weigh_something(parts: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"parts must weigh some of a, b .*got \{"):
        check_parts(parts, ("a", "b"))


def test_numbers_go_from_the_least_to_the_most() -> None:
    rng = np.random.default_rng(0)
    turns = HowMany(things="turns", least=2, most=4, limit=4)
    assert {turns.draw(rng) for _ in range(100)} == {2, 3, 4}
    assert HowMany(things="turns", least=3, most=3, limit=4).draw(rng) == 3


@pytest.mark.parametrize(("least", "most"), [(1, 3), (3, 2), (2, 5)])
def test_numbers_keep_their_limits(least: int, most: int) -> None:
    rule = "pictures must be 2 <= least_pictures <= most_pictures <= 4"
    with pytest.raises(ValueError, match=f"{rule}, got {least} and {most}"):
        HowMany(things="pictures", least=least, most=most, fewest=2, limit=4)
