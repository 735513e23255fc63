"""Turn the judge's raw scores into probabilities, and report how it finds things.

GenEval counts what scores above 0.3, and above 0.9 where it counts. Those thresholds mean something
for scores that are probabilities of being right, so that is what the judge's are made to be: a
logistic curve (Platt, 1999) fitted to whether each find was right, on training-split scenes of a
stream that it was not trained on, half of them renders and half reconstructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from openjanus.eval.geneval import COUNTING_SCORE_THRESHOLD, SCORE_THRESHOLD
from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.judge import CHUNK, Calibration, logit
from openjanus.worlds.emoji.judge_measures import matched
from openjanus.worlds.emoji.judge_network import NATURAL, JudgeNetwork, pixel_values_of
from openjanus.worlds.emoji.judge_peaks import Peaks, peaks_of
from openjanus.worlds.emoji.scenes import Scene

RAW_FLOOR: Final = 0.01
"""Finds below this raw score have no part in the fit: there are always sixteen peaks."""
NEWTON_STEPS: Final = 30
RIDGE: Final = 1e-3
"""Keeps the curve finite where every find is right."""


def find_peaks(network: JudgeNetwork, pictures: Sequence[np.ndarray]) -> list[Peaks]:
    """What a `folded` network finds in pictures, before calibration."""
    found: list[Peaks] = []
    for start in range(0, len(pictures), CHUNK):
        with torch.no_grad():
            found += peaks_of(network(pixel_values_of(pictures[start : start + CHUNK])))
    return found


def calibrate(found: Sequence[Peaks], scenes: Sequence[Scene]) -> Calibration:
    """Fit the curve from raw scores to the share of finds that are right.

    Raises:
        ValueError: Finds are all right or all wrong, so that there is nothing to fit.
    """
    raw = np.concatenate([peaks.score for peaks in found])
    right = np.concatenate(
        [
            matched(peaks.box, peaks.concept, scene)[0] >= 0
            for peaks, scene in zip(found, scenes, strict=True)
        ]
    )
    raw, right = raw[raw > RAW_FLOOR], right[raw > RAW_FLOOR]
    if right.all() or not right.any():
        raise ValueError(
            f"calibration needs finds that are right and finds that are wrong, all {len(raw)} are "
            "alike: train for longer, or calibrate on more scenes"
        )
    return fit_logistic(logit(raw), right)


def fit_logistic(x: np.ndarray, right: np.ndarray) -> Calibration:
    """Scale and bias of the likeliest logistic curve, by Newton's method.

    Args:
        x: (n,) raw scores as logits.
        right: (n,) bool.
    """
    features = np.stack([x, np.ones_like(x)], axis=1)  # (n, 2)
    weights = np.array([1.0, 0.0])
    for _ in range(NEWTON_STEPS):
        probability = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (probability - right) + RIDGE * weights
        curvature = (features * (probability * (1 - probability))[:, None]).T @ features
        weights = weights - np.linalg.solve(curvature + RIDGE * np.eye(2), gradient)
    return Calibration(scale=float(weights[0]), bias=float(weights[1]))


def detection_report(
    found: Sequence[Peaks], scenes: Sequence[Scene], calibration: Calibration
) -> dict[str, Any]:
    """How things are found: precision and recall at GenEval's thresholds, colours, boxes, bins.

    `colour_accuracy` is of painted things, `natural_accuracy` of things in their own colours.

    `reliability` lists, for tenths of the calibrated score, how many finds have such a score and
    which share of them is right: equal to the score itself where calibration is perfect.
    """
    scores, right, overlaps = [], [], []
    painted: list[bool] = []
    natural: list[bool] = []
    for peaks, scene in zip(found, scenes, strict=True):
        owners, shared = matched(peaks.box, peaks.concept, scene)
        scores.append(calibration(peaks.score))
        right.append(owners >= 0)
        overlaps.append(shared)
        for owner, colour in zip(owners, peaks.colour, strict=True):
            if owner < 0:
                continue
            tint = scene.objects[owner].colour
            if tint is None:
                natural.append(colour == NATURAL)
            else:
                painted.append(colour == COLOURS.index(tint))
    score, hit = np.concatenate(scores), np.concatenate(right)
    things = sum(len(scene.objects) for scene in scenes)
    report: dict[str, Any] = {"scenes": len(scenes), "things": things}
    for threshold in (SCORE_THRESHOLD, COUNTING_SCORE_THRESHOLD):
        counts = score > threshold
        report[f"precision_at_{threshold}"] = _share(hit[counts])
        report[f"recall_at_{threshold}"] = round(float(hit[counts].sum()) / things, 4)
    report["colour_accuracy"] = _share(np.array(painted))
    report["natural_accuracy"] = _share(np.array(natural))
    report["mean_overlap"] = _share(np.concatenate(overlaps)[hit])
    bins = np.minimum((score * 10).astype(int), 9)
    report["reliability"] = [
        {
            "score": round((i + 0.5) / 10, 2),
            "n": int((bins == i).sum()),
            "right": _share(hit[bins == i]),
        }
        for i in range(10)
    ]
    return report


def _share(values: np.ndarray) -> float | None:
    """Mean of some values; None of none."""
    return round(float(values.mean()), 4) if len(values) else None
