"""What the emoji task's verdicts and answers come to: scores, intervals, baselines."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from openjanus.eval.answers import majority_score, read_yes_no, yes_no_scores
from openjanus.eval.geneval import TAGS, overall, tag_scores
from openjanus.eval.stats import bootstrap_interval, bootstrap_macro_interval
from openjanus.eval.task import Prediction
from openjanus.worlds.emoji.absence import Negatives
from openjanus.worlds.emoji.questions import QUESTION_KINDS

NEGATIVES: Final[tuple[Negatives, ...]] = ("random", "popular", "adversarial")


def drawing_scores(drawn: Sequence[Prediction], seed: int) -> dict[str, Any]:
    """Scores a tag and overall, with 95 % intervals bootstrapped by cell."""
    groups: dict[str, tuple[list[bool], list[str]]] = {tag: ([], []) for tag in TAGS}
    for prediction in drawn:
        values, cells = groups[prediction["tag"]]
        values += prediction["correct"]
        cells += [prediction["cell"]] * len(prediction["correct"])
    scores = tag_scores({tag: values for tag, (values, _) in groups.items()})
    intervals = {
        "overall": bootstrap_macro_interval(groups, seed=seed),
        **{tag: bootstrap_interval(*groups[tag], seed=seed) for tag in TAGS},
    }
    return {
        "overall": round(overall(scores), 4),
        "tags": {tag: round(score, 4) for tag, score in scores.items()},
        "ci": {name: [round(edge, 4) for edge in edges] for name, edges in intervals.items()},
        "n": sum(len(values) for values, _ in groups.values()),
    }


def understanding_scores(predictions: Sequence[Prediction], seed: int) -> dict[str, Any]:
    """Accuracies of questions with and without their pictures, baselines and intervals."""
    seen = [p for p in predictions if p["key"].startswith("understanding/")]
    blind = [p for p in predictions if p["key"].startswith("blind/")]
    return {
        "understanding": {**_accuracies(seen), "blind": _accuracies(blind), "n": len(seen)},
        "details": {
            "questions": dict(Counter(p["kind"] for p in seen)),
            "majority": _by_kind(seen, lambda ps: majority_score([p["answer"] for p in ps])),
            "understanding_ci": _by_kind(seen, lambda ps: _question_interval(ps, seed)),
            "existence": _pope(seen),
        },
        "parse_failure_rate": round(sum(not p["parsed"] for p in seen) / len(seen), 4),
    }


def _by_kind(
    predictions: Sequence[Prediction], figure: Callable[[list[Prediction]], Any]
) -> dict[str, Any]:
    """A figure of the predictions of each kind of question."""
    return {kind: figure([p for p in predictions if p["kind"] == kind]) for kind in QUESTION_KINDS}


def _accuracies(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Share of exact answers by kind."""
    return _by_kind(predictions, lambda ps: round(sum(bool(p["correct"]) for p in ps) / len(ps), 4))


def _question_interval(predictions: Sequence[Prediction], seed: int) -> list[float]:
    """95 % interval of the share of exact answers; each question is a cluster of its own."""
    values = [float(p["correct"]) for p in predictions]
    edges = bootstrap_interval(values, range(len(values)), seed=seed)
    return [round(edge, 4) for edge in edges]


def _pope(predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """POPE's figures for each sort of negatives that was asked."""
    asked = {name: [p for p in predictions if p["negatives"] == name] for name in NEGATIVES}
    return {name: pope_figures(found) for name, found in asked.items() if found}


def pope_figures(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and the share of yes, over all negatives together."""
    scores = yes_no_scores(
        [read_yes_no(p["reply"]) for p in predictions], [p["answer"] == "yes" for p in predictions]
    )
    return {name: round(value, 4) for name, value in dataclasses.asdict(scores).items()}
