"""The text tokenizer, with special ids resolved by name: they differ between checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path

from tokenizers import (
    AddedToken,
    Encoding,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)

from openjanus.config import ProcessorConfig

NUM_BYTES = 256
LONG_TEXT = 10_000
"""Characters of a text that takes a tokenizer more than some milliseconds."""
HAN = "[\u4e00-\u9fff]"
"""A Chinese character of the basic block."""


class TextTokenizer:
    """Words to ids and back; adds nothing on its own, neither BOS nor EOS."""

    def __init__(
        self, tokenizer: Tokenizer, config: ProcessorConfig, *, name: str = "this tokenizer"
    ) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: Any that knows the special tokens of ``config``.
            config: Names of the special tokens.
            name: What messages call it, for instance its file.

        Raises:
            KeyError: A special token is missing.
        """
        self._tokenizer = tokenizer
        self._name = name
        self.bos_id = self._id_of(config.bos_token)
        self.eos_id = self._id_of(config.eos_token)
        self.pad_id = self._id_of(config.pad_token)
        self.boi_id = self._id_of(config.boi_token)
        self.eoi_id = self._id_of(config.eoi_token)
        self.image_pad_id = self._id_of(config.image_token)
        added = tokenizer.get_added_tokens_decoder()
        # The byte-level decoder would take an added letter, "ö" in DeepSeek's, for a byte.
        is_bytes = isinstance(tokenizer.decoder, decoders.ByteLevel)
        self._verbatim = {i: token.content for i, token in added.items()} if is_bytes else {}
        self._special_ids = frozenset(i for i, token in added.items() if token.special) | {
            self.bos_id,
            self.eos_id,
            self.pad_id,
            self.boi_id,
            self.eoi_id,
            self.image_pad_id,
        }

    def _id_of(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise KeyError(
                f"{self._name} has no token {token!r}: use the tokenizer of this checkpoint, "
                "or name its own token in the config's processor section"
            )
        return found

    @classmethod
    def from_file(cls, path: Path | str, config: ProcessorConfig) -> TextTokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Not a tokenizer file.
            KeyError: A special token is missing.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no tokenizer at {path}: give a tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises bare Exception, nothing narrower
            raise ValueError(f"{path} is not a tokenizer.json ({error}): write it again") from error
        return cls(tokenizer, config, name=str(path))

    def save(self, path: Path | str) -> None:
        """Write ``tokenizer.json``; ``from_file`` reads it."""
        self._tokenizer.save(str(path))

    def to_json(self) -> str:
        """The whole tokenizer as text: what ``save`` writes, for hashing and comparing."""
        return self._tokenizer.to_str()

    @property
    def vocab_size(self) -> int:
        """The highest id + 1 (a model's table may be larger, never smaller)."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token: no text has more than that for each of its ids."""
        return max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)))

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; a special token written out in it becomes its id.

        Raises:
            ValueError: Half a character, as a terminal of another encoding makes them.
        """
        return self._encode(text).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """``encode``, and the (start, end) characters that each id stands for."""
        encoding = self._encode(text)
        return encoding.ids, encoding.offsets

    def _encode(self, text: str) -> Encoding:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text holds {text[error.start]!r}, which is no whole character: write UTF-8"
            ) from error
        if (
            len(text) > LONG_TEXT
        ):  # a batch lets other threads run meanwhile, which ``encode`` does not
            return self._tokenizer.encode_batch([text], add_special_tokens=False)[0]
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ``ids``; bytes that are no whole character come out as U+FFFD.

        Args:
            ids: Any ids; those outside the vocabulary stand for nothing.
            skip_special: Whether special tokens are left out.
        """
        kept = [i for i in ids if not (skip_special and i in self._special_ids)]
        parts: list[str] = []
        for is_added, run in groupby(kept, key=self._verbatim.__contains__):
            if is_added:
                parts += [self._verbatim[i] for i in run]
            else:
                parts.append(self._tokenizer.decode(list(run), skip_special_tokens=False))
        return "".join(parts)

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that an id stands for, be they a part of a character."""
        token = self._tokenizer.id_to_token(token_id)
        is_bytes = isinstance(self._tokenizer.decoder, decoders.ByteLevel)
        if token is None or not is_bytes or token_id in self._verbatim:
            return self.decode([token_id], skip_special=False).encode()
        return bytes(self._byte_of[symbol] for symbol in token)

    @cached_property
    def _byte_of(self) -> dict[str, int]:
        return {symbol: byte for byte, symbol in enumerate(_byte_symbols())}

    def has_token(self, token: str) -> bool:
        """Whether a text is one token of the vocabulary."""
        return self._tokenizer.token_to_id(token) is not None

    def is_special(self, token_id: int) -> bool:
        """Whether an id is a special token, not text."""
        return token_id in self._special_ids


def special_tokens(config: ProcessorConfig) -> list[str]:
    """The added tokens of a tokenizer made here, in the order of their ids.

    Role names are among them unless they are plain words, which would then be cut out of prose.
    """
    tokens = [config.bos_token, config.eos_token, config.pad_token]
    tokens += [config.boi_token, config.eoi_token, config.image_token]
    return tokens + [r for r in (config.user_role, config.assistant_role) if not r.isalpha()]


def add_special_tokens(tokenizer: Tokenizer, config: ProcessorConfig) -> None:
    """Make the tokens of a configuration special ones; those that are not there get the next ids.

    Args:
        tokenizer: Changed in place.
        config: Names of the special tokens and roles.
    """
    tokenizer.add_special_tokens(_added(config))


def byte_tokenizer(config: ProcessorConfig) -> TextTokenizer:
    """A tokenizer that needs no training: id b is byte b, special tokens follow."""
    vocab = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    tokenizer = _byte_level(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens(_added(config))
    return TextTokenizer(tokenizer, config, name="the byte tokenizer")


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    config: ProcessorConfig,
    *,
    split_han: bool = False,
) -> TextTokenizer:
    """Train a byte-level BPE: the same texts give the same tokenizer.

    Args:
        texts: What to learn merges from, read once.
        vocab_size: Ids wanted, special tokens included; few texts may give fewer.
        config: Names of the special tokens and roles, which take the first ids.
        split_han: Whether no merge goes beyond one Chinese character. Chinese has no spaces, so
            merges would else take in whole phrases, a number with its thing among them.

    Raises:
        ValueError: ``vocab_size`` has no room for all bytes and special tokens.
    """
    least = NUM_BYTES + len(special_tokens(config))
    if vocab_size < least:
        raise ValueError(
            f"vocab_size must be >= {least} (all bytes and special tokens), got {vocab_size}"
        )
    tokenizer = _byte_level(models.BPE())
    if split_han:
        each = pre_tokenizers.Split(Regex(HAN), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [each, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_added(config),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TextTokenizer(tokenizer, config, name="the trained tokenizer")


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _added(config: ProcessorConfig) -> list[AddedToken]:
    return [AddedToken(t, special=True, normalized=False) for t in special_tokens(config)]


def _byte_symbols() -> list[str]:
    """The printable character that byte-level tokenizers write for each byte (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(NUM_BYTES) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable}
    symbols |= {byte: chr(NUM_BYTES + index) for index, byte in enumerate(hidden)}
    return [symbols[byte] for byte in range(NUM_BYTES)]
