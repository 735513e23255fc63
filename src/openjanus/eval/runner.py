"""Run a task: ask in batches, write every answer down at once, go on after a stop, summarise.

A run's folder holds `settings.json` (what was asked of which weights), `predictions.jsonl` (one
line an answer, flushed batch by batch), whatever files the task writes, and `summary.json`. An item
that cannot be asked, such as a broken picture, becomes a line with an `error`: the run goes on, and
the summary names and counts what it left out.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from openjanus.eval.record import (
    prompts_hash,
    template_hash,
    weights_hash,
    write_json,
    write_json_lines,
)
from openjanus.eval.task import Prediction, Request, Task, build_task
from openjanus.folders import held, require_no_file
from openjanus.pipeline import Janus

FORMAT_VERSION: Final = 3
"""2: every prediction has its `seconds`. 3: a prediction may be an `error`, and the summary has
`broken`. A run of another version is not gone on with."""
NAMED_BROKEN: Final = 20
"""Broken items that are warned of, and that the summary names; it counts all of them."""

SETTINGS_NAME: Final = "settings.json"
PREDICTIONS_NAME: Final = "predictions.jsonl"
SUMMARY_NAME: Final = "summary.json"
LOCK_NAME: Final = "eval.lock"


def run_task(
    model: Janus | Callable[[], Janus],
    task_name: str,
    *,
    limit: int | None = None,
    output: str | Path,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    retry_broken: bool = False,
) -> dict[str, Any]:
    """Evaluate a model; a folder with predictions of the same settings is gone on with.

    Args:
        model: The model with its processor, or what loads it once the questions could be read.
        task_name: A registered task, for instance "emoji".
        limit: How much is asked, as the task counts it; None asks everything.
        output: The run's folder.
        seed: Of everything random: drawings, questions, intervals.
        options: The task's own.
        retry_broken: Ask again what an earlier session found broken.

    Returns:
        What is written to `summary.json`.

    Raises:
        KeyError: Unknown task.
        ValueError: A limit below 1, an output that is a file, unknown options, a folder with
            another run's predictions or with answers about other pictures, one that another
            process is at work in, or every item is broken.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}: leave it out for everything")
    folder = Path(output)
    require_no_file(folder, "output")  # weights take long, and so may questions
    task = build_task(task_name, {} if options is None else options)
    requests = task.requests(limit=limit, seed=seed)
    janus = model() if callable(model) else model
    settings = _settings(janus, task_name, task, requests, limit, seed)
    with claimed(folder, settings):
        done = read_predictions(folder / PREDICTIONS_NAME)
        _check_pictures(folder, requests, done)
        if retry_broken:
            done = _forget_broken(folder / PREDICTIONS_NAME, done)
        else:
            _say_broken(done)
        _ask(janus, task, requests, done, folder)
        predictions = [done[request.key] for request in requests]
        summary = _summary(janus, task, predictions, folder, settings)
        write_json(folder / SUMMARY_NAME, summary)
    return summary


