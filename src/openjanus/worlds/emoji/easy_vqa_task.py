"""The easy-VQA task: its own test split, by exact match, beside the blind and the majority."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from openjanus.eval.answers import exact_match, majority_score, normalise
from openjanus.eval.stats import bootstrap_interval
from openjanus.eval.task import Prediction, Request
from openjanus.pipeline import Janus
from openjanus.worlds.emoji.easy_vqa import EASY_KINDS, EASY_VQA, EasySet, load_easy_vqa

GREY: Final = 127
"""What the blind see."""
ANSWER_TOKENS: Final = 8


class EasyVqaTask:
    """Questions about coloured shapes.

    Args:
        batch_size: Questions at once.
        blind: Whether the same questions are asked about a grey picture too.
        folder: Where `fetch_easy_vqa` wrote; the cache folder when None.

    Raises:
        ValueError: A batch size below 1.
        FileNotFoundError: Nothing was fetched.
    """

    rules = "easy-VQA test split, exact match, v1"

    def __init__(
        self, *, batch_size: int = 32, blind: bool = True, folder: str | Path | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = batch_size
        self.blind = blind
        place = None if folder is None else Path(folder)
        self._test = load_easy_vqa("test", place)
        train = load_easy_vqa("train", place)
        self._habits = _habits(train)
        self._answers = {(question.kind, question.answer) for question in train.questions}

    def settings(self, janus: Janus) -> dict[str, Any]:
        """Options on which the figures depend."""
        return {
            "source": EASY_VQA,
            "blind": self.blind,
            "answers": {"temperature": 0.0, "max_new_tokens": ANSWER_TOKENS},
        }

    def requests(self, *, limit: int | None, seed: int) -> list[Request]:
        """The questions in an order of the seed's, with their pictures, then for the blind.

        Args:
            limit: Questions at most; they are drawn from all kinds as the split has them.
            seed: Of the order, which matters under a limit alone.
        """
        asked = self._test.questions
        order = np.random.default_rng(seed).permutation(len(asked))
        if limit is not None:
            order = order[:limit]
        groups = ("seen", "blind") if self.blind else ("seen",)
        return [
            Request(
                key=f"{group}/{number}",
                group=group,
                prompt=asked[number].text,
                data=asked[number],
            )
            for group in groups
            for number in sorted(order.tolist())
        ]

    def answer(self, janus: Janus, batch: Sequence[Request], folder: Path) -> list[Prediction]:
        """Ask about the pictures, or about a grey one."""
        conversations = []
        for request in batch:
            picture = self._test.pictures[request.data.picture]
            if request.group == "blind":
                picture = np.full_like(picture, GREY)
            parts = [
                {"type": "image", "image": Image.fromarray(picture)},
                {"type": "text", "text": request.prompt},
            ]
            conversations.append([{"role": "user", "content": parts}])
        replies = janus.chat_batch(conversations, max_new_tokens=ANSWER_TOKENS, temperature=0.0)
        return [
            {
                "key": request.key,
                "kind": request.data.kind,
                "picture": request.data.picture,
                "question": request.prompt,
                "answer": request.data.answer,
                "reply": reply.text,
                "correct": exact_match(reply.text, request.data.answer),
                "parsed": (request.data.kind, normalise(reply.text)) in self._answers,
            }
            for request, reply in zip(batch, replies, strict=True)
        ]

    def summarise(
        self, janus: Janus, predictions: Sequence[Prediction], folder: Path, *, seed: int
    ) -> dict[str, Any]:
        """Accuracies of all and of each kind, with intervals by picture, and the baselines."""
        seen = [p for p in predictions if p["key"].startswith("seen/")]
        blind = [p for p in predictions if p["key"].startswith("blind/")]
        values = [float(p["correct"]) for p in seen]
        low, high = bootstrap_interval(values, [p["picture"] for p in seen], seed=seed)
        habits = [{**p, "correct": self._habits.get(p["question"]) == p["answer"]} for p in seen]
        return {
            "accuracy": _share(seen),
            "ci": [round(low, 4), round(high, 4)],
            "kinds": _by_kind(seen),
            "kinds_ci": {kind: _interval(_of(seen, kind), seed) for kind in _kinds(seen)},
            "blind": {"accuracy": _share(blind), "kinds": _by_kind(blind)} if blind else None,
            "majority": {
                kind: round(majority_score([p["answer"] for p in _of(seen, kind)]), 4)
                for kind in _kinds(seen)
            },
            "majority_of_question": {"accuracy": _share(habits), "kinds": _by_kind(habits)},
            "n": dict(Counter(p["kind"] for p in seen)) | {"all": len(seen)},
            "parse_failure_rate": round(sum(not p["parsed"] for p in seen) / len(seen), 4),
        }


def _habits(train: EasySet) -> dict[str, str]:
    """The most frequent answer of the training split to each question's words."""
    counts: dict[str, Counter[str]] = {}
    for question in train.questions:
        counts.setdefault(question.text, Counter())[question.answer] += 1
    return {text: answers.most_common(1)[0][0] for text, answers in counts.items()}


def _of(predictions: Sequence[Prediction], kind: str) -> list[Prediction]:
    return [p for p in predictions if p["kind"] == kind]


def _kinds(predictions: Sequence[Prediction]) -> list[str]:
    """Kinds that were asked; a limit may leave one out."""
    return [kind for kind in EASY_KINDS if _of(predictions, kind)]


def _share(predictions: Sequence[Prediction]) -> float:
    return round(sum(bool(p["correct"]) for p in predictions) / len(predictions), 4)


def _by_kind(predictions: Sequence[Prediction]) -> dict[str, float]:
    return {kind: _share(_of(predictions, kind)) for kind in _kinds(predictions)}


def _interval(predictions: Sequence[Prediction], seed: int) -> list[float]:
    values = [float(p["correct"]) for p in predictions]
    edges = bootstrap_interval(values, [p["picture"] for p in predictions], seed=seed)
    return [round(edge, 4) for edge in edges]
