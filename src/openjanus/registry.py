"""Things by name: what a recipe or a command names, and the plain options it is made with.

Nothing here imports torch.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter
from typing import Any

from openjanus.config_file import has_type, type_hints
from openjanus.rules import near

Factory = Callable[..., Any]


class Registry:
    """Factories of one kind by name: our own, those of installed packages, and a program's.

    Args:
        kind: What they make, for messages: "source", "task".
        group: Packages add factories under this group of entry points.
        own: Those that need no entry point: factories, or ``module:name`` of what is imported when
            it is built.
    """

    def __init__(
        self, kind: str, group: str, own: Mapping[str, Factory | str] | None = None
    ) -> None:
        self.kind = kind
        self.group = group
        self._factories: dict[str, Factory | str] = dict({} if own is None else own)

    def register(self, name: str, factory: Factory) -> None:
        """Make a factory known in this process.

        Raises:
            ValueError: Another factory has the name.
        """
        known = self._factories.setdefault(name, factory)
        if known is not factory:
            raise ValueError(f"{self.kind} {name!r} is taken by {known!r}: choose another name")

    def names(self) -> list[str]:
        """Every name that can be built."""
        installed = {point.name for point in entry_points(group=self.group)}
        return sorted(installed | set(self._factories))

    def build(self, name: str, options: Mapping[str, Any]) -> Any:
        """Make one.

        Raises:
            KeyError: Unknown name; the message names near matches.
            ValueError: An option that it does not have or lacks, or a value of another type or
                against a rule.
        """
        factory = self._factory(name)
        here = f"{self.kind} {name!r}"
        signature, hints = _spelt_out(factory)
        parameters = signature.parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for key, value in options.items():
            if key not in parameters and not takes_any:
                raise ValueError(f"{here}: unknown option {key!r}; {near(key, list(parameters))}")
            if key in parameters and not has_type(value, hints.get(key)):
                wanted = parameters[key].annotation
                raise ValueError(f"{here}: {key} must be {wanted}, got {value!r}")
        try:
            signature.bind(**options)
        except TypeError as error:
            raise ValueError(
                f"{here}: {error}: add it to the options of the {self.kind}"
            ) from error
        try:
            return factory(**options)
        except (TypeError, AttributeError) as error:  # a part of a value is of another type
            raise ValueError(
                f"{here} cannot be made with {dict(options)} ({error}): check their types"
            ) from error

    def _factory(self, name: str) -> Factory:
        if name in self._factories:
            known = self._factories[name]
            if isinstance(known, str):
                return EntryPoint(name=name, value=known, group=self.group).load()
            return known
        for point in entry_points(group=self.group):
            if point.name == name:
                return point.load()
        raise KeyError(f"unknown {self.kind} {name!r}; {near(name, self.names())}")


def _spelt_out(factory: Factory) -> tuple[inspect.Signature, dict[str, Any]]:
    """A factory's signature and types, the keywords of an unpacked ``TypedDict`` one by one."""
    signature = inspect.signature(factory)
    hints = type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    parameters: list[Parameter] = []
    for parameter in signature.parameters.values():
        hint = hints.get(parameter.name)
        if parameter.kind is Parameter.VAR_KEYWORD and typing.get_origin(hint) is typing.Unpack:
            (keywords,) = typing.get_args(hint)
            hints |= type_hints(keywords)
            parameters += _keyword_parameters(keywords)
        else:
            parameters.append(parameter)
    return signature.replace(parameters=parameters), hints


def _keyword_parameters(keywords: Any) -> Iterator[Parameter]:
    """The keys of a ``TypedDict``, with their types as they are written."""
    for name, written in keywords.__annotations__.items():
        yield Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if name in keywords.__required_keys__ else None,
            annotation=getattr(written, "__forward_arg__", written),
        )
