"""Recipes: a run is a YAML file, found by id (``nano/stage2``) or by path.

A recipe's ``kind`` says what is trained. ``all`` runs others one after another, each in a folder
of its own beside the others, so that each finds what it starts from; those that are complete are
left alone, those that were stopped go on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from openjanus.rules import near
from openjanus.train.checkpoint import checkpoint_steps
from openjanus.train.config import JanusTrainConfig
from openjanus.train.parallel import is_first_process
from openjanus.train.parse import apply_override, load_yaml, parse_overrides, parse_typed
from openjanus.train.runs import TrainConfig, is_complete, run_training
from openjanus.train.same_run import check_same_run
from openjanus.train.semantic_config import SemanticTrainConfig
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.text_tokenizer_config import TokenizerTrainConfig
from openjanus.train.vq_config import VQTrainConfig

KINDS: dict[str, type[TrainConfig]] = {
    "vq": VQTrainConfig,
    "semantic": SemanticTrainConfig,
    "siglip": SiglipTrainConfig,
    "tokenizer": TokenizerTrainConfig,
    "janus": JanusTrainConfig,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One recipe of a composite one."""

    folder: str
    """Where it runs, below the composite's ``run.dir``."""
    recipe: str
    """Its id or path."""
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Dotted keys that differ when it runs as a member."""


def recipe_names() -> list[str]:
    """Ids of the recipes that come with the package."""
    root = _root()
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))


def _root() -> Path:
    return Path(str(files("openjanus"))) / "recipes"


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """The plain data of a recipe.

    Raises:
        FileNotFoundError: No such id or file; the message names near matches.
        ValueError: Not a YAML mapping, or of an unknown ``kind``.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = _root() / f"{name_or_path}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"no recipe {name_or_path!r}; {near(name_or_path, recipe_names())}")
    try:
        data = load_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict) or data.get("kind") not in (*KINDS, "all"):
        kind = data.get("kind") if isinstance(data, dict) else None
        raise ValueError(f"{path}: kind must be one of {[*KINDS, 'all']}, got {kind!r}")
    return data


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """A recipe of one run, typed, with overrides applied.

    Args:
        name_or_path: For instance ``tiny/stage2``.
        overrides: ``--dotted.key value`` or ``--dotted.key=value``.

    Raises:
        FileNotFoundError: No such recipe.
        ValueError: A composite recipe, or whatever ``parse_typed`` refuses.
    """
    data = read_recipe(name_or_path)
    if data["kind"] == "all":
        raise ValueError(f"{name_or_path} is made of several runs: load one of its members")
    for name, value in parse_overrides(overrides):
        apply_override(data, name, value)
    return parse_typed(KINDS[data["kind"]], data, "")


def load_members(name_or_path: str) -> list[Member]:
    """The runs of a composite recipe, in order.

    Raises:
        ValueError: Not a composite recipe.
    """
    data = read_recipe(name_or_path)
    if data["kind"] != "all":
        raise ValueError(f"{name_or_path} is a single run of kind {data['kind']!r}")
    unknown = [key for key in data if key not in ("kind", "recipes")]
    if unknown:
        raise ValueError(
            f"{name_or_path}: unknown key {unknown[0]}; {near(unknown[0], ['recipes'])}"
        )
    members = parse_typed(dict[str, dict[str, Any]], data.get("recipes"), "recipes")
    return [
        parse_typed(Member, {"folder": folder, **member}, f"recipes.{folder}")
        for folder, member in members.items()
    ]


def run_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Path:
    """Run a recipe to its end, or to ``run.stop_at``.

    Args:
        name_or_path: For instance ``nano/stage2``, or ``tiny/all``.
        overrides: ``--run.dir DIR`` and others. For a composite recipe, ``--run.dir`` is the
            folder of all, and a member's key is written behind its folder:
            ``--stage2.run.steps 100``.

    Returns:
        The run's folder.

    Raises:
        FileNotFoundError: No such recipe, or nothing to start from.
        ValueError: A wrong key or value.
    """
    if read_recipe(name_or_path)["kind"] == "all":
        return _run_all(name_or_path, overrides)
    config = load_recipe(name_or_path, overrides)
    run_training(config)
    return Path(config.run.dir)


def read_configs(name_or_path: str, overrides: Sequence[str] = ()) -> list[tuple[str, TrainConfig]]:
    """The runs of a recipe by name, typed, without running them.

    Args:
        name_or_path: As ``run_recipe``'s.
        overrides: Likewise; without ``run.dir`` the folders lie beside each other.

    Raises:
        FileNotFoundError, ValueError: As ``run_recipe``.
    """
    if read_recipe(name_or_path)["kind"] != "all":
        return [(name_or_path, load_recipe(name_or_path, overrides))]
    _, configs = _read_all(name_or_path, overrides)
    return [(f"{member.folder} ({member.recipe})", config) for member, config in configs]


def _read_all(
    name_or_path: str, overrides: Sequence[str]
) -> tuple[Path | None, list[tuple[Member, TrainConfig]]]:
    """The folder of all, where one is named, and the members."""
    members = load_members(name_or_path)
    folders = [member.folder for member in members]
    root: Path | None = None
    own: dict[str, list[tuple[str, Any]]] = {folder: [] for folder in folders}
    for name, value in parse_overrides(overrides):
        folder, _, rest = name.partition(".")
        if name == "run.dir":
            root = Path(str(value)).expanduser()
        elif name == "run.resume":
            continue  # always so
        elif folder in own and rest:
            own[folder].append((rest, value))
        else:
            raise ValueError(
                f"unknown key {name}: {name_or_path} takes run.dir and, for a member, "
                f"FOLDER.key with FOLDER one of {', '.join(folders)}"
            )
    place = Path() if root is None else root
    return root, [(m, _member_config(m, place, own[m.folder])) for m in members]


def _run_all(name_or_path: str, overrides: Sequence[str]) -> Path:
    # All are read before the first runs, so that a wrong key is told at once.
    root, configs = _read_all(name_or_path, overrides)
    if root is None:
        raise ValueError("run.dir must name a folder: add --run.dir DIR")
    for member, config in configs:
        if is_complete(config):
            check_same_run(config)
            _tell(f"{member.folder}: complete")
            continue
        _tell(f"{member.folder}: {member.recipe}")
        run_training(config)
        if not is_complete(config):
            _tell(f"{member.folder}: stopped; the same command goes on from here")
            break
    return root


def _tell(line: str) -> None:
    if is_first_process():
        tqdm.write(line, file=sys.stderr)


def _member_config(member: Member, root: Path, own: Sequence[tuple[str, Any]]) -> TrainConfig:
    data = read_recipe(member.recipe)
    folder = root / member.folder
    for name, value in (*member.changes.items(), *own):
        apply_override(data, name, value)
    apply_override(data, "run.dir", str(folder))
    apply_override(data, "run.resume", bool(checkpoint_steps(folder)))
    try:
        return parse_typed(KINDS[data["kind"]], data, "")
    except ValueError as error:
        raise ValueError(f"{member.folder}: {error}") from error
