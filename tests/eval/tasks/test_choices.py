"""MMBench and SEED-Bench on small files of their own layouts."""

from __future__ import annotations

import base64
import csv
import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from openjanus.eval.runner import run_task
from openjanus.eval.task import build_task

COLUMNS = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def rows(tmp_path, make_picture) -> list[dict[str, str]]:
    image = base64.b64encode(make_picture(tmp_path / "p.png").read_bytes()).decode()
    first = {"index": "7", "question": "What?", "hint": "Look\ntwice", "A": "dog", "B": "cat"}
    first |= {"answer": "B", "category": "animals", "image": image}
    other = {"index": "8", "question": "Which?", "A": "red", "B": "blue", "C": "green", "D": "pink"}
    other |= {"answer": "A", "category": "colours", "image": "7"}  # the picture of row 7
    return [first, other]


def test_vanilla_asks_each_question_once(rows, scripted, tmp_path):
    table = write_table(tmp_path / "dev.tsv", rows)
    janus = scripted(lambda words: "B" if "What?" in words else "I think blue")
    summary = run_task(janus, "mmbench", output=tmp_path / "run", options={"data": str(table)})
    assert janus.asked[0].splitlines() == [
        *("<image>", "Look", "twice", "What?", "A. dog", "B. cat"),
        "Answer with the option's letter from the given choices directly.",
    ]
    assert summary["score"]["value"] == 50.0
    assert summary["categories"] == {"animals": 1.0, "colours": 0.0}
    assert "vanilla" in summary["score"]["name"] and "authors' setting" in summary["rules"]


def test_circular_wants_every_rotation(rows, scripted, tmp_path):
    table = write_table(tmp_path / "dev.tsv", rows)
    options = {"data": str(table), "rule": "circular"}

    def say(words: str) -> str:
        if "What?" in words:  # knows the cat wherever it stands
            return "A" if "A. cat" in words else "B"
        return "A"  # and always says A about colours

    summary = run_task(scripted(say), "mmbench", output=tmp_path / "run", options=options)
    assert (summary["n"], summary["questions"]) == (2 + 4, 2)
    assert summary["categories"] == {"animals": 1.0, "colours": 0.0}
    vanilla = {"data": str(table)}
    once = run_task(scripted(say), "mmbench", output=tmp_path / "other", options=vanilla)
    assert (once["score"]["value"], summary["score"]["value"]) == (100.0, 50.0)
    # Both stand beside each other, labelled: the first rotation is the question itself.
    assert summary["vanilla"] == once["score"] and "vanilla" not in once


def test_published_rotations_are_taken_as_they_are(rows, scripted, tmp_path):
    turned = rows[0] | {"index": "1000007", "A": "cat", "B": "dog", "answer": "A", "image": "7"}
    table = write_table(tmp_path / "dev.tsv", [*rows, turned])
    task = build_task("mmbench", {"data": str(table), "rule": "circular"})
    assert [request.key for request in task.requests(limit=None, seed=0)] == ["7", "8", "1000007"]
    task = build_task("mmbench", {"data": str(table)})
    assert [request.key for request in task.requests(limit=None, seed=0)] == ["7", "8"]
    task = build_task("mmbench", {"data": str(table), "rule": "circular"})
    assert [r.key for r in task.requests(limit=1, seed=0)] == ["7", "1000007"]
    options = {"data": str(table), "rule": "circular"}
    summary = run_task(
        scripted(lambda words: "B"), "mmbench", output=tmp_path / "run", options=options
    )
    assert summary["categories"] == {"animals": 0.0, "colours": 0.0}


def test_a_question_with_a_broken_rotation_does_not_count(rows, scripted, tmp_path):
    turned = rows[0] | {
        "index": "1000007",
        "A": "cat",
        "B": "dog",
        "answer": "A",
        "image": "!" * 99,
    }
    table = write_table(tmp_path / "dev.tsv", [*rows, turned])
    options = {"data": str(table), "rule": "circular"}
    with pytest.warns(UserWarning, match="1000007 is broken and left out"):
        summary = run_task(
            scripted(lambda words: "A"), "mmbench", output=tmp_path / "run", options=options
        )
    assert summary["categories"] == {"colours": 1.0}
    assert summary["broken"]["n"] == 1
    assert summary["vanilla"]["value"] == 100.0  # of the same questions


def test_the_test_split_becomes_a_workbook(rows, scripted, tmp_path):
    for row in rows:
        row["answer"] = ""
    table = write_table(tmp_path / "test.tsv", rows)
    janus = scripted(lambda words: "B & <C>" if "What?" in words else "\x01A")
    summary = run_task(janus, "mmbench", output=tmp_path / "run", options={"data": str(table)})
    assert summary["score"] is None
    with zipfile.ZipFile(tmp_path / "run" / summary["submission"]) as book:
        sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
    found = [["".join(cell.itertext()) for cell in row] for row in sheet[0]]
    assert found == [
        ["index", "question", "A", "B", "C", "D", "prediction"],
        ["7", "What?", "dog", "cat", "", "", "B & <C>"],
        ["8", "Which?", "red", "blue", "green", "pink", "A"],
    ]


