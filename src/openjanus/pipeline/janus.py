"""``Janus``: draw, chat, encode, decode and score, on top of the engine.

Image i of a prompt is a function of (weights, prompt, seed, i, options) alone: a list, a batch or
a stream never changes it. The work is done by ``artist`` and ``speaker``, which share an engine.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from PIL import Image
from torch import Tensor

from openjanus.config import JanusConfig, near
from openjanus.engine.engine import Engine, EngineOptions
from openjanus.engine.request import DrawRequest
from openjanus.engine.scoring import score_answer, score_image_ids
from openjanus.model.janus import JanusModel
from openjanus.pipeline.artist import Artist
from openjanus.pipeline.driver import EngineDriver
from openjanus.pipeline.results import Drawing, DrawOptions, PartialDrawing, Piece, Reply
from openjanus.pipeline.speaker import ChatOptions, Messages, Speaker, one_system, stop_strings
from openjanus.processor.chat import Turn, parse_messages
from openjanus.processor.image import ImageLike
from openjanus.processor.prompt import Processor
from openjanus.processor.text import TextTokenizer
from openjanus.weights.card import Origin, write_card
from openjanus.weights.formats import export_model
from openjanus.weights.own import save_model
from openjanus.weights.shards import MAX_SHARD_BYTES

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _names_near_options(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make the TypeError of an unknown option name its near matches."""
    known = list(inspect.signature(function).parameters)[1:]

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name in kwargs:
            if name not in known:
                hint = near(name, known)
                raise TypeError(f"{function.__name__}() has no option {name!r}; {hint}")
        return function(*args, **kwargs)

    return checked


