"""Answering: messages to requests, and the engine's ids to words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openjanus.engine.noise import seed_or_new
from openjanus.engine.request import ChatRequest, FinishedEvent, TokenEvent
from openjanus.pipeline.driver import EngineDriver
from openjanus.pipeline.results import Piece, Reply, Usage
from openjanus.pipeline.text_stream import TextStream
from openjanus.processor.chat import parse_messages
from openjanus.processor.image import ImageLike
from openjanus.processor.prompt import Processor

Messages = str | Sequence[Mapping[str, Any]]
"""A question, or messages in OpenAI's shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatOptions:
    """How a reply is made, beside its messages and seed."""

    system: str | None
    max_new_tokens: int
    temperature: float
    top_k: int | None = None
    top_p: float | None
    stop: tuple[str, ...]


class Speaker:
    """What ``Janus`` answers with."""

    def __init__(self, processor: Processor, driver: EngineDriver) -> None:
        self._processor = processor
        self._driver = driver

    def request(
        self,
        messages: Messages,
        images: Sequence[ImageLike],
        seed: int | None,
        options: ChatOptions,
    ) -> ChatRequest:
        """A checked request; see ``Janus.chat`` for what it raises."""
        dialogue = parse_messages(messages, images)
        system = one_system(options.system, dialogue.system)
        prompt = self._processor.und_prompt(dialogue.turns, dialogue.images, system=system)
        request = ChatRequest(
            input_ids=prompt.input_ids,
            images=prompt.images,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=seed_or_new(seed),
            stop_ids=(self._processor.tokenizer.eos_id,),
        )
        self._driver.engine.check(request)
        return request

    def reply(self, requests: list[ChatRequest], stop: tuple[str, ...]) -> list[Reply]:
        """The reply of every request."""
        replies: dict[int, Reply] = {}
        for index, piece in self.stream(requests, stop):
            if piece.reply is not None:
                replies[index] = piece.reply
        return [replies[index] for index in range(len(requests))]

    def stream(
        self, requests: list[ChatRequest], stop: tuple[str, ...]
    ) -> Iterator[tuple[int, Piece]]:
        """Pieces of all replies, each with the index of its request."""
        streams = [TextStream(self._processor.tokenizer, stop) for _ in requests]
        for index, event in self._driver.run(requests):
            stream, request = streams[index], requests[index]
            if stream.stopped:  # a stop string ended with the last id of all
                continue
            if isinstance(event, TokenEvent):
                text = stream.push(event.token_id)
                if not stream.stopped:
                    if text:
                        yield index, Piece(text=text, reply=None)
                    continue
                self._driver.cancel(event.request_id)
                reason = "stop"
            else:
                assert isinstance(event, FinishedEvent)
                text, reason = stream.finish(), event.finish_reason
            reply = Reply(
                text=stream.text,
                token_ids=stream.token_ids,
                finish_reason=reason,
                usage=Usage(
                    prompt_tokens=len(request.input_ids), completion_tokens=len(stream.token_ids)
                ),
                seed=request.seed,
            )
            yield index, Piece(text=text, reply=reply)


def stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """One stop string or several as a tuple.

    Raises:
        ValueError: One is empty or not a string.
    """
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(one, str) and one for one in stops):
        raise ValueError(f"stop must hold non-empty strings, got {stop!r}: () is none")
    return stops


def one_system(option: str | None, message: str | None) -> str | None:
    """The system prompt, given as an option, as a message, or not at all.

    Raises:
        ValueError: It is given twice.
    """
    if option is not None and message is not None:
        raise ValueError(
            "a system prompt is given twice, as an option and as a message: leave one out"
        )
    return message if option is None else option
