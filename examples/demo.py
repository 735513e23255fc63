"""Draw four prompts that training never showed, judge them, and ask about a picture.

The prompts are held-out cells of the emoji world, chosen by a hash of the version, so that nobody
picked them by their results: seed 0, first sample, whatever it is. The verdicts are the judge's, by
GenEval's rules. The picture shows a held-out cell too; its true answers stand beside those given.

    make demo                                    or    python examples/demo.py [MODEL [FOLDER]]
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from importlib.resources import files
from pathlib import Path

import openjanus
from openjanus.worlds.emoji.captions import prompt_for_cell
from openjanus.worlds.emoji.cells import held_out_cells
from openjanus.worlds.emoji.judge import judge_drawings
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, Tag


def choose_prompts(version: str, n: int = 4) -> list[str]:
    """Choose prompts of held-out cells, each of another tag, by a hash of the version."""

    def number(name: str) -> int:
        return int(hashlib.sha256(f"{version}/{name}".encode()).hexdigest(), 16)

    tags: list[Tag] = [tag for tag in GENEVAL_TAGS if held_out_cells(tag)]
    chosen = sorted(tags, key=number)[:n]
    cells = [
        held_out_cells(tag)[number(f"{tag}/cell") % len(held_out_cells(tag))] for tag in chosen
    ]
    return [prompt_for_cell(cell) for cell in cells]


def draw(janus: openjanus.Janus, folder: Path) -> None:
    """Draw the chosen prompts and print the judge's verdicts."""
    prompts = choose_prompts(openjanus.__version__)
    began = time.perf_counter()
    pictures = [drawing.images[0] for drawing in janus.draw_batch(prompts, seed=0)]
    seconds = time.perf_counter() - began
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = judge_drawings(pictures, prompts)
    print(f"{len(prompts)} held-out prompts, drawn in {seconds:.1f} s, by GenEval's rules:")
    for i, (prompt, picture, verdict) in enumerate(zip(prompts, pictures, verdicts, strict=True)):
        path = folder / f"{i}.png"
        picture.save(path)
        told = "right" if verdict.correct else f"wrong: {'; '.join(verdict.reasons)}"
        print(f"  {path}  {prompt}  ->  {told}")


def ask(janus: openjanus.Janus, shipped: Path) -> None:
    """Ask what is to be asked about the shipped picture and print the answers."""
    told = json.loads((shipped / "scene.json").read_text(encoding="utf-8"))
    picture = shipped / "scene.png"
    print(f"questions about {picture}, which is {told['caption']}:")
    for question, answer in told["questions"]:
        reply = janus.chat(question, images=[picture], max_new_tokens=32)
        print(f"  {question}  ->  {reply.text}  (true: {answer})")


def main(model: str = "nano", folder: str = "drawings/demo") -> None:
    """Draw and ask."""
    janus = openjanus.load(model)
    draw(janus, Path(folder))
    ask(janus, Path(str(files("openjanus"))) / "assets" / "demo")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"demo: {error}")
