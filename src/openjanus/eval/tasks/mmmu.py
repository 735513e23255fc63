"""MMMU (Yue et al., 2024): college questions, a folder of parquet files a subject."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from openjanus.eval.benchmark import (
    ONE_LETTER,
    ONE_WORD,
    Asked,
    Benchmark,
    PictureSource,
    by,
    mean_score,
    with_pictures,
)
from openjanus.eval.layouts import WrongLayout, need_folder
from openjanus.eval.record import write_json
from openjanus.eval.rules.choices import LETTERS
from openjanus.eval.rules.mmmu import choice_correct, open_correct, read_choice, read_open
from openjanus.eval.task import Prediction
from openjanus.pipeline import Janus

EXPECTED: Final = (
    "MMMU's folder, with a folder a subject (Accounting, ...) of parquet files such as "
    "validation-00000-of-00001.parquet, with columns id, question, options, answer, question_type "
    "and image_1 to image_7"
)
COLUMNS: Final = ("id", "question", "options", "answer", "question_type")
MAX_IMAGES: Final = 7
SUBMISSION: Final = "submission.json"
KEPT_FILES: Final = 2
"""Tables with their pictures that stay in memory."""


class Mmmu(Benchmark):
    """MMMU's parquet folders; without answers, as the test split is, the server's file is written.

    Args:
        split: Which files.
        options: As `Benchmark`; the two suffixes are the benchmark's own unless `suffix` is given.
    """

    name = "MMMU"
    rule_texts: ClassVar[Mapping[str, str]] = {
        "official": "MMMU's parsing; where nothing is read a blind pick counts, v1",
        "strict": "MMMU's parsing; where nothing is read the answer is wrong, v1",
    }

    def __init__(
        self,
        *,
        data: str,
        rule: str | None = None,
        suffix: str | None = None,
        system: str | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 8,
        split: Literal["validation", "test", "dev"] = "validation",
    ) -> None:
        super().__init__(
            data=data,
            rule=rule,
            suffix="" if suffix is None else suffix,
            system=system,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
        self._own_suffixes = suffix is None
        self._split = split

    def settings(self, janus: Janus) -> dict[str, Any]:
        """As `Benchmark`; choices and open questions end differently unless `suffix` is given."""
        settings = super().settings(janus)
        own = {"choice": ONE_LETTER, "open": ONE_WORD}
        return settings | {"suffix": own if self._own_suffixes else self.suffix}

    def load(self) -> list[Asked]:
        """Questions of every subject, in the order of their names."""
        need_folder(self.data, EXPECTED)
        self.files = sorted(self.data.glob(f"*/{self._split}-*.parquet"))
        if not self.files:
            said = f"has no files */{self._split}-*.parquet"
            raise WrongLayout(self.data, said, EXPECTED)
        asked = [one for file in self.files for one in self._subject(file)]
        without = [one.key for one in asked if one.record["answer"] in ("", "?")]
        self._has_answers = not without
        if 0 < len(without) < len(asked):
            said = f"has no answer to {without[0]}, unlike {len(asked) - len(without)} others"
            raise WrongLayout(self.data, said, "answers to all questions, or to none")
        return asked

    def _subject(self, file: Path) -> list[Asked]:
        table = _read(file)
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise WrongLayout(file, f"has no column {', '.join(missing)}", EXPECTED)
        columns = [name for name in table.column_names if not name.startswith("image_")]
        made = []
        for row, record in enumerate(table.select(columns).to_pylist()):
            there = [
                number
                for number in range(1, MAX_IMAGES + 1)
                if f"image_{number}" in table.column_names
                and _is_there(table.column(f"image_{number}")[row])
            ]
            pictures: dict[int, PictureSource] = {
                number: partial(_picture, file, row, number) for number in there
            }
            made.append(self._asked(record, file, pictures))
        return made

    def _asked(
        self, record: Mapping[str, Any], file: Path, pictures: Mapping[int, PictureSource]
    ) -> Asked:
        empty = [name for name in ("id", "question") if record[name] is None]
        if empty:
            raise WrongLayout(file, f"has a row without {empty[0]}", EXPECTED)
        is_choice = record["question_type"] == "multiple-choice"
        options = _listed(record["options"]) if is_choice else []
        if is_choice and not options:
            said = f"has the options {record['options']!r} of {record['id']}"
            raise WrongLayout(file, said, "a list of options, or the text of one")
        words = str(record["question"])
        if is_choice:
            lines = [f"({letter}) {text}" for letter, text in zip(LETTERS, options, strict=False)]
            words += "\n" + "\n".join(lines)
        if self._own_suffixes:
            words += f"\n\n{ONE_LETTER if is_choice else ONE_WORD}"
        return Asked(
            key=str(record["id"]),
            parts=tuple(with_pictures(words, pictures)),
            part=file.parent.name,
            unit=str(record["id"]),
            cluster=str(record["id"]),
            record={
                "options": dict(zip(LETTERS, options, strict=False)) if is_choice else None,
                "answer": _right(record["answer"]),
            },
        )

    def judge(self, reply: str, asked: Asked) -> dict[str, Any]:
        """An option or an open answer, by the official parsing."""
        options, answer = asked.record["options"], asked.record["answer"]
        if options is None:
            right = open_correct(read_open(reply), answer)
            return {"said": reply, "score": float(right), "parsed": bool(reply.strip())}
        choice = read_choice(reply, options, key=asked.key)
        counts = choice.parsed or self.rule == "official"
        return {
            "said": choice.letter,
            "score": float(counts and choice_correct(choice.letter, answer)),
            "parsed": choice.parsed,
        }

    def score(self, predictions: Sequence[Prediction], folder: Path, seed: int) -> dict[str, Any]:
        """Accuracy over all questions and by subject, or the server's file."""
        choices = [p for p in predictions if p["options"] is not None]
        blind = sum(not p["parsed"] for p in choices)
        rate = {"fallback_rate": round(blind / len(choices), 4) if choices else None}
        if self._has_answers:
            return {
                "score": mean_score(f"MMMU {self._split} accuracy", predictions, seed),
                "subjects": by("part", predictions),
                **rate,
            }
        said = {prediction["key"]: prediction["said"] for prediction in predictions}
        write_json(folder / SUBMISSION, {key: said.get(key, "") for key in self.asked})
        return {"score": None, "submission": SUBMISSION, **rate}


