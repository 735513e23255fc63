"""SEED-Bench (Li et al., 2023), its image part: four choices about a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from openjanus.eval.benchmark import (
    ONE_LETTER,
    Asked,
    FolderBenchmark,
    by,
    mean_score,
    option_lines,
)
from openjanus.eval.layouts import WrongLayout, need_keys, read_json
from openjanus.eval.rules.choices import ranked_choice, read_letter
from openjanus.eval.task import Prediction, Request
from openjanus.pipeline import Janus

EXPECTED: Final = (
    "SEED-Bench.json (questions of question_id, question, choice_a to choice_d, answer, data_type "
    "and data_id), or its folder, and SEED-Bench-image beside it, or in images="
)
KEYS: Final = ("question_id", "question", "choice_a", "choice_b", "answer", "data_type", "data_id")


class Seed(FolderBenchmark):
    """SEED-Bench's questions about images; those about videos are left out."""

    name = "SEED-Bench"
    rule_texts: ClassVar[Mapping[str, str]] = {
        "letter": "first character, image part (the authors' setting), v2",
        "ranked": "lowest mean loss of the choices' tokens, image part, v1",
    }
    own_suffix = ONE_LETTER
    bare_rules = frozenset({"ranked"})  # choices are scored as answers to the bare question
    image_folders = ("SEED-Bench-image", "images")

    def load(self) -> list[Asked]:
        """Questions whose data are images."""
        file = self.data / "SEED-Bench.json" if self.data.is_dir() else self.data
        content = read_json(file, EXPECTED)
        if not isinstance(content, Mapping) or not isinstance(content.get("questions"), list):
            raise WrongLayout(file, "has no list of questions", EXPECTED)
        self.files = [file]
        kinds = content.get("question_type", {})
        if not isinstance(kinds, Mapping):
            raise WrongLayout(file, "has a question_type that is no mapping", EXPECTED)
        self._kinds = {str(number): str(name) for name, number in kinds.items()}
        records = need_keys(content["questions"], KEYS, file, EXPECTED)
        pictures = self.image_folder(file.parent, EXPECTED)
        return [self._asked(r, pictures) for r in records if r["data_type"] == "image"]

    def _asked(self, record: Mapping[str, Any], pictures: Path) -> Asked:
        options = {
            letter: str(record[f"choice_{letter.lower()}"])
            for letter in "ABCD"
            if record.get(f"choice_{letter.lower()}") is not None
        }
        words = str(record["question"])
        if self.rule == "letter":
            words += "\n" + option_lines(options)
        answer = str(record["answer"])
        if answer not in options:
            said = f"has the answer {record['answer']!r} to question {record['question_id']}"
            raise WrongLayout(self.files[0], said, f"one of its choices, {', '.join(options)}")
        kind = str(record.get("question_type_id"))
        return Asked(
            key=str(record["question_id"]),
            parts=(pictures / str(record["data_id"]), words),
            part="",
            unit=str(record["question_id"]),
            cluster=str(record["data_id"]),
            record={
                "options": options,
                "answer": answer,
                "kind": self._kinds.get(kind, kind),
            },
        )

    def _replies(self, janus: Janus, whole: Sequence[tuple[Request, Any]]) -> dict[str, Prediction]:
        if self.rule == "letter":
            return super()._replies(janus, whole)
        made: dict[str, Prediction] = {}
        for request, messages in whole:
            options: dict[str, str] = request.data.record["options"]
            try:
                log_probs = {
                    letter: janus.score(messages, text, system=self.system).tolist()
                    for letter, text in options.items()
                }
            except ValueError as error:  # past the context, or an empty choice
                made[request.key] = {"key": request.key, "error": str(error)}
                continue
            losses = {key: round(-sum(v) / len(v), 5) for key, v in log_probs.items()}
            said = {"reply": ranked_choice(log_probs), "losses": losses}
            made[request.key] = self.prediction(request, said)
        return made

    def judge(self, reply: str, asked: Asked) -> dict[str, Any]:
        """The first character, or the letter that ranking chose."""
        said = read_letter(reply, asked.record["options"])
        return {
            "said": said,
            "score": float(said is not None and said == asked.record["answer"]),
            "parsed": said is not None,
        }

    def score(self, predictions: Sequence[Prediction], folder: Path, seed: int) -> dict[str, Any]:
        """Accuracy over all questions, and by kind."""
        return {
            "score": mean_score(f"SEED-Bench image accuracy, {self.rule}", predictions, seed),
            "kinds": by("kind", predictions),
        }
