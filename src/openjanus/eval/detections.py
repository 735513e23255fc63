"""GenEval from files: a folder of drawings, and what any detector found in them.

A line of the detections' file is `{"file": "00000/samples/0000.png", "detections": [{"class",
"score", "box": [x0, y0, x1, y1], "color"?}]}`, the file relative to the folder. Boxes of any score
may stand there, whether overlapping or not: thresholds are the rules' business.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from openjanus.eval.geneval import COLOURS, TAGS, Detection, check_metadata, judge, overall
from openjanus.eval.geneval import tag_scores as mean_by_tag
from openjanus.eval.layouts import WrongLayout, files_hash, need_file, need_folder, read_json_lines
from openjanus.eval.record import prompts_hash, write_json_lines
from openjanus.eval.runner import SETTINGS_NAME, read_settings
from openjanus.eval.stats import bootstrap_interval, bootstrap_macro_interval

FORMAT_VERSION: Final = 1
RULES: Final = "GenEval, plain mean of six tags, v1"
FOLDER: Final = "GenEval's folder of drawings: 00000/metadata.jsonl, 00000/samples/0000.png, ..."
LINES: Final = (
    'JSON lines of {"file": "00000/samples/0000.png", "detections": [{"class", "score", "box": '
    '[x0, y0, x1, y1], "color"?}]}'
)


PROMPTS: Final = dict(zip(TAGS, (80, 99, 80, 94, 100, 100), strict=True))
"""Of each tag."""
SAMPLES: Final = 4
"""Pictures of each prompt."""


def read_detections(path: Path, folder: Path | None = None) -> dict[str, list[Detection]]:
    """Detections by file.

    Args:
        path: The detector's file.
        folder: Of the drawings; files that are told with it are told without.

    Raises:
        WrongLayout: No such file, or a line against the format.
    """
    bases = [] if folder is None else [folder, folder.resolve()]
    found: dict[str, list[Detection]] = {}
    for number, line in enumerate(read_json_lines(path, LINES), start=1):
        try:
            told = Path(line["file"])
            base = next((base for base in bases if told.is_relative_to(base)), None)
            name = (told if base is None else told.relative_to(base)).as_posix()
            things = [_detection(thing) for thing in line["detections"]]
        except (TypeError, KeyError, ValueError) as error:
            raise WrongLayout(path, f"record {number} is wrong ({error})", LINES) from error
        if name in found:
            raise WrongLayout(path, f"has {name} twice", LINES)
        found[name] = things
    return found


def _detection(thing: Mapping[str, Any]) -> Detection:
    unknown = set(thing) - {"class", "score", "box", "color"}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    if not isinstance(thing["class"], str):
        raise ValueError(f"class must be a name, got {thing['class']!r}")
    score, box = float(thing["score"]), tuple(float(edge) for edge in thing["box"])
    if not 0 <= score <= 1:
        raise ValueError(f"score must be in [0, 1], got {score}")
    if len(box) != 4 or not (box[0] <= box[2] and box[1] <= box[3]):
        raise ValueError(f"box must be x0 <= x1 and y0 <= y1, got {list(box)}")
    colour = thing.get("color")
    if colour is not None and colour not in COLOURS:
        raise ValueError(f"color must be one of {', '.join(COLOURS)}, got {colour!r}")
    return Detection(class_name=thing["class"], score=score, box=box, colour=colour)


def read_drawings(folder: Path) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """Metadata and pictures of every prompt, pictures relative to the folder.

    Raises:
        WrongLayout: Not GenEval's folder, or a prompt without pictures.
    """
    need_folder(folder, FOLDER)
    prompts: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for place in sorted(p for p in folder.iterdir() if p.is_dir() and p.name.isdecimal()):
        lines = read_json_lines(place / "metadata.jsonl", FOLDER)
        if len(lines) != 1:
            raise WrongLayout(place / "metadata.jsonl", f"has {len(lines)} lines, not 1", FOLDER)
        try:
            check_metadata(lines[0])
        except (TypeError, ValueError) as error:
            raise WrongLayout(place / "metadata.jsonl", f"is wrong ({error})", FOLDER) from error
        # As GenEval's program: a sheet of them that somebody put there is none.
        samples = (place / "samples").glob("*.png")
        pictures = sorted(path for path in samples if path.stem.isdecimal())
        if not pictures:
            raise WrongLayout(place / "samples", "has no pictures", FOLDER)
        prompts[place.name] = (lines[0], [p.relative_to(folder).as_posix() for p in pictures])
    if not prompts:
        raise WrongLayout(folder, "has no folder 00000", FOLDER)
    return prompts


def _warn_of_files(
    file: Path,
    prompts: Mapping[str, tuple[Mapping[str, Any], Sequence[str]]],
    found: Mapping[str, Sequence[Detection]],
) -> None:
    """Warn of what is legal in a detector's file and seldom meant."""
    known = {name for _, names in prompts.values() for name in names}
    idle = [name for name in found if name not in known]
    if idle:
        warnings.warn(
            f"{file}: {len(idle)} lines are about no picture of the folder and do not count, the "
            f"first one {idle[0]}",
            stacklevel=3,
        )
    coloured = [
        name
        for metadata, names in prompts.values()
        if any("color" in entry for entry in metadata["include"])
        for name in names
    ]
    things = [thing for name in coloured for thing in found[name]]
    if things and all(thing.colour is None for thing in things):
        warnings.warn(
            f"{file}: nothing has a color in the {len(coloured)} pictures whose prompts name one, "
            "so that all of these are wrong: give color",
            stacklevel=3,
        )


