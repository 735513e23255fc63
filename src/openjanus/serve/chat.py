"""Replies: a request's body to work, and what comes out to OpenAI's answers."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from openjanus.engine.noise import MAX_SEED, seed_or_new
from openjanus.engine.request import ChatRequest, Event, TokenEvent, TokenLogprobs
from openjanus.pipeline import Janus, Reply
from openjanus.pipeline.speaker import ChatOptions, Speaker, stop_strings
from openjanus.processor.text import TextTokenizer
from openjanus.serve.engine_thread import JobDriver
from openjanus.serve.errors import refused
from openjanus.serve.options import ServeOptions
from openjanus.serve.pictures import (
    Fetch,
    decode_pictures,
    library_messages,
    picture_parts,
    texts_of,
)
from openjanus.serve.room import Room
from openjanus.serve.schema import (
    ChatAnswer,
    ChatBody,
    ChatChunk,
    ChatUsage,
    Choice,
    ChunkChoice,
    Delta,
    Logprobs,
    ReplyMessage,
    SampledLogprob,
    TokenLogprob,
)

MAX_NEW_TOKENS = 512
"""The library's own, where a request says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplyPiece:
    """What has come to one of a request's replies."""

    index: int
    text: str
    logprobs: tuple[SampledLogprob, ...]
    reply: Reply | None
    """The whole, with the last piece."""
    seed: int
    """Of reply 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatWork:
    """What a request's thread does for a reply.

    Raises:
        ApiError: Parameters that do not go together.
    """

    room: Room
    janus: Janus
    """The model that is asked."""
    body: ChatBody
    options: ServeOptions
    fetch: Fetch | None
    """Reads what an http address holds; None where that is off."""

    def __post_init__(self) -> None:
        body = self.body
        limits = {body.max_tokens, body.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise refused(
                f"max_tokens is {body.max_tokens} and max_completion_tokens "
                f"{body.max_completion_tokens}: give one of them",
                param="max_tokens",
            )
        if body.top_logprobs and not body.logprobs:  # 0 asks for nothing
            raise refused("top_logprobs needs logprobs: true", param="top_logprobs")
        if body.stream_options is not None and not body.stream:
            raise refused("stream_options needs stream: true", param="stream_options")

    def __call__(self, driver: JobDriver) -> Iterator[ReplyPiece]:
        """Check and build the request; its pieces."""
        body = self.body
        limit = body.max_completion_tokens
        limit = body.max_tokens if limit is None else limit
        options = ChatOptions(
            system=None,
            max_new_tokens=MAX_NEW_TOKENS if limit is None else limit,
            temperature=0.0 if body.temperature is None else body.temperature,
            top_p=None if body.top_p is None else max(body.top_p, sys.float_info.min),
            stop=stop_strings(body.stop if body.stop else ()),
        )
        self.room.text_limit.check(texts_of(body.messages), "messages")
        messages = library_messages(body.messages, self.options, self.fetch)
        speaker = Speaker(self.janus.processor, driver)

        def build() -> ChatRequest:
            decode_pictures(messages, driver.stop_if_left)
            return speaker.request(messages, (), seed_or_new(body.seed), options)

        has_pictures = len(picture_parts(messages)) > 0
        first = self.room.open(driver, build) if has_pictures else build()
        driver.stop_if_left()
        top = (body.top_logprobs or 0) if body.logprobs else None
        requests = [
            dataclasses.replace(first, seed=(first.seed + index) % (MAX_SEED + 1), top_logprobs=top)
            for index in range(1 if body.n is None else body.n)
        ]
        return self._pieces(driver, speaker, requests, options)

    def _pieces(
        self,
        driver: JobDriver,
        speaker: Speaker,
        requests: list[ChatRequest],
        options: ChatOptions,
    ) -> Iterator[ReplyPiece]:
        sampled: list[list[SampledLogprob]] = [[] for _ in requests]  # and not yet told

        def watch(index: int, event: Event) -> None:
            # Like the text, log-probabilities come without the id that ends a reply.
            if (
                isinstance(event, TokenEvent)
                and event.logprobs is not None
                and event.token_id not in requests[index].stop_ids
            ):
                tokenizer = self.janus.processor.tokenizer
                sampled[index].append(_sampled(tokenizer, event.token_id, event.logprobs))

        driver.watch = watch
        for index, piece in speaker.stream(requests, options.stop):
            logprobs, sampled[index] = tuple(sampled[index]), []
            yield ReplyPiece(
                index=index,
                text=piece.text,
                logprobs=logprobs,
                reply=piece.reply,
                seed=requests[0].seed,
            )


def _sampled(tokenizer: TextTokenizer, token_id: int, told: TokenLogprobs) -> SampledLogprob:
    # Not validated: there are up to 21 of them to an id, and they are right.
    top = [
        TokenLogprob.model_construct(**_token(tokenizer, one, logprob)) for one, logprob in told.top
    ]
    picked = _token(tokenizer, token_id, told.logprob)
    return SampledLogprob.model_construct(**picked, top_logprobs=top)


def _token(tokenizer: TextTokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    text, read = _token_text(tokenizer, token_id)
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": read}  # no infinity in JSON


@functools.lru_cache(200_000)
def _token_text(tokenizer: TextTokenizer, token_id: int) -> tuple[str, list[int]]:
    """A token's text, and its bytes; what they are is the same for ever, so it is kept."""
    text = tokenizer.decode([token_id], skip_special=False)
    return text, list(tokenizer.bytes_of(token_id))


