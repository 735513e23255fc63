"""Run a task: ask in batches, write every answer down at once, go on after a stop, summarise.

A run's folder holds `settings.json` (what was asked of which weights), `predictions.jsonl` (one
line an answer, flushed batch by batch), whatever files the task writes, and `summary.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from openjanus.eval.record import prompts_hash, template_hash, weights_hash, write_json
from openjanus.eval.task import Prediction, Request, Task, build_task
from openjanus.pipeline import Janus

FORMAT_VERSION: Final = 2
"""2: every prediction has its `seconds`. A run of another version is not gone on with."""
TEMPLATE: Final = "deepseek"
"""The dialogue template that the processor writes."""

SETTINGS_NAME: Final = "settings.json"
PREDICTIONS_NAME: Final = "predictions.jsonl"
SUMMARY_NAME: Final = "summary.json"


def run_task(
    janus: Janus,
    task_name: str,
    *,
    limit: int | None = None,
    output: str | Path,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a model; a folder with predictions of the same settings is gone on with.

    Args:
        janus: The model with its processor.
        task_name: A registered task, for instance "emoji".
        limit: How much is asked, as the task counts it; None asks everything.
        output: The run's folder.
        seed: Of everything random: drawings, questions, intervals.
        options: The task's own.

    Returns:
        What is written to `summary.json`.

    Raises:
        KeyError: Unknown task.
        ValueError: A limit below 1, unknown options, or a folder with another run's predictions.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}: leave it out for everything")
    task = build_task(task_name, {} if options is None else options)
    requests = task.requests(limit=limit, seed=seed)
    settings = _settings(janus, task_name, task, requests, limit, seed)
    folder = Path(output)
    _claim(folder, settings)
    done = read_predictions(folder / PREDICTIONS_NAME)
    _ask(janus, task, requests, done, folder)
    predictions = [done[request.key] for request in requests]
    began = time.perf_counter()
    summary = settings | task.summarise(janus, predictions, folder, seed=seed)
    summary["seconds"] = round(
        sum(p["seconds"] for p in predictions) + time.perf_counter() - began, 1
    )
    write_json(folder / SUMMARY_NAME, summary)
    return summary


def _settings(
    janus: Janus,
    task_name: str,
    task: Task,
    requests: Sequence[Request],
    limit: int | None,
    seed: int,
) -> dict[str, Any]:
    """Everything that two runs must share to be one."""
    keys = {request.key for request in requests}
    assert len(keys) == len(requests)
    return {
        "format_version": FORMAT_VERSION,
        "task": task_name,
        "rules": task.rules,
        "limit": limit,
        "seed": seed,
        "options": task.settings(janus),
        "template": TEMPLATE,
        "template_sha256": template_hash(janus.config.processor),
        "prompts": len(requests),
        "prompts_sha256": prompts_hash(f"{request.key}\t{request.prompt}" for request in requests),
        "checkpoint_sha256": weights_hash(janus.model),
        "dtype": str(next(janus.model.parameters()).dtype).removeprefix("torch."),
        "device": janus.device.type,
    }


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder this run's, or check that it is.

    Raises:
        ValueError: It holds predictions of other settings.
    """
    path = folder / SETTINGS_NAME
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != settings:
            keys = sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))
            raise ValueError(
                f"{folder} holds a run with other {', '.join(keys)}: give another output folder"
            )
        return
    if (folder / PREDICTIONS_NAME).exists():
        raise ValueError(
            f"{folder} holds predictions without {SETTINGS_NAME}: give another output folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(settings))


def read_predictions(path: Path) -> dict[str, Prediction]:
    """Predictions by key; a last line that a stop cut off is removed from the file.

    Raises:
        ValueError: A broken line elsewhere.
    """
    if not path.is_file():
        return {}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        path.write_bytes(whole)
    found: dict[str, Prediction] = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            prediction = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} is not JSON ({error}): delete it") from error
        found[prediction["key"]] = prediction
    return found


def _ask(
    janus: Janus,
    task: Task,
    requests: Sequence[Request],
    done: dict[str, Prediction],
    folder: Path,
) -> None:
    """Answer what is not yet in `done`, and put it there and into the file."""
    open_requests = [request for request in requests if request.key not in done]
    bar = tqdm(total=len(requests), initial=len(done), desc="eval", unit="request")
    with bar, (folder / PREDICTIONS_NAME).open("a", encoding="utf-8") as file:
        for batch in batches(open_requests, task.batch_size):
            began = time.perf_counter()
            answers = task.answer(janus, batch, folder)
            # Each its share: a run that was stopped and gone on with took the sum of all.
            seconds = round((time.perf_counter() - began) / len(batch), 4)
            for prediction in answers:
                prediction["seconds"] = seconds
                file.write(json.dumps(prediction) + "\n")
                done[prediction["key"]] = prediction
            file.flush()
            bar.update(len(batch))


def batches(requests: Sequence[Request], size: int) -> Iterator[list[Request]]:
    """Neighbours of one group, at most `size` at a time, in order."""
    for _, group in groupby(requests, key=lambda request: request.group):
        members = list(group)
        for start in range(0, len(members), size):
            yield members[start : start + size]
