"""MME (Fu et al., 2023): fourteen folders of pictures, two yes-or-no questions each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from openjanus.eval.benchmark import Asked, Benchmark, headline
from openjanus.eval.layouts import WrongLayout, need_folder, read_text
from openjanus.eval.rules.mme import (
    COGNITION,
    PERCEPTION,
    picture_points,
    read_answer,
    task_score,
    totals,
)
from openjanus.eval.stats import Interval, bootstrap_interval, bootstrap_macro_interval
from openjanus.eval.task import Prediction

EXPECTED: Final = (
    "MME's folder, with a folder a task (existence, count, ...), in it pictures and for each a "
    "text file of the same name with two lines QUESTION<tab>Yes or No, together or in images/ and "
    "questions_answers_YN/"
)
SUFFIXES: Final = (".jpg", ".jpeg", ".png")
SAID: Final = {"yes": True, "no": False}


class Mme(Benchmark):
    """MME: folders of pictures with text files."""

    name = "MME"
    rule_texts: ClassVar[Mapping[str, str]] = {
        "official": "MME's reading of the first four characters, v1"
    }

    def load(self) -> list[Asked]:
        """Both questions about each picture of each task that is there."""
        need_folder(self.data, EXPECTED)
        tasks = [task for task in (*PERCEPTION, *COGNITION) if (self.data / task).is_dir()]
        if not tasks:
            raise WrongLayout(self.data, "has no folder of a task of MME", EXPECTED)
        return [asked for task in tasks for asked in self._task(task)]

    def _task(self, task: str) -> list[Asked]:
        folder = self.data / task
        texts, pictures = folder / "questions_answers_YN", folder / "images"
        if not (texts.is_dir() and pictures.is_dir()):
            texts = pictures = folder
        # Archives made on a Mac bring along ._NAME.txt.
        files = sorted(p for p in texts.glob("*.txt") if not p.name.startswith("."))
        if not files:
            raise WrongLayout(texts, "has no text files", EXPECTED)
        self.files += files
        made = []
        for file in files:
            lines = read_text(file, EXPECTED).splitlines()
            pairs = [line.rpartition("\t") for line in lines if line.strip()]
            if len(pairs) != 2 or any(end.strip().lower() not in SAID for _, _, end in pairs):
                raise WrongLayout(file, "does not hold two questions with Yes or No", EXPECTED)
            places = [pictures / f"{file.stem}{suffix}" for suffix in SUFFIXES]
            picture = next((place for place in places if place.is_file()), places[0])
            name = f"{task}/{file.stem}"
            made += [
                Asked(
                    key=f"{name}/{number}",
                    parts=(picture, question.strip()),
                    part=task,
                    unit=name,
                    cluster=name,
                    record={"answer": SAID[answer.strip().lower()]},
                )
                for number, (question, _, answer) in enumerate(pairs)
            ]
        return made

    def judge(self, reply: str, asked: Asked) -> dict[str, Any]:
        """MME's reading; what says neither is wrong."""
        said = read_answer(reply)
        return {
            "said": said,
            "score": float(said is not None and said == asked.record["answer"]),
            "parsed": said is not None,
        }

    def score(self, predictions: Sequence[Prediction], folder: Path, seed: int) -> dict[str, Any]:
        """Points a task, and their sums where all tasks of a kind were asked.

        A picture of which one question is broken does not count.
        """
        right: dict[str, dict[str, list[bool]]] = {}
        for p in predictions:
            right.setdefault(p["part"], {}).setdefault(p["unit"], []).append(bool(p["score"]))
        points: dict[str, dict[str, float]] = {}
        for task, units in right.items():
            whole = {unit: picture_points(both) for unit, both in units.items() if len(both) == 2}
            if whole:
                points[task] = whole
        scores = {task: task_score(list(units.values())) for task, units in points.items()}
        sums = totals(scores)
        summary: dict[str, Any] = {
            "score": None,
            **{name: round(value, 2) for name, value in sums.items()},
            "tasks": {task: round(score, 2) for task, score in scores.items()},
            "tasks_ci": {task: _task_interval(units, seed) for task, units in points.items()},
            "pictures": {task: len(units) for task, units in points.items()},
        }
        if "perception" in sums:
            interval = _sum_interval({task: points[task] for task in PERCEPTION}, seed)
            summary["score"] = headline(
                "MME perception", sums["perception"], interval, unit="points"
            )
        if "cognition" in sums:
            edges = _sum_interval({task: points[task] for task in COGNITION}, seed)
            summary["cognition_ci"] = [round(edge, 2) for edge in edges]
        return summary


def _task_interval(units: Mapping[str, float], seed: int) -> list[float]:
    """Interval of one task's points, pictures resampled."""
    edges = bootstrap_interval([*units.values()], [*units], seed=seed)
    return [round(edge, 2) for edge in edges]


def _sum_interval(points: dict[str, dict[str, float]], seed: int) -> Interval:
    """Interval of the sum over tasks of their mean points, pictures resampled within each."""
    groups = {task: (list(units.values()), list(units)) for task, units in points.items()}
    low, high = bootstrap_macro_interval(groups, seed=seed)
    return low * len(points), high * len(points)