def test_wrong_tables(rows, tmp_path):
    def load(path: Path) -> None:
        build_task("mmbench", {"data": str(path)}).requests(limit=None, seed=0)

    with pytest.raises(ValueError, match=r"is a folder: expected MMBench's \.tsv"):
        load(tmp_path)
    (tmp_path / "x.csv").write_text("index")
    with pytest.raises(ValueError, match=r"is no \.tsv: expected"):
        load(tmp_path / "x.csv")
    (tmp_path / "x.tsv").write_text("index\tquestion\n1\tWhat?\n")
    with pytest.raises(ValueError, match="has no column A, B, image"):
        load(tmp_path / "x.tsv")
    with pytest.raises(ValueError, match="has a broken row 2"):
        load(write_table(tmp_path / "y.tsv", [rows[0], rows[1] | {"index": "x"}]))


@pytest.mark.parametrize("wrong", ["a", "E", "C", "B "])
def test_an_answer_that_no_model_can_give_is_refused(rows, tmp_path, wrong):
    table = write_table(tmp_path / "dev.tsv", [rows[1], rows[0] | {"answer": wrong}])
    task = build_task("mmbench", {"data": str(table)})
    with pytest.raises(ValueError, match=f"answer '{wrong}' in row 2: expected one of .*A, B$"):
        task.requests(limit=None, seed=0)


def test_a_table_has_all_answers_or_none(rows, tmp_path):
    for answer, other, says in (("", "A", "an"), ("B", "", "no"), ("B", "nan", "no")):
        both = [rows[0] | {"answer": answer}, rows[1] | {"answer": other}]
        task = build_task("mmbench", {"data": str(write_table(tmp_path / "dev.tsv", both))})
        with pytest.raises(ValueError, match=f"has {says} answer in row 2, unlike those before"):
            task.requests(limit=None, seed=0)


@pytest.fixture
def seed_bench(tmp_path, make_picture) -> Path:
    folder = tmp_path / "seed"
    questions = []
    for number, (answer, kind) in enumerate([("A", 1), ("D", 2)]):
        question = {"question_id": str(number), "question": f"Question {number}?"}
        question |= {f"choice_{letter}": f"choice {letter}" for letter in "abcd"}
        question |= {"answer": answer, "question_type_id": kind}
        questions.append(question | {"data_type": "image", "data_id": f"{number}.png"})
        make_picture(folder / "SEED-Bench-image" / f"{number}.png")
    questions.append(questions[0] | {"question_id": "v", "data_type": "video", "data_id": "v.webm"})
    content = {"questions": questions, "question_type": {"Scene": 1, "Counting": 2}}
    (folder / "SEED-Bench.json").write_text(json.dumps(content))
    return folder


def test_letters_of_the_image_part(seed_bench, scripted, tmp_path):
    janus = scripted(lambda words: "A. choice a" if "Question 0" in words else "the fourth")
    options = {"data": str(seed_bench)}
    summary = run_task(janus, "seed", output=tmp_path / "run", options=options)
    assert summary["n"] == 2
    assert summary["kinds"] == {"Scene": 1.0, "Counting": 0.0}
    assert summary["parse_failure_rate"] == 0.5
    assert "D. choice d" in janus.asked[0]


def test_ranked_choices_are_the_models_likeliest(seed_bench, tiny_janus, tmp_path):
    options = {"data": str(seed_bench), "rule": "ranked"}
    run_task(tiny_janus, "seed", output=tmp_path / "run", options=options)
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        picture = str(seed_bench / "SEED-Bench-image" / f"{line['key']}.png")
        words = f"Question {line['key']}?"
        losses = {
            letter: -float(
                tiny_janus.score(words, f"choice {letter.lower()}", images=[picture]).mean()
            )
            for letter in "ABCD"
        }
        assert line["losses"] == pytest.approx(losses, abs=1e-4)
        assert line["said"] == min(losses, key=losses.__getitem__)
        assert line["parsed"] and line["prompt"] == f"<image>{words}"


def test_wrong_layouts_of_seed(seed_bench, tmp_path):
    def load(path: Path) -> None:
        build_task("seed", {"data": str(path)}).requests(limit=None, seed=0)

    with pytest.raises(ValueError, match=r"SEED-Bench.json does not exist: expected SEED-Bench"):
        load(tmp_path)
    (seed_bench / "SEED-Bench.json").write_text("[]")
    with pytest.raises(ValueError, match="has no list of questions"):
        load(seed_bench)
    (seed_bench / "SEED-Bench.json").write_text('{"questions": [{"question_id": 1}]}')
    with pytest.raises(ValueError, match="has no question, choice_a"):
        load(seed_bench)


@pytest.mark.parametrize("kinds", [[1], None, "Scene"])
def test_kinds_of_seed_are_a_mapping(seed_bench, kinds):
    path = seed_bench / "SEED-Bench.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"question_type": kinds}))
    with pytest.raises(ValueError, match="a question_type that is no mapping: expected SEED"):
        build_task("seed", {"data": str(seed_bench)}).requests(limit=None, seed=0)


def test_an_answer_that_is_no_choice_is_refused(seed_bench):
    path = seed_bench / "SEED-Bench.json"
    path.write_text(path.read_text().replace('"answer": "D"', '"answer": "d"'))
    task = build_task("seed", {"data": str(seed_bench)})
    with pytest.raises(ValueError, match="the answer 'd' to question 1: expected one of its cho"):
        task.requests(limit=None, seed=0)
