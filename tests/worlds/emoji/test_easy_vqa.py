from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.data.samples import IMAGE_MARK
from openjanus.data.sources import source_names
from openjanus.eval.runner import run_task
from openjanus.eval.task import register_task, task_names
from openjanus.pipeline import Janus, Reply, Usage
from openjanus.presets import preset
from openjanus.worlds.emoji import easy_vqa
from openjanus.worlds.emoji.easy_vqa import EasyVqa, fetch_easy_vqa, load_easy_vqa
from openjanus.worlds.emoji.easy_vqa_task import EasyVqaTask

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}
SHAPES = ("circle", "triangle", "rectangle")


def questions(number: int) -> list[list[Any]]:
    colour, shape = tuple(COLOURS)[number % 2], SHAPES[number % 3]
    return [
        [f"is there a {shape}?", "yes", number],
        ["what color is the shape?", colour, number],
        [f"what is the color of the {shape}?", colour, number],
        ["what shape is present?", shape, number],
        ["is there a teal shape?", "no", number],
    ]


def write_wheel(folder: Path) -> Path:
    path = folder / "easy.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for split, first, count in (("train", 0, 12), ("test", 0, 6)):
            asked = [line for number in reversed(range(count)) for line in questions(number)]
            archive.writestr(f"easy_vqa/data/{split}/questions.json", json.dumps(asked))
            for number in range(first, count):
                shade = tuple(COLOURS.values())[number % 2]
                image = Image.new("RGBA", (64, 64), (*shade, 255))
                image.putpixel((0, 0), (number, number, number, 255))  # each its own
                content = io.BytesIO()
                image.save(content, format="PNG")
                name = f"easy_vqa/data/{split}/images/{number}.png"
                archive.writestr(name, content.getvalue())
    return path


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(easy_vqa, "pip_wheel", lambda *pinned: write_wheel(tmp_path))
    return fetch_easy_vqa(tmp_path / "world")


def test_what_is_there_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(easy_vqa, "pip_wheel", None)
    assert fetch_easy_vqa(folder) == folder
    (folder / "easy_vqa.npz").unlink()
    with pytest.raises(TypeError):
        fetch_easy_vqa(folder)


def test_questions_belong_to_their_pictures(folder: Path) -> None:
    train = load_easy_vqa("train", folder)
    assert train.pictures.shape == (12, 64, 64, 3)
    assert len(train.questions) == 60
    for question in train.questions:
        assert train.pictures[question.picture][0, 0, 0] == question.picture
        if question.kind == "colour":
            assert tuple(train.pictures[question.picture][9, 9]) == COLOURS[question.answer]
    kinds = [question.kind for question in train.questions[:5]]
    assert kinds == ["yes or no", "colour", "colour", "shape", "yes or no"]


