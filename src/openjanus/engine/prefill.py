"""Prompts on their way into a cache: some tokens at a time, and from what others have run before.

A prompt is run in chunks that begin at multiples of one length, whoever else is there. So its bits
are its own, also where its first chunks are taken over from another prompt that begins alike: the
turns before in a conversation, most of all their pictures.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from openjanus.model.attention import KVCache, Run
from openjanus.model.janus import JanusModel


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefilled prompt: ready to be forked into rows."""

    cache: KVCache
    """Of one row and exactly the prompt's length."""
    logits: Tensor
    """(1, C) or (1, V): what the head makes of the last hidden state."""

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return self.cache.capacity


class PrefixCache:
    """The last few prefilled drawing prompts, by the weights' version and their ids.

    An unconditional prompt depends on its length alone, and the n images of a prompt share its
    ids, so both are prefilled once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    def get(self, ids: tuple[int, ...]) -> Prefix | None:
        """A prefix, which becomes the most recently used; None when it is not here."""
        if ids in self._prefixes:
            self._prefixes.move_to_end(ids)
        return self._prefixes.get(ids)

    def clear(self) -> None:
        """Forget all."""
        self._prefixes.clear()

    def put(self, ids: tuple[int, ...], prefix: Prefix) -> None:
        """Keep a prefix and forget the least recently used one past the size."""
        self._prefixes[ids] = prefix
        if len(self._prefixes) > self._size:
            self._prefixes.popitem(last=False)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Words, and pictures to understand in their places."""

    ids: tuple[int, ...]
    """Text ids; each picture is a run of placeholder ids."""
    images: Tensor | None
    """(I, 3, S, S), in the order of their placeholders."""
    marks: tuple[bytes, ...]
    """A hash of each picture."""
    codes: tuple[int, ...] = ()
    """Codebook ids behind the words: the beginning of a drawing."""

    @classmethod
    def of(
        cls, ids: tuple[int, ...], images: Tensor | None = None, codes: tuple[int, ...] = ()
    ) -> Prompt:
        """A prompt with its pictures hashed."""
        pictures = () if images is None else tuple(images.detach().cpu().contiguous())
        marks = tuple(hashlib.sha256(_bytes(picture)).digest() for picture in pictures)
        return cls(ids, images, marks, codes)

    def begins_with(self, other: Prompt) -> bool:
        """Whether another prompt, of words and pictures, is this one's beginning, or the same."""
        return (
            self.ids[: len(other.ids)] == other.ids
            and self.marks[: len(other.marks)] == other.marks
        )


def _bytes(picture: Tensor) -> bytes:
    return picture.view(torch.uint8).numpy().tobytes() + str(picture.dtype).encode()


class KeptPrompts:
    """The last prompts of words and pictures, for those that begin as they do.

    Args:
        max_tokens: Of all together; 0 keeps none.
        chunk: Tokens that a prompt is run in at a time.
        image_pad_id: The placeholder.
        num_image_tokens: Placeholders of a picture.
    """

    def __init__(
        self, max_tokens: int, *, chunk: int, image_pad_id: int, num_image_tokens: int
    ) -> None:
        self._max_tokens = max_tokens
        self._chunk = chunk
        self._image_pad_id = image_pad_id
        self._num_image_tokens = num_image_tokens
        self._kept: OrderedDict[int, tuple[int, Prompt, KVCache]] = OrderedDict()
        self._next = 0

    @property
    def num_tokens(self) -> int:
        """Tokens that are kept."""
        return sum(len(prompt.ids) for _, prompt, _ in self._kept.values())

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    def longest(self, version: int, prompt: Prompt) -> tuple[int, KVCache | None]:
        """How many tokens a prompt may take over, in whole chunks, and from where.

        Its last token is never among them: somebody must say what comes next.
        """
        best, found = 0, None
        for key, (made_by, other, _) in self._kept.items():
            if made_by == version and (shared := self._shared(prompt, other)) > best:
                best, found = shared, key
        if found is None:
            return 0, None
        self._kept.move_to_end(found)
        return best, self._kept[found][2]

    def _shared(self, prompt: Prompt, other: Prompt) -> int:
        pairs = zip(prompt.ids[:-1], other.ids, strict=False)
        alike = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if alike is None:
            alike = min(len(prompt.ids) - 1, len(other.ids))
        for number, (mine, theirs) in enumerate(zip(prompt.marks, other.marks, strict=False)):
            if mine != theirs:  # all before that picture's first placeholder is alike
                alike = min(alike, self._place_of(prompt, number))
                break
        return alike // self._chunk * self._chunk

    def _place_of(self, prompt: Prompt, picture: int) -> int:
        pads = (i for i, one in enumerate(prompt.ids) if one == self._image_pad_id)
        first = picture * self._num_image_tokens
        return next(place for count, place in enumerate(pads) if count == first)

    def put(self, version: int, prompt: Prompt, cache: KVCache) -> None:
        """Keep a prompt, and forget the least recently used ones that are too much with it.

        Those that it begins with are held by it; one that begins with it holds it already.
        """
        if not self._chunk <= len(prompt.ids) <= self._max_tokens:
            return
        for key, (made_by, other, _) in list(self._kept.items()):
            if made_by == version and other.begins_with(prompt):
                self._kept.move_to_end(key)
                return
            if made_by == version and prompt.begins_with(other):
                del self._kept[key]
        self._kept[self._next] = (version, prompt, cache)
        self._next += 1
        while self.num_tokens > self._max_tokens:
            self._kept.popitem(last=False)


