from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from openjanus.eval.geneval import TAGS, Detection, judge
from openjanus.worlds.emoji.cells import evaluation_cells
from openjanus.worlds.emoji.judge import Calibration, Judge
from openjanus.worlds.emoji.judge_calibration import calibrate, detection_report, fit_logistic
from openjanus.worlds.emoji.judge_measures import (
    as_record,
    matched,
    measure,
    minimally_wrong,
    trials,
)
from openjanus.worlds.emoji.judge_network import JudgeConfig, JudgeNetwork
from openjanus.worlds.emoji.judge_peaks import Peaks
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, Scene, SceneObject, render
from openjanus.worlds.emoji.sprites import Sprites

SIZE = 32
NAMES = JudgeConfig().names


def truth(scene: Scene) -> list[Detection]:
    return [
        Detection(class_name=x.concept, score=0.99, box=x.box, colour=x.colour)
        for x in scene.objects
    ]


class Oracle(Judge):
    """Knows the scenes of the measurement by their pictures; sees nothing in others."""

    def __init__(self, sprites: Sprites, per_tag: int, seed: int) -> None:
        network = JudgeNetwork(JudgeConfig(widths=(1, 1, 1, 1)), norm=False)
        super().__init__(network, Calibration(), {})
        made = [trial for tag in GENEVAL_TAGS for trial in trials(tag, per_tag, seed, sprites)]
        self.truths = {
            render(trial.scene, SIZE, sprites).tobytes(): truth(trial.scene) for trial in made
        }

    def look(self, pictures: Sequence[np.ndarray | Image.Image]) -> list[list[Detection]]:
        return [self.truths.get(np.asarray(picture).tobytes(), []) for picture in pictures]


@pytest.mark.parametrize("tag", GENEVAL_TAGS)
def test_wrong_requests_are_wrong_in_one_respect(tag, sprites: Sprites) -> None:
    for cell in evaluation_cells(tag)[:200]:
        wrong = minimally_wrong(cell, np.random.default_rng(0))
        changed = [
            name
            for name in ("concepts", "colours", "relation", "count")
            if getattr(wrong, name) != getattr(cell, name)
        ]
        assert len(changed) == 1
        if changed == ["concepts"]:
            assert sum(a != b for a, b in zip(wrong.concepts, cell.concepts, strict=True)) == 1


@pytest.mark.parametrize("tag", GENEVAL_TAGS)
def test_the_truth_fulfils_the_right_request_alone(tag, sprites: Sprites) -> None:
    for trial in trials(tag, 60, 5, sprites):
        found = truth(trial.scene)
        assert judge(found, trial.right).correct
        assert not judge(found, trial.wrong).correct


def test_trials_are_a_function_of_seed_and_index(sprites: Sprites) -> None:
    assert trials("counting", 5, 1, sprites) == trials("counting", 9, 1, sprites)[:5]
    assert trials("counting", 5, 1, sprites) != trials("counting", 5, 2, sprites)


def test_an_oracle_makes_no_mistake_and_the_blind_reject_everything(sprites: Sprites) -> None:
    oracle = Oracle(sprites, 3, 1)
    for values in measure(oracle, sprites, size=SIZE, per_tag=3, seed=1).values():
        assert (values.balanced_accuracy, values.acceptance, values.n) == (1, 1, 3)

    def spoil(pictures: np.ndarray) -> np.ndarray:
        return np.zeros_like(pictures)

    blind = measure(oracle, sprites, size=SIZE, per_tag=3, seed=1, redraw=spoil)
    assert set(blind) == set(TAGS)
    for values in blind.values():
        assert (values.false_rejections, values.false_acceptances) == (1, 0)
        assert values.balanced_accuracy == 0.5
    assert as_record(blind)["colors"] == {
        "balanced_accuracy": 0.5,
        "false_rejections": 1.0,
        "false_acceptances": 0.0,
        "n": 3,
    }


def test_a_measurement_needs_pictures(sprites: Sprites) -> None:
    with pytest.raises(ValueError, match="at least 1 picture a tag"):
        measure(Oracle(sprites, 1, 1), sprites, size=SIZE, per_tag=0, seed=1)


CAT = (0.1, 0.1, 0.4, 0.4)
DOG = (0.6, 0.6, 0.9, 0.9)
SCENE = Scene(
    objects=(
        SceneObject(concept="cat", vendor="x", colour="red", box=CAT),
        SceneObject(concept="dog", vendor="x", colour=None, box=DOG),
    ),
    background=(0, 0, 0),
    tag="two_object",
)


def finds(*things: tuple[str, tuple[float, ...], float]) -> Peaks:
    return Peaks(
        score=np.array([score for _, _, score in things]),
        concept=np.array([NAMES.index(name) for name, _, _ in things]),
        colour=np.zeros(len(things), dtype=int),
        box=np.array([box for _, box, _ in things]).reshape(-1, 4),
    )


def test_finds_are_right_in_name_and_place_and_once() -> None:
    peaks = finds(("cat", CAT, 0.9), ("cat", CAT, 0.8), ("cat", DOG, 0.7), ("dog", DOG, 0.6))
    owners, shared = matched(peaks.box, peaks.concept, SCENE)
    assert owners.tolist() == [0, -1, -1, 1]
    assert shared == pytest.approx([1, 0, 0, 1])


def test_the_curve_is_recovered() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40_000) * 2
    right = rng.random(len(x)) < 1 / (1 + np.exp(-(1.7 * x - 0.6)))
    fitted = fit_logistic(x, right)
    assert fitted.scale == pytest.approx(1.7, abs=0.06)
    assert fitted.bias == pytest.approx(-0.6, abs=0.06)


def test_the_curve_stays_finite_where_scores_tell_everything() -> None:
    x = np.array([-3.0, -2.0, 2.0, 3.0])
    fitted = fit_logistic(x, x > 0)
    assert 1 < fitted.scale < 20


def test_calibration_and_report() -> None:
    rng = np.random.default_rng(0)
    found, scenes = [], []
    for score in rng.random(3000):
        name = "cat" if rng.random() < score else "zebra"
        found.append(finds((name, CAT, score)))
        scenes.append(SCENE)
    calibration = calibrate(found, scenes)
    assert calibration.scale == pytest.approx(1, abs=0.15)  # the scores were right as they were
    assert calibration.bias == pytest.approx(0, abs=0.15)
    report = detection_report(found, scenes, calibration)
    assert (report["scenes"], report["things"]) == (3000, 6000)
    assert report["precision_at_0.9"] > 0.9
    assert report["recall_at_0.9"] < report["recall_at_0.3"] < 0.5
    assert report["colour_accuracy"] == 1.0
    assert report["natural_accuracy"] is None
    assert report["mean_overlap"] == 1.0
    for row in report["reliability"]:
        assert row["right"] == pytest.approx(row["score"], abs=0.1)
    with pytest.raises(ValueError, match="train for longer"):
        calibrate([finds(("zebra", CAT, 0.5))], [SCENE])
