"""GQA (Hudson and Manning, 2019): short answers, exact match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from openjanus.eval.answers import exact_match
from openjanus.eval.benchmark import ONE_WORD, Asked, FolderBenchmark
from openjanus.eval.layouts import WrongLayout, need_keys, read_json

QUESTIONS: Final = "testdev_balanced_questions.json"
EXPECTED: Final = (
    f"a GQA questions file (a mapping of ids to imageId, question and answer), or a folder with "
    f"{QUESTIONS}, and images/ beside it, or in images="
)


class Gqa(FolderBenchmark):
    """GQA's questions and its folder of pictures."""

    name = "GQA"
    rule_texts: ClassVar[Mapping[str, str]] = {
        "exact": "exact match after strip, lower case and a final full stop, v1"
    }
    own_suffix = ONE_WORD

    def load(self) -> list[Asked]:
        """Every question of the file."""
        file = self.data / QUESTIONS if self.data.is_dir() else self.data
        content = read_json(file, EXPECTED)
        if not isinstance(content, Mapping):
            raise WrongLayout(file, "is no mapping", EXPECTED)
        self.files = [file]
        keys = ("imageId", "question", "answer")
        records = need_keys(content.values(), keys, file, EXPECTED)
        pictures = self.image_folder(file.parent, EXPECTED)
        return [
            Asked(
                key=str(key),
                parts=(pictures / f"{record['imageId']}.jpg", str(record["question"])),
                part="",
                unit=str(key),
                cluster=str(record["imageId"]),
                record={"answer": str(record["answer"])},
            )
            for key, record in zip(content, records, strict=True)
        ]

    def judge(self, reply: str, asked: Asked) -> dict[str, Any]:
        """Exact match; every answer that is not empty can be read."""
        right = exact_match(reply, asked.record["answer"])
        return {"score": float(right), "parsed": bool(reply.strip())}
