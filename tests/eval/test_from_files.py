"""GenEval and DPG-Bench scored from what a detector or a model wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openjanus.eval.detections import read_detections, score_drawings
from openjanus.eval.geneval import TAGS
from openjanus.eval.graph_answers import score_answers

DOG = {"class": "dog", "score": 0.95, "box": [0, 0, 10, 10], "color": "red"}


@pytest.fixture
def drawings(tmp_path, make_picture) -> Path:
    """Two prompts a tag, two pictures each; all ask for one dog."""
    folder = tmp_path / "drawings"
    for index, tag in enumerate([*TAGS, *TAGS]):
        place = folder / f"{index:05d}"
        for sample in range(2):
            make_picture(place / "samples" / f"{sample:04d}.png")
        metadata = {"tag": tag, "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}
        (place / "metadata.jsonl").write_text(json.dumps(metadata) + "\n")
    (folder / "settings.json").write_text(json.dumps({"seed": 5}))
    return folder


def write_detections(path: Path, drawings: Path, found: dict[str, list[dict[str, Any]]]) -> Path:
    names = [p.relative_to(drawings).as_posix() for p in sorted(drawings.rglob("*.png"))]
    lines = [{"file": name, "detections": found.get(name, [])} for name in names]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_geneval_from_detections(drawings, tmp_path):
    found = {f"{index:05d}/samples/0000.png": [DOG] for index in range(12)}
    found |= {"00000/samples/0001.png": [DOG], "00006/samples/0001.png": [DOG]}
    # Too unsure for counting, sure enough elsewhere.
    found |= {f"{index:05d}/samples/0001.png": [DOG | {"score": 0.5}] for index in (1, 2)}
    path = write_detections(tmp_path / "found.jsonl", drawings, found)
    result = score_drawings(drawings, path)
    assert result["tags"] == dict.fromkeys(TAGS, 0.5) | {"single_object": 1.0, "two_object": 0.75}
    assert result["overall"] == round((1 + 0.75 + 4 * 0.5) / 6, 4)
    assert (result["n"], result["prompts"]["counting"], result["samples"]) == (24, 2, [2])
    assert (result["detector"], len(result["prompts_sha256"])) == (None, 64)
    assert result["ci"]["single_object"] == [1.0, 1.0]
    low, high = result["ci"]["overall"]
    assert low <= result["overall"] <= high
    assert (result["format_version"], result["drawings"]) == (1, {"seed": 5})


def test_settings_that_are_none_are_named(drawings, tmp_path):
    path = write_detections(tmp_path / "found.jsonl", drawings, {})
    for text, says in (("{", "is not JSON"), ("[]", "holds no settings")):
        (drawings / "settings.json").write_text(text)
        with pytest.raises(ValueError, match=rf"settings\.json {says}"):
            score_drawings(drawings, path)


def test_the_plain_mean_needs_all_six_tags(drawings, tmp_path):
    for index in (0, 6):
        (drawings / f"{index:05d}").rename(tmp_path / f"x{index}")
    path = write_detections(tmp_path / "found.jsonl", drawings, {})
    result = score_drawings(drawings, path)
    assert result["overall"] is None and "overall" not in result["ci"]
    assert list(result["tags"]) == list(TAGS[1:])


def test_wrong_drawings_and_detections(drawings, tmp_path):
    path = write_detections(tmp_path / "found.jsonl", drawings, {})
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match=r"no line for 00000/samples/0000.png and 0 others"):
        score_drawings(drawings, path)
    for wrong, says in [
        ({"file": "a.png"}, "record 1 is wrong"),
        ({"file": "a", "detections": [DOG | {"colour": "red"}]}, r"unknown keys \['colour'\]"),
        ({"file": "a", "detections": [DOG | {"score": 2}]}, r"score must be in \[0, 1\], got 2"),
        ({"file": "a", "detections": [DOG | {"box": [5, 0, 1, 1]}]}, "box must be x0 <= x1"),
        ({"file": "a", "detections": [DOG | {"color": "grey"}]}, "color must be one of red"),
        ({"file": "a", "detections": [DOG | {"class": None}]}, "class must be a name, got None"),
    ]:
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=says):
            read_detections(path)
    path.write_text("\n".join([lines[0], lines[0]]))
    with pytest.raises(ValueError, match=r"has 00000/samples/0000\.png twice"):
        read_detections(path)
    with pytest.raises(ValueError, match="does not exist: expected JSON lines of"):
        score_drawings(drawings, tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="does not exist: expected GenEval's folder"):
        score_drawings(tmp_path / "none", path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no folder 00000"):
        score_drawings(tmp_path / "empty", path)
    (drawings / "00003" / "metadata.jsonl").write_text('{"tag": "x", "include": []}')
    with pytest.raises(ValueError, match=r"is wrong \(tag must be one of"):
        score_drawings(drawings, path)
    (drawings / "00003" / "metadata.jsonl").write_text("5")
    with pytest.raises(ValueError, match=r"is wrong \(GenEval metadata are mappings"):
        score_drawings(drawings, path)
    (drawings / "00003" / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match="has 0 lines, not 1"):
        score_drawings(drawings, path)
    (drawings / "00002" / "samples" / "0000.png").unlink()
    (drawings / "00002" / "samples" / "0001.png").unlink()
    with pytest.raises(ValueError, match="has no pictures"):
        score_drawings(drawings, path)


def test_what_is_seldom_meant_is_said(drawings, tmp_path):
    path = tmp_path / "found.jsonl"
    for index in (3, 9):
        include = [{"class": "dog", "count": 1, "color": "red"}]
        metadata = {"tag": "colors", "include": include, "prompt": "a red dog"}
        (drawings / f"{index:05d}" / "metadata.jsonl").write_text(json.dumps(metadata))
    plain = {key: value for key, value in DOG.items() if key != "color"}
    names = [p.relative_to(drawings).as_posix() for p in drawings.rglob("*.png")]
    write_detections(path, drawings, {name: [plain] for name in names})
    with pytest.warns(UserWarning, match="nothing has a color in the 4 pictures"):
        assert score_drawings(drawings, path)["tags"]["colors"] == 0
    write_detections(path, drawings, {name: [DOG] for name in names})
    with path.open("a") as file:
        file.write(json.dumps({"file": "b/0.png", "detections": []}) + "\n")
    with pytest.warns(UserWarning, match=r"1 lines are about no picture .* first one b/0\.png"):
        assert score_drawings(drawings, path)["tags"]["colors"] == 1


def test_files_may_be_told_with_the_folder(drawings, tmp_path, monkeypatch):
    path = write_detections(tmp_path / "found.jsonl", drawings, {})
    lines = path.read_text().replace('"file": "', f'"file": "{drawings}/')
    path.write_text(lines)
    assert score_drawings(drawings, path)["n"] == 24
    monkeypatch.chdir(drawings.parent)  # and the folder otherwise than the files
    assert score_drawings(drawings.name, path)["n"] == 24


def test_only_numbered_pictures_are_drawings(drawings, tmp_path, make_picture):
    # GenEval's program passes over whatever else lies there.
    path = write_detections(tmp_path / "found.jsonl", drawings, {})
    make_picture(drawings / "00000" / "samples" / "grid.png")
    assert score_drawings(drawings, path)["n"] == 24


HEADER = "item_id,text,proposition_id,dependency,category_broad,question_natural_language\n"
ROWS = [
    "a,t,1,0,entity,Is there a dog?",
    "a,t,2,1,attribute,Is it red?",
    'a,t,3,"1,2",relation,Is it on a mat?',
    "b,t,1,0,entity,Is there a cat?",
    "c,t,1,0,global,Is it night?",
]


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "dpg_bench.csv"
    path.write_text(HEADER + "\n".join(ROWS) + "\n")
    return path


def write_answers(path: Path, told: list[tuple[str, int, int, str]]) -> Path:
    keys = ("item_id", "tile", "proposition_id", "answer")
    path.write_text("".join(json.dumps(dict(zip(keys, t, strict=True))) + "\n" for t in told))
    return path


TOLD = [
    *(("a", 0, 1, "yes"), ("a", 0, 2, "no"), ("a", 0, 3, "yes")),
    *(("a", 1, 1, "Yes."), ("a", 1, 2, "yes"), ("a", 1, 3, "yes")),
    *(("b", 0, 1, "no"), ("b", 1, 1, "yes")),
]


def test_dpg_from_answers(table, tmp_path):
    lines = tmp_path / "new" / "predictions.jsonl"
    answers = write_answers(tmp_path / "told.jsonl", TOLD)
    result = score_answers(table, answers, predictions=lines)
    tile = {"key": "a/0", "item_id": "a", "tile": 0, "score": pytest.approx(1 / 3)}
    assert json.loads(lines.read_text().splitlines()[0]) == tile | {"yes": [1, 3], "fallen": [3]}
    # a: tile 0 loses the mat with the colour, 1/3; tile 1 has all. b: half. c is not drawn.
    assert result["score"]["value"] == round(100 * ((1 / 3 + 1) / 2 + 1 / 2) / 2, 2)
    assert result["categories"] == {"attribute": 50.0, "entity": 75.0, "relation": 100.0}
    assert (result["n"], result["prompts"], result["prompts_without_answers"]) == (4, 2, 1)
    low, high = result["score"]["interval"]
    assert low == 50.0 and high == pytest.approx(200 / 3, abs=0.01)
    assert result["format_version"] == 1


def test_answers_that_are_neither_yes_nor_no_are_counted(table, tmp_path):
    told = [*TOLD[:-2], ("b", 0, 1, "No."), ("b", 1, 1, "there is none")]
    result = score_answers(table, write_answers(tmp_path / "told.jsonl", told))
    assert result["parse_failure_rate"] == 0.125
    assert result["categories"]["entity"] == 50.0  # a no all the same


def test_a_result_says_which_drawings_it_is_of(table, tmp_path):
    answers = write_answers(tmp_path / "told.jsonl", TOLD)
    assert score_answers(table, answers)["drawings"] is None
    settings = {"format_version": 1, "layout": "dpg", "checkpoint_sha256": "a" * 64}
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "settings.json").write_text(json.dumps(settings))
    assert score_answers(table, answers, drawings=tmp_path / "drawn")["drawings"] == settings
    with pytest.raises(ValueError, match="expected a folder that openjanus eval --generate-set"):
        score_answers(table, answers, drawings=tmp_path)
    (tmp_path / "drawn" / "settings.json").write_text('{"task": "gqa"}')
    with pytest.raises(ValueError, match="is of no drawings"):
        score_answers(table, answers, drawings=tmp_path / "drawn")


def test_wrong_questions_and_answers(table, tmp_path):
    def score(told: list[tuple[str, int, int, str]]) -> None:
        score_answers(table, write_answers(tmp_path / "told.jsonl", told))

    with pytest.raises(ValueError, match=r"item a, tile 1: .*\[3\] have none"):
        score([t for t in TOLD if t[:3] != ("a", 1, 3)])
    with pytest.raises(ValueError, match="answers a, tile 0, question 1 twice"):
        score([*TOLD, TOLD[0]])
    with pytest.raises(ValueError, match="answers about 'z': no such item"):
        score([("z", 0, 1, "yes")])
    with pytest.raises(ValueError, match="answers about nothing"):
        score([])
    for tile in (-1, 4):
        with pytest.raises(ValueError, match=f"has tile {tile} of a: a prompt's tiles are 0 to 3"):
            score([*TOLD, ("a", tile, 1, "yes")])
    for strange in ("0", True):
        with pytest.raises(ValueError, match="that is no number"):
            score([("a", strange, 1, "yes")])  # type: ignore[list-item] - refused when run
    with pytest.raises(ValueError, match="item b, tile 0: there is no question 7"):
        score([*TOLD, ("b", 0, 7, "yes")])
    with pytest.raises(ValueError, match="has no answer in record 1"):
        score([("b", 0, 1, None)])  # type: ignore[list-item] - refused when run
    path = tmp_path / "told.jsonl"
    table.write_text(HEADER + "a,t,1,7,entity,?\n")
    with pytest.raises(ValueError, match=r"has a broken item a .*depends on \[7\]"):
        score_answers(table, path)
    table.write_text(HEADER + "a,t,x,0,entity,?\n")
    with pytest.raises(ValueError, match="has a broken row 1"):
        score_answers(table, path)
    table.write_text(HEADER + "a,t\n")
    with pytest.raises(ValueError, match="has a broken row 1"):
        score_answers(table, path)
    table.write_bytes(HEADER.encode() + b"\xff\n")
    with pytest.raises(ValueError, match=r"dpg_bench\.csv is no UTF-8 text"):
        score_answers(table, path)
    table.write_text("item_id,text\n")
    with pytest.raises(ValueError, match="has no column proposition_id, dependency"):
        score_answers(table, path)
