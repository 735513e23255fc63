"""MME's rules (Fu et al., 2023): two yes-or-no questions a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

PERCEPTION: Final = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION: Final = (
    *("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
)
PREFIX: Final = 4
"""Characters in which yes or no must stand."""


def read_answer(answer: str) -> bool | None:
    """Yes, no, or None where neither stands in the first four characters."""
    start = answer.strip().lower()[:PREFIX]
    if "yes" in start:
        return True
    return False if "no" in start else None


def picture_points(right: Sequence[bool]) -> float:
    """Points of one picture, 0 to 200: 100 x share of right answers, and 100 if both are.

    Their mean over a task's pictures is 100 accuracy + 100 accuracy-plus.

    Raises:
        ValueError: Not two answers.
    """
    if len(right) != 2:
        raise ValueError(f"MME asks two questions a picture, got {len(right)} answers")
    return 100 * sum(right) / 2 + 100 * all(right)


def task_score(points: Sequence[float]) -> float:
    """Mean over the pictures of a task, 0 to 200.

    Raises:
        ValueError: No pictures.
    """
    if not points:
        raise ValueError("a task of MME needs a picture, got none")
    return sum(points) / len(points)


def totals(scores: Mapping[str, float]) -> dict[str, float]:
    """Perception, of 2000, and cognition, of 800; a sum needs all of its tasks.

    Args:
        scores: `task_score` by task.

    Returns:
        "perception" and "cognition", each where all of its tasks are there.
    """
    named = {"perception": PERCEPTION, "cognition": COGNITION}
    return {
        name: sum(scores[task] for task in tasks)
        for name, tasks in named.items()
        if all(task in scores for task in tasks)
    }
