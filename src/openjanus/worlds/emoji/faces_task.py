"""The faces task: six figures of a model's two faces, small enough to be taken of many models.

Understanding: existence by POPE's F1, naming by four ranked choices, counting and relation by open
answers. Drawing: a Frechet distance of the judge's features, and GenEval's rules. All of it on
held-out cells, as the emoji task, with few drawings of many cells; questions may also be about new
scenes of the cells that training shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from PIL import Image

from openjanus.eval.answers import read_yes_no, yes_no_scores
from openjanus.eval.frechet import frechet_distance, gaussian_of
from openjanus.eval.rules.choices import LETTERS, ranked_choice
from openjanus.eval.stats import bootstrap_interval, bootstrap_statistic
from openjanus.eval.task import Prediction, Request
from openjanus.pipeline import Janus
from openjanus.worlds.emoji.concepts import ALSO_SHOWN, CONCEPTS
from openjanus.worlds.emoji.indexed import SceneSource, read_artwork
from openjanus.worlds.emoji.judge import CHUNK, Judge
from openjanus.worlds.emoji.judge_network import pixel_values_of
from openjanus.worlds.emoji.questions import QuestionKind, exam
from openjanus.worlds.emoji.sampling import Split
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, Scene, render
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.task import EmojiTask
from openjanus.worlds.emoji.task_scores import drawing_scores, pope_figures
from openjanus.worlds.emoji.vocabulary import WorldName

Faces = Literal["both", "und", "gen"]

OPEN_KINDS: Final[tuple[QuestionKind, ...]] = ("existence", "counting", "relation")
CHOICES: Final = 4
CHOICE_STREAM: Final = 7006
"""Keeps the wrong names apart from everything else that a seed draws."""
REFERENCE_SEED: Final = 7007
"""Stream of the pictures that drawings are compared with; no training uses it."""
FRECHET: Final = "FD-judge"
"""The mean over all places of what the shipped judge's heads read. Not FID."""


