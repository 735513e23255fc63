"""LoRA of the nano on a thing that it never saw: whether it learns it, and what it forgets.

    python scripts/learn_concept.py RUNS OUTPUT [--seed 0] [--adapter DIR]

Trains `nano/lora-concept` in RUNS/lora-concept (or goes on with it, or takes it as it is), then
measures the nano and the nano with the adapter: 40 drawings on ten unseen prompts, judged by
nearest artwork, and 4,000 held-out questions, asked of both and compared one by one. Writes
`result.json`, `before.json`, `after.json`, the drawings, `sheet.png` and `curves.png` into OUTPUT.
"""

from __future__ import annotations

import argparse
import json
import math
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
from openjanus.worlds.emoji.questions import QuestionKind, exam
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


def build_judge(janus: openjanus.Janus, seed: int) -> tuple[ArtworkJudge, dict[str, Any]]:
    """The judge, its limit set on the world's own things alone, and how often it is right.

    It is checked on what the tokenizer makes of scenes, for it judges nothing else: mushrooms of
    other sizes and places than the five, and scenes of the world, in which there is none.
    """
    sprites, own = sprites_with_newcomer(), Sprites.load()
    judge = ArtworkJudge(sprites, limit=math.inf)
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
    return judge, {
        "limit": round(judge.limit, 2),
        "finds_mushrooms": f"{hits} of {CHECKED // 4}",
        "false_alarms": f"{alarms} of {CHECKED}",
        "names_known_things": f"{right} of {len(shown)}",
    }


def draw_all(
    janus: openjanus.Janus, judge: ArtworkJudge, seed: int, folder: Path
) -> dict[str, Any]:
    """Draw every prompt four times and judge."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[bool]] = {}
    seen: list[list[str]] = []
    for number, prompt in enumerate(tqdm(PROMPTS, desc="drawings")):
        drawing = janus.draw(prompt, n=DRAWINGS_PER_PROMPT, seed=seed * 100 + number)
        found[prompt] = []
        for i, image in enumerate(drawing.images):
            image.save(folder / f"{number}-{i}.png")
            picture = np.asarray(image.convert("RGB"))
            found[prompt].append(judge.finds(picture))
            seen.append([f"{p.name} {p.distance:.0f}" for p in judge.look(picture)])
    return {"found": found, "pieces": seen}


def answer_all(janus: openjanus.Janus, seed: int, per_kind: int) -> dict[str, list[bool]]:
    """Ask held-out questions of every kind; whether each reply is exactly right."""
    sprites, size = Sprites.load(), janus.config.und_image_size
    right: dict[str, list[bool]] = {}
    for kind in get_args(QuestionKind):
        asked = exam(kind, per_kind, seed, sprites)
        right[kind] = []
        for start in tqdm(range(0, len(asked), BATCH), desc=kind):
            some = asked[start : start + BATCH]
            conversations = [[{"role": "user", "content": question.text}] for _, question in some]
            for conversation, (scene, question) in zip(conversations, some, strict=True):
                picture = Image.fromarray(render(scene, size, sprites))
                parts = [
                    {"type": "image", "image": picture},
                    {"type": "text", "text": question.text},
                ]
                conversation[0] = {"role": "user", "content": parts}  # pyright: ignore[reportArgumentType]
            replies = janus.chat_batch(conversations, max_new_tokens=16)
            right[kind] += [
                exact_match(reply.text, question.answer)
                for reply, (_, question) in zip(replies, some, strict=True)
            ]
    return right


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
    adapter: Path | None, output: Path, name: str, seed: int, per_kind: int
) -> dict[str, Any]:
    """Draw and answer with a model, or read what it did before."""
    record = output / f"{name}.json"
    if record.is_file():
        return json.loads(record.read_text(encoding="utf-8"))
    janus = openjanus.load("nano", device="cpu", dtype="float32", adapter=adapter)
    judge, checks = build_judge(janus, seed)
    result = {
        "judge": checks,
        **draw_all(janus, judge, seed, output / name),
        "right": answer_all(janus, seed, per_kind),
    }
    output.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(result) + "\n", encoding="utf-8")
    return result


def write_sheet(before: dict[str, Any], after: dict[str, Any], output: Path) -> None:
    """The five pictures, then for each prompt two drawings before and two after, framed."""
    sprites = sprites_with_newcomer()
    pictures = [framed(lesson_picture(i, 96, sprites), correct=True) for i in range(5)]
    words = [f"lesson {i + 1}" for i in range(5)]
    for number, prompt in enumerate(PROMPTS):
        for name, result in (("before", before), ("after", after)):
            for i in range(2 if name == "before" else 3):
                with Image.open(output / name / f"{number}-{i}.png") as image:
                    picture = np.asarray(image.convert("RGB"))
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
    parser.add_argument("--seed", type=int, default=0, help="of drawings and questions")
    parser.add_argument("--adapter", type=Path, help="measure this one, and train nothing")
    parser.add_argument("--questions", type=int, default=QUESTIONS_PER_KIND, help="of each kind")
    parser.add_argument("--only", choices=("before", "after"), help="measure one, compare nothing")
    args = parser.parse_args()
    run = args.runs / "lora-concept"
    adapter = args.adapter
    if adapter is None and args.only != "before":
        options = ["--run.dir", str(run)]
        if not is_complete(load_recipe(RECIPE, options)):
            run_recipe(RECIPE, [*options, "--run.resume", str(bool(checkpoint_steps(run)))])
        adapter = run / "final" / "adapter"
    results = {
        name: measure(which, args.output, name, args.seed, args.questions)
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
        "judge": before["judge"],
        "understanding": paired(*joined, args.seed),
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
