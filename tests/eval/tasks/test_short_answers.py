"""GQA, VQAv2, MMMU and MM-Vet on small files of their own layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openjanus.eval.runner import run_task
from openjanus.eval.task import build_task


def requests_of(task: str, data: Path, **options: object) -> list:
    return list(build_task(task, {"data": str(data), **options}).requests(limit=None, seed=0))


@pytest.fixture
def gqa(tmp_path, make_picture) -> Path:
    folder = tmp_path / "gqa"
    questions = {}
    for key, answer in [("01", "left"), ("02", "Yes")]:
        make_picture(folder / "images" / f"n{key}.jpg")
        questions[key] = {"imageId": f"n{key}", "question": f"Q{key}?", "answer": answer}
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    return folder


def test_gqa_is_exact_match(gqa, scripted, tmp_path):
    janus = scripted(lambda words: " Left." if "Q01" in words else "yes it is")
    summary = run_task(janus, "gqa", output=tmp_path / "run", options={"data": str(gqa)})
    assert summary["score"]["value"] == 50.0
    assert [r.key for r in requests_of("gqa", gqa / "testdev_balanced_questions.json")] == [
        "01",
        "02",
    ]


def test_wrong_layouts_of_gqa(gqa, tmp_path):
    with pytest.raises(ValueError, match=r"\.json does not exist: expected a GQA questions"):
        requests_of("gqa", tmp_path)
    with pytest.raises(ValueError, match="the folder of pictures that `images` names"):
        requests_of("gqa", gqa, images=str(tmp_path / "none"))
    file = gqa / "testdev_balanced_questions.json"
    file.write_text("[]")
    with pytest.raises(ValueError, match="is no mapping"):
        requests_of("gqa", gqa)
    file.write_text('{"1": {"imageId": "1", "question": "?"}}')
    with pytest.raises(ValueError, match="has no answer in record 1"):
        requests_of("gqa", gqa)


@pytest.fixture
def vqa(tmp_path, make_picture) -> Path:
    folder = tmp_path / "vqa"
    questions = [{"question_id": 10 + i, "image_id": 1 + i, "question": f"Q{i}?"} for i in range(2)]
    for image in (1, 2):
        make_picture(folder / "val2014" / f"COCO_val2014_{image:012d}.jpg")
        make_picture(folder / "test2015" / f"COCO_test2015_{image:012d}.jpg")
    humans = [["2"] * 4 + ["3"] * 6, ["yes"] * 2 + ["no"] * 8]
    annotations = [
        {
            "question_id": 10 + i,
            "answer_type": ("number", "yes/no")[i],
            "answers": [{"answer": answer, "answer_id": n} for n, answer in enumerate(human)],
        }
        for i, human in enumerate(humans)
    ]
    for name, content in {
        "v2_OpenEnded_mscoco_val2014_questions": {"questions": questions},
        "v2_mscoco_val2014_annotations": {"annotations": annotations},
        "v2_OpenEnded_mscoco_test-dev2015_questions": {"questions": questions},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_vqa_accuracy(vqa, scripted, tmp_path):
    janus = scripted(lambda words: "Two" if "Q0" in words else "Yes.")
    options = {"data": str(vqa), "split": "val2014"}
    summary = run_task(janus, "vqav2", output=tmp_path / "run", options=options)
    second = (2 * 1 / 3 + 8 * 2 / 3) / 10
    assert summary["kinds"] == {"number": 1.0, "yes/no": pytest.approx(second)}
    assert summary["score"]["value"] == pytest.approx(100 * (1 + second) / 2, abs=0.01)
    assert summary["options"]["files"] == [
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
    ]


def test_both_sides_may_be_normalised(vqa, scripted, tmp_path):
    file = vqa / "v2_mscoco_val2014_annotations.json"
    file.write_text(file.read_text().replace('"answer": "2"', '"answer": "The Two"'))
    for rule, score in (("official", 0.0), ("both-sides", 1.0)):
        options = {"data": str(vqa), "split": "val2014", "rule": rule}
        janus = scripted(lambda words: "2")
        summary = run_task(janus, "vqav2", output=tmp_path / rule, options=options)
        assert summary["kinds"]["number"] == score


@pytest.mark.parametrize("name", ["question_id", "image_id"])
def test_ids_of_vqa_are_numbers(vqa, name):
    # The server's file and the pictures' names are made of them.
    path = vqa / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    content = json.loads(path.read_text())
    content["questions"][1][name] = "x"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"has the {name} 'x', which is no whole number"):
        requests_of("vqav2", vqa, split="test-dev2015")


def test_test_dev_becomes_a_file_for_the_server(vqa, scripted, tmp_path):
    (vqa / "test2015" / "COCO_test2015_000000000002.jpg").unlink()
    options = {"data": str(vqa), "split": "test-dev2015"}
    with pytest.warns(UserWarning, match="11 is broken and left out: no image at"):
        summary = run_task(
            scripted(lambda words: "red"), "vqav2", output=tmp_path / "run", options=options
        )
    assert summary["score"] is None
    written = json.loads((tmp_path / "run" / summary["submission"]).read_text())
    # The server wants every question: what was broken is answered with nothing.
    assert written == [{"question_id": 10, "answer": "red"}, {"question_id": 11, "answer": ""}]


def test_wrong_layouts_of_vqa(vqa):
    with pytest.raises(ValueError, match=r"has 2 files of questions .*option split chooses"):
        requests_of("vqav2", vqa)
    with pytest.raises(ValueError, match=r"has 0 files of questions \(none"):
        requests_of("vqav2", vqa, split="train2014")
    file = vqa / "v2_mscoco_val2014_annotations.json"
    file.write_text('{"annotations": [{"question_id": 10, "answers": []}]}')
    with pytest.raises(ValueError, match="has no answers to question 11"):
        requests_of("vqav2", vqa, split="val2014")
    told = [{"question_id": i, "answers": [{"answer": "yes"}] * 10} for i in (10, 11)]
    for wrong in (["yes"] * 10, [{"x": 1}] * 10, [{"answer": "yes"}], {}):
        annotations = [told[0] | {"answers": wrong}, told[1]]
        file.write_text(json.dumps({"annotations": annotations}))
        with pytest.raises(ValueError, match="no answers of 2 annotators or more to question 10"):
            requests_of("vqav2", vqa, split="val2014")
    file.write_text(json.dumps({"annotations": [*told, told[0]]}))
    with pytest.raises(ValueError, match="answers question 10 twice"):
        requests_of("vqav2", vqa, split="val2014")
    file.write_text('{"annotation": []}')
    with pytest.raises(ValueError, match="has no list of annotations"):
        requests_of("vqav2", vqa, split="val2014")


@pytest.fixture
def mmmu(tmp_path, make_picture) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    image = {"bytes": make_picture(tmp_path / "p.png").read_bytes(), "path": "p.png"}
    rows = [
        {
            "id": "validation_Art_1",
            "question": "Look at <image 2>, not at <image 1>.",
            "options": "['a dog', '<image 3>']",
            "answer": "B",
            "question_type": "multiple-choice",
            "image_1": image,
            "image_2": image,
            "image_3": image,
        },
        {
            "id": "validation_Art_2",
            "question": "How many?",
            "options": "[]",
            "answer": "['3', 'three']",
            "question_type": "open",
            "image_1": image,
            "image_2": {"bytes": None, "path": None},  # as some writers say that there is none
            "image_3": None,
        },
    ]
    for split in ("validation", "test"):
        if split == "test":
            rows = [row | {"answer": "?"} for row in rows]
        place = tmp_path / "mmmu" / "Art"
        place.mkdir(parents=True, exist_ok=True)
        file = place / f"{split}-00000-of-00001.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return tmp_path / "mmmu"


def test_mmmu_shows_pictures_where_the_text_has_them(mmmu, scripted, tmp_path):
    janus = scripted(lambda words: "It must be (B)" if "Look at" in words else "three")
    summary = run_task(janus, "mmmu", output=tmp_path / "run", options={"data": str(mmmu)})
    assert janus.asked[0].splitlines() == [
        *("Look at ", "<image>", ", not at ", "<image>", ".", "(A) a dog", "(B) ", "<image>"),
        "Answer with the option's letter from the given choices directly.",
    ]
    assert janus.asked[1].startswith("<image>\nHow many?")
    assert summary["score"]["value"] == 100.0
    assert summary["subjects"] == {"Art": 1.0}
    assert summary["options"]["suffix"]["open"].startswith("Answer the question")
    assert (summary["fallback_rate"], summary["parse_failure_rate"]) == (0.0, 0.0)


def test_what_mmmu_cannot_read_is_a_blind_pick_or_wrong(mmmu, scripted, tmp_path):
    from openjanus.eval.rules.mmmu import read_choice

    letters = {"A": "a dog", "B": "<image 3>"}
    lucky = read_choice("", letters, key="validation_Art_1").letter == "B"
    for rule, score in (("official", 50.0 * lucky), ("strict", 0.0)):
        summary = run_task(
            scripted(lambda words: "hm"),
            "mmmu",
            output=tmp_path / rule,
            options={"data": str(mmmu), "rule": rule},
        )
        assert (summary["score"]["value"], summary["fallback_rate"]) == (score, 1.0)


def test_the_test_split_of_mmmu_becomes_a_file_for_the_server(mmmu, scripted, tmp_path):
    janus = scripted(lambda words: "B" if "Look" in words else "three")
    options = {"data": str(mmmu), "split": "test"}
    summary = run_task(janus, "mmmu", output=tmp_path / "run", options=options)
    assert summary["score"] is None
    written = json.loads((tmp_path / "run" / summary["submission"]).read_text())
    assert written == {"validation_Art_1": "B", "validation_Art_2": "three"}


def test_a_mark_without_its_picture_breaks_that_question_alone(mmmu, scripted, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = mmmu / "Art" / "validation-00000-of-00001.parquet"
    rows = parquet.read_table(file).to_pylist()
    rows[0]["question"] = "Look at <image 5>"
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "new.parquet")
    folder = tmp_path / "other" / "Art"
    folder.mkdir(parents=True)
    (tmp_path / "new.parquet").rename(folder / file.name)
    with pytest.warns(UserWarning, match="<image 5>, which is not there"):
        summary = run_task(
            scripted(lambda words: "3"),
            "mmmu",
            output=tmp_path / "run",
            options={"data": str(tmp_path / "other")},
        )
    assert (summary["n"], summary["broken"]["n"], summary["score"]["value"]) == (1, 1, 100.0)


def test_wrong_layouts_of_mmmu(mmmu, tmp_path):
    with pytest.raises(ValueError, match=r"has no files \*/validation-\*\.parquet: expected MMMU"):
        requests_of("mmmu", tmp_path)
    with pytest.raises(ValueError, match="has no files"):
        requests_of("mmmu", mmmu, split="dev")
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = mmmu / "Art" / "validation-00000-of-00001.parquet"
    whole = parquet.read_table(file).to_pylist()
    for change, says in [
        ({"options": "[]"}, r"has the options '\[\]' of validation_Art_1: expected a list"),
        ({"options": "a, b"}, "has the options 'a, b' of validation_Art_1"),
        ({"question": None}, "has a row without question"),
        ({"answer": "?"}, "has no answer to validation_Art_1, unlike 1 others"),
        ({"answer": None}, "has no answer to validation_Art_1, unlike 1 others"),
    ]:
        # The file of the same name is read anew.
        rows = [whole[0] | change, whole[1]]
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        with pytest.raises(ValueError, match=says):
            requests_of("mmmu", mmmu)
    (mmmu / "Art" / "validation-00001-of-00002.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="is broken"):
        requests_of("mmmu", mmmu)


def test_mm_vet_is_written_for_its_evaluator(tmp_path, make_picture, scripted):
    folder = tmp_path / "mmvet"
    make_picture(folder / "images" / "v1_0.png")
    questions = {"v1_0": {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1"}}
    (folder / "mm-vet.json").write_text(json.dumps(questions))
    janus = scripted(lambda words: "x = -1")
    summary = run_task(janus, "mmvet", output=tmp_path / "run", options={"data": str(folder)})
    assert janus.asked == ["<image>\nWhat is x?"]
    assert summary["score"] is None
    assert summary["options"]["answers"]["max_new_tokens"] == 512
    written = json.loads((tmp_path / "run" / summary["submission"]).read_text())
    assert written == {"v1_0": "x = -1"}
    (folder / "mm-vet.json").write_text("[]")
    with pytest.raises(ValueError, match="is no mapping: expected MM-Vet"):
        requests_of("mmvet", folder)
