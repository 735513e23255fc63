"""The emoji task: drawing by GenEval's rules, understanding by open questions with exact answers.

Its result is called "GenEval rules on the emoji world", never "GenEval". Drawing asks for cells
that no training ever showed; `single_object` combines nothing, so it shows seen concepts.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from openjanus.config import DrawingConfig
from openjanus.eval.answers import exact_match, normalise
from openjanus.eval.geneval import TAGS, overall
from openjanus.eval.task import Prediction, Request
from openjanus.pipeline import Drawing, Janus
from openjanus.pipeline.critic import check_best_of
from openjanus.worlds.emoji.absence import Negatives
from openjanus.worlds.emoji.captions import metadata_for_cell
from openjanus.worlds.emoji.cells import Cell, evaluation_cells
from openjanus.worlds.emoji.checks import checks_for_prompt
from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.judge import Judge, judge_drawings
from openjanus.worlds.emoji.judge_measures import as_record, measure
from openjanus.worlds.emoji.questions import QUESTION_KINDS, QuestionKind, exam
from openjanus.worlds.emoji.sampling import Split
from openjanus.worlds.emoji.scenes import RELATIONS, Tag, render
from openjanus.worlds.emoji.sheet import contact_sheet
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.task_scores import NEGATIVES, drawing_scores, understanding_scores
from openjanus.worlds.emoji.vocabulary import COUNT_WORDS, World

SEED_BLOCK: Final = 16
"""So many neighbouring prompts share a drawing seed: one seed for all would give every prompt the
same noise, and so the same luck; one each would forbid batches."""
TAG_SEEDS: Final = 10_000
"""Drawing seeds set aside for each tag; the largest has 1,482 blocks."""
SHEET_PER_TAG: Final = 8
FRAME: Final = 4
"""Pixels of the verdict's frame on the contact sheet."""
GREY: Final = 127
"""What the blind see."""
ANSWER_TOKENS: Final = 16
JUDGE_SEED: Final = 7004
"""Stream of the scenes on which the judge is measured beside a model; no training uses it."""


