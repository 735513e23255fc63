"""Whether a run that is resumed is the one that was started: its options, and where its data lies.

Options that change nothing of what is learnt are free. Data may lie elsewhere if it is the same:
its facts, in the newest checkpoint, say so.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from openjanus.train.checkpoint import load_checkpoint, newest_checkpoint
from openjanus.train.feed import told_of_others
from openjanus.train.parse import parse_typed
from openjanus.train.run_config import RunConfig
from openjanus.train.source_config import PATH_OPTIONS

FREE_ON_RESUME = frozenset(
    [f"run.{name}" for name in ("dir", "stop_at", "resume", "save_every", "keep", "sample_every")]
    + [f"run.{name}" for name in ("log_every", "final_from", "measure_peak", "sinks")]
    + [f"run.wandb.{name}" for name in ("project", "entity", "mode")]
    + ["compile", "prefetch", "device", "id_cache", "num_workers"]
    + ["max_bad_samples", "max_bad_share"]
    + [
        "micro_batch",
        "activation_checkpointing",
        "process_timeout_s",
        "log_keys",
        "watch.every",
        "watch.margin",
    ]
)
"""Keys that change nothing of what is learnt: a resumed run may have others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A source whose data lies elsewhere now."""

    source: str
    """Its key, for instance ``sources.und[0]``."""
    option: str
    old: str | None
    new: str | None

    @property
    def told(self) -> str:
        """In words."""
        return f"{self.source}.options.{self.option} {self.old!r} -> {self.new!r}"


def plain(value: object) -> Any:
    """A configuration as YAML has it: dicts and lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def check_same_run(config: Any) -> list[Move]:
    """Refuse to go on with a run as if it had been started otherwise.

    Keys that came after the run was started have their defaults in it.

    Args:
        config: Of any kind of run; its folder holds the one that it was started with.

    Returns:
        What lies elsewhere now; ``check_moves`` says whether it is the same.

    Raises:
        ValueError: The run in the folder was started with another configuration.
    """
    run: RunConfig = config.run
    path = Path(run.dir) / "config.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    before = parse_typed(type(config), data, str(path))
    (old, old_paths), (new, new_paths) = (
        _without_paths(plain(dataclasses.asdict(it))) for it in (before, config)
    )
    old, new = _flat(old), _flat(new)
    for key in [*old, *(key for key in new if key not in old)]:
        if key not in FREE_ON_RESUME and old.get(key) != new.get(key):
            raise ValueError(_started_with(run, key, old.get(key), new.get(key)))
    places = [*old_paths, *(place for place in new_paths if place not in old_paths)]
    return [
        Move(source=place[0], option=place[1], old=old_paths.get(place), new=new_paths.get(place))
        for place in places
        if old_paths.get(place) != new_paths.get(place)
    ]


def _started_with(run: RunConfig, key: str, old: object, new: object) -> str:
    return (
        f"the run in {Path(run.dir)} was started with {key} {old!r}, got {new!r}: resume with "
        "what it was started with, or give another --run.dir"
    )


def check_moves(config: Any, moves: list[Move], facts: Mapping[str, Any]) -> None:
    """Go on with data that lies elsewhere if it is what the newest checkpoint knows, and say so.

    Args:
        config: The run.
        moves: Of ``check_same_run``.
        facts: ``facts_of_source`` of all that is read now, by the sources' keys.

    Raises:
        FileNotFoundError: The run has no checkpoint.
        ValueError: The data is another, or nothing says what it was.
    """
    if not moves:
        return
    task = load_checkpoint(newest_checkpoint(Path(config.run.dir)))["task"]
    known = {**task.get("sources", {}), **task.get("measured_on", {})}
    for move in moves:
        before, now = known.get(move.source), facts.get(move.source)
        if before is None and now is None:
            continue  # never read: nothing is learnt from it or measured on it
        if before is None or now is None or not _can_be_told(before, now):
            raise ValueError(
                f"{move.told}: whether that is the data of the checkpoint cannot be told, it has "
                "no fingerprint there: put it back where it was, or give another --run.dir"
            )
        told = told_of_others(before, now, moved=True)
        if told is not None:
            raise ValueError(
                f"{move.told}: what lies there {told} when the checkpoint was written: copy the "
                "data as it was, or start another run from these weights with --init"
            )
    measured_on = task.get("measured_on")  # none in an older checkpoint, nor of a door's training
    if measured_on is not None and measured_on.keys() != facts.keys() - task["sources"].keys():
        raise ValueError(
            f"{moves[0].told}: what is measured on would no longer be what the run trains on, or "
            "be it now: move a source alike wherever the run names it"
        )
    for move in moves:
        tqdm.write(f"moved: {move.told}, {_known_again(facts.get(move.source))}", file=sys.stderr)


def _known_again(now: Mapping[str, Any] | None) -> str:
    """What is known of a source that lies elsewhere and was not refused."""
    if now is None:
        return "which is never read"
    if now["content"] is None:
        return "of the same names and sizes; its items were not looked at"
    return "the same data"


def _can_be_told(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a checkpoint knows enough of a source to say that it is the same elsewhere."""
    # One from before items were looked at does not know what they held.
    return before["fingerprint"] is not None and (
        before.get("content") is not None or now["content"] is None
    )


def _without_paths(value: Any, where: str = "") -> tuple[Any, dict[tuple[str, str], str | None]]:
    """A configuration without the paths of its sources, and these by source and option."""
    paths: dict[tuple[str, str], str | None] = {}

    def walk(value: Any, where: str) -> Any:
        if isinstance(value, list):
            return [walk(item, f"{where}[{place}]") for place, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        kept = {}
        for key, item in value.items():
            if key == "options" and "type" in value and isinstance(item, dict):
                found = {name: path for name, path in item.items() if name in PATH_OPTIONS}
                paths.update({(where, name): path for name, path in found.items()})
                kept[key] = {name: x for name, x in item.items() if name not in PATH_OPTIONS}
            else:
                kept[key] = walk(item, f"{where}.{key}" if where else key)
        return kept

    return walk(value, where), paths


def _flat(value: object, where: str = "") -> dict[str, object]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(value, dict):
        return {where: value}
    dot = f"{where}." if where else ""
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{dot}{key}").items()}
