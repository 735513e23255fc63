from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.config import DrawingConfig, JanusConfig
from openjanus.eval.geneval import TAGS, Detection
from openjanus.eval.results import read_result
from openjanus.eval.runner import run_task
from openjanus.eval.task import Request, register_task, task_names
from openjanus.pipeline import Drawing, DrawOptions, Janus, Reply, Usage
from openjanus.pipeline.load import load
from openjanus.presets import preset
from openjanus.worlds.emoji.asked_scenes import scene_for_cell
from openjanus.worlds.emoji.captions import metadata_for_cell
from openjanus.worlds.emoji.cells import Cell, evaluation_cells
from openjanus.worlds.emoji.checks import checks_for_prompt
from openjanus.worlds.emoji.chinese_task import LANGUAGES, ChineseDrawingTask
from openjanus.worlds.emoji.judge import Calibration, Judge
from openjanus.worlds.emoji.judge_measures import trials
from openjanus.worlds.emoji.judge_network import JudgeConfig, empty_network
from openjanus.worlds.emoji.questions import QUESTION_KINDS
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, Scene, render
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.task import FRAME, JUDGE_SEED, EmojiTask, framed

OPTIONS = DrawOptions(
    guidance_scale=5.0, temperature=1.0, top_k=None, top_p=None, negative_prompt=None
)


class Oracle(Judge):
    """Knows scenes by their pictures; sees nothing in other pictures."""

    def __init__(self) -> None:
        network = empty_network(JudgeConfig(widths=(1, 1, 1, 1)), norm=False)
        network.init_weights(torch.Generator().manual_seed(0))
        super().__init__(network, Calibration(), {})
        self.truths: dict[bytes, list[Detection]] = {}

    def learn(self, picture: np.ndarray, scene: Scene) -> None:
        self.truths[picture.tobytes()] = [
            Detection(class_name=x.concept, score=0.99, box=x.box, colour=x.colour)
            for x in scene.objects
        ]

    def look(self, pictures: Sequence[np.ndarray | Image.Image]) -> list[list[Detection]]:
        return [self.truths.get(np.asarray(picture).tobytes(), []) for picture in pictures]


class Master:
    """A Janus that draws what it is asked for, spoils the tags it is told to, and knows answers.

    Its tokenizer loses nothing. Grey pictures leave it guessing.
    """

    def __init__(self, sprites: Sprites, oracle: Oracle, spoilt: tuple[str, ...] = ()) -> None:
        self.config: JanusConfig = preset("tiny")
        self.model = torch.nn.Linear(1, 1)
        self.device = torch.device("cpu")
        self.sprites = sprites
        self.oracle = oracle
        self.spoilt = spoilt
        self.cells: dict[str, Cell] = {}
        self.answers: dict[tuple[bytes, str], str] = {}
        self.drawn: Counter[str] = Counter()
        self.asked = 0
        self.options: list[tuple[float | None, float | None]] = []

    def draw_batch(
        self,
        prompts: Sequence[str],
        *,
        n: int,
        seed: int,
        guidance_scale: float | None = None,
        temperature: float | None = None,
    ) -> list[Drawing]:
        self.options.append((guidance_scale, temperature))
        return [self._draw(prompt, n, seed) for prompt in prompts]

    def _draw(self, prompt: str, n: int, seed: int) -> Drawing:
        cell, images = self.cells[prompt], []
        self.drawn[prompt] += n
        for i in range(n):
            scene = scene_for_cell(cell, np.random.default_rng([seed, i]), self.sprites)
            picture = render(scene, self.config.gen_image_size, self.sprites)
            if cell.tag not in self.spoilt:
                self.oracle.learn(picture, scene)
            images.append(Image.fromarray(picture))
        ids = torch.zeros(n, 16, dtype=torch.long)
        return Drawing(
            images=tuple(images), image_ids=ids, prompt=prompt, seed=seed, options=OPTIONS
        )

    def chat_batch(
        self, conversations: Sequence[Any], *, max_new_tokens: int, temperature: float
    ) -> list[Reply]:
        assert temperature == 0
        replies = []
        for (message,) in conversations:
            image, text = (part[part["type"]] for part in message["content"])
            self.asked += 1
            answer = self.answers.get((image.tobytes(), text), "Maybe")
            usage = Usage(prompt_tokens=1, completion_tokens=1)
            replies.append(
                Reply(text=f"{answer}.", token_ids=(), finish_reason="stop", usage=usage, seed=0)
            )
        return replies

    def encode_image(self, image: Image.Image) -> Image.Image:
        return image

    def decode_image(self, image_ids: Image.Image) -> Image.Image:
        return image_ids