class EmojiTask:
    """Drawing and understanding of the emoji world.

    Args:
        drawings_per_tag: Drawings a tag at least; every cell gets equally many.
        questions: Questions a kind.
        judge_scenes: Scenes a tag on which the judge, and the ceiling, are measured.
        guidance_scale: Of every drawing; None is the model's own.
        temperature: Of every drawing, None is the model's own; answers are greedy.
        best_of: Candidates a drawing, of which the model keeps one itself, asked as the nano's
            world is asked about; above 1 the rules say so.
        batch_size: Prompts or questions at once.
        folder: Of the artwork; None takes the shipped sprites.
        sprites: The artwork itself, instead of a folder.
        referee: The judge; None is the one that ships with the package.

    Raises:
        ValueError: A count below 1, a guidance scale, temperature or number of candidates against
            its rule, or both a folder and sprites.
        FileNotFoundError: No artwork or no judge.
    """

    rules = "GenEval rules on the emoji world, v1; exact match, v1"

    def __init__(
        self,
        *,
        drawings_per_tag: int = 400,
        questions: int = 1000,
        judge_scenes: int = 200,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        best_of: int = 1,
        batch_size: int = 16,
        folder: str | Path | None = None,
        sprites: Sprites | None = None,
        referee: Judge | None = None,
    ) -> None:
        counts = (drawings_per_tag, questions, judge_scenes, batch_size)
        if min(counts) < 1:
            raise ValueError(
                "drawings_per_tag, questions, judge_scenes and batch_size must be at least 1, "
                f"got {counts}"
            )
        if folder is not None and sprites is not None:
            raise ValueError("the task takes a folder or sprites, got both: leave one out")
        asked = {"guidance_scale": guidance_scale, "temperature": temperature}
        self.drawings_per_tag = drawings_per_tag
        self.questions = questions
        self.judge_scenes = judge_scenes
        self.drawing = {name: value for name, value in asked.items() if value is not None}
        DrawingConfig(**self.drawing)  # its rules
        check_best_of(best_of, temperature)
        self.best_of = best_of
        if best_of > 1:  # k drawings and k looks were paid for: no column of plain drawings
            self.rules = self.rules.replace(";", f", best of {best_of} drawings by its own eye;", 1)
        self.batch_size = batch_size
        self.sprites = Sprites.load(folder) if sprites is None else sprites
        self.referee = self.default_judge() if referee is None else referee
        shown = self.sprites.world
        judged = None if self.referee is None else self.referee.network.config.world
        if judged not in (None, shown.name, shown.part_of):
            raise ValueError(
                f"a judge of world {judged} cannot judge world {shown.name}: "
                "give the judge and the artwork of one world"
            )

    def default_judge(self) -> Judge | None:
        """Who judges unless another is given; without a judge nothing is drawn."""
        return Judge.load()

    def settings(self, janus: Janus) -> dict[str, Any]:
        """Options on which a score depends, which judge judges, and whose artwork is shown."""
        own = dataclasses.asdict(janus.config.drawing)
        return {
            "drawings_per_tag": self.drawings_per_tag,
            "questions": self.questions,
            "judge_scenes": self.judge_scenes,
            "drawing": own | self.drawing,
            "answers": {"temperature": 0.0, "max_new_tokens": ANSWER_TOKENS},
            "judge_sha256": None if self.referee is None else self.referee.sha256(),
            "sprites_sha256": self.sprites.sha256(),
            # Runs of before had no such setting, and go on.
            **({} if self.best_of == 1 else {"best_of": self.best_of}),
        }

    def requests(self, *, limit: int | None, seed: int) -> list[Request]:
        """Prompts of every cell, then questions, with their picture and with a grey one.

        Args:
            limit: Drawings a tag, over its cells in order, and questions a kind.
            seed: Of the drawings and the questions.
        """
        asked = self.questions if limit is None else min(limit, self.questions)
        drawn = [] if self.referee is None else self._drawing_requests(limit, seed)
        return [*drawn, *self._question_requests(asked, seed)]

    def _drawing_requests(self, per_tag: int | None, seed: int) -> list[Request]:
        """One request a cell, in order of the cells' hashes, for as many drawings as it gets."""
        made: list[Request] = []
        for number, tag in enumerate(TAGS):
            cells = self.cells(tag)
            total = -(-self.drawings_per_tag // len(cells)) * len(cells)
            if per_tag is not None:
                total = min(total, per_tag)
            each, more = divmod(total, len(cells))
            for i, cell in enumerate(cells[:total]):
                n = each + (i < more)
                line = metadata_for_cell(cell)
                # By the place in the tag alone: a limit leaves the first drawings as they are.
                drawing_seed = seed * 1_000_000 + number * TAG_SEEDS + i // SEED_BLOCK
                made.append(
                    Request(
                        key=f"drawing/{cell.name}",
                        group=f"drawing/{drawing_seed}/{n}",
                        prompt=line["prompt"],
                        data={
                            "tag": tag,
                            "cell": cell.name,
                            "n": n,
                            "seed": drawing_seed,
                            "index": len(made),
                            "metadata": line,
                        },
                    )
                )
        return made

    def cells(self, tag: Tag) -> Sequence[Cell]:
        """What is drawn in a tag."""
        return evaluation_cells(tag, self.sprites.world.name)

    def _question_requests(self, n: int, seed: int) -> list[Request]:
        """Questions of every kind with their pictures, then the same ones for the blind."""
        groups = ("understanding", "blind")
        return [r for group in groups for r in self._asked(group, QUESTION_KINDS, n, seed)]

    def _asked(
        self,
        group: str,
        kinds: Sequence[QuestionKind],
        n: int,
        seed: int,
        split: Split = "held_out",
    ) -> list[Request]:
        """N questions of each of some kinds."""
        made: list[Request] = []
        for kind in kinds:
            for negatives, count in question_shares(kind, n):
                asked = exam(kind, count, seed, self.sprites, split=split, negatives=negatives)
                for i, (scene, question) in enumerate(asked):
                    data = {
                        "kind": kind,
                        "negatives": negatives if kind == "existence" else None,
                        "scene": scene,
                        "answer": question.answer,
                    }
                    made.append(
                        Request(
                            key=f"{group}/{kind}/{negatives}/{i}",
                            group=group,
                            prompt=question.text,
                            data=data,
                        )
                    )
        return made

    def answer(self, janus: Janus, batch: Sequence[Request], folder: Path) -> list[Prediction]:
        """Draw or answer a batch, and judge it."""
        if batch[0].group.startswith("drawing/"):
            return self._draw(janus, batch, folder)
        return self._reply(janus, batch)

    def _draw(self, janus: Janus, batch: Sequence[Request], folder: Path) -> list[Prediction]:
        """Draw, keep the pictures in GenEval's layout of folders, and apply its rules."""
        assert self.referee is not None  # or nothing would have been asked for
        drawings = janus.draw_batch(
            [request.prompt for request in batch],
            n=batch[0].data["n"],
            seed=batch[0].data["seed"],
            guidance_scale=self.drawing.get("guidance_scale"),
            temperature=self.drawing.get("temperature"),
            **self._choice(),
        )
        predictions = []
        for request, drawing in zip(batch, drawings, strict=True):
            data = request.data
            place = folder / "drawings" / f"{data['index']:05d}"
            samples = place / "samples"
            samples.mkdir(parents=True, exist_ok=True)
            line = json.dumps(data["metadata"], ensure_ascii=False)
            (place / "metadata.jsonl").write_text(f"{line}\n", encoding="utf-8")
            for i, image in enumerate(drawing.images):
                image.save(samples / f"{i:04d}.png")
            verdicts = judge_drawings(
                drawing.images, [data["metadata"]] * data["n"], referee=self.referee
            )
            predictions.append(
                {
                    "key": request.key,
                    "tag": data["tag"],
                    "cell": data["cell"],
                    "prompt": request.prompt,
                    "seed": data["seed"],
                    "files": [
                        f"drawings/{place.name}/samples/{i:04d}.png" for i in range(data["n"])
                    ],
                    "image_ids": drawing.image_ids.tolist(),
                    "correct": [verdict.correct for verdict in verdicts],
                    "reasons": [list(verdict.reasons) for verdict in verdicts],
                    **_chosen(drawing),
                }
            )
        return predictions

    def _choice(self) -> dict[str, Any]:
        """Options of drawing by which the model chooses among candidates; none without."""
        if self.best_of == 1:
            return {}
        ask = partial(checks_for_prompt, name=self.sprites.world.name)
        return {"best_of": self.best_of, "judge_question": ask}

    def _reply(self, janus: Janus, batch: Sequence[Request]) -> list[Prediction]:
        """Ask about a scene's picture, or about a grey one."""
        size = janus.config.und_image_size
        grey = np.full((size, size, 3), GREY, dtype=np.uint8)
        conversations = []
        for request in batch:
            blind = request.group == "blind"
            picture = grey if blind else render(request.data["scene"], size, self.sprites)
            parts = [
                {"type": "image", "image": Image.fromarray(picture)},
                {"type": "text", "text": request.prompt},
            ]
            conversations.append([{"role": "user", "content": parts}])
        answers = possible_answers(self.sprites.world)
        replies = janus.chat_batch(conversations, max_new_tokens=ANSWER_TOKENS, temperature=0.0)
        return [
            {
                "key": request.key,
                "kind": request.data["kind"],
                "negatives": request.data["negatives"],
                "question": request.prompt,
                "answer": request.data["answer"],
                "reply": reply.text,
                "correct": exact_match(reply.text, request.data["answer"]),
                "parsed": normalise(reply.text) in answers[request.data["kind"]],
            }
            for request, reply in zip(batch, replies, strict=True)
        ]

    def summarise(
        self, janus: Janus, predictions: Sequence[Prediction], folder: Path, *, seed: int
    ) -> dict[str, Any]:
        """Scores, intervals, baselines, the ceiling and the judge's own figures."""
        drawn = [p for p in predictions if p["key"].startswith("drawing/")]
        answered = understanding_scores(predictions, seed)
        if self.referee is None:
            return answered
        per_tag = min(
            self.judge_scenes, sum(len(p["correct"]) for p in drawn if p["tag"] == TAGS[0])
        )
        measures = self._measure_judge(janus, self.referee, per_tag)
        ceilings = {
            tag: 1 - figures["false_rejections"]
            for tag, figures in measures["reconstructions"].items()
        }
        self._write_sheet(drawn, folder)
        return {
            "drawing": drawing_scores(drawn, seed) | {"ceiling": round(overall(ceilings), 4)},
            "understanding": answered["understanding"],
            "judge": measures,
            "details": {
                "single_object": "seen concepts",
                "drawings": dict(Counter(p["tag"] for p in drawn for _ in p["correct"])),
                "cells": dict(Counter(p["tag"] for p in drawn)),
                "ceiling": {tag: round(value, 4) for tag, value in ceilings.items()},
                **answered["details"],
            },
            "parse_failure_rate": answered["parse_failure_rate"],
        }

    def _measure_judge(
        self, janus: Janus, referee: Judge, per_tag: int
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Balanced verdicts on renders, and on what the model's tokenizer makes of them."""

        def redraw(pictures: np.ndarray) -> np.ndarray:
            images = (Image.fromarray(picture) for picture in pictures)
            return np.stack(
                [np.asarray(janus.decode_image(janus.encode_image(image))) for image in images]
            )

        return {
            shown: as_record(
                measure(
                    referee,
                    self.sprites,
                    size=janus.config.gen_image_size,
                    per_tag=per_tag,
                    seed=JUDGE_SEED,
                    redraw=how,
                )
            )
            for shown, how in (("renders", None), ("reconstructions", redraw))
        }

    def _write_sheet(self, drawn: Sequence[Prediction], folder: Path) -> None:
        """The first drawings of each tag, framed green where right and red where wrong."""
        pictures, words = [], []
        for tag in TAGS:
            for prediction in [p for p in drawn if p["tag"] == tag][:SHEET_PER_TAG]:
                with Image.open(folder / prediction["files"][0]) as image:
                    picture = np.asarray(image.convert("RGB"))
                pictures.append(framed(picture, correct=prediction["correct"][0]))
                words.append(prediction["prompt"].removeprefix("a photo of "))
        contact_sheet(pictures, words, columns=SHEET_PER_TAG).save(folder / "sheet.png")


def framed(picture: np.ndarray, *, correct: bool) -> np.ndarray:
    """A picture (H, W, 3) uint8 with its verdict around it: green for right, red for wrong."""
    height, width = picture.shape[:2]
    frame = np.empty((height + 2 * FRAME, width + 2 * FRAME, 3), dtype=np.uint8)
    frame[:] = (34, 158, 56) if correct else (222, 26, 34)
    frame[FRAME : FRAME + height, FRAME : FRAME + width] = picture
    return frame


def _chosen(drawing: Drawing) -> dict[str, Any]:
    """What a prediction tells of candidates: log-probabilities, and which were kept."""
    if drawing.candidates is None:
        return {}
    scores = [[round(score, 5) for score in row] for row in drawing.candidates.scores.tolist()]
    return {"candidates": {"scores": scores, "chosen": list(drawing.candidates.chosen)}}


def possible_answers(known: World) -> dict[QuestionKind, frozenset[str]]:
    """What an answer of a kind may be; anything else is a parse failure, and wrong."""
    names = frozenset(known.concepts)
    return {
        "existence": frozenset({"yes", "no"}),
        "counting": frozenset(COUNT_WORDS[1 : known.max_count + 1]),
        "colour": frozenset(COLOURS),
        "relation": names | {relation.removesuffix(" of") for relation in RELATIONS},
        "naming": names,
    }


def question_shares(kind: QuestionKind, n: int) -> list[tuple[Negatives, int]]:
    """How many questions of a kind there are with each sort of negatives."""
    if kind != "existence":
        return [("random", n)]
    least, more = divmod(n, len(NEGATIVES))
    return [(negatives, least + (i < more)) for i, negatives in enumerate(NEGATIVES)]
