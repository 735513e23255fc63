"""What is said, as turns."""

from __future__ import annotations

from collections.abc import Iterable

from openjanus.data.samples import IMAGE_MARK, Turn


def asked_about_picture(pairs: Iterable[tuple[str, str]]) -> tuple[Turn, ...]:
    """Questions and their answers in turn; the picture comes before the first question."""
    turns: list[Turn] = []
    for question, answer in pairs:
        mark = "" if turns else f"{IMAGE_MARK}\n"
        turns.append(Turn(role="user", text=f"{mark}{question}"))
        turns.append(Turn(role="assistant", text=answer))
    return tuple(turns)


def told_or_asked(said: str | tuple[str, str]) -> tuple[Turn, ...]:
    """A plain text, or what is said and the reply."""
    if isinstance(said, str):
        return (Turn(role="assistant", text=said),)
    return (Turn(role="user", text=said[0]), Turn(role="assistant", text=said[1]))