def _listed(options: Any) -> list[str]:
    """Options, which the files hold as the text of a Python list; none where it is no list."""
    if isinstance(options, str):
        try:
            options = ast.literal_eval(options)
        except (ValueError, SyntaxError):
            return []
    return [str(option) for option in options] if isinstance(options, list | tuple) else []


def _right(answer: Any) -> str | list[str]:
    """The answer; the files hold several as the text of a Python list."""
    text = "" if answer is None else str(answer)
    several = _listed(text) if text.startswith("[") else []
    return several if several else text


def _read(file: Path) -> Any:
    """A table; one that was written anew since is read anew."""
    return _read_once(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=KEPT_FILES)
def _read_once(file: Path, written_ns: int) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("reading parquet needs pyarrow: pip install 'openjanus[eval]'") from error
    try:
        return pyarrow.parquet.read_table(file)
    except pyarrow.ArrowInvalid as error:
        raise WrongLayout(file, f"is broken ({error})", EXPECTED) from error


def _is_there(cell: Any) -> bool:
    """Whether a cell has a picture: writers leave out the whole of it, or its bytes alone."""
    if not cell.is_valid:
        return False
    return not isinstance(cell, Mapping) or "bytes" not in cell or cell["bytes"].is_valid


def _picture(file: Path, row: int, number: int) -> bytes:
    """The bytes of a picture, read when it is asked about."""
    value = _read(file).column(f"image_{number}")[row].as_py()
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(data, bytes):
        raise ValueError(f"image_{number} of row {row} of {file} holds no bytes")
    return data
