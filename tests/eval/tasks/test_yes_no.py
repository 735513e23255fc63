"""POPE and MME on small folders of their own layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openjanus.eval.runner import run_task
from openjanus.eval.task import build_task


@pytest.fixture
def pope(tmp_path, make_picture) -> Path:
    """Per split two pictures, each once with a right yes and once with a right no."""
    folder = tmp_path / "pope"
    for image in ("a.jpg", "b.jpg"):
        make_picture(folder / "val2014" / image)
    for split in ("random", "popular", "adversarial"):
        lines = [
            {"question_id": i + 1, "image": image, "text": f"Is a {thing} in it?", "label": label}
            for i, (image, thing, label) in enumerate(
                [
                    ("a.jpg", "dog", "yes"),
                    ("a.jpg", f"{split} hat", "no"),
                    ("b.jpg", "cat", "yes"),
                    ("b.jpg", f"{split} car", "no"),
                ]
            )
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"coco_pope_{split}.json").write_text(text)
    return folder


def say_pope(words: str) -> str:
    if "dog" in words or "random car" in words:
        return "Yes, it is."
    return "Maybe" if "popular hat" in words else "No"


def test_the_authors_setting_is_f1_of_the_random_split(pope, scripted, tmp_path):
    janus = scripted(say_pope)
    summary = run_task(janus, "pope", output=tmp_path / "run", options={"data": str(pope)})
    # Said yes to dog (right) and to the car (wrong), no to cat and hat: 1 hit, 2 said, 2 are.
    assert summary["score"]["value"] == 50.0
    assert summary["score"]["name"] == "POPE F1, random"
    assert summary["splits"]["random"]["accuracy"] == 0.5
    low, high = summary["score"]["interval"]
    assert low <= 50 <= high
    assert (summary["n"], summary["parse_failure_rate"]) == (4, 0.0)
    assert janus.asked[0] == (
        "<image>\nIs a dog in it?\nAnswer the question using a single word or phrase."
    )


def test_three_splits_and_what_cannot_be_read(pope, scripted, tmp_path):
    options = {"data": str(pope), "rule": "splits", "suffix": ""}
    janus = scripted(say_pope)
    summary = run_task(janus, "pope", output=tmp_path / "run", options=options)
    # "Maybe" to the popular hat is read as a yes, and is a parse failure all the same.
    popular, adversarial = summary["splits"]["popular"], summary["splits"]["adversarial"]
    assert (popular["f1"], adversarial["f1"]) == (0.5, pytest.approx(2 / 3, abs=1e-4))
    assert summary["score"]["value"] == pytest.approx(100 * (0.5 + 0.5 + 2 / 3) / 3, abs=0.01)
    assert summary["parse_failure_rate"] == round(1 / 12, 4)
    assert janus.asked[0] == "<image>\nIs a dog in it?"


def test_a_limit_is_of_each_split(pope, scripted, tmp_path):
    options = {"data": str(pope), "rule": "splits"}
    run_task(scripted(say_pope), "pope", limit=1, output=tmp_path / "run", options=options)
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["random/1", "popular/1", "adversarial/1"]


def test_the_random_split_may_be_given_itself(pope):
    file = pope / "coco_pope_random.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # a mark of byte order is no text
    requests = build_task("pope", {"data": str(file)}).requests(limit=None, seed=0)
    assert [request.key for request in requests] == [f"random/{i}" for i in (1, 2, 3, 4)]


def test_a_label_is_yes_or_no(pope):
    path = pope / "coco_pope_random.json"
    path.write_text(path.read_text().replace('"no"', '"maybe"', 1))
    with pytest.raises(ValueError, match="the label 'maybe' of question 2: expected yes or no"):
        build_task("pope", {"data": str(pope)}).requests(limit=None, seed=0)


def test_pictures_may_lie_elsewhere(pope, scripted, tmp_path):
    (pope / "val2014").rename(tmp_path / "coco")
    with pytest.raises(ValueError, match=r"val2014 does not exist: expected a folder with coco"):
        build_task("pope", {"data": str(pope)}).requests(limit=None, seed=0)
    options = {"data": str(pope), "images": str(tmp_path / "coco")}
    assert len(build_task("pope", options).requests(limit=None, seed=0)) == 4


def test_wrong_layouts_of_pope(pope, tmp_path):
    def load(data: Path, **options: str) -> None:
        build_task("pope", {"data": str(data), **options}).requests(limit=None, seed=0)

    with pytest.raises(ValueError, match=r"has 0 files \*pope_random.json: expected a folder with"):
        load(tmp_path)
    with pytest.raises(ValueError, match="none does not exist: expected"):
        load(tmp_path / "none")
    popular = pope / "coco_pope_popular.json"
    with pytest.raises(ValueError, match=r"is the popular split of POPE, and rule 'authors' asks"):
        load(popular)
    with pytest.raises(ValueError, match="is the popular split of POPE, and rule 'splits' asks"):
        load(popular, rule="splits")
    with pytest.raises(ValueError, match=r"a\.jpg is no file of POPE"):
        load(pope / "val2014" / "a.jpg")
    (pope / "gqa_pope_random.json").write_text("")
    with pytest.raises(ValueError, match=r"has 2 files .*coco_pope_random\.json, gqa_pope_random"):
        load(pope)
    (pope / "gqa_pope_random.json").unlink()
    with pytest.raises(ValueError, match=r"POPE has no rule 'author'; did you mean 'authors'"):
        load(pope, rule="author")
    with pytest.raises(ValueError, match="max_new_tokens and batch_size must be at least 1"):
        build_task("pope", {"data": str(pope), "batch_size": 0})
    file = pope / "coco_pope_random.json"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(ValueError, match="question random/1 stands twice"):
        load(pope)
    file.write_text('{"question_id": 1, "image": "a.jpg", "label": "yes"}\n')
    with pytest.raises(ValueError, match="has no text in record 1"):
        load(pope)
    file.write_text('{"question_id": 1, "image": "a.jpg", "text": null, "label": "yes"}\n')
    with pytest.raises(ValueError, match="has no text in record 1"):
        load(pope)
    file.write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"coco_pope_random\.json is no UTF-8 text"):
        load(pope)
    file.write_text("[1]\n")
    with pytest.raises(ValueError, match="has no mapping as record 1"):
        load(pope)
    file.write_text("{\n")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        load(pope)
    file.write_text("")
    with pytest.raises(ValueError, match="holds no questions of POPE"):
        load(pope)


@pytest.fixture
def mme(tmp_path, make_picture) -> Path:
    """Two tasks; one has its files together, the other in two folders; and what is no task."""
    folder = tmp_path / "mme"
    for name in ("one", "two"):
        make_picture(folder / "existence" / f"{name}.jpg")
        (folder / "existence" / f"{name}.txt").write_text(
            f"Is {name} here? Please answer yes or no.\tYes\nIs it not {name}?\tno\n"
        )
    make_picture(folder / "landmark" / "images" / "x.png")
    texts = folder / "landmark" / "questions_answers_YN"
    texts.mkdir()
    (texts / "x.txt").write_text("Is it Rome?\tYes\nIs it Bonn?\tNo")
    (folder / "eval_tool").mkdir()
    return folder


def test_mme_counts_pictures_with_both_answers_right(mme, scripted, tmp_path):
    def say(words: str) -> str:
        if "Rome" in words:
            return "Perhaps"
        return "Yes" if "one here" in words or "two" in words else "No"

    summary = run_task(scripted(say), "mme", output=tmp_path / "run", options={"data": str(mme)})
    # one: both right, 200. two: yes is right, yes again is wrong, 50. x: unread and right, 50.
    assert summary["tasks"] == {"existence": 125.0, "landmark": 50.0}
    assert summary["pictures"] == {"existence": 2, "landmark": 1}
    assert summary["score"] is None and "perception" not in summary
    assert summary["tasks_ci"] == {"existence": [50.0, 200.0], "landmark": [50.0, 50.0]}
    assert summary["parse_failure_rate"] == round(1 / 6, 4)


def test_mme_perception_is_the_sum_of_ten(mme, scripted, tmp_path, make_picture):
    from openjanus.eval.rules.mme import PERCEPTION

    for task in PERCEPTION[1:]:
        if task != "landmark":
            make_picture(mme / task / "p.jpg")
            (mme / task / "p.txt").write_text("Yes?\tYes\nNo?\tNo\n")
    janus = scripted(lambda words: "yes" if "Yes?" in words else "no")
    summary = run_task(janus, "mme", output=tmp_path / "run", options={"data": str(mme)})
    assert summary["perception"] == 8 * 200 + 2 * 50
    assert summary["score"]["value"] == summary["perception"]
    assert summary["score"]["unit"] == "points"
    # All pictures of a task score alike: no resampling can move them.
    assert summary["score"]["interval"] == [1700.0, 1700.0]


def test_wrong_layouts_of_mme(mme, tmp_path):
    def load(data: Path) -> None:
        build_task("mme", {"data": str(data)}).requests(limit=None, seed=0)

    with pytest.raises(ValueError, match="does not exist: expected MME's folder"):
        load(tmp_path / "none")
    with pytest.raises(ValueError, match="has no folder of a task of MME"):
        load(tmp_path)
    (mme / "existence" / "._one.txt").write_bytes(b"\xff")  # a Mac's, and no question
    load(mme)
    (mme / "existence" / "one.txt").write_bytes(b"\xff\tYes\nb\tNo")
    with pytest.raises(ValueError, match=r"one\.txt is no UTF-8 text"):
        load(mme)
    (mme / "existence" / "one.txt").write_text("Is it?\tYes\n")
    with pytest.raises(ValueError, match=r"one.txt does not hold two questions"):
        load(mme)
    (mme / "OCR").mkdir()
    (mme / "existence" / "one.txt").unlink()
    with pytest.raises(ValueError, match="OCR has no text files"):
        load(mme)
