"""MMBench (Liu et al., 2023): multiple choice from a table with its pictures inside."""

from __future__ import annotations

import base64
import csv
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from openjanus.eval.benchmark import (
    ONE_LETTER,
    Asked,
    Benchmark,
    by,
    mean_score,
    option_lines,
)
from openjanus.eval.layouts import TEXT, WrongLayout, need_file, readable
from openjanus.eval.rules.choices import LETTERS, circular_correct, read_option, rotations
from openjanus.eval.submissions import write_xlsx
from openjanus.eval.task import Prediction

EXPECTED: Final = (
    "MMBench's .tsv, a table of index, question, hint, A, B, C, D, answer, category and image "
    "(base64)"
)
ROTATED: Final = 1_000_000
"""In published tables the rotations of question i have the indices i + this, i + twice this, ..."""
REFERENCE: Final = 64
"""An image field of at most so many characters is the index of the row that has the picture."""
CELL: Final = 2**27
"""Longest cell that is read, in characters."""
SUBMISSION: Final = "submission.xlsx"


class MMBench(Benchmark):
    """MMBench's table; without answers, as the test split is, a file for the server is written."""

    name = "MMBench"
    rule_texts: ClassVar[Mapping[str, str]] = {
        "vanilla": "each question once (the authors' setting); MMBench's letter heuristics, v1",
        "circular": "all rotations right; MMBench's letter heuristics, v1",
    }
    own_suffix = ONE_LETTER

    def load(self) -> list[Asked]:
        """Every row, or for circular evaluation every rotation."""
        rows = _read(self.data)
        self.files = [self.data]
        pictures = {row["index"]: row["image"] for row in rows}
        self._rows = {row["index"]: row for row in rows}
        self._has_answers = bool(_answer(rows[0]))  # as all others, or none has one
        if not self._has_answers:  # the server rotates its own questions
            return [self._asked(row, row["index"], pictures) for row in rows]
        first = [row for row in rows if int(row["index"]) < ROTATED]
        if self.rule == "vanilla":
            return [self._asked(row, row["index"], pictures) for row in first]
        if len(first) < len(rows):
            return [self._asked(row, row["index"], pictures) for row in rows]
        return [
            self._asked({**row, **turned, "answer": answer}, f"{row['index']}/{shift}", pictures)
            for row in first
            for shift, (turned, answer) in enumerate(rotations(_options(row), row["answer"]))
        ]

    def _asked(self, row: Mapping[str, str], key: str, pictures: Mapping[str, str]) -> Asked:
        options = _options(row)
        hint = row.get("hint", "")
        question = f"{hint}\n{row['question']}" if hint and hint != "nan" else row["question"]
        image = pictures.get(row["image"], "") if len(row["image"]) <= REFERENCE else row["image"]
        return Asked(
            key=key,
            parts=(partial(_decode, image), f"{question}\n{option_lines(options)}"),
            part="",
            unit=str(int(row["index"]) % ROTATED),
            cluster=hashlib.sha256(image.encode()).hexdigest()[:16],
            record={
                "options": options,
                "answer": row.get("answer", ""),
                "category": row.get("category", ""),
            },
        )

    def judge(self, reply: str, asked: Asked) -> dict[str, Any]:
        """The option that the heuristics read; an unread answer is wrong."""
        said = read_option(reply, asked.record["options"])
        return {
            "said": said,
            "score": float(said is not None and said == asked.record["answer"]),
            "parsed": said is not None,
        }

    def score(self, predictions: Sequence[Prediction], folder: Path, seed: int) -> dict[str, Any]:
        """Accuracy by category; for a table without answers the server's file."""
        if not self._has_answers:
            self._submit(predictions, folder / SUBMISSION)
            return {"score": None, "submission": SUBMISSION}
        counted = list(predictions)
        if self.rule == "circular":
            counted = _circular(predictions, Counter(one.unit for one in self.asked.values()))
        if not counted:
            raise ValueError("every question of MMBench has a broken rotation: mend the table")
        summary = {
            "score": mean_score(f"MMBench accuracy, {self.rule}", counted, seed),
            "categories": by("category", counted),
            "questions": len(counted),
        }
        if self.rule == "circular":  # the first of its rotations is the question itself
            kept = {one["unit"] for one in counted}
            first = {p["unit"]: p for p in reversed(predictions) if p["unit"] in kept}
            told = [*first.values()]
            summary["vanilla"] = mean_score("MMBench accuracy, vanilla", told, seed)
        return summary

    def _submit(self, predictions: Sequence[Prediction], path: Path) -> None:
        columns = ["index", "question", *_letters(self._rows.values()), "prediction"]
        rows = [columns]
        for key, reply in self.said(predictions).items():
            row = self._rows[key] | {"prediction": reply}
            rows.append([row.get(column, "") for column in columns])
        write_xlsx(path, rows)


def _read(path: Path) -> list[dict[str, str]]:
    if path.suffix.lower() != ".tsv":
        need_file(path, EXPECTED)
        raise WrongLayout(path, "is no .tsv", EXPECTED)
    with (
        readable(path, EXPECTED),
        need_file(path, EXPECTED).open(encoding=TEXT, newline="") as file,
    ):
        before = csv.field_size_limit(CELL)  # pictures are longer than the module allows
        try:
            rows = list(csv.DictReader(file, delimiter="\t"))
        finally:
            csv.field_size_limit(before)
    missing = [
        name
        for name in ("index", "question", "A", "B", "image")
        if not rows or rows[0].get(name) is None
    ]
    if missing:
        raise WrongLayout(path, f"has no column {', '.join(missing)}", EXPECTED)
    for number, row in enumerate(rows, start=1):
        if not row["index"].isdecimal() or row["image"] is None:
            raise WrongLayout(path, f"has a broken row {number}", EXPECTED)
        answer, options = _answer(row), _options(row)
        if bool(answer) != bool(_answer(rows[0])):
            said = f"has {'an' if answer else 'no'} answer in row {number}, unlike those before it"
            raise WrongLayout(path, said, "answers in all rows, or in none")
        if answer and answer not in options:
            said = f"has the answer {answer!r} in row {number}"
            raise WrongLayout(path, said, f"one of its options, {', '.join(options)}")
    return rows


def _answer(row: Mapping[str, Any]) -> str:
    """The right letter; "" where there is none, or pandas' "nan"."""
    answer = row.get("answer")
    return "" if answer is None or answer == "nan" else answer


def _letters(rows: Any) -> list[str]:
    return [letter for letter in LETTERS if any(row.get(letter) for row in rows)]


def _options(row: Mapping[str, Any]) -> dict[str, str]:
    """Options that are there; an empty cell, or pandas' "nan", is none."""
    return {
        letter: row[letter]
        for letter in LETTERS
        if row.get(letter) is not None and row[letter] not in ("", "nan")
    }


def _decode(image: str) -> bytes:
    if not image:
        raise ValueError("the row has no picture")
    return base64.b64decode(image)


def _circular(predictions: Sequence[Prediction], turns_of: Mapping[str, int]) -> list[Prediction]:
    """One prediction a question, right where all of its rotations are.

    A question of which a rotation is broken does not count.
    """
    units: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        units.setdefault(prediction["unit"], []).append(prediction)
    return [
        {**turns[0], "score": float(circular_correct([bool(p["score"]) for p in turns]))}
        for unit, turns in units.items()
        if len(turns) == turns_of[unit]
    ]
