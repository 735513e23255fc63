"""Unknown names of options are met with near ones, as everywhere else."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from openjanus.rules import near

_P = ParamSpec("_P")
_R = TypeVar("_R")


def names_near_options(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make the TypeError of an unknown option name its near matches."""
    known = list(inspect.signature(function).parameters)[1:]

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name in kwargs:
            if name not in known:
                hint = near(name, known)
                raise TypeError(f"{function.__name__}() has no option {name!r}; {hint}")
        return function(*args, **kwargs)

    return checked