def test_the_source_asks_of_the_training_split_in_rounds(folder: Path) -> None:
    source = EasyVqa(folder, length=24, least_questions=2, most_questions=4)
    again = EasyVqa(folder, length=24, least_questions=2, most_questions=4)
    sizes = set()
    for index in reversed(range(24)):
        sample = source[index]
        assert sample.turns == again[index].turns
        assert sample.images[0][0, 0, 0] == index % 12
        assert sample.turns[0].text.startswith(f"{IMAGE_MARK}\n")
        sizes.add(len(sample.turns) // 2)
        right = {text: answer for text, answer, _ in questions(index % 12)}
        asked = sample.turns[::2]
        for question, answer in zip(asked, sample.turns[1::2], strict=True):
            assert right[question.text.removeprefix(f"{IMAGE_MARK}\n")] == answer.text
    assert sizes == {2, 3, 4}
    assert any(source[i].turns != source[i + 12].turns for i in range(12))
    assert len({source[i].key for i in range(24)}) == 24
    with pytest.raises(IndexError):
        source[24]
    assert EasyVqa(folder, branched=True)[0].branched
    with pytest.raises(ValueError, match="most_questions <= 16, got 0 and 8"):
        EasyVqa(folder, least_questions=0)
    with pytest.raises(ValueError, match="length must be at least 1"):
        EasyVqa(folder, length=0)


def test_no_more_questions_are_about_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    there = [("is there a red shape?", "yes"), ("is there not a circle?", "no")]
    absent = [("does the image not contain a cube?", "yes"), ("is no red shape present?", "yes")]
    absent += [("is there a cube?", "no"), ("is a cube present?", "no")]
    asked = [*absent, ("what color is the shape?", "red"), *there]
    one = easy_vqa.EasySet(
        pictures=np.zeros((1, 64, 64, 3), np.uint8),
        questions=tuple(
            easy_vqa.EasyQuestion(text=text, answer=answer, picture=0) for text, answer in asked
        ),
    )
    monkeypatch.setattr(easy_vqa, "load_easy_vqa", lambda split, folder: one)
    options: dict[str, Any] = {"least_questions": 7, "most_questions": 7}

    def pairs(index: int, *, even: bool) -> set[tuple[str, str]]:
        turns = EasyVqa(folder, even=even, **options)[index].turns
        texts = [turn.text.removeprefix(f"{IMAGE_MARK}\n") for turn in turns]
        return set(zip(texts[::2], texts[1::2], strict=True))

    assert pairs(0, even=False) == set(asked)
    chosen = [pairs(index, even=True) for index in range(5)]
    for found in chosen:
        assert found >= {*there, ("what color is the shape?", "red")}
        assert len(found & set(absent)) == 2
    assert any(found != chosen[0] for found in chosen)


def test_a_picture_of_which_only_absent_things_are_asked_keeps_one_question(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    asked = [("is there a cube?", "no"), ("is no red shape present?", "yes")]
    one = easy_vqa.EasySet(
        pictures=np.zeros((1, 64, 64, 3), np.uint8),
        questions=tuple(
            easy_vqa.EasyQuestion(text=text, answer=answer, picture=0) for text, answer in asked
        ),
    )
    monkeypatch.setattr(easy_vqa, "load_easy_vqa", lambda split, folder: one)
    source = EasyVqa(folder, even=True, least_questions=8, most_questions=8)
    assert [len(source[index].turns) for index in range(5)] == [2] * 5


def test_what_was_not_fetched_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data fetch emoji --easy-vqa"):
        EasyVqa(tmp_path)
    (tmp_path / "easy_vqa.json").write_text('{"format_version": 99}')
    with pytest.raises(ValueError, match="upgrade openjanus"):
        load_easy_vqa("test", tmp_path)


class Colourist:
    """A Janus that knows colours, and says yes to everything else."""

    def __init__(self) -> None:
        self.config = preset("tiny")
        self.model = torch.nn.Linear(1, 1)
        self.device = torch.device("cpu")

    def chat_batch(
        self, conversations: Sequence[Any], *, max_new_tokens: int, temperature: float
    ) -> list[Reply]:
        assert temperature == 0
        replies = []
        for (message,) in conversations:
            image, text = (part[part["type"]] for part in message["content"])
            names = {str(shade): name for name, shade in COLOURS.items()}
            shade = str(tuple(np.asarray(image)[9, 9].tolist()))
            said = names.get(shade, "grey") if "color" in text else "Yes."
            usage = Usage(prompt_tokens=1, completion_tokens=1)
            replies.append(
                Reply(text=said, token_ids=(), finish_reason="stop", usage=usage, seed=0)
            )
        return replies


def test_the_task_scores_kinds_beside_the_blind_and_the_majority(
    folder: Path, tmp_path: Path
) -> None:
    register_task("easy-vqa-test", lambda: EasyVqaTask(folder=folder))
    janus = cast(Janus, Colourist())
    summary = run_task(janus, "easy-vqa-test", output=tmp_path / "run")
    assert summary["n"] == {"yes or no": 12, "colour": 12, "shape": 6, "all": 30}
    assert summary["kinds"] == {"shape": 0.0, "colour": 1.0, "yes or no": 0.5}
    assert summary["accuracy"] == 0.6
    assert summary["ci"] == [0.6, 0.6]  # by picture, all of which are alike
    assert summary["blind"]["kinds"]["colour"] == 0.0
    assert summary["majority"] == {"shape": 0.3333, "colour": 0.5, "yes or no": 0.5}
    assert summary["majority_of_question"]["kinds"]["yes or no"] == 1.0
    assert summary["parse_failure_rate"] == 0.2
    assert "easy-vqa" in task_names()
    assert "easy-vqa" in source_names()


def test_a_limit_and_no_blind(folder: Path) -> None:
    task = EasyVqaTask(folder=folder, blind=False)
    asked = task.requests(limit=7, seed=1)
    assert len(asked) == len({request.key for request in asked}) == 7
    assert task.requests(limit=7, seed=1) == asked
    assert task.requests(limit=7, seed=2) != asked
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        EasyVqaTask(folder=folder, batch_size=0)
