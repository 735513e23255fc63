from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.judge import Calibration, Judge, judge_drawings
from openjanus.worlds.emoji.judge_network import (
    INPUT_SIZE,
    NATURAL,
    JudgeConfig,
    JudgeNetwork,
    Maps,
    empty_network,
    folded,
    pixel_values_of,
)
from openjanus.worlds.emoji.judge_peaks import Peaks, overlap, peaks_of
from openjanus.worlds.emoji.judge_targets import Targets, targets_of
from openjanus.worlds.emoji.sampling import sample_scene
from openjanus.worlds.emoji.scenes import TAGS, Scene, SceneObject
from openjanus.worlds.emoji.sprites import Sprites

SMALL = JudgeConfig(widths=(4, 4, 8, 8))
NAMES = SMALL.names


def trained(seed: int = 0) -> JudgeNetwork:
    """A network whose normalisations have seen something."""
    generator = torch.Generator().manual_seed(seed)
    network = empty_network(SMALL, norm=True)
    network.init_weights(generator)
    for _ in range(3):
        network(torch.rand(4, 3, INPUT_SIZE, INPUT_SIZE, generator=generator) * 2 - 1)
    return network


@pytest.fixture(scope="module")
def referee() -> Judge:
    return Judge(folded(trained()), Calibration(scale=1.5, bias=4.0), {"made": "by a test"})


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (INPUT_SIZE, INPUT_SIZE, 3), dtype=np.uint8) for _ in range(3)]


def perfect_maps(targets: Targets) -> Maps:
    """What a perfect network would say."""
    concept = torch.nn.functional.one_hot(targets.concept.clamp(min=0), len(NAMES))
    colour = torch.nn.functional.one_hot(targets.colour.clamp(min=0), NATURAL + 1)
    return Maps(
        centre=torch.logit(targets.centre, eps=1e-3),
        concept=20.0 * concept.permute(0, 3, 1, 2),
        colour=20.0 * colour.permute(0, 3, 1, 2),
        box=targets.box,
    )


def test_what_training_asks_for_is_what_is_read(sprites: Sprites) -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, tag, sprites) for tag in TAGS for _ in range(20)]
    for scene, peaks in zip(scenes, peaks_of(perfect_maps(targets_of(scenes))), strict=True):
        sure = peaks.score > 0.9
        assert sure.sum() == len(scene.objects)
        for thing in scene.objects:
            shared = [overlap(box, np.array(thing.box)) for box in peaks.box[sure]]
            nearest = int(np.argmax(shared))
            assert shared[nearest] > 0.999
            assert NAMES[peaks.concept[sure][nearest]] == thing.concept
            tint = NATURAL if thing.colour is None else COLOURS.index(thing.colour)
            assert peaks.colour[sure][nearest] == tint


def test_targets_tell_painted_things_from_natural_ones() -> None:
    things = (
        SceneObject(concept="cat", vendor="x", colour=None, box=(0.05, 0.05, 0.45, 0.45)),
        SceneObject(concept="dog", vendor="x", colour="pink", box=(0.55, 0.55, 0.95, 0.95)),
    )
    scene = Scene(objects=things, background=(0, 0, 0), tag="two_object")
    targets = targets_of([scene])
    assert targets.centre[0, 4, 4] == 1
    assert targets.centre[0, 12, 12] == 1
    assert (targets.centre == 1).sum() == 2
    assert set(targets.concept.unique().tolist()) == {-1, NAMES.index("cat"), NAMES.index("dog")}
    assert set(targets.colour.unique().tolist()) == {-1, COLOURS.index("pink"), NATURAL}
    assert targets.colour[0, 4, 4] == NATURAL
    assert torch.allclose(targets.box[0, 2:, 4, 4], torch.tensor([0.4, 0.4]))


def test_two_finds_in_one_place_are_one_thing() -> None:
    box = np.array([0.1, 0.1, 0.5, 0.5])
    assert overlap(box, box) == 1
    assert overlap(box, box + 0.4) == 0
    assert overlap(box, np.array([0.1, 0.1, 0.5, 0.3])) == pytest.approx(0.5)
    assert overlap(box, np.array([0.2, 0.2, 0.2, 0.2])) == 0
    maps = Maps(
        centre=torch.full((1, 16, 16), -20.0),
        concept=torch.zeros(1, len(NAMES), 16, 16),
        colour=torch.zeros(1, NATURAL + 1, 16, 16),
        box=torch.zeros(1, 4, 16, 16),
    )
    maps.concept[0, 3] = 20
    maps.box[0, 2:] = 0.5
    maps.centre[0, 5, 5], maps.centre[0, 5, 7], maps.centre[0, 12, 12] = 3.0, 2.0, 1.0
    peaks = peaks_of(maps)[0]
    sure = peaks.score > 0.1
    assert peaks.score[sure] == pytest.approx([torch.tensor(v).sigmoid().item() for v in (3, 1)])
    assert set(peaks.concept[sure]) == {3}