class Janus:
    """A model with its processor. Not thread-safe.

    Args:
        model: With weights, on its device.
        tokenizer: The model's own.
        engine_options: How much runs at once.
        origin: Where the weights come from, for the card of what is exported.

    Raises:
        ValueError: The tokenizer has more ids than the model.
    """

    def __init__(
        self,
        model: JanusModel,
        tokenizer: TextTokenizer,
        *,
        engine_options: EngineOptions | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.model = model
        self.origin = Origin() if origin is None else origin
        self.processor = Processor(model.config, tokenizer)
        self._engine = Engine(model, image_pad_id=tokenizer.image_pad_id, options=engine_options)
        driver = EngineDriver(self._engine)
        self._artist = Artist(model, self.processor, driver)
        self._speaker = Speaker(self.processor, driver)

    @property
    def config(self) -> JanusConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.language_model.model.embed_tokens.weight.device

    @_names_near_options
    def draw(
        self,
        prompt: str,
        *,
        n: int = 1,
        seed: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        negative_prompt: str | None = None,
    ) -> Drawing:
        """Draw a prompt.

        Args:
            prompt: What to draw.
            n: Pictures, >= 1.
            seed: In [0, 2**64); None draws one from the system and records it.
            guidance_scale: Weight of the prompt against the unconditional model; 1 is none. None
                is the model's own, ``config.drawing``: 5 in the papers.
            temperature: >= 0; 0 is greedy, and then all n pictures are the same. None is the
                model's own: 1 in the papers.
            top_k: Sample among so many ids; None is all.
            top_p: Sample among the likeliest ids of this probability, in (0, 1]; None is all.
            negative_prompt: What guidance leads away from, instead of the empty prompt.

        Raises:
            ValueError: An option breaks its rule, or the prompt is empty or past the context.
        """
        options = DrawOptions.resolve(
            self.config.drawing,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            negative_prompt=negative_prompt,
        )
        if not isinstance(prompt, str):
            raise ValueError(f"draw takes one string, got {type(prompt).__name__}: use draw_batch")
        return self._artist.draw([prompt], n, seed, options)[0]

    @_names_near_options
    def draw_batch(
        self,
        prompts: Sequence[str],
        *,
        n: int = 1,
        seed: int | Sequence[int] | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        negative_prompt: str | None = None,
    ) -> list[Drawing]:
        """Draw many prompts at once; each drawing is what ``draw`` gives.

        The options are ``draw``'s; ``n`` and ``seed`` are those of every prompt. A list of seeds
        gives each prompt its own, and None draws one for each.

        Raises:
            ValueError: As ``draw``; the message names the prompt, and nothing is drawn. Or not as
                many seeds as prompts.
        """
        options = DrawOptions.resolve(
            self.config.drawing,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            negative_prompt=negative_prompt,
        )
        if isinstance(prompts, str):
            raise ValueError("draw_batch takes a list of prompts, got one string: use draw")
        return self._artist.draw(list(prompts), n, seed, options)

    @_names_near_options
    def draw_stream(
        self,
        prompt: str,
        *,
        n: int = 1,
        seed: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        negative_prompt: str | None = None,
        partial_images: int | None = None,
    ) -> Iterator[PartialDrawing]:
        """Draw a prompt and show each picture as it grows; closing the iterator stops drawing.

        The options are ``draw``'s, and ``partial_images``: how many unfinished states of each
        picture are shown, evenly spread; None is one a row of ids. Each costs a decoding.

        Returns:
            Unfinished states, and each picture once complete; the n pictures grow side by side.

        Raises:
            ValueError: As ``draw``, at the call.
        """
        options = DrawOptions.resolve(
            self.config.drawing,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            negative_prompt=negative_prompt,
        )
        return self._artist.stream(prompt, n, seed, options, partial_images)

    @_names_near_options
    def chat(
        self,
        messages: Messages,
        *,
        images: Sequence[ImageLike] = (),
        system: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
    ) -> Reply:
        """Answer.

        Args:
            messages: A question, or messages in OpenAI's shape.
            images: Pictures for the marks in the texts, or for the front of the first question.
            system: System prompt; None is the model's own.
            max_new_tokens: Cut to what the context leaves.
            temperature: >= 0; 0 is greedy.
            top_p: As in ``draw``.
            stop: Strings that end the reply and are not part of it.
            seed: As in ``draw``.

        Raises:
            ValueError: An option breaks its rule, a message is malformed, or the prompt is past
                the context.
            FileNotFoundError: No picture at a path.
        """
        options = ChatOptions(
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=stop_strings(stop),
        )
        request = self._speaker.request(messages, images, seed, options)
        return self._speaker.reply([request], options.stop)[0]

    @_names_near_options
    def chat_batch(
        self,
        conversations: Sequence[Messages],
        *,
        system: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
    ) -> list[Reply]:
        """Answer many conversations at once; each reply is what ``chat`` gives.

        The options are ``chat``'s, and those of every conversation; pictures stand in the
        messages. A ``seed`` of None draws one for each.

        Raises:
            ValueError: As ``chat``; the message names the conversation, and nothing is answered.
            FileNotFoundError: No picture at a path.
        """
        if isinstance(conversations, str):
            raise ValueError("chat_batch takes a list of conversations, got a string: use chat")
        options = ChatOptions(
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=stop_strings(stop),
        )
        requests = []
        for index, messages in enumerate(conversations):
            try:
                requests.append(self._speaker.request(messages, (), seed, options))
            except ValueError as error:
                raise ValueError(f"conversations[{index}]: {error}") from error
        return self._speaker.reply(requests, options.stop)

    @_names_near_options
    def chat_stream(
        self,
        messages: Messages,
        *,
        images: Sequence[ImageLike] = (),
        system: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
    ) -> Iterator[Piece]:
        """Answer piece by piece; closing the iterator stops writing. The options are ``chat``'s.

        Raises:
            ValueError: As ``chat``, at the call.
            FileNotFoundError: No picture at a path.
        """
        options = ChatOptions(
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=stop_strings(stop),
        )
        request = self._speaker.request(messages, images, seed, options)
        return (piece for _, piece in self._speaker.stream([request], options.stop))

    def encode_image(self, image: ImageLike) -> Tensor:
        """A picture's codebook ids: (N,) int64 on the CPU; its short side fills the square."""
        return self._artist.encode(image)

    def decode_image(self, image_ids: Tensor | Sequence[int]) -> Image.Image:
        """The picture of N codebook ids.

        Raises:
            ValueError: Another number of ids, or one outside the codebook.
        """
        return self._artist.decode(image_ids)

    def score(
        self,
        messages: Messages,
        answer: str,
        *,
        images: Sequence[ImageLike] = (),
        system: str | None = None,
    ) -> Tensor:
        """Log-probability of each token of an answer, at temperature 1.

        Args:
            messages: As in ``chat``.
            answer: What the model might reply.
            images: As in ``chat``.
            system: As in ``chat``.

        Returns:
            (A,) fp32 on the CPU; the last one is that of the end-of-sentence token.

        Raises:
            ValueError: The answer is empty, or as ``chat``.
        """
        dialogue = parse_messages(messages, images)
        system = one_system(system, dialogue.system)
        prompt = self.processor.und_prompt(dialogue.turns, dialogue.images, system=system)
        turns = [*dialogue.turns, Turn(role="assistant", text=answer)]
        ids, is_answer = self.processor.training_dialogue(turns, system=system)
        self._check_context(len(ids))
        num_prompt = len(ids) - is_answer[::-1].index(False)  # earlier answers are prompt
        all_ids = torch.tensor(ids, device=self.device)
        prompt_ids = all_ids[:num_prompt]
        return score_answer(
            self.model,
            prompt_ids,
            all_ids[num_prompt:],
            images=None if prompt.images is None else prompt.images.to(self.device),
            image_slots=prompt_ids == self.processor.tokenizer.image_pad_id,
        ).cpu()

    def score_image(
        self,
        prompt: str,
        image_ids: Tensor | Sequence[int],
        *,
        guidance_scale: float | None = None,
    ) -> Tensor:
        """Log-probability of each codebook id of a picture, at temperature 1.

        Args:
            prompt: What is drawn.
            image_ids: (N,) codebook ids.
            guidance_scale: Under the guided distribution that ``draw`` samples from; None is the
                plain conditional one.

        Returns:
            (N,) fp32 on the CPU.

        Raises:
            ValueError: As ``draw`` and ``decode_image``.
        """
        scale = 1.0 if guidance_scale is None else guidance_scale
        ids = self._artist.checked_ids(image_ids)
        prompt_ids = self.processor.gen_prompt(prompt)
        uncond_ids = self.processor.uncond_prompt(len(prompt_ids))
        request = DrawRequest(
            prompt_ids=prompt_ids, uncond_ids=uncond_ids, seed=0, guidance_scale=scale
        )
        self._engine.check(request)
        return score_image_ids(
            self.model,
            torch.tensor(prompt_ids, device=self.device),
            ids,
            uncond_ids=torch.tensor(uncond_ids, device=self.device),
            guidance_scale=scale,
        ).cpu()

    def save(self, folder: Path | str) -> None:
        """Write a folder that ``load`` reads; files of the same names are replaced.

        What is known of the weights' origin and licence is written beside them.
        """
        save_model(folder, self.model, self.processor.tokenizer)
        if self.origin.source is not None:
            write_card(Path(folder), self.config, layout="openjanus", origin=self.origin)

    @_names_near_options
    def export(
        self,
        folder: Path | str,
        format: str,  # noqa: A002
        *,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        """Write the model for other programs: weights, tokenizer, processor, settings and card.

        Args:
            folder: New or empty.
            format: ``deepseek`` for the authors' code, ``transformers`` for AutoModel, or
                ``openjanus``, our own.
            max_shard_bytes: Largest size of a weights file.

        Raises:
            ValueError: An unknown format, a model that it cannot hold, or a folder with something
                in it.
        """
        export_model(
            folder,
            self.model,
            self.processor.tokenizer,
            layout=format,
            max_shard_bytes=max_shard_bytes,
            origin=self.origin,
        )

    def _check_context(self, length: int) -> None:
        context = self.config.language.max_position_embeddings
        if length > context:
            raise ValueError(
                f"prompt and answer take {length} tokens, the context holds {context}: shorten them"
            )
