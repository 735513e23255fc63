"""Ids to words as they arrive."""

from __future__ import annotations

from collections.abc import Sequence

from openjanus.processor.text import TextTokenizer

_UNFINISHED = "\ufffd"  # what a tokenizer makes of bytes that are no whole character yet


class TextStream:
    """Decodes a reply id by id and watches for stop strings.

    It holds back what later ids could still take away: unfinished characters, white space at the
    end, and the beginning of a stop string.

    Args:
        tokenizer: Of the model that speaks.
        stop: Strings that end the reply and are not part of it.
    """

    def __init__(self, tokenizer: TextTokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._shown = ""
        self.stopped = False

    @property
    def text(self) -> str:
        """Everything given out so far."""
        return self._shown

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Everything taken in so far."""
        return tuple(self._ids)

    def push(self, token_id: int) -> str:
        """Take an id and return the new text, often empty; ``stopped`` says that a stop came."""
        self._ids.append(token_id)
        text = self._decode()
        found = [at for at in map(text.find, self._stop) if at >= 0]
        if found:
            self.stopped = True
            return self._show(text[: min(found)])
        text = text.rstrip(_UNFINISHED)
        return self._show(text[: len(text) - self._held_back(text)])

    def finish(self) -> str:
        """The rest, when no id comes any more."""
        return "" if self.stopped else self._show(self._decode())

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids).lstrip()

    def _held_back(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        lengths = (
            length
            for stop in self._stop
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)

    def _show(self, text: str) -> str:
        text = text.rstrip()
        piece = text[len(self._shown) :]
        self._shown += piece
        return piece
