"""What a user's values must keep, and how a message says so.

Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import fields
from typing import Any


def require(rule: bool, message: str) -> None:
    """Raise ``ValueError`` with the message unless the rule holds."""
    if not rule:
        raise ValueError(message)


def require_number(name: str, value: object) -> None:
    """Raise ``ValueError`` unless a value is one of Python's own numbers, which files hold too."""
    require(isinstance(value, int | float), f"{name} must be an int or a float, got {value!r}")


MAX_TEMPERATURE = 1_000_000
"""32 bits hold no more than 3e38, and logits are divided by it."""


def require_temperature(temperature: float) -> None:
    """Raise ``ValueError`` for what is no temperature of any sampling."""
    require_number("temperature", temperature)
    require(
        0 <= temperature < math.inf,
        f"temperature must be finite and >= 0 (0 is greedy), got {temperature}",
    )
    require(
        temperature <= MAX_TEMPERATURE,
        f"temperature must be at most {MAX_TEMPERATURE:,}, got {temperature}: "
        "long before that every id is as likely as the others",
    )


def require_positive(config: Any, *, but: str = "") -> None:
    """Raise ``ValueError`` unless every number of a configuration is positive, but one."""
    for item in fields(config):
        value = getattr(config, item.name)
        require(
            item.name == but or not isinstance(value, int | float) or value > 0 or value is False,
            f"{type(config).__name__}.{item.name} must be > 0, got {value}: give a positive size",
        )


def require_at_least_one(name: str, value: int) -> None:
    """Raise ``ValueError`` unless a number of things is at least one."""
    require(value >= 1, f"{name} must be >= 1, got {value}")


def near(name: str, known: list[str]) -> str:
    """The tail of a message about an unknown name: its near matches, or all that is known."""
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if matches:
        return "did you mean " + " or ".join(repr(match) for match in matches) + "?"
    return "known: " + ", ".join(sorted(known))
