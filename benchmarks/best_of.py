"""How much oftener the nano draws right when it may choose among its own drawings.

    python benchmarks/best_of.py [--prompts N] [--best-of K ...] [--seed S] [--model MODEL]
        [--judge-question TEXT] [--output FILE] [--rows FILE]

Prompts are of held-out cells, as many of each of GenEval's six tags (`single_object` holds nothing
out: seen concepts), spread evenly over them. The model chooses; the judge of the emoji world, which
has seen no drawing, says which candidates are right. `ours` is the share of right ones among the
chosen, `theirs` by chance (the mean over the candidates), `any_right` the most that any choice
could reach. Intervals are of 95 %, prompts resampled tag by tag. The candidates of a smaller K are
the first of those of a larger one, so all are drawn once. With `--rows` a run that was stopped goes
on, and one of more prompts takes up those of a fourth or half as many.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import openjanus
from openjanus.eval.geneval import TAGS
from openjanus.eval.stats import bootstrap_macro_interval
from openjanus.pipeline.critic import JudgeQuestion
from openjanus.worlds.emoji.captions import metadata_for_cell
from openjanus.worlds.emoji.cells import evaluation_cells
from openjanus.worlds.emoji.checks import checks_for_prompt
from openjanus.worlds.emoji.judge import Judge, judge_drawings

Row = dict[str, Any]
"""What is known of one prompt: its tag, the scores of its candidates and which are right."""


def requests(number: int) -> list[dict[str, Any]]:
    """So many lines of GenEval's metadata, the tags in turn.

    Raises:
        ValueError: Not as many of each tag, or more than a tag has cells.
    """
    each, rest = divmod(number, len(TAGS))
    fewest = min(len(evaluation_cells(tag)) for tag in TAGS)
    if rest or not 1 <= each <= fewest:
        raise ValueError(
            f"--prompts must be a multiple of {len(TAGS)} up to {len(TAGS) * fewest}, got {number}"
        )
    columns = []
    for tag in TAGS:
        cells = evaluation_cells(tag)
        columns.append([metadata_for_cell(cells[i * len(cells) // each]) for i in range(each)])
    return [line for row in zip(*columns, strict=True) for line in row]


def look(
    janus: openjanus.Janus,
    referee: Judge,
    line: dict[str, Any],
    *,
    seed: int,
    best_of: int,
    question: JudgeQuestion,
) -> Row:
    """Draw a prompt's candidates, let the model score them and the judge say which are right."""
    drawing = janus.draw(line["prompt"], seed=seed, best_of=best_of, judge_question=question)
    found = drawing.candidates
    assert found is not None
    pictures = [janus.decode_image(ids) for ids in found.image_ids[0]]
    verdicts = judge_drawings(pictures, [line] * best_of, referee=referee)
    return {
        "prompt": line["prompt"],
        "tag": line["tag"],
        "scores": found.scores[0].tolist(),
        "right": [verdict.correct for verdict in verdicts],
    }


def figures(rows: Sequence[Row], k: int, seed: int) -> dict[str, Any]:
    """Chosen, by chance and any right among the first k candidates; by tag as well."""

    def chosen(row: Row) -> float:
        scores = row["scores"][:k]
        return float(row["right"][scores.index(max(scores))])

    def chance(row: Row) -> float:
        return statistics.fmean(row["right"][:k])

    def any_right(row: Row) -> float:
        return float(any(row["right"][:k]))

    def interval(value: Callable[[Row], float]) -> list[float]:
        groups = {}
        for tag in TAGS:
            mine = [row for row in rows if row["tag"] == tag]
            groups[tag] = ([value(row) for row in mine], [row["prompt"] for row in mine])
        return [round(end, 4) for end in bootstrap_macro_interval(groups, seed=seed)]

    def mean(value: Callable[[Row], float], tag: str | None = None) -> float:
        return round(
            statistics.fmean(value(row) for row in rows if tag is None or row["tag"] == tag), 4
        )

    ours, theirs = mean(chosen), mean(chance)
    return {
        "ours": ours,
        "theirs": theirs,
        "ratio": round(ours / theirs, 3) if theirs else math.nan,
        "unit": "share of right drawings",
        "any_right": mean(any_right),
        "interval": {
            "ours": interval(chosen),
            "theirs": interval(chance),
            "any_right": interval(any_right),
            "gain": interval(lambda row: chosen(row) - chance(row)),
        },
        "by_tag": {tag: [mean(how, tag) for how in (chosen, chance, any_right)] for tag in TAGS},
        "prompts": len(rows),
    }


def read_rows(path: Path | None, settings: dict[str, Any]) -> dict[str, Row]:
    """Rows of an earlier run by prompt, the last of each; fewer candidates are drawn again.

    Raises:
        ValueError: They are of other settings.
    """
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["settings"] != settings:
            raise ValueError(f"{path} holds rows of {line['settings']}: give another --rows")
    return {line["prompt"]: line for line in lines}


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; None is this process's own."""
    parser = argparse.ArgumentParser(description="Right drawings among those the nano chose.")
    parser.add_argument("--prompts", type=int, default=144, help="a multiple of 6 up to 144")
    parser.add_argument("--best-of", type=int, nargs="+", default=[1, 4, 8], metavar="K")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--judge-question", help="with {prompt} in it; the world's when left out")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rows", type=Path, help="JSON lines, a prompt each")
    options = parser.parse_args(given)
    if min(options.best_of) < 1 or max(options.best_of) < 2:
        parser.error("--best-of takes numbers of at least 1, one of them at least 2")
    try:
        requests(options.prompts)
    except ValueError as error:
        parser.error(str(error))
    return options


def main() -> None:
    """Print and write the figures of every K."""
    options = parse()
    asked = requests(options.prompts)
    most = max(options.best_of)
    asks = options.judge_question
    question: JudgeQuestion = checks_for_prompt if asks is None else asks
    settings = {"model": options.model, "seed": options.seed, "question": asks}
    rows = read_rows(options.rows, settings)
    janus, referee = openjanus.load(options.model, device="cpu"), Judge.load()
    for line in tqdm(asked, desc=f"best of {most}"):
        prompt = line["prompt"]
        if prompt in rows and len(rows[prompt]["scores"]) >= most:
            continue
        # Of the prompt, not of its place: other numbers of prompts leave its drawings as they are.
        seed = options.seed * 2**32 + zlib.crc32(prompt.encode())
        rows[prompt] = look(janus, referee, line, seed=seed, best_of=most, question=question)
        if options.rows is not None:
            options.rows.parent.mkdir(parents=True, exist_ok=True)
            with options.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[prompt] | {"settings": settings}) + "\n")
    mine = [rows[line["prompt"]] for line in asked]
    found = {f"best of {k}": figures(mine, k, options.seed) for k in options.best_of}
    for name, one in found.items():
        print(
            f"{name}: chosen {one['ours']:.3f} {one['interval']['ours']}, "
            f"by chance {one['theirs']:.3f}, any right {one['any_right']:.3f}, "
            f"gain {one['interval']['gain']}"
        )
    if options.output is not None:
        record = found | {"settings": settings | {"threads": torch.get_num_threads()}}
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
