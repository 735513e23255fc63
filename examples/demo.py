"""Draw twelve prompts, judge them on a sheet, and talk about a picture of your own making.

The prompts are held-out cells of the emoji world, two of each of GenEval's tags (of lone things,
which combine nothing, any two), chosen by a hash of the version, so that nobody picked them by
their results: seed 0, first sample, whatever it is. The verdicts are the judge's, by GenEval's
rules. The picture is what WORDS say, drawn truly; the true answers stand beside those given.

    make demo                                            python examples/demo.py
    make demo WORDS="two dogs left of a red car"         python examples/demo.py --words "..."
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

import openjanus
from openjanus.worlds.emoji.captions import prompt_for_cell
from openjanus.worlds.emoji.cells import Cell, evaluation_cells
from openjanus.worlds.emoji.described import described_scene, read_description
from openjanus.worlds.emoji.judge import judge_drawings
from openjanus.worlds.emoji.questions import QUESTION_KINDS, ask
from openjanus.worlds.emoji.scenes import GENEVAL_TAGS, render
from openjanus.worlds.emoji.sheet import contact_sheet
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.task import framed

WORDS = "a red car left of two dogs"
SIDE = 96


def choose_prompts(version: str, per_tag: int = 2) -> list[str]:
    """Choose prompts of evaluation cells, so many of each tag, by a hash of the version."""

    def number(cell: Cell) -> str:
        return hashlib.sha256(f"{version}/{cell.name}".encode()).hexdigest()

    chosen = [
        cell for tag in GENEVAL_TAGS for cell in sorted(evaluation_cells(tag), key=number)[:per_tag]
    ]
    return [prompt_for_cell(cell) for cell in chosen]


def draw(janus: openjanus.Janus, folder: Path) -> None:
    """Draw the chosen prompts, print the judge's verdicts and write the sheet."""
    prompts = choose_prompts(openjanus.__version__)
    began = time.perf_counter()
    pictures = [drawing.images[0] for drawing in janus.draw_batch(prompts, seed=0)]
    seconds = time.perf_counter() - began
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = judge_drawings(pictures, prompts)
    right = sum(verdict.correct for verdict in verdicts)
    print(
        f"{len(prompts)} prompts, of which training showed the lone things alone, drawn in "
        f"{seconds:.1f} s; {right} are right by GenEval's rules:"
    )
    for i, (prompt, picture, verdict) in enumerate(zip(prompts, pictures, verdicts, strict=True)):
        picture.save(folder / f"{i:02}.png")
        told = "right" if verdict.correct else f"wrong: {'; '.join(verdict.reasons)}"
        print(f"  {i:02}.png  {prompt}  ->  {told}")
    framed_pictures = [
        framed(np.asarray(picture), correct=verdict.correct)
        for picture, verdict in zip(pictures, verdicts, strict=True)
    ]
    names = [prompt.removeprefix("a photo of ") for prompt in prompts]
    contact_sheet(framed_pictures, names, columns=4, scale=2).save(folder / "sheet.png")
    print(f"all of them: {folder / 'sheet.png'}")


def talk(janus: openjanus.Janus, folder: Path, words: str) -> None:
    """Show what words say, ask about it question by question and print the dialogue."""
    rng = np.random.default_rng(0)
    scene = described_scene(read_description(words), rng, Sprites.load())
    picture = Image.fromarray(render(scene, SIDE, Sprites.load()))
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / "scene.png")
    print(f"about {folder / 'scene.png'}, {words}:")
    for question in [ask(scene, rng, kind) for kind in QUESTION_KINDS]:
        if question is not None:
            reply = janus.chat(question.text, images=[picture], max_new_tokens=32)
            print(f"  {question.text}  ->  {reply.text}  (true: {question.answer})")


def main() -> None:
    """Draw and talk."""
    parser = argparse.ArgumentParser(description="Draw, judge, and talk about a picture.")
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("drawings/demo"))
    parser.add_argument("--words", default=WORDS, help="what your picture shows (%(default)s)")
    options = parser.parse_args()
    read_description(options.words)  # before any work, where it cannot be read
    janus = openjanus.load(options.model)
    draw(janus, options.folder)
    talk(janus, options.folder, options.words)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, KeyError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(2)
