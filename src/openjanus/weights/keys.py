"""How one checkpoint's names stand for ours: a table of prefixes, read in both directions."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SHOWN = 3
"""Tensors that a message names of each kind of fault."""


@dataclass(frozen=True, slots=True)
class KeyTable:
    """Renames of prefixes, the first that fits; ``{}`` stands for a number.

    Where theirs are several, our tensor is theirs one below the other, in that order.
    """

    owner: str
    """Whose names these are, for messages."""
    rules: tuple[tuple[str, str | tuple[str, ...]], ...]
    """(our prefix, theirs)."""
    unbatched: tuple[str, ...] = ()
    """Our names of tensors that the checkpoint stores without their leading 1."""
    dropped: tuple[str, ...] = ()
    """Patterns of names that checkpoints hold and that no model of ours has, on purpose."""

    def names(self, key: str) -> tuple[str, ...]:
        """Our name of a parameter -> the checkpoint's names of its parts.

        Raises:
            KeyError: No prefix of ours fits.
        """
        return _names(self.rules, key)

    def stored_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of our parameter -> the shape of each of its parts in the checkpoint."""
        if key in self.unbatched:
            return shape[1:]
        return (shape[0] // len(self.names(key)), *shape[1:])

    def key(self, name: str) -> tuple[str, int]:
        """A checkpoint's name -> our name, and which of its parts this is.

        Raises:
            KeyError: No prefix of the checkpoint's fits.
        """
        prefixes: list[str] = []
        for ours, theirs in self.rules:
            for part, prefix in enumerate((theirs,) if isinstance(theirs, str) else theirs):
                renamed = _rename(name, prefix, ours)
                if renamed is not None:
                    return renamed, part
                prefixes.append(prefix)
        raise KeyError(
            f"{name!r} is no name of {self.owner}: known prefixes are {', '.join(prefixes)}"
        )

    def is_dropped(self, name: str) -> bool:
        """Whether a name is one of those that are left out on purpose."""
        return any(re.fullmatch(pattern, name) for pattern in self.dropped)


@functools.cache
def _names(rules: tuple[tuple[str, str | tuple[str, ...]], ...], key: str) -> tuple[str, ...]:
    for ours, theirs in rules:
        match = _prefix(ours).match(key)
        if match is not None:
            parts = (theirs,) if isinstance(theirs, str) else theirs
            return tuple(part.format(*match.groups()) + key[match.end() :] for part in parts)
    known = ", ".join(ours for ours, _ in rules)
    raise KeyError(f"{key!r} is no name of JanusModel: known prefixes are {known}")


def _rename(name: str, old: str, new: str) -> str | None:
    """``name`` with another prefix; None where it has not this one."""
    match = _prefix(old).match(name)
    if match is None:
        return None
    return new.format(*match.groups()) + name[match.end() :]


@functools.cache
def _prefix(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)"))


def check_names(
    source: object, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Names and shapes must agree exactly; one message says all that does not.

    Raises:
        ValueError: A tensor is missing, unexpected or of another shape.
    """
    faults = {
        "missing": [f"{key} {expected[key]}" for key in expected if key not in found],
        "unexpected": [f"{key} {found[key]}" for key in found if key not in expected],
        "of another shape": [
            f"{key} is {found[key]}, expected {expected[key]}"
            for key in expected
            if key in found and found[key] != expected[key]
        ],
    }
    parts = [_told(names, fault) for fault, names in faults.items() if names]
    if parts:
        raise ValueError(
            f"{source} does not hold the model that its config.json describes: "
            f"{', '.join(parts)}: put the files of one model together"
        )


def _told(names: Iterable[str], fault: str) -> str:
    names = list(names)
    return f"{len(names)} {fault} ({'; '.join(names[:SHOWN])}{' ...' if names[SHOWN:] else ''})"