def is_whole(summary: Mapping[str, Any]) -> bool:
    """Whether a summary is of four pictures of each of the benchmark's prompts."""
    return summary["prompts"] == PROMPTS and summary["samples"] == [SAMPLES]


def score_drawings(
    data: str | Path,
    detections: str | Path,
    *,
    seed: int = 0,
    detector: str | None = None,
    predictions: str | Path | None = None,
) -> dict[str, Any]:
    """Apply GenEval's rules to a folder of drawings.

    Args:
        data: The folder.
        detections: The detector's file.
        seed: Of the intervals, which resample whole prompts.
        detector: What it is called; scores of two detectors are not comparable.
        predictions: File that each picture's verdict is written to, a JSON line each.

    Returns:
        Scores 0 to 1 a tag and over all, intervals, numbers, and how the drawings were made where
        the folder says so. `overall` is None unless all six tags are there.

    Raises:
        WrongLayout: One of the two is not what it should be.
        ValueError: A picture without a line of detections.
    """
    folder, file = Path(data), Path(detections)
    prompts = read_drawings(folder)
    found = read_detections(need_file(file, LINES), folder)
    missing = [name for _, names in prompts.values() for name in names if name not in found]
    if missing:
        raise ValueError(
            f"{file} has no line for {missing[0]} and {len(missing) - 1} others: write one with "
            "empty detections where nothing was found"
        )
    _warn_of_files(file, prompts, found)
    groups: dict[str, tuple[list[float], list[str]]] = {}
    lines: list[dict[str, Any]] = []
    for prompt, (metadata, names) in prompts.items():
        values, clusters = groups.setdefault(metadata["tag"], ([], []))
        for name in names:
            verdict = judge(found[name], metadata)
            values.append(float(verdict.correct))
            clusters.append(prompt)
            asked = {"tag": metadata["tag"], "prompt": metadata.get("prompt")}
            lines.append({"key": name, **asked, **asdict(verdict)})
    groups = {tag: groups[tag] for tag in TAGS if tag in groups}
    scores = mean_by_tag({tag: [v > 0 for v in values] for tag, (values, _) in groups.items()})
    ci = {tag: bootstrap_interval(*group, seed=seed) for tag, group in groups.items()}
    whole = len(groups) == len(TAGS)
    if whole:
        ci["overall"] = bootstrap_macro_interval(groups, seed=seed)
    own = folder / SETTINGS_NAME
    summary = {
        "format_version": FORMAT_VERSION,
        "task": "geneval",
        "rules": RULES,
        "overall": round(overall(scores), 4) if whole else None,
        "tags": {tag: round(score, 4) for tag, score in scores.items()},
        "ci": {name: [round(edge, 4) for edge in edges] for name, edges in ci.items()},
        "prompts": {tag: len(set(clusters)) for tag, (_, clusters) in groups.items()},
        "samples": sorted({len(names) for _, names in prompts.values()}),
        "n": sum(len(values) for values, _ in groups.values()),
        "detector": detector,
        "prompts_sha256": prompts_hash(
            json.dumps(metadata, sort_keys=True) for metadata, _ in prompts.values()
        ),
        "detections_sha256": files_hash([file]),
        "drawings": read_settings(own) if own.is_file() else None,
    }
    if predictions is not None:
        write_json_lines(Path(predictions), lines)
    return summary
