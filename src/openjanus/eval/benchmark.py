"""What benchmarks of understanding share: ask about pictures, judge by a rule, sum up.

A benchmark names its rules (`--rule`): the same questions are asked and counted in several ways,
and figures of different rules are not comparable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from openjanus.eval.layouts import files_hash, first_folder
from openjanus.eval.stats import Interval, bootstrap_interval
from openjanus.eval.task import Prediction, Request
from openjanus.pipeline import Janus
from openjanus.processor.image import open_image
from openjanus.rules import near

PictureSource = Path | Callable[[], bytes]
"""Where a picture is, or what reads the bytes of its file."""

ONE_LETTER = "Answer with the option's letter from the given choices directly."
ONE_WORD = "Answer the question using a single word or phrase."


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Asked:
    """One question of a benchmark."""

    key: str
    """Names it for ever."""
    parts: tuple[str | PictureSource, ...]
    """Words and pictures, in order; the prompt's suffix is not yet among them."""
    part: str
    """Split, task or subject; a limit takes the first units of each."""
    unit: str
    """Questions of one unit are counted together: a picture of MME, rotations of a question."""
    cluster: str
    """What is resampled as a whole for an interval: as a rule the picture."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """Plain data that the prediction keeps: the right answer, a category."""


class Benchmark:
    """A benchmark in its published layout.

    Args:
        data: Path of its files.
        rule: How answers are asked for and counted; None is the first of its rules.
        suffix: What ends every prompt, on a line of its own; None is the benchmark's own, "" none.
        system: System prompt; None is the model's own.
        max_new_tokens: Of an answer; None is the benchmark's own.
        batch_size: Questions at once; never changes an answer.

    Raises:
        ValueError: An unknown rule, or a count below 1.
    """

    name: ClassVar[str]
    rule_texts: ClassVar[Mapping[str, str]]
    """Rule -> its name and version, as results state it; the first one is the default."""
    own_suffix: ClassVar[str] = ""
    bare_rules: ClassVar[frozenset[str]] = frozenset()
    """Rules whose prompts end with no suffix of their own."""
    own_tokens: ClassVar[int] = 16

    def __init__(
        self,
        *,
        data: str,
        rule: str | None = None,
        suffix: str | None = None,
        system: str | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 8,
    ) -> None:
        rule = next(iter(self.rule_texts)) if rule is None else rule
        if rule not in self.rule_texts:
            raise ValueError(f"{self.name} has no rule {rule!r}; {near(rule, [*self.rule_texts])}")
        tokens = self.own_tokens if max_new_tokens is None else max_new_tokens
        if min(tokens, batch_size) < 1:
            raise ValueError(
                f"max_new_tokens and batch_size must be at least 1, got {tokens} and {batch_size}"
            )
        self.data, self.rule = Path(data), rule
        self.rules = self.rule_texts[rule]
        own = "" if rule in self.bare_rules else self.own_suffix
        self.suffix = own if suffix is None else suffix
        self.system, self.max_new_tokens, self.batch_size = system, tokens, batch_size
        self.files: list[Path] = []
        self.asked: dict[str, Asked] = {}
        """What `requests` gave, by key."""

    # for each benchmark to say

    def load(self) -> list[Asked]:
        """Read all questions, in the order of the files, and put these into `files`."""
        raise AssertionError("each benchmark reads its own files")

    def judge(self, reply: str, asked: Asked) -> dict[str, Any]:
        """What the rule makes of a reply: `score`, 0 to 1, `parsed`, and what else is kept."""
        raise AssertionError("each benchmark has its own rule")

    def score(self, predictions: Sequence[Prediction], folder: Path, seed: int) -> dict[str, Any]:
        """Figures of all answers: `score` and whatever stands beside it."""
        return {"score": mean_score(f"{self.name} accuracy", predictions, seed)}

    # as `Task` has it

    def settings(self, janus: Janus) -> dict[str, Any]:
        """Everything on which a score depends beside model and prompts."""
        own = janus.config.processor.und_system_prompt
        return {
            "rule": self.rule,
            "suffix": self.suffix,
            "system": own if self.system is None else self.system,
            "answers": {"temperature": 0.0, "max_new_tokens": self.max_new_tokens},
            "files": [path.name for path in self.files],
            "files_sha256": files_hash(self.files),
        }

    def requests(self, *, limit: int | None, seed: int) -> list[Request]:
        """Every question.

        Args:
            limit: The first so many units of each part; None is all.
            seed: Of nothing here: questions stand in their files.

        Raises:
            WrongLayout: The path holds something else.
            ValueError: No questions, or two of one name.
        """
        units: dict[str, dict[str, None]] = {}
        for asked in self.load():
            taken = units.setdefault(asked.part, {})
            if asked.unit not in taken and limit is not None and len(taken) >= limit:
                continue
            taken[asked.unit] = None
            if asked.key in self.asked:
                raise ValueError(f"{self.data}: question {asked.key} stands twice: remove one")
            self.asked[asked.key] = asked
        if not self.asked:
            raise ValueError(f"{self.data} holds no questions of {self.name}")
        return [
            Request(
                key=asked.key,
                group="",
                prompt=self._words(asked),
                pictures=tuple(_name_and_size(p) for p in asked.parts if isinstance(p, Path)),
                data=asked,
            )
            for asked in self.asked.values()
        ]

    def _words(self, asked: Asked) -> str:
        """The whole prompt, pictures as marks."""
        return "".join(p if isinstance(p, str) else "<image>" for p in self._parts(asked))

    def _parts(self, asked: Asked) -> list[str | PictureSource]:
        return [*asked.parts, f"\n{self.suffix}"] if self.suffix else list(asked.parts)

    def message(self, asked: Asked) -> list[dict[str, Any]]:
        """A question as a dialogue, its pictures opened.

        Raises:
            FileNotFoundError: A picture is missing.
            ValueError: A picture is broken.
        """
        content: list[dict[str, Any]] = []
        for part in self._parts(asked):
            if isinstance(part, str):
                if content and content[-1]["type"] == "text":
                    content[-1]["text"] += part
                else:
                    content.append({"type": "text", "text": part})
            else:
                content.append({"type": "image", "image": _opened(part)})
        for one in content:  # parts stand on lines of their own
            if one["type"] == "text":
                one["text"] = one["text"].strip("\n")
        return [{"role": "user", "content": content}]

    def answer(self, janus: Janus, batch: Sequence[Request], folder: Path) -> list[Prediction]:
        """Ask a batch; what cannot be asked becomes a prediction with an `error`."""
        whole: list[tuple[Request, Any]] = []
        made: dict[str, Prediction] = {}
        for request in batch:
            try:
                whole.append((request, self.message(request.data)))
            except (ValueError, FileNotFoundError) as error:
                made[request.key] = _broken(request, error)
        made |= self._replies(janus, whole)
        return [made[request.key] for request in batch]

    def _replies(self, janus: Janus, whole: Sequence[tuple[Request, Any]]) -> dict[str, Prediction]:
        if not whole:
            return {}
        try:
            replies = janus.chat_batch(
                [messages for _, messages in whole],
                system=self.system,
                max_new_tokens=self.max_new_tokens,
                temperature=0.0,
            )
        except ValueError as error:  # nothing was answered: one of them is past the context
            if len(whole) == 1:
                return {whole[0][0].key: _broken(whole[0][0], error)}
            return {key: made for one in whole for key, made in self._replies(janus, [one]).items()}
        return {
            request.key: self.prediction(
                request, {"reply": reply.text, "finish_reason": reply.finish_reason}
            )
            for (request, _), reply in zip(whole, replies, strict=True)
        }

    def prediction(self, request: Request, said: Mapping[str, Any]) -> Prediction:
        """A line of `predictions.jsonl`."""
        asked: Asked = request.data
        return {
            "key": request.key,
            "part": asked.part,
            "unit": asked.unit,
            "cluster": asked.cluster,
            "prompt": request.prompt,
            **asked.record,
            **said,
            **self.judge(said["reply"], asked),
        }

    def summarise(
        self, janus: Janus, predictions: Sequence[Prediction], folder: Path, *, seed: int
    ) -> dict[str, Any]:
        """Scores with intervals, numbers and the rate of answers that could not be read."""
        unread = sum(not prediction["parsed"] for prediction in predictions)
        cut = sum(prediction.get("finish_reason") == "length" for prediction in predictions)
        return {
            **self.score(predictions, folder, seed),
            "n": len(predictions),
            "parse_failure_rate": round(unread / len(predictions), 4),
            "cut_off_rate": round(cut / len(predictions), 4),
        }

    def said(self, predictions: Sequence[Prediction]) -> dict[str, str]:
        """Replies by key for a server, which wants all of them: "" for what was broken."""
        replies = {prediction["key"]: prediction["reply"] for prediction in predictions}
        return {key: replies.get(key, "") for key in self.asked}


class FolderBenchmark(Benchmark):
    """A benchmark whose pictures lie in a folder.

    Args:
        images: The folder; None looks beside the questions, under its usual names.
        options: As `Benchmark`.
    """

    image_folders: ClassVar[tuple[str, ...]] = ("images",)
    """Usual names, below the folder of the questions."""

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
    ) -> None:
        super().__init__(
            data=data,
            rule=rule,
            suffix=suffix,
            system=system,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
        self._images = None if images is None else Path(images)

    def image_folder(self, beside: Path, expected: str, *more: str) -> Path:
        """Where the pictures are.

        Args:
            beside: Folder of the questions.
            expected: What the benchmark's layout is, for the message.
            more: Further usual names, looked for first.

        Raises:
            WrongLayout: Nowhere.
        """
        candidates = [beside / name for name in (*more, *self.image_folders)]
        if self._images is not None:
            candidates, expected = [self._images], "the folder of pictures that `images` names"
        self._found = first_folder(candidates, expected)
        return self._found

    def settings(self, janus: Janus) -> dict[str, Any]:
        """As `Benchmark`, and where the pictures are."""
        return super().settings(janus) | {"images": str(self._found.resolve())}


def mean_score(
    name: str, predictions: Sequence[Prediction], seed: int, *, values: str = "score"
) -> dict[str, Any]:
    """The mean of all scores in per cent, with its interval over whole clusters."""
    scores = [float(prediction[values]) for prediction in predictions]
    clusters = [prediction["cluster"] for prediction in predictions]
    return headline(
        name,
        sum(scores) / len(scores),
        bootstrap_interval(scores, clusters, seed=seed),
    )


def headline(
    name: str, value: float, interval: Interval, *, unit: str = "percent"
) -> dict[str, Any]:
    """A benchmark's main figure as papers print it.

    Args:
        name: What it is.
        value: 0 to 1 where the unit is per cent.
        interval: 95 %, of the same scale.
        unit: "percent" or "points".
    """
    scale = 100 if unit == "percent" else 1
    return {
        "name": name,
        "value": round(scale * value, 2),
        "unit": unit,
        "interval": [round(scale * edge, 2) for edge in interval],
    }


def by(key: str, predictions: Sequence[Prediction]) -> dict[str, float]:
    """Mean score, 0 to 1, of the predictions of each value of a key."""
    groups: dict[str, list[float]] = {}
    for prediction in predictions:
        groups.setdefault(str(prediction[key]), []).append(float(prediction["score"]))
    return {name: round(sum(values) / len(values), 4) for name, values in groups.items()}


def option_lines(options: Mapping[str, str]) -> str:
    """Options of a multiple choice, one a line: "A. a dog"."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def with_pictures(text: str, pictures: Mapping[int, PictureSource]) -> list[str | PictureSource]:
    """A text whose marks ``<image 1>`` become pictures; those without a mark come first.

    A mark without its picture makes the question broken when it is asked, not before.
    """
    parts: list[str | PictureSource] = []
    used: set[int] = set()
    for place, piece in enumerate(re.split(r"<image (\d+)>", text)):
        if place % 2 == 0:
            if piece:
                parts.append(piece)
            continue
        number = int(piece)
        if number not in used:
            parts.append(pictures.get(number, partial(_missing, number)))
            used.add(number)
        else:  # shown once: a second mark of the same picture only refers to it
            parts.append(f"image {number}")
    first = [picture for number, picture in pictures.items() if number not in used]
    return [*first, *parts]


def _missing(number: int) -> bytes:
    raise ValueError(f"the text shows <image {number}>, which is not there")


def _name_and_size(picture: Path) -> str:
    size = picture.stat().st_size if picture.is_file() else "missing"
    return f"{picture.name} {size}"


def _opened(source: PictureSource) -> Image.Image:
    return open_image(source() if callable(source) else source)


def _broken(request: Request, error: Exception) -> Prediction:
    return {"key": request.key, "error": " ".join(str(error).split())}