def test_folding_keeps_the_function(pictures: list[np.ndarray]) -> None:
    network = trained()
    small = folded(network)
    assert network.training
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in small.modules())
    pixels = pixel_values_of(pictures)
    with torch.no_grad():
        expected, maps = network.eval()(pixels), small(pixels)
    for name in ("centre", "concept", "colour", "box"):
        torch.testing.assert_close(getattr(maps, name), getattr(expected, name))


def test_a_saved_judge_judges_alike(
    referee: Judge, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    referee.save(tmp_path)
    again = Judge.load(tmp_path)
    assert again.record["made"] == "by a test"
    assert again.calibration == referee.calibration
    for before, after in zip(referee.look(pictures), again.look(pictures), strict=True):
        assert [found.score for found in after] == pytest.approx(
            [found.score for found in before], abs=0.02
        )
    twice = tmp_path / "twice"
    again.save(twice)
    assert Judge.load(twice).sha256() == again.sha256() != referee.sha256()


def test_pictures_of_any_size_and_kind(referee: Judge, pictures: list[np.ndarray]) -> None:
    alone = [referee.look([picture])[0] for picture in pictures]
    together = referee.look([Image.fromarray(picture) for picture in pictures])
    for one, other in zip(alone, together, strict=True):
        assert [f.class_name for f in one] == [f.class_name for f in other]
        assert [f.score for f in one] == pytest.approx([f.score for f in other], abs=1e-4)
    assert len(referee.look([pictures[0][:96, :40]])) == 1
    for found in alone[0]:
        assert 0 <= found.box[0] <= found.box[2] <= 1
        assert found.colour is None or found.colour in COLOURS


def test_no_pictures_no_finds(referee: Judge) -> None:
    assert referee.look([]) == []


def test_drawings_are_judged_by_prompt_or_metadata(
    referee: Judge, pictures: list[np.ndarray]
) -> None:
    prompt = "a photo of two cats"
    line = {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": ""}
    verdicts = judge_drawings(pictures[:2], [prompt, line], referee=referee)
    assert [verdict.correct for verdict in verdicts] == [False, False]
    assert verdicts[0].reasons == ("expected 2 cat, found 0",)
    with pytest.raises(ValueError, match="got 3 drawings and 1 requests"):
        judge_drawings(pictures, [prompt], referee=referee)


def test_calibration_keeps_the_order_and_the_ends() -> None:
    scores = Calibration(scale=2.0, bias=-1.0)(np.array([0.0, 0.2, 0.5, 0.9, 1.0]))
    assert np.all(np.diff(scores) > 0)
    assert 0 < scores[0] < 1e-6
    assert scores[2] == pytest.approx(1 / (1 + np.e))
    assert 1 - 1e-6 < scores[4] < 1


def test_what_is_no_judge_is_refused(referee: Judge, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no judge in"):
        Judge.load(tmp_path)
    referee.save(tmp_path)
    path = tmp_path / "judge.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"format_version": 99}))
    with pytest.raises(ValueError, match="format_version 99 is newer"):
        Judge.load(tmp_path)
    path.write_text(json.dumps(record | {"concepts": ["cat"]}))
    with pytest.raises(ValueError, match="knows other concepts"):
        Judge.load(tmp_path)
    path.write_text(json.dumps(record | {"widths": [4, 4, 8, 16]}))
    with pytest.raises(ValueError, match="weights are of another network"):
        Judge.load(tmp_path)
    with pytest.raises(ValueError, match="widths must be four numbers"):
        JudgeConfig(widths=(4, 4, 8, 0))


def test_things_in_their_own_colours_are_of_no_colour(referee: Judge) -> None:
    peaks = Peaks(
        score=np.array([0.9, 0.9]),
        concept=np.array([0, 1]),
        colour=np.array([COLOURS.index("red"), NATURAL]),
        box=np.array([[0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]]),
    )
    assert [found.colour for found in referee._detections(peaks)] == ["red", None]