def task_of(
    sprites: Sprites, oracle: Oracle, *, questions: int = 1000, judge_scenes: int = 200
) -> EmojiTask:
    return EmojiTask(
        sprites=sprites, referee=oracle, questions=questions, judge_scenes=judge_scenes
    )


def taught(sprites: Sprites, task: EmojiTask, master: Master, requests: list[Request]) -> Master:
    """Tell the master what it will be asked, and the oracle the scenes of its own measurement."""
    cells = {cell.name: cell for tag in GENEVAL_TAGS for cell in evaluation_cells(tag)}
    size = master.config.gen_image_size
    for request in requests:
        if request.group.startswith("drawing/"):
            master.cells[request.prompt] = cells[request.data["cell"]]
        elif request.group == "understanding":
            picture = render(request.data["scene"], master.config.und_image_size, sprites)
            master.answers[picture.tobytes(), request.prompt] = request.data["answer"]
    for tag in GENEVAL_TAGS:
        for trial in trials(tag, task.judge_scenes, JUDGE_SEED, sprites):
            master.oracle.learn(render(trial.scene, size, sprites), trial.scene)
    return master


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


def test_every_held_out_cell_is_drawn_as_often_as_reaches_the_wanted_number(
    sprites: Sprites, oracle: Oracle
) -> None:
    drawings = [
        request
        for request in task_of(sprites, oracle, questions=1).requests(limit=None, seed=0)
        if request.group.startswith("drawing/")
    ]
    for tag in TAGS:
        own = [request for request in drawings if request.data["tag"] == tag]
        cells = evaluation_cells(tag)
        assert [request.data["cell"] for request in own] == [cell.name for cell in cells]
        numbers = {request.data["n"] for request in own}
        assert len(numbers) == 1
        assert 400 <= len(cells) * max(numbers) < 400 + len(cells) or numbers == {1}
    assert [request.data["index"] for request in drawings] == list(range(len(drawings)))


def test_a_limit_counts_drawings_a_tag_and_questions_a_kind(
    sprites: Sprites, oracle: Oracle
) -> None:
    requests = task_of(sprites, oracle).requests(limit=40, seed=0)
    drawings = [request for request in requests if request.group.startswith("drawing/")]
    for tag in TAGS:
        own = [request for request in drawings if request.data["tag"] == tag]
        assert sum(request.data["n"] for request in own) == 40
        assert {request.data["n"] for request in own} <= {1, 2}
        names = [cell.name for cell in evaluation_cells(tag)]
        assert [request.data["cell"] for request in own] == names[: len(own)]
    counting = [r.data["n"] for r in drawings if r.data["tag"] == "counting"]
    assert counting == sorted(counting, reverse=True)
    questions = Counter(r.key.rsplit("/", 1)[0] for r in requests if r not in drawings)
    assert questions["understanding/counting/random"] == 40
    assert questions["understanding/existence/popular"] == 13
    assert questions["blind/naming/random"] == 40
    assert len({request.key for request in requests}) == len(requests)


def test_one_batch_shares_a_seed_and_a_number_of_drawings(sprites: Sprites, oracle: Oracle) -> None:
    task = task_of(sprites, oracle)
    requests = [r for r in task.requests(limit=100, seed=3) if r.group.startswith("drawing/")]
    groups: dict[str, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.group, []).append(request)
    for members in groups.values():
        assert len(members) <= 16
        assert len({(r.data["seed"], r.data["n"], r.data["tag"]) for r in members}) == 1
    seeds = {(members[0].data["seed"], members[0].data["n"]) for members in groups.values()}
    assert len(seeds) == len(groups)
    fewer = [r for r in task.requests(limit=7, seed=3) if r.group.startswith("drawing/")]
    by_key = {r.key: r.data["seed"] for r in requests}
    assert all(by_key[r.key] == r.data["seed"] for r in fewer)
    again = task.requests(limit=100, seed=3)[: len(requests)]
    assert [r.data["seed"] for r in again] == [r.data["seed"] for r in requests]


