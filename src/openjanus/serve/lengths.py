"""Texts that cannot fit, refused before a tokenizer has spent seconds on them."""

from __future__ import annotations

from collections.abc import Iterable

from openjanus.pipeline import Janus
from openjanus.serve.errors import refused


class TextLimit:
    """How many characters the words of a request may have.

    Args:
        janus: Its context holds so many tokens, none of them longer than the longest.
    """

    def __init__(self, janus: Janus) -> None:
        self._context = janus.config.language.max_position_embeddings
        self.max_chars = self._context * janus.processor.tokenizer.longest_token

    def check(self, texts: Iterable[str | None], param: str) -> None:
        """Let pass what may fit; whether it does, the tokenizer tells.

        Raises:
            ApiError: No tokenizer could make so few tokens of it.
        """
        # Spaces around a text are taken away, so they count for nothing.
        size = sum(len(text.strip()) for text in texts if text is not None)
        if size > self.max_chars:
            raise refused(
                f"the text has {size:,} characters, the context holds {self._context:,} tokens and "
                f"so never more than {self.max_chars:,}: shorten the prompt",
                param=param,
                code="context_length_exceeded",
            )
