"""Replies in which words and pictures come in turn: messages to requests, and ids to both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import get_args

import torch
from PIL import Image
from torch import Tensor

from openjanus.engine.noise import seed_or_new
from openjanus.engine.request import ComposeRequest, FinishedEvent, ImageIdEvent, TokenEvent
from openjanus.pipeline.composition import (
    ComposedImage,
    ComposedPiece,
    ComposeOptions,
    Composition,
    Form,
)
from openjanus.pipeline.driver import EngineDriver
from openjanus.pipeline.results import Usage
from openjanus.pipeline.speaker import Messages, one_system
from openjanus.pipeline.text_stream import TextStream
from openjanus.processor.chat import parse_messages
from openjanus.processor.image import ImageLike
from openjanus.processor.prompt import Processor, Prompt
from openjanus.rules import near


class Composer:
    """What ``Janus`` composes with.

    Args:
        processor: Of the model.
        driver: Of the engine.
        decode: The picture of (N,) codebook ids.
    """

    def __init__(
        self, processor: Processor, driver: EngineDriver, decode: Callable[[Tensor], Image.Image]
    ) -> None:
        self._processor = processor
        self._driver = driver
        self._decode = decode

    def request(
        self,
        messages: Messages,
        images: Sequence[ImageLike],
        seed: int | None,
        options: ComposeOptions,
    ) -> ComposeRequest:
        """A checked request; see ``Janus.compose`` for what it raises."""
        prompt = self._prompt(messages, images, options)
        tokenizer = self._processor.tokenizer
        request = ComposeRequest(
            input_ids=prompt.input_ids,
            images=prompt.images,
            boi_id=tokenizer.boi_id,
            eoi_id=tokenizer.eoi_id,
            pad_id=tokenizer.pad_id,
            max_new_tokens=options.max_new_tokens,
            max_images=options.max_images,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            guidance_scale=options.guidance_scale,
            image_temperature=options.image_temperature,
            image_top_k=options.image_top_k,
            image_top_p=options.image_top_p,
            seed=seed_or_new(seed),
            stop_ids=(tokenizer.eos_id,),
        )
        self._driver.engine.check(request)
        return request

    def _prompt(
        self, messages: Messages, images: Sequence[ImageLike], options: ComposeOptions
    ) -> Prompt:
        if options.form not in get_args(Form):
            known = list(get_args(Form))
            raise ValueError(f"unknown form {options.form!r}; {near(str(options.form), known)}")
        if options.form == "plain" and not isinstance(messages, str):
            raise ValueError(
                "form 'plain' goes on with one text, got messages: give a string, or form 'chat'"
            )
        dialogue = parse_messages(messages, images)
        system = one_system(options.system, dialogue.system)
        if options.form == "chat":
            return self._processor.und_prompt(dialogue.turns, dialogue.images, system=system)
        if system is not None:
            raise ValueError("form 'plain' has no roles: leave the system prompt out")
        return self._processor.plain_prompt(dialogue.turns[0].text, dialogue.images)

    def stream(self, request: ComposeRequest, options: ComposeOptions) -> Iterator[ComposedPiece]:
        """Pieces of a composition; the last holds all of it."""
        tokenizer = self._processor.tokenizer
        parts: list[str | ComposedImage] = []
        codes: list[int] = []
        words = TextStream(tokenizer)
        for _, event in self._driver.run([request]):
            if isinstance(event, TokenEvent) and event.token_id != request.boi_id:
                if text := words.push(event.token_id):
                    yield ComposedPiece(text=text, image=None, composition=None)
            elif isinstance(event, ImageIdEvent):
                codes.append(event.image_id)
                if len(codes) < self._processor.config.num_gen_image_tokens:
                    continue
                ids = torch.tensor(codes, device="cpu")
                picture = ComposedImage(image=self._decode(ids), image_ids=ids)
                parts.append(picture)
                codes = []
                yield ComposedPiece(text="", image=picture, composition=None)
            else:  # a picture begins, or all is said: what was held back of the words comes out
                text = words.finish()
                parts += [words.text] if words.text else []
                words = TextStream(tokenizer)
                whole = None
                if isinstance(event, FinishedEvent):
                    usage = Usage(
                        prompt_tokens=len(request.input_ids), completion_tokens=len(event.ids)
                    )
                    whole = Composition(
                        parts=tuple(parts),
                        token_ids=event.ids,
                        finish_reason=event.finish_reason,
                        usage=usage,
                        seed=request.seed,
                        options=options,
                    )
                if text or whole is not None:
                    yield ComposedPiece(text=text, image=None, composition=whole)