@dataclass(slots=True)
class ChatWriter:
    """Pieces to the answer, or to the events of a streamed one."""

    id: str
    model: str
    created: int
    body: ChatBody
    replies: dict[int, Reply] = field(default_factory=dict)
    logprobs: dict[int, list[SampledLogprob]] = field(default_factory=dict)

    async def answer(self, pieces: AsyncIterator[ReplyPiece]) -> ChatAnswer:
        """All replies, when the last has ended."""
        seed = 0
        async for piece in pieces:
            self._keep(piece)
            seed = piece.seed
        choices = [
            Choice(
                index=index,
                message=ReplyMessage(content=reply.text),
                logprobs=self._told(self.logprobs[index]),
                finish_reason="stop" if reply.finish_reason == "stop" else "length",
            )
            for index, reply in sorted(self.replies.items())
        ]
        return ChatAnswer(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=choices,
            usage=self.usage(),
            seed=seed,
        )

    async def events(self, pieces: AsyncIterator[ReplyPiece]) -> AsyncIterator[ChatChunk]:
        """A chunk a piece; the first of a reply says who speaks, the last how it ended."""
        begun: set[int] = set()
        piece = None
        async for piece in pieces:
            if piece.index not in begun:
                begun.add(piece.index)
                yield self._chunk(
                    piece, ChunkChoice(index=piece.index, delta=Delta(role="assistant", content=""))
                )
            self._keep(piece)
            if piece.text or piece.logprobs:
                yield self._chunk(
                    piece,
                    ChunkChoice(
                        index=piece.index,
                        delta=Delta(content=piece.text),
                        logprobs=self._told(list(piece.logprobs)),
                    ),
                )
            if piece.reply is not None:
                reason = "stop" if piece.reply.finish_reason == "stop" else "length"
                yield self._chunk(
                    piece, ChunkChoice(index=piece.index, delta=Delta(), finish_reason=reason)
                )
        asked = self.body.stream_options
        if piece is not None and asked is not None and asked.include_usage:
            chunk = self._chunk(piece)
            chunk.usage = self.usage()
            yield chunk

    def usage(self) -> ChatUsage:
        """Of the replies that have ended."""
        prompt = max((reply.usage.prompt_tokens for reply in self.replies.values()), default=0)
        completion = sum(reply.usage.completion_tokens for reply in self.replies.values())
        return ChatUsage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
        )

    def _keep(self, piece: ReplyPiece) -> None:
        self.logprobs.setdefault(piece.index, []).extend(piece.logprobs)
        if piece.reply is not None:
            self.replies[piece.index] = piece.reply

    def _told(self, logprobs: list[SampledLogprob]) -> Logprobs | None:
        return Logprobs(content=logprobs) if self.body.logprobs else None

    def _chunk(self, piece: ReplyPiece, *choices: ChunkChoice) -> ChatChunk:
        return ChatChunk(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=list(choices),
            seed=piece.seed,
        )
