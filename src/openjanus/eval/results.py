"""What folders of results say: every figure with its interval, and which stand beside which.

Figures are of one column only where task, rules, limit and questions are one: a rule or a judge of
another kind makes another number. Read from `summary.json` by its shape, so that a task of another
package is read too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from openjanus.eval import detections, frechet, graph_answers, runner
from openjanus.eval.geneval import TAGS

VERSIONS: Final = {
    "geneval": detections.FORMAT_VERSION,
    "dpg": graph_answers.FORMAT_VERSION,
    "frechet": frechet.FORMAT_VERSION,
}
"""Newest format of the summaries that are made from files; all others are the runner's."""
HASH: Final = 8
"""Characters of a hash that a header shows."""
NAMED: Final = frozenset({"detector", "features", "resize"})
"""Marks that are names, which a header shows whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One number of one run."""

    value: float | None
    interval: tuple[float, float] | None = None
    """95 %, of the same scale."""
    n: int | None = None
    broken: int = 0
    """Items that could not be asked and do not count."""
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """The figures of a run that are of one set of rules."""

    task: str
    title: str
    rules: str
    rule: str | None
    """The rule's name, where the task has several."""
    unit: str
    """"percent", "points", "share" (0 to 1), or another that is not drawn to a scale."""
    limit: int | None
    marks: Mapping[str, str]
    """What else must be the same for figures to be comparable: name -> value."""
    files: tuple[str, ...] = ()
    """Of the questions."""
    main: Figure | None = None
    parts: Mapping[str, Figure] = field(default_factory=dict)
    whole: bool = True
    """Whether the benchmark was asked whole, beside the limit; False where that is not known."""
    like: str = ""
    """Task whose figures in the papers are beside these, though never in one column."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal where figures may stand in one column."""
        marks = tuple(sorted(self.marks.items()))
        return (self.task, self.title, self.rules, self.limit, self.whole, marks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What one folder says."""

    folder: Path
    blocks: tuple[Block, ...]


def is_result(folder: Path) -> bool:
    """Whether a folder is one that `openjanus eval` wrote into, complete or not."""
    return any((folder / name).is_file() for name in (runner.SUMMARY_NAME, runner.SETTINGS_NAME))


def read_result(folder: Path) -> Result:
    """The figures of a complete result.

    Raises:
        FileNotFoundError: No summary: nothing is there, or the run was stopped.
        ValueError: A newer format, drawings that nothing has judged, or no figure that is known.
    """
    path = folder / runner.SUMMARY_NAME
    if not path.is_file():
        raise FileNotFoundError(_why_no_summary(folder))
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is not JSON ({error}): run openjanus eval again") from error
    if not isinstance(summary, dict) or not isinstance(summary.get("format_version"), int):
        raise ValueError(f"{path} has no format_version: give a folder that openjanus eval wrote")
    if "layout" in summary and "task" not in summary:
        raise ValueError(
            f"{folder} holds drawings that nothing has judged: score what a detector found in them "
            f"with openjanus eval --task geneval --data {folder} --detections FILE --output DIR, "
            "and give DIR"
        )
    newest = VERSIONS.get(str(summary.get("task")), runner.FORMAT_VERSION)
    if summary["format_version"] > newest:
        raise ValueError(
            f"{path}: format_version {summary['format_version']} is newer than {newest}: "
            "install a newer openjanus (pip install -U openjanus)"
        )
    try:
        blocks = _blocks(summary)
        for block in blocks:
            _check(block)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} is no whole summary ({error!r}): run openjanus eval again"
        ) from error
    if not blocks:
        raise ValueError(
            f"{path}: task {summary['task']!r} states no figure that a report knows: a summary has "
            "score {name, value, unit, interval}"
        )
    return Result(folder=folder, blocks=tuple(blocks))


def _why_no_summary(folder: Path) -> str:
    settings = folder / runner.SETTINGS_NAME
    if not settings.is_file():
        return f"no {runner.SUMMARY_NAME} in {folder}: give a folder that openjanus eval wrote"
    done = runner.PREDICTIONS_NAME
    lines = (folder / done).read_bytes().count(b"\n") if (folder / done).is_file() else 0
    asked = runner.read_settings(settings).get("prompts", "?")
    return (
        f"the result in {folder} is not complete ({lines} of {asked} answers): give its "
        "openjanus eval command again, which goes on from there"
    )


def _blocks(summary: Mapping[str, Any]) -> list[Block]:
    if "drawing" in summary:
        return _world_blocks(summary)
    if "accuracy" in summary:
        return [_accuracy_block(summary)]
    if "tags" in summary:
        return [_geneval_block(summary)]
    if "perplexity" in summary:
        return [_perplexity_block(summary)]
    if "frechet_distance" in summary:
        return [_frechet_block(summary)]
    return [_benchmark_block(summary)] if "score" in summary else []


def _check(block: Block) -> None:
    """See that words are words and figures numbers, which nobody else's summary must keep.

    Raises:
        TypeError: One is not.
    """
    for name in ("task", "title", "rules", "unit"):
        if not isinstance(getattr(block, name), str):
            raise TypeError(f"{name} is {getattr(block, name)!r}")
    figures = dict(block.parts) if block.main is None else {"score": block.main, **block.parts}
    for name, figure in figures.items():
        if not isinstance(figure.value, int | float | None):
            raise TypeError(f"{name} is {figure.value!r}")


def _benchmark_block(summary: Mapping[str, Any]) -> Block:
    """A benchmark of questions, or DPG-Bench: a headline, or a file for a server."""
    options = summary.get("options", {})
    score, broken = summary["score"], summary.get("broken", {}).get("n", 0)
    files = tuple(options.get("files", ()))
    marks = {"files": options.get("files_sha256", summary.get("questions_sha256", ""))}
    main = Figure(value=None, n=summary["n"], broken=broken, note=summary.get("submission", "-"))
    unit, title = "points" if summary["task"] == "mme" else "percent", summary["task"]
    if score is not None:
        unit, title = score["unit"], score["name"]
        interval = _pair(score["interval"])
        main = Figure(value=score["value"], interval=interval, n=summary["n"], broken=broken)
    parts: dict[str, Figure] = {}
    for name, value in summary.get("categories", {}).items() if summary["task"] == "dpg" else ():
        parts[name] = Figure(value=value)
    for name, figures in summary.get("splits", {}).items():
        edges = [100 * edge for edge in summary["f1_ci"][name]]
        parts[name] = Figure(value=100 * figures["f1"], interval=_pair(edges))
    for name, value in summary.get("tasks", {}).items() if summary["task"] == "mme" else ():
        # The first summaries had no intervals of tasks.
        parts[name] = Figure(value=value, interval=_edges(summary.get("tasks_ci", {}), name))
    if "cognition_ci" in summary:
        parts["cognition"] = Figure(
            value=summary["cognition"], interval=_pair(summary["cognition_ci"])
        )
    return Block(
        task=summary["task"],
        title=title,
        rules=summary["rules"],
        rule=options.get("rule"),
        unit=unit,
        limit=summary.get("limit"),
        marks=marks,
        whole=summary["task"] != "dpg" or graph_answers.is_whole(summary),
        files=files,
        main=main,
        parts=parts,
    )


def _geneval_block(summary: Mapping[str, Any]) -> Block:
    ci = summary["ci"]
    overall = summary["overall"]
    note = "" if overall is not None else "not all six tags"
    detector = summary.get("detector")
    detector = "not named" if detector is None else detector
    return Block(
        task=summary["task"],
        title="GenEval overall",
        rules=summary["rules"],
        rule=None,
        unit="share",
        limit=summary.get("limit"),
        # The first summaries told neither.
        marks={"prompts": summary.get("prompts_sha256", ""), "detector": detector},
        whole="samples" in summary and detections.is_whole(summary),
        main=Figure(value=overall, interval=_edges(ci, "overall"), n=summary["n"], note=note),
        parts={
            tag: Figure(value=value, interval=_edges(ci, tag))
            for tag, value in summary["tags"].items()
        },
    )


def _world_blocks(summary: Mapping[str, Any]) -> list[Block]:
    """Drawing by tags, as the tasks of a world have it, and answers by kinds."""
    drawing = summary["drawing"]
    if "overall" not in drawing:  # the same in several languages
        return [
            _judged_block(summary, scores, f"drawing overall, {language} prompts", summary["rules"])
            for language, scores in drawing.items()
        ]
    rules, _, answers = summary["rules"].partition("; ")
    judged = _judged_block(summary, drawing, "drawing overall", rules)
    told, details = summary["understanding"], summary["details"]
    kinds = {kind: value for kind, value in told.items() if kind not in ("blind", "n")}
    asked = Block(
        task=summary["task"],
        title="answers",
        rules=answers,
        rule=None,
        unit="share",
        limit=summary.get("limit"),
        marks={"artwork": judged.marks.get("artwork", "")},
        parts={
            kind: Figure(
                value=value,
                interval=_edges(details["understanding_ci"], kind),
                note=f"blind {told['blind'][kind]:.3f}",
            )
            for kind, value in kinds.items()
        },
    )
    return [judged, asked]


def _judged_block(
    summary: Mapping[str, Any], drawing: Mapping[str, Any], title: str, rules: str
) -> Block:
    options = summary["options"]
    names = {"judge": "judge_sha256", "artwork": "sprites_sha256"}
    ceiling = f"ceiling {drawing['ceiling']:.3f}" if "ceiling" in drawing else ""
    return Block(
        task=summary["task"],
        title=title,
        rules=rules,
        rule=None,
        unit="share",
        limit=summary.get("limit"),
        marks={mark: options[name] for mark, name in names.items() if name in options},
        main=Figure(
            value=drawing["overall"],
            interval=_edges(drawing["ci"], "overall"),
            n=drawing["n"],
            note=ceiling,
        ),
        parts={
            tag: Figure(value=value, interval=_edges(drawing["ci"], tag))
            for tag, value in drawing["tags"].items()
        },
        like="geneval" if set(drawing["tags"]) == set(TAGS) else "",
    )


def _accuracy_block(summary: Mapping[str, Any]) -> Block:
    blind = summary.get("blind")
    return Block(
        task=summary["task"],
        title=f"{summary['task']} accuracy",
        rules=summary["rules"],
        rule=None,
        unit="share",
        limit=summary.get("limit"),
        marks={},
        main=Figure(
            value=summary["accuracy"],
            interval=_pair(summary["ci"]),
            n=summary["n"]["all"],
            note="" if blind is None else f"blind {blind['accuracy']:.3f}",
        ),
        parts={
            kind: Figure(value=value, interval=_edges(summary["kinds_ci"], kind))
            for kind, value in summary["kinds"].items()
        },
    )


def _perplexity_block(summary: Mapping[str, Any]) -> Block:
    return Block(
        task=summary["task"],
        title="perplexity",
        rules=summary["rules"],
        rule=None,
        unit="perplexity",
        limit=summary.get("limit"),
        marks={},
        parts={
            name: Figure(value=value, n=summary["n"][name])
            for name, value in summary["perplexity"].items()
        },
    )


def _frechet_block(summary: Mapping[str, Any]) -> Block:
    return Block(
        task=summary["task"],
        title="Frechet distance",
        rules=summary["rules"],
        rule=None,
        unit="distance",
        limit=None,
        marks={
            "reference": summary["reference_sha256"],
            # The first summaries did not say.
            **{name: summary.get(name, "not named") for name in ("features", "resize")},
        },
        main=Figure(value=summary["frechet_distance"], n=summary["n"]),
    )


def _edges(ci: Mapping[str, Sequence[float]], name: str) -> tuple[float, float] | None:
    return _pair(ci[name]) if name in ci else None


def _pair(edges: Sequence[float]) -> tuple[float, float]:
    low, high = edges
    return float(low), float(high)


def headers(blocks: Iterable[Block]) -> dict[tuple[Any, ...], str]:
    """Title of each column by key: the rules always, a limit, and what else tells two apart."""
    known = {block.key: block for block in blocks}
    titles: dict[tuple[Any, ...], str] = {}
    for key, block in known.items():
        alike = [
            other
            for other in known.values()
            if (other.task, other.title, other.rules, other.limit, other.whole)
            == (block.task, block.title, block.rules, block.limit, block.whole)
        ]
        words = [block.rules]
        if block.limit is not None:
            words.append(f"first {block.limit} of each part alone")
        if not block.whole:
            words.append("not the whole benchmark")
        words += [
            f"{mark} {value if mark in NAMED else value[:HASH]}"
            for mark, value in block.marks.items()
            if len({other.marks.get(mark) for other in alike}) > 1
        ]
        titles[key] = f"{block.title} ({'; '.join(words)})"
    return titles


def run_labels(runs: Iterable[Path]) -> dict[Path, str]:
    """Names of folders, with those of the folders around them where several are alike."""
    known = list(dict.fromkeys(runs))
    labels = {}
    for run in known:
        parts = run.parts
        count = next(
            (
                count
                for count in range(1, len(parts) + 1)
                if all(other == run or other.parts[-count:] != parts[-count:] for other in known)
            ),
            len(parts),
        )
        labels[run] = "/".join(parts[-count:])
    return labels
