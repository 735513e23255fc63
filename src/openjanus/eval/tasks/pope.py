"""POPE (Li et al., 2023): is it in the picture? Three splits of what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from openjanus.eval.answers import read_yes_no, yes_no_scores
from openjanus.eval.benchmark import ONE_WORD, Asked, FolderBenchmark, headline
from openjanus.eval.layouts import WrongLayout, need_folder, need_keys, read_json_lines
from openjanus.eval.stats import Interval, bootstrap_statistic
from openjanus.eval.task import Prediction

SPLITS: Final = ("random", "popular", "adversarial")
EXPECTED: Final = (
    "a folder with coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json "
    "(JSON lines of question_id, image, text, label) and COCO's val2014 beside them, or in images="
)


class Pope(FolderBenchmark):
    """POPE: JSON lines of questions, and COCO's folder of pictures."""

    name = "POPE"
    rule_texts: ClassVar[Mapping[str, str]] = {
        "authors": "POPE's reading; F1 of the random split, v1",
        "splits": "POPE's reading; mean of the F1 of three splits, v1",
    }
    own_suffix = ONE_WORD
    image_folders = ("val2014", "images")

    def load(self) -> list[Asked]:
        """Questions of the random split, or of all three."""
        wanted = ("random",) if self.rule == "authors" else SPLITS
        if self.data.is_file():
            folder, found = self.data.parent, {self._split_of(self.data, wanted): [self.data]}
        else:
            folder = need_folder(self.data, EXPECTED)
            found = {split: sorted(folder.glob(f"*pope_{split}.json*")) for split in wanted}
        for split, files in found.items():
            if len(files) != 1:
                said = f"has {len(files)} files *pope_{split}.json"
                if files:
                    said += f" ({', '.join(path.name for path in files)}; data may be one of them)"
                raise WrongLayout(self.data, said, EXPECTED)
            self.files += files
        pictures = self.image_folder(folder, EXPECTED)
        return [
            _asked(split, record, pictures, file)
            for split, (file,) in found.items()
            for record in need_keys(
                read_json_lines(file, EXPECTED),
                ("question_id", "image", "text", "label"),
                file,
                EXPECTED,
            )
        ]

    def _split_of(self, file: Path, wanted: Sequence[str]) -> str:
        """Which split a file is of, by its name; it must be all that the rule asks."""
        split = next((split for split in SPLITS if f"pope_{split}" in file.name), None)
        if split is None or [split] != list(wanted):
            said = f"is {'no file' if split is None else f'the {split} split'} of POPE"
            raise WrongLayout(
                file, f"{said}, and rule {self.rule!r} asks for {', '.join(wanted)}", EXPECTED
            )
        return split

    def judge(self, reply: str, asked: Asked) -> dict[str, Any]:
        """POPE's reading, by which whatever says neither yes nor no is a yes."""
        said = read_yes_no(reply)
        words = reply.lower().replace(",", " ").replace(".", " ").split()
        return {
            "said": said,
            "score": float(said == asked.record["answer"]),
            "parsed": any(word in ("yes", "no", "not") for word in words),
        }

    def score(self, predictions: Sequence[Prediction], folder: Path, seed: int) -> dict[str, Any]:
        """Accuracy, precision, recall, F1 and share of yes, by split."""
        splits = {split: [p for p in predictions if p["part"] == split] for split in SPLITS}
        splits = {split: ps for split, ps in splits.items() if ps}
        figures, intervals = {}, {}
        for split, ps in splits.items():
            scores = yes_no_scores([p["said"] for p in ps], [p["answer"] for p in ps])
            figures[split] = {key: round(value, 4) for key, value in asdict(scores).items()}
            intervals[split] = _f1_interval(ps, seed, [split])
        return {
            "score": headline(
                f"POPE F1, {' + '.join(splits)}",
                sum(figures[split]["f1"] for split in splits) / len(splits),
                _f1_interval([p for ps in splits.values() for p in ps], seed, [*splits]),
            ),
            "splits": figures,
            "f1_ci": {key: [round(edge, 4) for edge in edges] for key, edges in intervals.items()},
        }


def _asked(split: str, record: Mapping[str, Any], pictures: Path, file: Path) -> Asked:
    key = f"{split}/{record['question_id']}"
    label = str(record["label"]).strip().lower()
    if label not in ("yes", "no"):
        said = f"has the label {record['label']!r} of question {record['question_id']}"
        raise WrongLayout(file, said, "yes or no")
    return Asked(
        key=key,
        parts=(pictures / str(record["image"]), str(record["text"])),
        part=split,
        unit=key,
        cluster=str(record["image"]),
        record={"answer": label == "yes"},
    )


def _f1_interval(predictions: Sequence[Prediction], seed: int, splits: Sequence[str]) -> Interval:
    """Interval of the mean F1 of some splits; a picture stands in all of them."""
    columns: dict[str, list[float]] = {}
    for split in splits:
        here = [p if p["part"] == split else None for p in predictions]
        columns[f"{split} hits"] = [
            float(p is not None and p["said"] and p["answer"]) for p in here
        ]
        columns[f"{split} yes"] = [0.0 if p is None else p["said"] + p["answer"] for p in here]

    def mean_f1(sums: Mapping[str, np.ndarray]) -> np.ndarray:
        # F1 = 2 hits / (said yes + is yes); 0 where there is neither.
        return np.mean(
            [2 * sums[f"{split} hits"] / np.maximum(sums[f"{split} yes"], 1) for split in splits],
            axis=0,
        )

    clusters = [prediction["cluster"] for prediction in predictions]
    return bootstrap_statistic(columns, clusters, mean_f1, seed=seed)
