"""MM-Vet (Yu et al., 2023): free answers, written down for the evaluator that judges them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from openjanus.eval.benchmark import Asked, FolderBenchmark
from openjanus.eval.layouts import WrongLayout, need_keys, read_json
from openjanus.eval.record import write_json
from openjanus.eval.task import Prediction

EXPECTED: Final = (
    "MM-Vet's mm-vet.json (a mapping of ids to imagename and question), or its folder, and images/ "
    "beside it, or in images="
)
SUBMISSION: Final = "submission.json"


class MMVet(FolderBenchmark):
    """MM-Vet's questions. A language model judges the answers: nothing is scored here."""

    name = "MM-Vet"
    rule_texts: ClassVar[Mapping[str, str]] = {
        "answers": "answers alone, for MM-Vet's own evaluator, v1"
    }
    own_tokens = 512

    def load(self) -> list[Asked]:
        """Every question."""
        file = self.data / "mm-vet.json" if self.data.is_dir() else self.data
        content = read_json(file, EXPECTED)
        if not isinstance(content, Mapping):
            raise WrongLayout(file, "is no mapping", EXPECTED)
        self.files = [file]
        records = need_keys(content.values(), ("imagename", "question"), file, EXPECTED)
        pictures = self.image_folder(file.parent, EXPECTED)
        return [
            Asked(
                key=str(key),
                parts=(pictures / str(record["imagename"]), str(record["question"])),
                part="",
                unit=str(key),
                cluster=str(record["imagename"]),
            )
            for key, record in zip(content, records, strict=True)
        ]

    def judge(self, reply: str, asked: Asked) -> dict[str, Any]:
        """Nothing but whether there is an answer."""
        return {"score": None, "parsed": bool(reply.strip())}

    def score(self, predictions: Sequence[Prediction], folder: Path, seed: int) -> dict[str, Any]:
        """The evaluator's file: answers by id."""
        write_json(folder / SUBMISSION, self.said(predictions))
        return {"score": None, "submission": SUBMISSION}