def _summary(
    janus: Janus,
    task: Task,
    predictions: Sequence[Prediction],
    folder: Path,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What a run's answers come to, and what was broken.

    Raises:
        ValueError: Everything was.
    """
    whole = [prediction for prediction in predictions if "error" not in prediction]
    broken = {p["key"]: p["error"] for p in predictions if "error" in p}
    if not whole:
        key, error = next(iter(broken.items()))
        raise ValueError(
            f"every item of {settings['task']} is broken; {key}: {error}; once they are mended "
            "retry_broken (--retry-broken) asks them again"
        )
    began = time.perf_counter()
    summary = dict(settings) | task.summarise(janus, whole, folder, seed=settings["seed"])
    named = dict(list(broken.items())[:NAMED_BROKEN])
    summary["broken"] = {"n": len(broken), "items": named}
    summary["seconds"] = round(
        sum(p["seconds"] for p in predictions) + time.perf_counter() - began, 1
    )
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
        "template": janus.config.processor.template,
        "template_sha256": template_hash(janus.config.processor),
        "prompts": len(requests),
        "prompts_sha256": prompts_hash(f"{request.key}\t{request.prompt}" for request in requests),
        "checkpoint_sha256": weights_hash(janus.model),
        "dtype": str(next(janus.model.parameters()).dtype).removeprefix("torch."),
        "device": janus.device.type,
    }


@contextmanager
def claimed(folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Make the folder this run's, or check that it is, and keep other processes out of it.

    Raises:
        ValueError: It holds predictions of other settings, or another process is at work in it.
    """
    refusal = f"another process is at work in {folder}: wait for it, or give another output folder"
    with held(folder, LOCK_NAME, refusal=refusal):
        _claim(folder, settings)
        yield


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    path = folder / SETTINGS_NAME
    if path.is_file():
        keys = _differing(path, settings)
        if keys:
            raise ValueError(
                f"{folder} holds a run with other {', '.join(keys)}: give another output folder"
            )
        return
    if (folder / PREDICTIONS_NAME).exists():
        raise ValueError(
            f"{folder} holds predictions without {SETTINGS_NAME}: give another output folder"
        )
    write_json(path, dict(settings))


def read_settings(path: Path) -> dict[str, Any]:
    """What a folder's `settings.json` says.

    Raises:
        ValueError: It is no JSON, or no settings.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}): put it back, or give another output folder"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no settings: put them back, or give another output folder")
    return found


def _differing(path: Path, settings: Mapping[str, Any]) -> list[str]:
    found = read_settings(path)
    return sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))


def what_differs(
    model: Callable[[], Janus],
    task_name: str,
    *,
    limit: int | None = None,
    output: str | Path,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """What sets a folder's run, complete or not, apart from the one that `run_task` would make now.

    Args:
        model: What loads the model; not called where the folder has nothing to compare.
        task_name: As of `run_task`, like all that follow.
        limit: As there.
        output: As there.
        seed: As there.
        options: As there.

    Returns:
        Names of settings, the hash of the weights among them; none where nothing was asked yet.

    Raises:
        KeyError: Unknown task.
        ValueError: Unknown options.
    """
    folder = Path(output)
    path = folder / SETTINGS_NAME
    if not path.is_file():
        made = any((folder / name).exists() for name in (PREDICTIONS_NAME, SUMMARY_NAME))
        return [SETTINGS_NAME] if made else []
    task = build_task(task_name, {} if options is None else options)
    requests = task.requests(limit=limit, seed=seed)
    return _differing(path, _settings(model(), task_name, task, requests, limit, seed))


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
        except ValueError as error:  # no JSON, or no text
            raise ValueError(f"{path} line {number} is not JSON ({error}): delete it") from error
        if not isinstance(prediction, dict) or not isinstance(prediction.get("key"), str):
            raise ValueError(f"{path} line {number} is no prediction with its key: delete it")
        found[prediction["key"]] = prediction
    return found


def _check_pictures(
    folder: Path, requests: Sequence[Request], done: Mapping[str, Prediction]
) -> None:
    """See that what is answered was asked about today's pictures; broken items may be mended."""
    for request in requests:
        before = done.get(request.key, {"error": ""})
        if "error" not in before and before.get("pictures", []) != list(request.pictures):
            raise ValueError(
                f"{folder} answers {request.key} about other pictures than "
                f"{', '.join(request.pictures)}: give another output folder, or put them back"
            )


def _say_broken(done: Mapping[str, Prediction]) -> None:
    """Warn of what an earlier session left out, and this one does too."""
    left = [key for key, prediction in done.items() if "error" in prediction]
    if left:
        others = f" and {len(left) - 1} others" if len(left) > 1 else ""
        warnings.warn(
            f"{left[0]}{others} were broken before and stay left out: retry_broken "
            "(--retry-broken) asks them again",
            stacklevel=3,
        )


def _forget_broken(path: Path, done: Mapping[str, Prediction]) -> dict[str, Prediction]:
    """Take the broken items out of the file of predictions; whole or not at all."""
    kept = {key: prediction for key, prediction in done.items() if "error" not in prediction}
    if len(kept) < len(done):
        write_json_lines(path, kept.values())
    return kept


def _ask(
    janus: Janus,
    task: Task,
    requests: Sequence[Request],
    done: dict[str, Prediction],
    folder: Path,
) -> None:
    """Answer what is not yet in `done`, and put it there and into the file."""
    open_requests = [request for request in requests if request.key not in done]
    named = 0
    asked = len(requests) - len(open_requests)
    bar = tqdm(total=len(requests), initial=asked, desc="eval", unit="request")
    with bar, (folder / PREDICTIONS_NAME).open("a", encoding="utf-8") as file:
        for batch in batches(open_requests, task.batch_size):
            began = time.perf_counter()
            answers = task.answer(janus, batch, folder)
            # Each its share: a run that was stopped and gone on with took the sum of all.
            seconds = round((time.perf_counter() - began) / len(batch), 4)
            pictures = {request.key: request.pictures for request in batch}
            for prediction in answers:
                if pictures[prediction["key"]]:
                    prediction["pictures"] = list(pictures[prediction["key"]])
                prediction["seconds"] = seconds
                file.write(json.dumps(prediction) + "\n")
                done[prediction["key"]] = prediction
                if "error" in prediction and named < NAMED_BROKEN:
                    named += 1
                    text = f"{prediction['key']} is broken and left out: {prediction['error']}"
                    warnings.warn(text, stacklevel=2)
            file.flush()
            bar.update(len(batch))


def batches(requests: Sequence[Request], size: int) -> Iterator[list[Request]]:
    """Neighbours of one group, at most `size` at a time, in order."""
    for _, group in groupby(requests, key=lambda request: request.group):
        members = list(group)
        for start in range(0, len(members), size):
            yield members[start : start + size]
