"""LoRA of the nano on a thing that it never saw: whether it learns it, and what it forgets.

    python scripts/learn_concept.py RUNS OUTPUT [--base nano-v1] [--seed 0] [--adapter DIR]

Trains `nano/lora-concept` in RUNS/lora-concept (or goes on with it, or takes it as it is), then
measures the nano and the nano with the adapter: 40 drawings on ten unseen prompts, judged by
nearest artwork, and 4,000 held-out questions, asked of both and compared one by one. Writes
`result.json`, what was drawn and answered, `sheet.png` and `curves.png` into OUTPUT. What was cut
off is gone on with by the same command.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from tqdm import tqdm

import openjanus
from openjanus.eval.answers import exact_match
from openjanus.eval.stats import bootstrap_interval
from openjanus.train.checkpoint import checkpoint_steps
from openjanus.train.metrics import read_metrics
from openjanus.train.recipes import load_recipe, run_recipe
from openjanus.train.report import smooth
from openjanus.train.runs import is_complete
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.newcomer import (
    NAME,
    PROMPTS,
    ArtworkJudge,
    distance_limit,
    lesson_picture,
    sprites_with_newcomer,
)
from openjanus.worlds.emoji.questions import Question, QuestionKind, exam
from openjanus.worlds.emoji.scenes import Scene, SceneObject, render
from openjanus.worlds.emoji.sheet import contact_sheet
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.task import framed

RECIPE = "nano/lora-concept"
DRAWINGS_PER_PROMPT = 4
QUESTIONS_PER_KIND = 800
BATCH = 32
GROUNDS = ((252, 252, 252), (250, 238, 214), (206, 228, 246), (92, 104, 124))
CHECKED = 200
"""Scenes on which the judge is checked."""


def redrawn(janus: openjanus.Janus, picture: np.ndarray) -> np.ndarray:
    """What the model's tokenizer makes of a picture."""
    return np.asarray(janus.decode_image(janus.encode_image(Image.fromarray(picture))))