def test_a_master_scores_everything(sprites: Sprites, oracle: Oracle, tmp_path: Path) -> None:
    task = task_of(sprites, oracle, judge_scenes=2)
    master = Master(sprites, oracle, spoilt=("counting",))
    taught(sprites, task, master, task.requests(limit=12, seed=0))
    register_task("emoji-master", lambda: task)
    summary = run_task(cast(Janus, master), "emoji-master", limit=12, output=tmp_path)
    drawing = summary["drawing"]
    assert set(drawing) == {"overall", "tags", "ci", "ceiling", "n"}
    assert drawing["tags"] == dict.fromkeys(TAGS, 1.0) | {"counting": 0.0}
    assert drawing["overall"] == pytest.approx(5 / 6, abs=1e-4)
    assert drawing["ci"]["counting"] == [0.0, 0.0]
    assert set(drawing["ci"]) == {"overall", *TAGS}
    assert (drawing["ceiling"], drawing["n"]) == (1.0, 72)
    understanding = summary["understanding"]
    assert set(understanding) == {*QUESTION_KINDS, "blind", "n"}
    assert [understanding[kind] for kind in QUESTION_KINDS] == [1.0] * 5
    assert understanding["blind"] == dict.fromkeys(QUESTION_KINDS, 0.0)
    assert understanding["n"] == 60
    assert summary["judge"]["reconstructions"]["colors"]["balanced_accuracy"] == 1.0
    assert summary["details"]["majority"]["counting"] == 0.25
    assert summary["details"]["existence"]["random"]["f1"] == 1.0
    assert summary["parse_failure_rate"] == 0.0
    # What is written is in GenEval's layout, and stays true.
    first = tmp_path / "drawings" / "00000"
    line = json.loads((first / "metadata.jsonl").read_text())
    assert line["tag"] == "single_object"
    with Image.open(first / "samples" / "0000.png") as image:
        assert image.size == (32, 32)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.getpixel((4, 4)) == (34, 158, 56)
    lines = [json.loads(s) for s in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert all((tmp_path / file).is_file() for p in lines for file in p.get("files", []))
    # Nothing is asked twice.
    asked = master.asked
    assert run_task(cast(Janus, master), "emoji-master", limit=12, output=tmp_path)["drawing"] == (
        drawing
    )
    assert master.asked == asked
    assert set(master.drawn.values()) == {1}


def test_a_real_model_goes_through_it(sprites: Sprites, oracle: Oracle, tmp_path: Path) -> None:
    task = task_of(sprites, oracle, judge_scenes=1)
    register_task("emoji-tiny", lambda: task)
    summary = run_task(load("tiny"), "emoji-tiny", limit=1, output=tmp_path)
    assert summary["drawing"]["overall"] == 0.0  # the oracle knows none of its drawings
    assert summary["drawing"]["n"] == 6
    assert summary["drawing"]["ceiling"] == 0.0
    assert 0 < summary["parse_failure_rate"] <= 1
    assert summary["details"]["questions"] == dict.fromkeys(QUESTION_KINDS, 1)
    predictions = [json.loads(s) for s in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions[0]["image_ids"][0]) == preset("tiny").num_gen_image_tokens
    assert [p["reasons"] for p in predictions[:6]] != [[[]]] * 6


def test_the_best_of_some_drawings_is_marked_as_such(
    sprites: Sprites, oracle: Oracle, tmp_path: Path
) -> None:
    def one(best_of: int) -> EmojiTask:
        return EmojiTask(sprites=sprites, referee=oracle, judge_scenes=1, best_of=best_of)

    register_task("emoji-best", lambda best_of: one(best_of))
    janus = load("tiny")
    folders = {k: tmp_path / str(k) for k in (1, 3)}
    summaries = {
        k: run_task(janus, "emoji-best", limit=1, output=folder, options={"best_of": k})
        for k, folder in folders.items()
    }
    assert "best_of" not in summaries[1]["options"]  # as before there was any
    assert summaries[3]["options"]["best_of"] == 3
    judged, told = (
        [block for block in read_result(folder).blocks if block.title == "drawing overall"]
        for folder in folders.values()
    )
    assert judged[0].key != told[0].key
    assert told[0].rules == (
        "GenEval rules on the emoji world, v1, best of 3 drawings by its own eye"
    )
    answers = [read_result(folder).blocks[1] for folder in folders.values()]
    assert answers[0].key == answers[1].key  # questions are asked as ever

    lines = (folders[3] / "predictions.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    drawing = janus.draw(
        first["prompt"],
        seed=first["seed"],
        best_of=3,
        judge_question=checks_for_prompt,
    )
    assert drawing.candidates is not None
    assert first["image_ids"] == drawing.image_ids.tolist()
    assert first["candidates"]["chosen"] == list(drawing.candidates.chosen)
    assert first["candidates"]["scores"] == [
        [pytest.approx(score, abs=1e-4) for score in drawing.candidates.scores[0].tolist()]
    ]


def test_every_prompt_of_the_exam_can_be_taken_apart() -> None:
    for tag in TAGS:
        for cell in evaluation_cells(tag):
            assert checks_for_prompt(metadata_for_cell(cell)["prompt"])


def test_answers_of_another_kind_are_parse_failures(sprites: Sprites, oracle: Oracle) -> None:
    task = task_of(sprites, oracle)
    master = Master(sprites, oracle)
    batch = [r for r in task.requests(limit=6, seed=0) if r.group == "understanding"][:3]
    made = task.answer(cast(Janus, master), batch, Path())
    assert [(p["correct"], p["parsed"], p["reply"]) for p in made] == [(False, False, "Maybe.")] * 3


def test_the_frame_tells_right_from_wrong() -> None:
    picture = np.full((6, 5, 3), 7, dtype=np.uint8)
    right, wrong = framed(picture, correct=True), framed(picture, correct=False)
    assert right.shape == (6 + 2 * FRAME, 5 + 2 * FRAME, 3)
    assert np.array_equal(right[FRAME:-FRAME, FRAME:-FRAME], picture)
    assert right[0, 0].argmax() == 1
    assert wrong[0, 0].argmax() == 0


def test_the_referee_is_part_of_the_settings(sprites: Sprites, oracle: Oracle) -> None:
    other = Judge(oracle.network, dataclasses.replace(Calibration(), bias=1.0), {})
    janus = cast(Janus, Master(sprites, oracle))
    mine = task_of(sprites, oracle).settings(janus)
    assert mine != EmojiTask(sprites=sprites, referee=other).settings(janus)


def test_a_model_draws_by_its_own_settings_unless_told_otherwise(
    sprites: Sprites, oracle: Oracle, tmp_path: Path
) -> None:
    master = Master(sprites, oracle)
    own = DrawingConfig(guidance_scale=2.0, temperature=0.0)
    master.config = dataclasses.replace(master.config, drawing=own)
    janus = cast(Janus, master)
    left = task_of(sprites, oracle)
    told = EmojiTask(sprites=sprites, referee=oracle, guidance_scale=5)
    assert left.settings(janus)["drawing"] == {"guidance_scale": 2.0, "temperature": 0.0}
    assert told.settings(janus)["drawing"] == {"guidance_scale": 5, "temperature": 0.0}
    for task in (left, told):
        first = task.requests(limit=1, seed=0)[:1]
        taught(sprites, task, master, first)
        task.answer(janus, first, tmp_path)
    assert master.options == [(None, None), (5, None)]


def test_wrong_options(sprites: Sprites, oracle: Oracle) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        task_of(sprites, oracle, questions=0)
    with pytest.raises(ValueError, match="temperature must be finite and >= 0"):
        EmojiTask(sprites=sprites, referee=oracle, temperature=-1)
    with pytest.raises(ValueError, match="folder or sprites, got both"):
        EmojiTask(folder="x", sprites=sprites, referee=oracle)
    with pytest.raises(ValueError, match=r"best_of must be in \[1, "):
        EmojiTask(sprites=sprites, referee=oracle, best_of=0)
    with pytest.raises(ValueError, match="best_of 2 does nothing at temperature 0"):
        EmojiTask(sprites=sprites, referee=oracle, best_of=2, temperature=0.0)


class Monoglot(Master):
    """Draws what it is asked for in English, and spoils the rest."""

    def _draw(self, prompt: str, n: int, seed: int) -> Drawing:
        self.spoilt = () if prompt.isascii() else TAGS
        own_seed = seed if prompt.isascii() else seed + 1  # or the oracle knows its pictures
        return super()._draw(prompt, n, own_seed)


def test_chinese_is_scored_beside_english_on_the_same_cells_and_seeds(
    sprites: Sprites, oracle: Oracle, tmp_path: Path
) -> None:
    task = ChineseDrawingTask(sprites=sprites, referee=oracle, drawings_per_tag=70)
    requests = task.requests(limit=3, seed=1)
    asked = [[r for r in requests if r.key.startswith(language)] for language in LANGUAGES]
    for english, chinese in zip(*asked, strict=True):
        assert english.prompt.startswith("a photo of ")
        assert chinese.prompt.startswith("一张照片：")
        for name in ("cell", "seed", "n", "metadata"):
            assert english.data[name] == chinese.data[name]
    assert len({r.data["index"] for r in requests}) == len(requests) == 36
    master = Monoglot(sprites, oracle)
    cells = {cell.name: cell for tag in GENEVAL_TAGS for cell in evaluation_cells(tag)}
    master.cells = {r.prompt: cells[r.data["cell"]] for r in requests}
    register_task("emoji-chinese-test", lambda: task)
    summary = run_task(cast(Janus, master), "emoji-chinese-test", limit=3, seed=1, output=tmp_path)
    assert summary["drawing"]["english"]["overall"] == 1.0
    assert summary["drawing"]["chinese"]["overall"] == 0.0
    assert summary["chinese_minus_english"] == {"overall": -1.0, "ci": [-1.0, -1.0]}
    assert (tmp_path / "chinese" / "sheet.png").is_file()
    assert "emoji-chinese-drawing" in task_names()