class FacesTask(EmojiTask):
    """Six columns of a model with one face or both.

    Args:
        faces: What is asked: questions, drawings, or both.
        split: What the questions are about: held-out cells, or new scenes of those of training,
            of which nothing is drawn here.
        drawings: Drawings a tag, of as many cells.
        questions: Questions a column.
        references: Pictures that the drawings' features are compared with.
        grid: Of these pictures, as in the recipe that the model was trained by; 0 is none.
        slots: Of these pictures, likewise.
        one_ground: Of these pictures, likewise.
        vendors: Of these pictures, likewise; None shows all.
        world: What is asked about and drawn: "v0", or "few", twelve of its concepts.
        guidance_scale: As in the emoji task, like all that follow.
        temperature: As there.
        batch_size: As there.
        folder: As there.
        sprites: As there.
        referee: As there.

    Raises:
        ValueError: Unknown faces, too few of something, or as the emoji task.
        FileNotFoundError: No artwork or no judge.
    """

    rules = f"faces of the emoji world, v1: POPE's F1, ranked choices, GenEval rules, {FRECHET}"

    def __init__(
        self,
        *,
        faces: Faces = "both",
        split: Split = "held_out",
        drawings: int = 40,
        questions: int = 200,
        references: int = 1000,
        grid: int = 12,
        slots: bool = False,
        one_ground: bool = False,
        vendors: Sequence[str] | None = ("noto",),
        world: WorldName = "v0",
        guidance_scale: float | None = None,
        temperature: float | None = None,
        batch_size: int = 20,
        folder: str | Path | None = None,
        sprites: Sprites | None = None,
        referee: Judge | None = None,
    ) -> None:
        if faces not in ("both", "und", "gen"):
            raise ValueError(f"faces must be both, und or gen, got {faces!r}")
        if split not in get_args(Split):
            raise ValueError(f"split must be {' or '.join(get_args(Split))}, got {split!r}")
        if split == "train" and faces != "und":
            raise ValueError(
                f"drawings are of held-out cells: split train goes with faces und, got {faces!r}"
            )
        if world == "wide":
            raise ValueError("no judge of the wide world ships: world must be v0 or few, got wide")
        if folder is not None and sprites is not None:
            raise ValueError("the task takes a folder or sprites, got both: leave one out")
        if references < 2:
            raise ValueError(f"references must be at least 2, got {references}")
        super().__init__(
            drawings_per_tag=drawings,
            questions=questions,
            guidance_scale=guidance_scale,
            temperature=temperature,
            batch_size=batch_size,
            sprites=read_artwork(folder, world) if sprites is None else sprites,
            referee=referee,
        )
        self.faces: Faces = faces
        self.split: Split = split
        self.references = references
        self.grid = grid
        self.slots = slots
        self.one_ground = one_ground
        self.vendors = None if vendors is None else tuple(vendors)

    def settings(self, janus: Janus) -> dict[str, Any]:
        """The emoji task's, without what is not asked here, and what this one adds."""
        inherited = super().settings(janus)
        del inherited["judge_scenes"]
        return inherited | {
            "faces": self.faces,
            "references": self.references,
            "grid": self.grid,
            "slots": self.slots,
            "one_ground": self.one_ground,
            "vendors": None if self.vendors is None else list(self.vendors),
            "world": self.sprites.world.name,
            # Exams of before had no such setting, and are still those of now.
            **({} if self.split == "held_out" else {"split": self.split}),
        }

    def requests(self, *, limit: int | None, seed: int) -> list[Request]:
        """Prompts of the first cells of each tag, then questions.

        Args:
            limit: Drawings a tag and questions a column, at most.
            seed: Of the drawings and the questions.
        """
        made: list[Request] = []
        if self.faces != "und":
            drawings = self.drawings_per_tag if limit is None else min(limit, self.drawings_per_tag)
            made += self._drawing_requests(drawings, seed)
        if self.faces != "gen":
            questions = self.questions if limit is None else min(limit, self.questions)
            made += self._asked("understanding", OPEN_KINDS, questions, seed, self.split)
            made += self._choice_requests(questions, seed)
        return made

    def _choice_requests(self, n: int, seed: int) -> list[Request]:
        made = []
        asked = exam("naming", n, seed, self.sprites, split=self.split)
        for i, (scene, question) in enumerate(asked):
            names = tuple(self.sprites.world.concepts)
            options = four_choices(scene, question.answer, [CHOICE_STREAM, seed, i], names)
            made.append(
                Request(
                    key=f"choice/{i}",
                    group="choice",
                    prompt=question.text,
                    data={"scene": scene, "answer": question.answer, "options": options},
                )
            )
        return made

    def answer(self, janus: Janus, batch: Sequence[Request], folder: Path) -> list[Prediction]:
        """Draw, answer or rank a batch, and judge it."""
        if batch[0].group == "choice":
            return [self._rank(janus, request) for request in batch]
        return super().answer(janus, batch, folder)

    def _rank(self, janus: Janus, request: Request) -> Prediction:
        """Score four names as answers to a question."""
        options: dict[str, str] = request.data["options"]
        picture = render(request.data["scene"], janus.config.und_image_size, self.sprites)
        parts = [
            {"type": "image", "image": Image.fromarray(picture)},
            {"type": "text", "text": request.prompt},
        ]
        messages = [{"role": "user", "content": parts}]
        scores = {letter: janus.score(messages, name).tolist() for letter, name in options.items()}
        said = options[ranked_choice(scores)]
        return {
            "key": request.key,
            "question": request.prompt,
            "answer": request.data["answer"],
            "options": options,
            "reply": said,
            "losses": {key: round(-sum(v) / len(v), 5) for key, v in scores.items()},
            "correct": said == request.data["answer"],
        }

    def summarise(
        self, janus: Janus, predictions: Sequence[Prediction], folder: Path, *, seed: int
    ) -> dict[str, Any]:
        """The columns with their intervals; beside them tags, and what was asked."""
        columns: dict[str, dict[str, Any]] = {}
        details: dict[str, Any] = {}
        open_answers = [p for p in predictions if p["key"].startswith("understanding/")]
        by_kind = {k: [p for p in open_answers if p["kind"] == k] for k in OPEN_KINDS}
        ranked = [p for p in predictions if p["key"].startswith("choice/")]
        drawn = [p for p in predictions if p["key"].startswith("drawing/")]
        if open_answers:
            columns["existence_f1"] = existence_f1(by_kind["existence"], seed)
            columns["four_choice"] = accuracy(ranked, seed)
            for kind in ("counting", "relation"):
                columns[kind] = accuracy(by_kind[kind], seed)
            details["existence"] = pope_figures(by_kind["existence"])
        if drawn:
            scores = drawing_scores(drawn, seed)
            columns["frechet"] = self._frechet(janus, drawn, folder)
            columns["geneval"] = {
                "value": scores["overall"],
                "interval": scores["ci"]["overall"],
                "n": scores["n"],
            }
            details["geneval"] = scores
            self._write_sheet(drawn, folder)
        unread = sum(not p["parsed"] for p in open_answers)
        return {
            "columns": columns,
            "details": details,
            "frechet_features": FRECHET,
            # Of what is answered in words: a choice is ranked, and so always read.
            "parse_failure_rate": round(unread / len(open_answers), 4) if open_answers else None,
        }

    def _frechet(self, janus: Janus, drawn: Sequence[Prediction], folder: Path) -> dict[str, Any]:
        """Distance of the drawings from pictures as training shows them, of the same tags."""
        pictures = []
        for prediction in drawn:
            for name in prediction["files"]:
                with Image.open(folder / name) as image:
                    pictures.append(np.asarray(image.convert("RGB")))
        source = SceneSource(
            sprites=self.sprites,
            seed=REFERENCE_SEED,
            tags=dict.fromkeys(GENEVAL_TAGS, 1.0),
            size=janus.config.gen_image_size,
            grid=self.grid if self.grid > 0 else None,
            two_sizes=self.grid > 0,
            slots=self.slots,
            one_ground=self.one_ground,
            vendors=self.vendors,
            world=self.sprites.world.name,
        )
        true = [source.picture(index) for index in range(self.references)]
        assert self.referee is not None, "the first world has a judge of its own"
        distance = frechet_distance(
            gaussian_of(judge_features(self.referee, pictures)),
            gaussian_of(judge_features(self.referee, true)),
        )
        return {"value": round(distance, 5), "interval": None, "n": len(pictures)}