def check_judge(judge: ArtworkJudge, janus: openjanus.Janus, seed: int) -> dict[str, Any]:
    """Set the judge's limit, on the world's own things alone, and tell how often it is right.

    It is checked on what the tokenizer makes of scenes, for it judges nothing else: mushrooms of
    other sizes and places than the five, and scenes of the world, in which there is none.
    """
    sprites, own = sprites_with_newcomer(), Sprites.load()
    size = janus.config.gen_image_size
    single = SceneSource(seed=seed + 71, tags={"single_object": 1.0}, vendors=["noto"], size=size)
    shown = [
        (redrawn(janus, single.picture(i)), single.scene(i).objects[0].concept)
        for i in tqdm(range(len(CONCEPTS)), desc="the judge's limit")
    ]
    judge.limit = distance_limit(judge, shown)
    rng = np.random.default_rng([seed, 72])
    hits = 0
    for i in tqdm(range(CHECKED // 4), desc="mushrooms"):
        longer = 0.34 + 0.4 * rng.random()
        left, top = (1 - longer) * rng.random(2)
        box = (left, top, left + longer * min(1, sprites.aspect(NAME, "noto")), top + longer)
        thing = SceneObject(concept=NAME, vendor="noto", colour=None, box=box)
        ground = GROUNDS[i % len(GROUNDS)]
        scene = Scene(objects=(thing,), background=ground, tag="single_object")
        hits += judge.finds(redrawn(janus, render(scene, size, sprites)))
    others = SceneSource(seed=seed + 73, sprites=own, vendors=["noto"], size=size)
    alarms = sum(
        judge.finds(redrawn(janus, others.picture(i)))
        for i in tqdm(range(CHECKED), desc="no mushrooms")
    )
    right = sum(any(piece.name == name for piece in judge.look(picture)) for picture, name in shown)
    return {
        "limit": judge.limit,
        "finds_mushrooms": f"{hits} of {CHECKED // 4}",
        "false_alarms": f"{alarms} of {CHECKED}",
        "names_known_things": f"{right} of {len(shown)}",
    }


def draw_all(
    janus: openjanus.Janus, judge: ArtworkJudge, seed: int, folder: Path
) -> dict[str, Any]:
    """Draw every prompt four times, but what the folder has already, and judge."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[bool]] = {}
    seen: dict[str, list[list[str]]] = {}
    for number, prompt in enumerate(tqdm(PROMPTS, desc="drawings")):
        paths = [folder / f"{number}-{i}.png" for i in range(DRAWINGS_PER_PROMPT)]
        if not all(path.is_file() for path in paths):
            drawing = janus.draw(prompt, n=len(paths), seed=seed * 100 + number)
            for path, image in zip(paths, drawing.images, strict=True):
                image.save(path)
        pictures = [read_picture(path) for path in paths]
        found[prompt] = [judge.finds(picture) for picture in pictures]
        seen[prompt] = [
            [f"{piece.name} {piece.distance:.1f}" for piece in judge.look(picture)]
            for picture in pictures
        ]
    return {"found": found, "pieces": seen}


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def answer_all(
    janus: openjanus.Janus, seed: int, per_kind: int, record: Path
) -> dict[str, list[bool]]:
    """Ask held-out questions of every kind, those that the record lacks; which replies are right.

    Kinds take turns, and the record is written as it grows: what is cut off is gone on with.
    """
    right: dict[str, list[bool]] = {kind: [] for kind in get_args(QuestionKind)}
    if record.is_file():
        right = json.loads(record.read_text(encoding="utf-8"))
    sprites = Sprites.load()
    for end in range(BATCH, per_kind + BATCH, BATCH):
        for kind in get_args(QuestionKind):
            start = len(right[kind])
            if start >= min(end, per_kind):
                continue
            some = exam(kind, min(end, per_kind), seed, sprites)[start:]
            right[kind] += ask(janus, some, sprites)
            record.write_text(json.dumps(right) + "\n", encoding="utf-8")
        tqdm.write(f"{min(end, per_kind)} questions a kind")
    return {kind: answers[:per_kind] for kind, answers in right.items()}


def ask(
    janus: openjanus.Janus, some: Sequence[tuple[Scene, Question]], sprites: Sprites
) -> list[bool]:
    """Whether each reply is exactly right."""
    conversations = []
    for scene, question in some:
        picture = Image.fromarray(render(scene, janus.config.und_image_size, sprites))
        parts = [{"type": "image", "image": picture}, {"type": "text", "text": question.text}]
        conversations.append([{"role": "user", "content": parts}])
    replies = janus.chat_batch(conversations, max_new_tokens=16)
    return [
        exact_match(reply.text, question.answer)
        for reply, (_, question) in zip(replies, some, strict=True)
    ]


def paired(before: Sequence[bool], after: Sequence[bool], seed: int) -> dict[str, Any]:
    """The difference of two exams on the same questions, its interval, and McNemar's exact test."""
    differences = [float(b) - float(a) for a, b in zip(before, after, strict=True)]
    lost, won = differences.count(-1.0), differences.count(1.0)
    low, high = bootstrap_interval(differences, range(len(differences)), seed=seed)
    n, k = lost + won, min(lost, won)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n if n else 1.0
    return {
        "n": len(differences),
        "before": round(sum(before) / len(before), 4),
        "after": round(sum(after) / len(after), 4),
        "difference": round(sum(differences) / len(differences), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "lost": lost,
        "won": won,
        "mcnemar_p": round(min(1.0, 2 * tail), 4),
    }


def measure(
    base: str, adapter: Path | None, output: Path, name: str, seed: int, per_kind: int
) -> dict[str, Any]:
    """Draw and answer with a model, but for what it did already."""
    output.mkdir(parents=True, exist_ok=True)
    janus = openjanus.load(base, device="cpu", dtype="float32", adapter=adapter)
    checks = output / "judge.json"  # one for both: the tokenizer is the same
    judge = ArtworkJudge(sprites_with_newcomer(), limit=math.inf)
    if checks.is_file():
        judge.limit = json.loads(checks.read_text(encoding="utf-8"))["limit"]
    else:
        told = check_judge(judge, janus, seed)
        checks.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    result = draw_all(janus, judge, seed, output / name)
    (output / f"{name}.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    right = answer_all(janus, seed, per_kind, output / f"{name}-answers.json")
    return result | {"right": right}


def write_sheet(before: dict[str, Any], after: dict[str, Any], output: Path) -> None:
    """The five pictures, then for each prompt two drawings before and two after, framed."""
    sprites = sprites_with_newcomer()
    pictures = [framed(lesson_picture(i, 96, sprites), correct=True) for i in range(5)]
    words = [f"lesson {i + 1}" for i in range(5)]
    for number, prompt in enumerate(PROMPTS):
        for name, result in (("before", before), ("after", after)):
            for i in range(2 if name == "before" else 3):
                picture = read_picture(output / name / f"{number}-{i}.png")
                pictures.append(framed(picture, correct=result["found"][prompt][i]))
                words.append(f"{name}: {prompt.removeprefix('a photo of ')}")
    sheet = contact_sheet(pictures, words, columns=5)
    sheet.quantize(96).save(output / "sheet.png", optimize=True)


def write_curves(run: Path, output: Path) -> None:
    """The losses of the run by kind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_metrics(run / "metrics.jsonl")
    names = ("loss_gen", "loss_und", "watch_gen", "watch_und", "watch_text")
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, 1)
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            steps, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
            watched = name.startswith("watch")
            shown = values if watched else smooth(values, 9)
            axes.plot(steps, shown, "o-" if watched else "-", label=name, markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel("nats a token")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(output / "curves.png", dpi=100)


def main() -> None:
    """Train, measure, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, help="folder that the run's lies in")
    parser.add_argument("output", type=Path)
    parser.add_argument("--base", default="nano-v1", help="packaged weights that learn it")
    parser.add_argument("--seed", type=int, default=0, help="of drawings and questions")
    parser.add_argument("--adapter", type=Path, help="measure this one, and train nothing")
    parser.add_argument("--questions", type=int, default=QUESTIONS_PER_KIND, help="of each kind")
    parser.add_argument("--only", choices=("before", "after"), help="measure one, compare nothing")
    args = parser.parse_args()
    run = args.runs / "lora-concept"
    adapter = args.adapter
    if adapter is None and args.only != "before":
        options = ["--run.dir", str(run), "--init", f"[shipped/{args.base}]"]
        if not is_complete(load_recipe(RECIPE, options)):
            run_recipe(RECIPE, [*options, "--run.resume", str(bool(checkpoint_steps(run)))])
        if not is_complete(load_recipe(RECIPE, options)):
            sys.exit(f"{run} was stopped: the same command goes on with it")
        adapter = run / "final" / "adapter"
    results = {
        name: measure(args.base, which, args.output, name, args.seed, args.questions)
        for name, which in (("before", None), ("after", adapter))
        if args.only in (None, name)
    }
    if args.only is not None:
        return
    before, after = results["before"], results["after"]
    share = {k: [x for v in r["found"].values() for x in v] for k, r in results.items()}
    kinds = list(before["right"])
    joined = [[x for kind in kinds for x in r["right"][kind]] for r in (before, after)]
    result = {
        "found_before": f"{sum(share['before'])} of {len(share['before'])}",
        "found_after": f"{sum(share['after'])} of {len(share['after'])}",
        "by_prompt_after": {prompt: sum(v) for prompt, v in after["found"].items()},
        "judge": json.loads((args.output / "judge.json").read_text(encoding="utf-8")),
        "understanding": paired(joined[0], joined[1], args.seed),
        "by_kind": {
            kind: paired(before["right"][kind], after["right"][kind], args.seed) for kind in kinds
        },
    }
    (args.output / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    write_sheet(before, after, args.output)
    write_curves(run, args.output)


if __name__ == "__main__":
    main()
