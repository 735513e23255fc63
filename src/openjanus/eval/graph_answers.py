"""DPG-Bench from files: its questions, and the answers of any model that answers about pictures.

A line of the answers' file is `{"item_id", "tile", "proposition_id", "answer"}`: the tile is the
picture's number among the four of a prompt, from 0.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from openjanus.eval.drawing_set import read_settings
from openjanus.eval.layouts import (
    TEXT,
    WrongLayout,
    files_hash,
    need_file,
    need_keys,
    read_json_lines,
    readable,
)
from openjanus.eval.record import write_json_lines
from openjanus.eval.rules.dpg import (
    NO_PARENT,
    Question,
    check_graph,
    is_read,
    is_yes,
    mean_score,
    question_scores,
)
from openjanus.eval.stats import bootstrap_interval

FORMAT_VERSION: Final = 1
RULES: Final = "DPG-Bench, a question falls with its parents, v1"
COLUMNS: Final = (
    *("item_id", "proposition_id", "dependency"),
    *("category_broad", "question_natural_language"),
)
TABLE: Final = f"DPG-Bench's .csv with columns {', '.join(COLUMNS)}"
LINES: Final = 'JSON lines of {"item_id", "tile", "proposition_id", "answer"}'
PROMPTS: Final = 1065
TILES: Final = 4
"""Of each prompt."""

Answers = dict[str, dict[int, dict[int, str]]]
"""What was said by item, tile and question."""


def read_questions(path: Path) -> dict[str, list[Question]]:
    """Questions by item, in the order of the file.

    Raises:
        WrongLayout: No such table, a broken row or graph.
    """
    items: dict[str, list[Question]] = {}
    with readable(path, TABLE), need_file(path, TABLE).open(encoding=TEXT, newline="") as file:
        rows = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise WrongLayout(path, f"has no column {', '.join(missing)}", TABLE)
        for number, row in enumerate(rows, start=1):
            try:
                question = Question(
                    number=int(row["proposition_id"]),
                    text=row["question_natural_language"],
                    parents=tuple(
                        parent
                        for parent in map(int, row["dependency"].split(","))
                        if parent != NO_PARENT
                    ),
                    category=row["category_broad"],
                )
            except (ValueError, TypeError, AttributeError) as error:
                raise WrongLayout(path, f"has a broken row {number} ({error})", TABLE) from error
            items.setdefault(row["item_id"], []).append(question)
    for item, questions in items.items():
        try:
            check_graph(questions)
        except ValueError as error:
            raise WrongLayout(path, f"has a broken item {item} ({error})", TABLE) from error
    return items


def read_answers(path: Path) -> Answers:
    """Answers by item, tile and question.

    Raises:
        WrongLayout: No such file, or a line against the format.
    """
    keys = ("item_id", "tile", "proposition_id", "answer")
    answers: Answers = {}
    for record in need_keys(read_json_lines(path, LINES), keys, path, LINES):
        item, tile, number = str(record["item_id"]), record["tile"], record["proposition_id"]
        if not (type(tile) is int and type(number) is int):  # True is none
            raise WrongLayout(path, f"has a tile or question of {item} that is no number", LINES)
        if not 0 <= tile < TILES:
            said = f"has tile {tile} of {item}: a prompt's tiles are 0 to {TILES - 1}"
            raise WrongLayout(path, said, LINES)
        told = answers.setdefault(item, {}).setdefault(tile, {})
        if number in told:
            raise WrongLayout(path, f"answers {item}, tile {tile}, question {number} twice", LINES)
        told[number] = str(record["answer"])
    return answers


def is_whole(summary: Mapping[str, Any]) -> bool:
    """Whether a summary is of all four tiles of all the benchmark's prompts."""
    return (
        summary["prompts_without_answers"] == 0
        and summary["prompts"] == PROMPTS
        and summary["n"] == PROMPTS * TILES
    )


def score_answers(
    data: str | Path,
    answers: str | Path,
    *,
    seed: int = 0,
    drawings: str | Path | None = None,
    predictions: str | Path | None = None,
) -> dict[str, Any]:
    """Apply DPG-Bench's rules.

    Args:
        data: The table of questions.
        answers: The answers' file; prompts without any answer are left out and counted.
        seed: Of the interval, which resamples whole prompts.
        drawings: Folder that the pictures were drawn into; None is not known.
        predictions: File that each tile's scores are written to, a JSON line each.

    Returns:
        `score`, 0 to 100, with its interval; `categories` from the answers before any falls with
        a parent, as the benchmark prints them, but over all tiles; numbers; how the drawings were
        made.

    Raises:
        WrongLayout: One of them is not what it should be.
        ValueError: A question without an answer, or answers to unknown items alone.
    """
    table, file = Path(data), Path(answers)
    questions, told = read_questions(table), read_answers(file)
    unknown = [item for item in told if item not in questions]
    if not told:
        raise ValueError(f"{file} answers about nothing: expected {LINES}")
    if unknown:
        others = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise ValueError(f"{file} answers about {unknown[0]!r}{others}: no such item in {table}")
    tiles = [
        _judged(questions[item], said, item, tile, file)
        for item, by_tile in told.items()
        for tile, said in by_tile.items()
    ]
    scores: dict[str, list[float]] = {}
    categories: dict[str, list[bool]] = {}
    for one in tiles:
        scores.setdefault(one["item_id"], []).append(one["score"])
        for question in questions[one["item_id"]]:
            categories.setdefault(question.category, []).append(question.number in one["yes"])
    values = [100 * sum(of_item) / len(of_item) for of_item in scores.values()]
    unread = [not is_read(a) for of in told.values() for said in of.values() for a in said.values()]
    low, high = bootstrap_interval(values, range(len(values)), seed=seed)
    summary = {
        "format_version": FORMAT_VERSION,
        "task": "dpg",
        "rules": RULES,
        "score": {
            "name": "DPG-Bench",
            "value": round(sum(values) / len(values), 2),
            "unit": "percent",
            "interval": [round(low, 2), round(high, 2)],
        },
        "categories": {
            name: round(100 * sum(yes) / len(yes), 2) for name, yes in sorted(categories.items())
        },
        "n": len(tiles),
        "parse_failure_rate": round(sum(unread) / len(unread), 4),
        "prompts": len(values),
        "prompts_without_answers": len(questions) - len(values),
        "questions_sha256": files_hash([table]),
        "answers_sha256": files_hash([file]),
        "drawings": None if drawings is None else read_settings(Path(drawings)),
    }
    if predictions is not None:
        write_json_lines(Path(predictions), tiles)
    return summary


def _judged(
    questions: Sequence[Question], said: Mapping[int, str], item: str, tile: int, file: Path
) -> dict[str, Any]:
    """Score of a tile: which questions were answered with yes, and which of these fell."""
    strange = sorted(set(said) - {question.number for question in questions})
    if strange:
        raise ValueError(f"{file}: item {item}, tile {tile}: there is no question {strange[0]}")
    yes = {number: is_yes(answer) for number, answer in said.items()}
    try:
        scores = question_scores(questions, yes)
    except ValueError as error:
        raise ValueError(f"{file}: item {item}, tile {tile}: {error}") from error
    return {
        "key": f"{item}/{tile}",
        "item_id": item,
        "tile": tile,
        "score": mean_score(scores),
        "yes": [number for number, is_so in yes.items() if is_so],
        "fallen": [number for number, is_so in yes.items() if is_so and not scores[number]],
    }
