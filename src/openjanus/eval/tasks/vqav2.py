"""VQAv2 (Goyal et al., 2017): short answers against ten annotators'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from openjanus.eval.benchmark import ONE_WORD, Asked, FolderBenchmark, by, mean_score
from openjanus.eval.layouts import WrongLayout, need_folder, need_keys, read_json
from openjanus.eval.record import write_json
from openjanus.eval.rules.vqav2 import accuracy
from openjanus.eval.task import Prediction

EXPECTED: Final = (
    "a folder with one v2_OpenEnded_mscoco_SPLIT_questions.json, for a scored split "
    "v2_mscoco_SPLIT_annotations.json, and COCO's folder of pictures (val2014, test2015) beside "
    "them, or in images="
)
SUBMISSION: Final = "submission.json"
FEWEST: Final = 2
"""Annotators of a question: each is compared with the others."""


class VQAv2(FolderBenchmark):
    """VQAv2's pair of files; without annotations a file for the test server is written.

    Args:
        split: Which questions, such as "val2014", where the folder has several.
        options: As `FolderBenchmark`.
    """

    name = "VQAv2"
    rule_texts: ClassVar[Mapping[str, str]] = {
        "official": "VQA accuracy with the official normalisation, v2",
        "both-sides": "VQA accuracy, annotators' answers normalised as replies are, v1",
    }
    own_suffix = ONE_WORD

    def __init__(
        self,
        *,
        data: str,
        rule: str | None = None,
        suffix: str | None = None,
        system: str | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 8,
        images: str | None = None,
        split: str | None = None,
    ) -> None:
        super().__init__(
            data=data,
            rule=rule,
            suffix=suffix,
            system=system,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            images=images,
        )
        self._split = "*" if split is None else split

    def load(self) -> list[Asked]:
        """Questions, with the annotators' answers where they are published."""
        need_folder(self.data, EXPECTED)
        found = sorted(self.data.glob(f"v2_OpenEnded_mscoco_{self._split}_questions.json"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            said = f"has {len(found)} files of questions ({names}; option split chooses)"
            raise WrongLayout(self.data, said, EXPECTED)
        split = found[0].name.removeprefix("v2_OpenEnded_mscoco_").removesuffix("_questions.json")
        answers = self.data / f"v2_mscoco_{split}_annotations.json"
        self.files = [found[0], answers] if answers.is_file() else found
        asked = _list(found[0], "questions", ("question_id", "image_id", "question"))
        _need_numbers(asked, ("question_id", "image_id"), found[0])
        keys = [_key(question) for question in asked]
        told = _annotations(answers, keys) if answers.is_file() else {}
        self._has_answers = bool(told)
        # The questions of test-dev are about pictures of test.
        pictures_of = f"test{split[-4:]}" if split.startswith("test") else split
        pictures = self.image_folder(self.data, EXPECTED, pictures_of)
        return [
            _asked(question, told.get(_key(question), {}), pictures, pictures_of)
            for question in asked
        ]

    def judge(self, reply: str, asked: Asked) -> dict[str, Any]:
        """VQA accuracy; every answer that is not empty can be read."""
        human = asked.record.get("answers")
        score = None
        if human is not None:
            score = round(accuracy(reply, human, both_sides=self.rule == "both-sides"), 6)
        return {"score": score, "parsed": bool(reply.strip())}

    def score(self, predictions: Sequence[Prediction], folder: Path, seed: int) -> dict[str, Any]:
        """Accuracy by kind of answer, or the server's file."""
        if self._has_answers:
            return {
                "score": mean_score("VQAv2 accuracy", predictions, seed),
                "kinds": by("kind", predictions),
            }
        replies = self.said(predictions)
        write_json(
            folder / SUBMISSION,
            [{"question_id": int(key), "answer": reply} for key, reply in replies.items()],
        )
        return {"score": None, "submission": SUBMISSION}


def _list(path: Path, name: str, keys: Sequence[str]) -> list[Mapping[str, Any]]:
    content = read_json(path, EXPECTED)
    if not isinstance(content, Mapping) or not isinstance(content.get(name), list):
        raise WrongLayout(path, f"has no list of {name}", EXPECTED)
    return need_keys(content[name], keys, path, EXPECTED)


def _need_numbers(records: Sequence[Mapping[str, Any]], keys: Sequence[str], path: Path) -> None:
    for record in records:
        for key in keys:
            if not str(record[key]).isdecimal():
                said = f"has the {key} {record[key]!r}, which is no whole number"
                raise WrongLayout(path, said, EXPECTED)


def _annotations(path: Path, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a prediction keeps of each question's annotators, by the question's id."""
    records = _list(path, "annotations", ("question_id", "answers"))
    there = {_key(record) for record in records}
    missing = [key for key in keys if key not in there]
    if missing:
        raise WrongLayout(path, f"has no answers to question {missing[0]}", EXPECTED)
    told: dict[str, dict[str, Any]] = {}
    for record in records:
        key, answers = _key(record), record["answers"]
        if key in told:
            raise WrongLayout(path, f"answers question {key} twice", EXPECTED)
        if (
            not isinstance(answers, list)
            or not all(isinstance(one, Mapping) and "answer" in one for one in answers)
            or len(answers) < FEWEST
        ):
            said = f"has no answers of {FEWEST} annotators or more to question {key}"
            raise WrongLayout(path, said, 'a list of {"answer": WORDS}, ten as a rule')
        told[key] = {
            "answers": [str(one["answer"]) for one in answers],
            "kind": record.get("answer_type", ""),
        }
    return told


def _key(record: Mapping[str, Any]) -> str:
    return str(record["question_id"])


def _asked(
    question: Mapping[str, Any], record: Mapping[str, Any], pictures: Path, subtype: str
) -> Asked:
    image = int(question["image_id"])
    return Asked(
        key=_key(question),
        parts=(pictures / f"COCO_{subtype}_{image:012d}.jpg", str(question["question"])),
        part="",
        unit=_key(question),
        cluster=str(image),
        record=record,
    )
