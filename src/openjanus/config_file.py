"""Our own ``config.json``: strict to read, the same to write.

Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

from openjanus.config import (
    LLAMA_LAYERS,
    DecoderConfig,
    DoorConfig,
    DrawingConfig,
    JanusConfig,
    ProcessorConfig,
    door_configs,
)
from openjanus.quantization import QuantizationConfig
from openjanus.rules import near, require

FORMAT_VERSION = 2
"""Version of our own ``config.json``. A newer file is refused, an older one migrated."""


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had no ``drawing``: every model drew with the papers' values."""
    require("drawing" not in data, "drawing belongs to format_version 2: raise the file's to 2")
    return data | {"drawing": dataclasses.asdict(DrawingConfig())}


MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""How plain data of a version becomes data of the next."""


def parse_dataclass(cls: type, data: Mapping[str, Any], where: str) -> Any:
    """Build a frozen configuration from plain data, strictly.

    Args:
        cls: A dataclass of ``config`` (or a registered door's).
        data: Its fields by name; lists become tuples.
        where: How the message names this place, for instance ``config.json: language``.

    Raises:
        ValueError: ``data`` is not a mapping, a key is unknown, a required one is missing, or a
            value has the wrong type.
    """
    require(isinstance(data, Mapping), f"{where} must be a mapping, got {type(data).__name__}")
    fields = {item.name: item for item in dataclasses.fields(cls)}
    for key in data:
        require(key in fields, f"{where}: unknown key {key!r}; {near(str(key), list(fields))}")
    for name, item in fields.items():
        has_default = not (
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        )
        require(name in data or has_default, f"{where}: missing key {name!r}")
    hints = type_hints(cls)
    for name, value in data.items():
        require(
            has_type(value, hints.get(name)),
            f"{where}: {name} must be {fields[name].type}, got {value!r}",
        )
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})


def type_hints(owner: Any) -> dict[str, Any]:
    """Types of a class's fields or a function's parameters; empty where a module hides them."""
    try:
        return typing.get_type_hints(owner)
    except NameError:  # imported for type checkers alone: it checks its own values
        return {}


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value fits a type of numbers, words, sequences, classes and their unions.

    What this cannot judge fits: a protocol, a mapping, a literal.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return any(has_type(value, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            return False
        return all(has_type(item, arguments[0]) for item in value)
    if origin is Sequence:
        return isinstance(value, list | tuple)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float)
    if not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return True
    return isinstance(value, hint)


def parse_door(data: Mapping[str, Any], where: str) -> DoorConfig:
    """Build a door's configuration from plain data; ``type`` chooses the class."""
    require(isinstance(data, Mapping), f"{where} must be a mapping, got {type(data).__name__}")
    require("type" in data, f"{where}: missing key 'type'; known: {sorted(door_configs())}")
    kind, known = data["type"], door_configs()
    require(isinstance(kind, str), f"{where}: type must be a name, got {kind!r}")
    require(kind in known, f"{where}: unknown type {kind!r}; {near(kind, list(known))}")
    rest = {key: value for key, value in data.items() if key != "type"}
    return parse_dataclass(known[kind], rest, where)


def parse_config(data: Mapping[str, Any], where: str = "config.json") -> JanusConfig:
    """Build a ``JanusConfig`` from the plain data of our own ``config.json``.

    Raises:
        ValueError: A newer ``format_version``, an unknown or missing key, or a value against a
            rule; the message names the place.
    """
    require(isinstance(data, Mapping), f"{where} must be a mapping, got {type(data).__name__}")
    data = dict(data)
    version = data.pop("format_version", None)
    require(
        isinstance(version, int) and version >= 1,
        f"{where}: missing format_version: this is not a config.json written by openjanus",
    )
    require(
        version <= FORMAT_VERSION,
        f"{where}: format_version {version} is newer than {FORMAT_VERSION}: "
        "install a newer openjanus (pip install -U openjanus)",
    )
    for older in range(version, FORMAT_VERSION):
        try:
            data = MIGRATIONS[older](data)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    sections: dict[str, Any] = dict(data)
    parsers = {
        "language": lambda v: parse_dataclass(DecoderConfig, v, f"{where}: language"),
        "und_encoder": lambda v: parse_door(v, f"{where}: und_encoder"),
        "gen_tokenizer": lambda v: parse_door(v, f"{where}: gen_tokenizer"),
        "processor": lambda v: parse_dataclass(ProcessorConfig, v, f"{where}: processor"),
        "drawing": lambda v: parse_dataclass(DrawingConfig, v, f"{where}: drawing"),
        "quantization": lambda v: parse_dataclass(QuantizationConfig, v, f"{where}: quantization"),
        "extra_doors": lambda v: {
            name: parse_door(door, f"{where}: extra_doors.{name}") for name, door in v.items()
        },
    }
    for name, parse in parsers.items():
        if name in sections:
            value = sections[name]
            kind = type(value).__name__
            require(isinstance(value, Mapping), f"{where}: {name} must be a mapping, got {kind}")
            sections[name] = parse(value)
    return parse_dataclass(JanusConfig, sections, where)


def config_to_dict(config: JanusConfig) -> dict[str, Any]:
    """The plain data of our own ``config.json``; ``parse_config`` is its inverse."""
    data: dict[str, Any] = {"format_version": FORMAT_VERSION}
    data["language"] = {
        name: value
        for name, value in dataclasses.asdict(config.language).items()
        # A Llama's file stays as it was before there were others, for older readers.
        if name not in LLAMA_LAYERS or value != LLAMA_LAYERS[name]
    }
    data["und_encoder"] = door_to_dict(config.und_encoder)
    data["gen_tokenizer"] = door_to_dict(config.gen_tokenizer)
    data["extra_doors"] = {k: door_to_dict(v) for k, v in config.extra_doors.items()}
    data["processor"] = processor_to_dict(config.processor)
    data["drawing"] = dataclasses.asdict(config.drawing)
    if config.one_vocabulary:
        data["one_vocabulary"] = True  # left out where it is not so, as in LLAMA_LAYERS
    if config.quantization is not None:
        data["quantization"] = dataclasses.asdict(config.quantization)
    return data


def processor_to_dict(processor: ProcessorConfig) -> dict[str, Any]:
    """The plain data of how words and pictures become inputs; ``parse_dataclass`` reads it."""
    data = dataclasses.asdict(processor)
    if processor.template == "deepseek":
        del data["template"]  # left out where it is not said otherwise, as in LLAMA_LAYERS
    return data


def door_to_dict(door: DoorConfig) -> dict[str, Any]:
    """The plain data of a door; ``parse_door`` is its inverse."""
    return {"type": door.type, **dataclasses.asdict(door)}  # pyright: ignore[reportArgumentType]


def load_config(path: Path) -> JanusConfig:
    """Read our own ``config.json``.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not JSON, or refused by ``parse_config``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no config.json at {path}: give a folder that openjanus wrote")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): write it again") from error
    return parse_config(data, where=str(path))


def save_config(config: JanusConfig, path: Path) -> None:
    """Write our own ``config.json``."""
    text = json.dumps(config_to_dict(config), indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