def four_choices(
    scene: Scene, answer: str, stream: Sequence[int], names: Sequence[str] = tuple(CONCEPTS)
) -> dict[str, str]:
    """A name among three wrong ones, by letter: none of what the scene shows, in any order.

    Args:
        scene: What is shown.
        answer: The right name.
        stream: Names the draw.
        names: All that there is in the world.
    """
    rng = np.random.default_rng(list(stream))
    shown = {thing.concept for thing in scene.objects}
    shown |= {ALSO_SHOWN[name] for name in shown if name in ALSO_SHOWN}
    wrong = [name for name in names if name not in shown]
    offered = [wrong[i] for i in rng.choice(len(wrong), CHOICES - 1, replace=False)]
    offered.insert(int(rng.integers(CHOICES)), answer)
    return dict(zip(LETTERS, offered, strict=False))


@torch.no_grad()
def judge_features(referee: Judge, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """What a judge's heads read, the mean over all places.

    Args:
        referee: The judge.
        pictures: n of uint8 (H, W, 3), of any size.

    Returns:
        (n, c) float32.
    """
    rows = []
    for start in range(0, len(pictures), CHUNK):
        maps = referee.network.see(pixel_values_of(pictures[start : start + CHUNK]))  # (B, c, g, g)
        rows.append(maps.float().mean((2, 3)).numpy())
    return np.concatenate(rows)


def accuracy(predictions: Sequence[Prediction], seed: int) -> dict[str, Any]:
    """Share of right answers; each question is a cluster of its own."""
    values = [float(p["correct"]) for p in predictions]
    low, high = bootstrap_interval(values, range(len(values)), seed=seed)
    return {
        "value": round(sum(values) / len(values), 4),
        "interval": [round(low, 4), round(high, 4)],
        "n": len(values),
    }


def existence_f1(predictions: Sequence[Prediction], seed: int) -> dict[str, Any]:
    """POPE's F1 over all three sorts of negatives together."""
    said = [read_yes_no(p["reply"]) for p in predictions]
    right = [p["answer"] == "yes" for p in predictions]

    def f1(sums: Mapping[str, np.ndarray]) -> np.ndarray:
        return 2 * sums["hits"] / np.maximum(sums["said"] + sums["right"], 1)

    columns = {
        "hits": [float(a and b) for a, b in zip(said, right, strict=True)],
        "said": [float(a) for a in said],
        "right": [float(b) for b in right],
    }
    low, high = bootstrap_statistic(columns, range(len(said)), f1, seed=seed)
    return {
        "value": round(yes_no_scores(said, right).f1, 4),
        "interval": [round(low, 4), round(high, 4)],
        "n": len(said),
    }
