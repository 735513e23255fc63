"""Bodies of requests: measured while they come, and only then parsed.

Whoever parses holds Python's lock, and the event loop stands still. So what would take long to
parse is refused by counts of a few bytes, and what is wrong with a body is told in few words.
"""

from __future__ import annotations

import re
import string
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from openjanus.rules import near
from openjanus.serve.errors import ApiError, refused

MAX_VALUES = 20_000
"""Of JSON in a body, as far as commas and brackets tell: those within texts count too."""
MAX_ESCAPES = 300_000
"""Backslashes: some clients write each slash of base64 with one."""
MAX_OTHER_BYTES = 2 * 2**20
"""Bytes that are not of base64, which files are in: spaces, and letters beyond ASCII, cost more."""
SHAPES = r"body|str|constrained-str|text|image_url|.*\[.*"
"""Parts of a place in a body that no client wrote."""
LONGEST_NAME = 80
"""Of what a client called a parameter, as far as it is said back."""
LONGEST_MESSAGE = 400
BASE64 = (string.ascii_letters + string.digits + "+/=").encode()

B = TypeVar("B", bound=BaseModel)


class BodyMeter:
    """Counts what has come of a body.

    Args:
        max_bytes: Of the whole.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._num_values = 0
        self._num_escapes = 0
        self._num_other = 0

    def expect(self, num_bytes: int) -> None:
        """A length that is promised.

        Raises:
            ApiError: It is too large.
        """
        if num_bytes > self._max_bytes:
            raise ApiError(
                413,
                f"the body has more than {self._max_bytes:,} bytes: send less",
                code="body_too_large",
            )

    def add(self, part: bytes) -> None:
        """A part that has come.

        Raises:
            ApiError: The whole is too large, or would take too long to parse.
        """
        self._num_bytes += len(part)
        self.expect(self._num_bytes)
        self._num_values += part.count(b",") + part.count(b"[") + part.count(b"{")
        self._num_escapes += part.count(b"\\")
        self._num_other += len(part.translate(None, BASE64))
        for count, limit, what in (
            (self._num_values, MAX_VALUES, "commas and brackets"),
            (self._num_escapes, MAX_ESCAPES, "backslashes"),
            (self._num_other, MAX_OTHER_BYTES, "bytes beside files in base64"),
        ):
            if count > limit:
                raise refused(
                    f"the body has more than {limit:,} {what}: send less", code="body_too_complex"
                )


def check_is_json(content_type: str) -> None:
    """Refuse what a page in a browser may send anywhere without asking.

    Raises:
        ApiError: The body is not said to be JSON.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not re.fullmatch(r"application/[\w.-]+\+json", kind):
        raise refused(
            f"the body must be sent as content-type application/json, got {kind[:LONGEST_NAME]!r}"
        )


def parse_body(kind: type[B], body: bytes) -> B:
    """A measured body, understood.

    Args:
        kind: What it must be.
        body: Passed by a ``BodyMeter``.

    Raises:
        ApiError: It is no JSON, or breaks a rule.
    """
    try:
        data = from_json(body)
    except ValueError as error:
        raise refused(f"the body is no JSON: {error}") from error
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _explained(error, list(kind.model_fields)) from error


def _explained(error: ValidationError, known: list[str]) -> ApiError:
    """What is wrong with a body that may have some known parameters."""
    errors: list[Any] = error.errors(include_url=False, include_context=False, include_input=False)
    # Where several shapes are possible, the one that went furthest is the one that was meant.
    first = max(errors, key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    # Names of shapes stand among the names of parameters.
    place = [str(part)[:LONGEST_NAME] for part in first["loc"]]  # as long as a client likes
    place = [part for part in place if not re.fullmatch(SHAPES, part)]
    param = ".".join(place) or None
    if first["type"] == "extra_forbidden":
        hint = f"; {near(place[-1], known)}" if len(place) == 1 else ""
        return refused(f"unknown parameter {param!r}{hint}", param=param, code="unknown_parameter")
    message = first["msg"].removeprefix("Value error, ")
    if len(message) > LONGEST_MESSAGE:  # values stand in the middle, rules at both ends
        message = f"{message[: LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2 :]}"
    return refused(message if param is None else f"{param}: {message}", param=param)
