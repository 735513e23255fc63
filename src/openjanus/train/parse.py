"""Plain data to the classes of a run: strict, typed, and with one-line errors."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from openjanus.rules import near


def parse_typed(hint: Any, value: Any, where: str) -> Any:
    """Turn plain data into a value of a type.

    Args:
        hint: A dataclass, ``Literal``, ``int``, ``float``, ``bool``, ``str``, ``Any``, a union
            with None, or a list, tuple or string-keyed dict of these.
        value: What YAML gave.
        where: The dotted path, for messages.

    Raises:
        ValueError: The value is not of the type, a key is unknown or missing, or a rule of a
            dataclass is broken; the message names the path.
    """
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _parse_dataclass(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _parse_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise ValueError(f"{where} must be one of {list(arguments)}, got {value!r}")
        return value
    if origin is list:
        items = _sequence(value, where)
        return [parse_typed(arguments[0], x, f"{where}.{i}") for i, x in enumerate(items)]
    if origin is tuple:
        items = _sequence(value, where)
        if len(items) != len(arguments):
            raise ValueError(f"{where} must have {len(arguments)} values, got {value!r}")
        pairs = zip(arguments, items, strict=True)
        return tuple(parse_typed(t, x, f"{where}.{i}") for i, (t, x) in enumerate(pairs))
    if origin is dict:
        items = _mapping(value, where).items()
        return {str(key): parse_typed(arguments[1], x, f"{where}.{key}") for key, x in items}
    return _parse_scalar(hint, value, where)


def _parse_dataclass(cls: Any, value: Any, where: str) -> Any:
    data = _mapping(value, where)
    hints = get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}
    dot = f"{where}." if where else ""
    for key in data:
        if key not in fields:
            raise ValueError(f"unknown key {dot}{key}; {near(str(key), list(fields))}")
    for name, item in fields.items():
        required = (
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        )
        if required and name not in data:
            raise ValueError(f"missing key {dot}{name}: add it to the recipe, or --{dot}{name}")
    return cls(**{name: parse_typed(hints[name], x, f"{dot}{name}") for name, x in data.items()})


def _parse_union(options: Sequence[Any], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    (only,) = [option for option in options if option is not type(None)]
    return parse_typed(only, value, where)


def _parse_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float:
        number = _as_float(value)
        if number is not None:
            return number
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{where} must be {hint.__name__}, got {value!r}")


def _as_float(value: Any) -> float | None:
    """A number; YAML 1.1 reads ``1e-4``, without a point, as a word."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where or 'the recipe'} must be a mapping, got {value!r}")
    return value


def _sequence(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} must be a list, got {value!r}")
    return value


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """Read ``--a.b value`` and ``--a.b=value``; values are YAML.

    Raises:
        ValueError: Not of this form.
    """
    result: list[tuple[str, Any]] = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or len(flag) == 2:
            raise ValueError(f"expected --key value, got {flag!r}: name the key to change")
        name, equals, text = flag[2:].partition("=")
        if not equals:
            if not rest:
                raise ValueError(f"--{name} needs a value, got none: write --{name} VALUE")
            text = rest.pop(0)
        result.append((name, _parse_yaml(text, f"--{name}")))
    return result


class _Loader(yaml.SafeLoader):
    """YAML without dates: no key takes one, and a folder may be called like one."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:timestamp"]
    for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: str) -> Any:
    """Plain data; what looks like a date stays the word that it is.

    Raises:
        yaml.YAMLError: Not YAML.
    """
    return yaml.load(text, Loader=_Loader)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{where}: {text!r} is not valid YAML ({problem}): quote it") from error


def apply_override(data: dict[str, Any], name: str, value: Any) -> None:
    """Set a dotted key of plain data in place; whether it exists is checked by ``parse_typed``.

    Raises:
        ValueError: The path goes through something that has no keys.
    """
    *folders, last = name.split(".")
    place: Any = data
    for depth, folder in enumerate(folders):
        place = place.setdefault(folder, {})
        if not isinstance(place, dict):
            path = ".".join(folders[: depth + 1])
            raise ValueError(f"--{name}: {path} is a {type(place).__name__}: set it as a whole")
    place[last] = value
