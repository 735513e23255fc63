"""``Janus``: draw, chat, compose, encode, decode and score, on top of the engine.

Image i of a prompt is a function of (weights, prompt, seed, i, options) alone: a list, a batch or
a stream never changes it. The work is done by ``artist``, ``speaker``, ``composer`` and ``scorer``,
which share an engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from openjanus.config import JanusConfig
from openjanus.engine.engine import Engine, EngineOptions
from openjanus.model.janus import JanusModel, pack_model
from openjanus.model.previewer import Previewer
from openjanus.pipeline.artist import Artist
from openjanus.pipeline.composer import Composer
from openjanus.pipeline.composition import ComposedPiece, ComposeOptions, Composition, Form
from openjanus.pipeline.critic import Critic, JudgeQuestion
from openjanus.pipeline.driver import EngineDriver
from openjanus.pipeline.options import names_near_options
from openjanus.pipeline.results import (
    Drawing,
    DrawOptions,
    OnProgress,
    PartialDrawing,
    Piece,
    Reply,
)
from openjanus.pipeline.scorer import Scorer
from openjanus.pipeline.speaker import ChatOptions, Messages, Speaker, stop_strings
from openjanus.processor.image import ImageLike
from openjanus.processor.prompt import Processor
from openjanus.processor.text import TextTokenizer
from openjanus.weights.card import Origin, write_card
from openjanus.weights.formats import export_model
from openjanus.weights.own import save_model
from openjanus.weights.shards import MAX_SHARD_BYTES


class Janus:
    """A model with its processor. Not thread-safe.

    Args:
        model: With weights, on its device.
        tokenizer: The model's own.
        engine_options: How much runs at once.
        origin: Where the weights come from, for the card of what is exported.
        previewer: Draws unfinished pictures in the image tokenizer's place, roughly and for little.

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
        previewer: Previewer | None = None,
    ) -> None:
        self.model = model
        self.previewer = previewer
        self.origin = Origin() if origin is None else origin
        self.processor = Processor(model.config, tokenizer)
        self._engine = Engine(model, image_pad_id=tokenizer.image_pad_id, options=engine_options)
        driver = EngineDriver(self._engine)
        self._artist = Artist(model, self.processor, driver, previewer=previewer)
        self._speaker = Speaker(self.processor, driver)
        self._composer = Composer(self.processor, driver, self._artist.decode)
        self._scorer = Scorer(model, self.processor, self._engine)

    @property
    def config(self) -> JanusConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.language_model.model.embed_tokens.weight.device

    def pack(self) -> int:
        """Lay the decoder's weights out as this CPU reads them fastest.

        Products of one input become one, quantized ones too. In bfloat16 the results have been the
        same wherever that was tried; in fp32 the last bits differ, and an id in a great many with
        them, but no longer by the number of rows, so that steps leave idle ones out. The model is
        for inference then: it draws, answers, is saved and exported as before, and takes no other
        weights, device or dtype. Only bfloat16 and fp32 on a CPU are packed.

        Returns:
            How many layers: 0 where there is nothing to gain.
        """
        return pack_model(self.model)

    def forget(self) -> None:
        """Forget the prompts that are kept for the next drawing or turn.

        Changed weights do so by themselves, unless they are written through ``.data`` or were made
        in inference mode: nobody sees that, and the next result is a mixture unless this is called.
        """
        self._engine.forget()

    @names_near_options
    def draw(
        self,
        prompt: str,
        *,
        n: int = 1,
        seed: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        negative_prompt: str | None = None,
        prefix_ids: Tensor | Sequence[int] | None = None,
        best_of: int = 1,
        judge_question: JudgeQuestion | None = None,
        on_progress: OnProgress | None = None,
    ) -> Drawing:
        """Draw a prompt.

        Args:
            prompt: What to draw.
            n: Pictures, >= 1.
            seed: In [0, 2**64); None draws one from the system and records it.
            guidance_scale: Weight of the prompt against the unconditional model; 1 is none. None
                is the model's own, ``config.drawing``: 5 in the papers. A sequence of numbers is
                a schedule: one for each id of a picture, or for each row of ids from the top.
            temperature: >= 0; 0 is greedy, and then all n pictures are the same. None is the
                model's own: 1 in the papers.
            top_k: Sample among so many ids; None is all.
            top_p: Sample among the likeliest ids of this probability, in (0, 1]; None is all.
            negative_prompt: What guidance leads away from, instead of the empty prompt.
            prefix_ids: The first ids of a picture, fewer than N, from ``encode_image`` or another
                drawing: they are kept, and only what comes after them is drawn, by the noise
                of its own positions.
            best_of: Candidates drawn for each picture. The model is asked about each, and the one
                of which it most believes that it shows the prompt is kept; the first candidate of
                picture i is the picture i that is drawn without others.
            judge_question: What it is asked: a question with ``{prompt}`` in it, several that must
                all be answered rightly, or a function that makes them of the prompt. A string's
                right answer is yes, a ``Check`` has its own. None is
                "Does the picture show {prompt}?".
            on_progress: Told how far it is: "drawing" with ids done and ids in all, then, with
                ``best_of``, "looking" with pictures.

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
            prefix_ids=prefix_ids,
        )
        if not isinstance(prompt, str):
            raise ValueError(f"draw takes one string, got {type(prompt).__name__}: use draw_batch")
        critic = Critic.build(
            self._scorer, best_of=best_of, question=judge_question, temperature=options.temperature
        )
        return self._artist.draw([prompt], n, seed, options, critic, on_progress)[0]

    @names_near_options
    def draw_batch(
        self,
        prompts: Sequence[str],
        *,
        n: int = 1,
        seed: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        negative_prompt: str | None = None,
        prefix_ids: Tensor | Sequence[int] | None = None,
        best_of: int = 1,
        judge_question: JudgeQuestion | None = None,
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
            prefix_ids=prefix_ids,
        )
        if isinstance(prompts, str):
            raise ValueError("draw_batch takes a list of prompts, got one string: use draw")
        critic = Critic.build(
            self._scorer, best_of=best_of, question=judge_question, temperature=options.temperature
        )
        return self._artist.draw(list(prompts), n, seed, options, critic)

    @names_near_options
    def draw_stream(
        self,
        prompt: str,
        *,
        n: int = 1,
        seed: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        negative_prompt: str | None = None,
        prefix_ids: Tensor | Sequence[int] | None = None,
        partial_images: int | None = None,
    ) -> Iterator[PartialDrawing]:
        """Draw a prompt and show each picture as it grows; closing the iterator stops drawing.

        The options are ``draw``'s, and ``partial_images``: how many unfinished states of each
        picture are shown, evenly spread, at most one a row of ids but the last. Where a previewer
        lies beside the weights it draws them roughly, for next to nothing, and None is one for
        every row. Else None is one for every 8 rows, at most 3, and as many as three decode no more
        rows together than the picture has, so the more there are, the rougher they look. (A
        tokenizer of your own without ``decode_rows`` decodes the whole picture for each.)

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
            prefix_ids=prefix_ids,
        )
        return self._artist.stream(prompt, n, seed, options, partial_images)

    @names_near_options
    def chat(
        self,
        messages: Messages,
        *,
        images: Sequence[ImageLike] = (),
        system: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_k: int | None = None,
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
            top_k: As in ``draw``.
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
            top_k=top_k,
            top_p=top_p,
            stop=stop_strings(stop),
        )
        request = self._speaker.request(messages, images, seed, options)
        return self._speaker.reply([request], options.stop)[0]

    @names_near_options
    def chat_batch(
        self,
        conversations: Sequence[Messages],
        *,
        system: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_k: int | None = None,
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
            top_k=top_k,
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

    @names_near_options
    def chat_stream(
        self,
        messages: Messages,
        *,
        images: Sequence[ImageLike] = (),
        system: str | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_k: int | None = None,
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
            top_k=top_k,
            top_p=top_p,
            stop=stop_strings(stop),
        )
        request = self._speaker.request(messages, images, seed, options)
        return (piece for _, piece in self._speaker.stream([request], options.stop))

    @names_near_options
    def compose(
        self,
        messages: Messages,
        *,
        images: Sequence[ImageLike] = (),
        system: str | None = None,
        form: Form = "chat",
        max_new_tokens: int = 512,
        max_images: int = 4,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance_scale: float | None = None,
        image_temperature: float | None = None,
        image_top_k: int | None = None,
        image_top_p: float | None = None,
        seed: int | None = None,
    ) -> Composition:
        """Answer in words and pictures, each where the model wants it (Chameleon, section 2.4).

        When a word sampled is ``<begin_of_image>``, a whole picture follows. Models whose training
        has not taught them to say it (``image_start_loss``) answer in words alone.

        Args:
            messages: As in ``chat``; a text to go on with where ``form`` is ``plain``.
            images: As in ``chat``.
            system: As in ``chat``.
            form: ``chat`` answers; ``plain`` goes on with a document, which has no roles.
            max_new_tokens: Words; a picture's ids do not count. Cut to what the context leaves.
            max_images: Pictures; 0 is words alone.
            temperature: Of words; 0 is greedy.
            top_k: Of words.
            top_p: Of words.
            guidance_scale: Of pictures, against pads in place of all before; None as in ``draw``.
            image_temperature: ``draw``'s temperature.
            image_top_k: ``draw``'s top_k.
            image_top_p: ``draw``'s top_p.
            seed: As in ``draw``.

        Raises:
            ValueError: An option breaks its rule, a message is malformed, or the context does not
                hold the prompt and a picture.
            FileNotFoundError: No picture at a path.
        """
        *_, last = self.compose_stream(
            messages,
            images=images,
            system=system,
            form=form,
            max_new_tokens=max_new_tokens,
            max_images=max_images,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance_scale=guidance_scale,
            image_temperature=image_temperature,
            image_top_k=image_top_k,
            image_top_p=image_top_p,
            seed=seed,
        )
        assert last.composition is not None
        return last.composition

    @names_near_options
    def compose_stream(
        self,
        messages: Messages,
        *,
        images: Sequence[ImageLike] = (),
        system: str | None = None,
        form: Form = "chat",
        max_new_tokens: int = 512,
        max_images: int = 4,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance_scale: float | None = None,
        image_temperature: float | None = None,
        image_top_k: int | None = None,
        image_top_p: float | None = None,
        seed: int | None = None,
    ) -> Iterator[ComposedPiece]:
        """Compose piece by piece: words as they come, pictures whole; ``compose``'s options.

        Raises:
            ValueError: As ``compose``, at the call.
            FileNotFoundError: No picture at a path.
        """
        options = ComposeOptions.resolve(
            self.config.drawing,
            form=form,
            system=system,
            max_new_tokens=max_new_tokens,
            max_images=max_images,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance_scale=guidance_scale,
            image_temperature=image_temperature,
            image_top_k=image_top_k,
            image_top_p=image_top_p,
        )
        request = self._composer.request(messages, images, seed, options)
        return self._composer.stream(request, options)

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
        return self._scorer.answer(messages, answer, images, system)

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
        return self._scorer.image(prompt, self._artist.checked_ids(image_ids), scale)

    def save(self, folder: Path | str) -> None:
        """Write a folder that ``load`` reads; files of the same names are replaced.

        What is known of the weights' origin and licence is written beside them.
        """
        save_model(folder, self.model, self.processor.tokenizer)
        if self.origin.source is not None:
            write_card(Path(folder), self.config, layout="openjanus", origin=self.origin)

    @names_near_options
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