def run_prompt(
    model: JanusModel,
    prompt: Prompt,
    *,
    image_pad_id: int,
    chunk: int,
    begun: tuple[int, KVCache | None] = (0, None),
) -> Generator[int, None, tuple[KVCache, Tensor]]:
    """Run a prompt through the decoder, a piece each time it is asked.

    Args:
        model: The model.
        prompt: At least one token.
        image_pad_id: The placeholder of pictures.
        chunk: Tokens of a piece. A picture that a piece needs is encoded first, as a piece of its
            own.
        begun: How many tokens are taken over, and from whose first row.

    Yields:
        After each piece, the tokens that it cost.

    Returns:
        A cache of one row and capacity T, and the last hidden state (1, D).
    """
    embeds = model.language_model.model.embed_tokens.weight
    length = len(prompt.ids) + len(prompt.codes)
    cache = KVCache.allocate(
        model.config.language, 1, length, device=embeds.device, dtype=embeds.dtype, zeroed=False
    )
    done, source = begun
    if source is not None:
        cache.copy_row(source, 0, [0], done)
    features: dict[int, Tensor] = {}
    codes: Tensor | None = None
    if prompt.codes:
        codes = model.embed_gen(torch.tensor([prompt.codes], device=embeds.device))  # (1, C, D)
    num_image_tokens = model.config.num_und_image_tokens
    last: Tensor | None = None
    while done < length:
        # Boundaries are multiples of the chunk, wherever one begins.
        end = min(length, (done // chunk + 1) * chunk)
        ids = torch.tensor([prompt.ids[done:end]], dtype=torch.int64, device=embeds.device)
        mask = ids == image_pad_id
        first = prompt.ids[:done].count(image_pad_id)
        needed = range(first, first + int(mask.sum())) if prompt.images is not None else range(0)
        for picture in dict.fromkeys(place // num_image_tokens for place in needed):
            if picture not in features:
                assert prompt.images is not None
                pixels = prompt.images[picture : picture + 1].to(embeds.device)
                features[picture] = model.embed_und(pixels)[0]  # (N, D)
                yield num_image_tokens
        if needed:
            rows = [features[n // num_image_tokens][n % num_image_tokens] for n in needed]
            inputs = model.embed_sequence(ids, {"und": (mask, torch.stack(rows))})
        else:
            inputs = model.embed_text(ids)
        if codes is not None and end > len(prompt.ids):
            part = slice(max(0, done - len(prompt.ids)), end - len(prompt.ids))
            inputs = torch.cat([inputs, codes[:, part]], dim=1)
        positions = torch.arange(done, end, device=ids.device)[None]
        runs = [Run(slice(0, 1), slice(0, 1), done)]
        hidden = model.language_model.model(inputs, positions=positions, cache=cache, runs=runs)
        last = hidden[:, -1]
        yield end - done
        done = end
    assert last is not None
    return cache, last


T = TypeVar("T")


def to_end(pieces: Generator[int, None, T]) -> T:
    """Run all pieces at once; what they return."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value
