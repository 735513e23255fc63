"""Pictures: a request's body to work, and what comes out to OpenAI's answers."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from openjanus.config import JanusConfig
from openjanus.engine.noise import seed_or_new
from openjanus.pipeline import DrawOptions, Janus
from openjanus.pipeline.artist import Artist
from openjanus.serve.engine_thread import JobDriver
from openjanus.serve.errors import refused
from openjanus.serve.room import Room
from openjanus.serve.schema import (
    CompletedImage,
    ImagesAnswer,
    ImagesBody,
    ImagesUsage,
    InputDetails,
    OutputDetails,
    PartialImage,
    Picture,
)


def max_partial_images(config: JanusConfig) -> int:
    """How many unfinished states of a picture can be shown: one fewer than it has rows of ids."""
    return round(config.num_gen_image_tokens**0.5) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnState:
    """A picture, or what there is of it."""

    index: int
    """Which of the n."""
    png: bytes
    is_complete: bool
    seed: int
    prompt_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesWork:
    """What a request's thread does for pictures.

    Raises:
        ApiError: Another size than the model's, or parameters that do not go together.
    """

    room: Room
    janus: Janus
    body: ImagesBody

    def __post_init__(self) -> None:
        body, size = self.body, self.size
        if body.size not in (None, "auto", size):
            raise refused(
                f"size {body.size!r} is none that these weights draw: give {size!r} or 'auto'",
                param="size",
            )
        if body.stream and body.response_format == "url":
            raise refused(
                "events carry b64_json: give that as response_format, or stream: false",
                param="response_format",
            )
        if body.partial_images and not body.stream:
            raise refused("partial_images needs stream: true", param="partial_images")
        most = max_partial_images(self.janus.config)
        if body.partial_images is not None and body.partial_images > most:
            raise refused(
                f"partial_images must be in [0, {most}], got {body.partial_images}: a picture "
                f"of these weights grows by {most + 1} rows",
                param="partial_images",
            )

    @property
    def size(self) -> str:
        """The one that the model draws."""
        side = self.janus.config.gen_image_size
        return f"{side}x{side}"

    def __call__(self, driver: JobDriver) -> Iterator[DrawnState]:
        """Check and build the request; states of its pictures."""
        body = self.body
        self.room.text_limit.check([body.prompt], "prompt")
        self.room.text_limit.check([body.negative_prompt], "negative_prompt")
        options = DrawOptions.resolve(
            self.janus.config.drawing,
            guidance_scale=body.guidance_scale,
            temperature=body.temperature,
            top_k=body.top_k,
            top_p=body.top_p,
            negative_prompt=body.negative_prompt,
        )
        paint = partial(self.room.paint, driver)
        janus = self.janus
        artist = Artist(janus.model, janus.processor, driver, paint, janus.previewer)
        states = artist.stream(
            body.prompt,
            1 if body.n is None else body.n,
            seed_or_new(body.seed),
            options,
            body.partial_images or 0,
        )
        prompt_tokens = len(self.janus.processor.gen_prompt(body.prompt))
        return (
            DrawnState(
                index=state.image_index,
                png=_png(state.image),
                is_complete=state.is_complete,
                seed=state.seed,
                prompt_tokens=prompt_tokens,
            )
            for state in states
        )


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@dataclass(slots=True)
class ImagesWriter:
    """States to the answer, or to the events of a streamed one."""

    work: ImagesWork
    created: int
    keep: Callable[[bytes], str]
    """Makes a picture's address."""
    num_complete: int = 0
    _partials: dict[int, int] = field(default_factory=dict)

    async def answer(self, states: AsyncIterator[DrawnState]) -> ImagesAnswer:
        """All pictures, when the last is complete."""
        complete = {state.index: state async for state in states if state.is_complete}
        self.num_complete = len(complete)
        pictures = [state for _, state in sorted(complete.items())]
        as_url = self.work.body.response_format == "url"
        return ImagesAnswer(
            created=self.created,
            data=[
                Picture(url=self.keep(state.png)) if as_url else Picture(b64_json=_base64(state))
                for state in pictures
            ],
            usage=self._usage(pictures[0], len(pictures)),
            size=self.work.size,
            seed=pictures[0].seed,
        )

    async def events(
        self, states: AsyncIterator[DrawnState]
    ) -> AsyncIterator[PartialImage | CompletedImage]:
        """An event a state."""
        async for state in states:
            if state.is_complete:
                self.num_complete += 1
                yield CompletedImage(
                    b64_json=_base64(state),
                    created_at=self.created,
                    image_index=state.index,
                    usage=self._usage(state, 1),
                    size=self.work.size,
                    seed=state.seed,
                )
                continue
            number = self._partials.get(state.index, 0)
            self._partials[state.index] = number + 1
            yield PartialImage(
                b64_json=_base64(state),
                created_at=self.created,
                partial_image_index=number,
                image_index=state.index,
                size=self.work.size,
                seed=state.seed,
            )

    def _usage(self, state: DrawnState, count: int) -> ImagesUsage:
        drawn = count * self.work.janus.config.num_gen_image_tokens
        return ImagesUsage(
            input_tokens=state.prompt_tokens,
            input_tokens_details=InputDetails(text_tokens=state.prompt_tokens),
            output_tokens=drawn,
            output_tokens_details=OutputDetails(image_tokens=drawn),
            total_tokens=state.prompt_tokens + drawn,
        )


def _base64(state: DrawnState) -> str:
    return base64.b64encode(state.png).decode()
