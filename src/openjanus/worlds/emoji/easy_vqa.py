"""easy-VQA: somebody else's questions about coloured shapes, fetched, and read to train on.

4,000 pictures of 64 px with 38,575 questions are for training, 1,000 with 9,673 for the exam; there
are thirteen answers. It is the work of Victor Zhou (MIT), taken from its PyPI package.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import numpy as np
from PIL import Image

from openjanus.data.indices import checked_index
from openjanus.data.samples import Sample
from openjanus.pinned import pip_wheel
from openjanus.worlds.emoji.draws import HowMany
from openjanus.worlds.emoji.fetch import FORMAT_VERSION, Progress, default_folder, holds, tell
from openjanus.worlds.emoji.turns import asked_about_picture

EASY_VQA: Final[dict[str, str]] = {
    "package": "easy-vqa",
    "version": "1.0",
    "sha256": "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    "licence": "MIT",
    "author": "Victor Zhou",
}

EasySplit = Literal["train", "test"]
EASY_KINDS: Final = ("shape", "colour", "yes or no")
QUESTIONS_LIMIT: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class EasyQuestion:
    """A question about one picture."""

    text: str
    answer: str
    picture: int

    @property
    def kind(self) -> str:
        """One of `EASY_KINDS`, told by the question's own words."""
        if self.text.startswith("what") and "color" in self.text:
            return "colour"
        return "shape" if self.text.startswith("what") else "yes or no"

    @property
    def is_there(self) -> bool | None:
        """Whether what is asked for is in the picture; None where that is not asked."""
        if self.kind != "yes or no":
            return None
        is_negated = not {"not", "no"}.isdisjoint(self.text.split())
        return (self.answer == "yes") != is_negated


@dataclass(frozen=True, kw_only=True, slots=True)
class EasySet:
    """One split."""

    pictures: np.ndarray
    """(n, 64, 64, 3) uint8."""
    questions: tuple[EasyQuestion, ...]
    """In the order of their pictures."""


def fetch_easy_vqa(folder: str | Path | None = None, *, progress: Progress | None = None) -> Path:
    """Fetch easy-VQA and write it as `easy_vqa.npz` and `easy_vqa.json`.

    Args:
        folder: Where to write; `default_folder()` when None.
        progress: Told each step.

    Returns:
        The folder.

    Raises:
        RuntimeError: pip failed.
        ValueError: The downloaded package is not the pinned one.
    """
    folder = default_folder() if folder is None else Path(folder)
    record_path = folder / "easy_vqa.json"
    if holds(record_path, "source", EASY_VQA) and (folder / "easy_vqa.npz").is_file():
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        tell(progress, f"fetching {EASY_VQA['package']} {EASY_VQA['version']}")
        wheel = pip_wheel(
            EASY_VQA["package"], EASY_VQA["version"], EASY_VQA["sha256"], Path(scratch)
        )
        with zipfile.ZipFile(wheel) as archive:
            pictures, questions = {}, {}
            for split in ("train", "test"):
                data = json.loads(archive.read(f"easy_vqa/data/{split}/questions.json"))
                questions[split] = data
                pictures[split] = np.stack(
                    [
                        _read_picture(archive, f"easy_vqa/data/{split}/images/{number}.png")
                        for number in range(1 + max(number for _, _, number in data))
                    ]
                )
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "easy_vqa.npz", **pictures)
    record = {"format_version": FORMAT_VERSION, "source": EASY_VQA, "questions": questions}
    record_path.write_text(json.dumps(record) + "\n", encoding="utf-8")  # last: all is whole
    counts = {split: len(found) for split, found in questions.items()}
    tell(progress, f"wrote {counts['train']} and {counts['test']} questions to {folder}")
    return folder


@lru_cache(maxsize=4)
def load_easy_vqa(split: EasySplit, folder: Path | None = None) -> EasySet:
    """Read one split of what `fetch_easy_vqa` wrote; once a process.

    Raises:
        FileNotFoundError: Nothing was fetched into the folder.
        ValueError: It was written by a newer version.
    """
    folder = default_folder() if folder is None else folder
    record_path = folder / "easy_vqa.json"
    if not record_path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no easy-VQA: run openjanus data fetch emoji --easy-vqa"
        )
    record = json.loads(record_path.read_text(encoding="utf-8"))
    if record["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"easy-VQA of {folder} has format_version {record['format_version']}, this version "
            f"reads up to {FORMAT_VERSION}: upgrade openjanus"
        )
    with np.load(folder / "easy_vqa.npz") as arrays:
        pictures = arrays[split]
    asked = sorted(record["questions"][split], key=lambda line: line[2])
    return EasySet(
        pictures=pictures,
        questions=tuple(
            EasyQuestion(text=text, answer=answer, picture=picture)
            for text, answer, picture in asked
        ),
    )


class EasyVqa:
    """Questions of easy-VQA's training split about one picture each; there is no other split here.

    Item i is about picture i of 4,000, and so on in rounds; which of its questions are asked, and
    in which order, is a function of (seed, i).

    Args:
        folder: Where `fetch_easy_vqa` wrote; the cache folder when None.
        seed: Of the choice and the order.
        length: How many items iteration sees.
        least_questions: Asked about one picture; fewer where it has not so many.
        most_questions: As many at most.
        branched: Whether each question is asked as if it were the first. Asked in turn, some are
            answered by those before.
        even: Whether no more yes or no questions are about what is not there than about what is,
            but for one of a picture of which nothing else is asked. Of all, four of five are, so
            who looks for the word "not" alone is right in 82 %.

    Raises:
        FileNotFoundError: Nothing was fetched.
        ValueError: A length below 1, or not 1 <= least_questions <= most_questions <= 16.
    """

    name = "easy-vqa"

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        seed: int = 0,
        length: int = 4000,
        least_questions: int = 3,
        most_questions: int = 8,
        branched: bool = False,
        even: bool = False,
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        num_questions = HowMany(
            things="questions",
            least=least_questions,
            most=most_questions,
            limit=QUESTIONS_LIMIT,
        )
        self._set = load_easy_vqa("train", None if folder is None else Path(folder))
        starts = [question.picture for question in self._set.questions]
        self._starts = np.searchsorted(starts, range(len(self._set.pictures) + 1))
        self.seed = seed
        self.length = length
        self.num_questions = num_questions
        self.branched = branched
        self.even = even

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        index = checked_index(index, self.length)
        number = index % len(self._set.pictures)
        questions = self._set.questions[self._starts[number] : self._starts[number + 1]]
        rng = np.random.default_rng([self.seed, index])
        wanted = self.num_questions.draw(rng)
        order = [int(place) for place in rng.permutation(len(questions))]
        if self.even:
            absent = [place for place in order if questions[place].is_there is False]
            most = sum(questions[place].is_there is True for place in order)
            # One stays where there is nothing else to ask.
            most = max(most, len(order) == len(absent))
            order = [place for place in order if place not in absent[most:]]
        asked = [questions[place] for place in order[:wanted]]
        return Sample(
            key=f"{self.name}/train/{self.seed}/{index}",
            kind="und",
            turns=asked_about_picture((question.text, question.answer) for question in asked),
            images=(self._set.pictures[number],),
            branched=self.branched,
        )


def _read_picture(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with Image.open(io.BytesIO(archive.read(name))) as image:
        return np.asarray(image.convert("RGB"))
