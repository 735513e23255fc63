"""Everything between a caller's words and pictures and the model's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from openjanus.config import JanusConfig
from openjanus.processor.chat import IMAGE_MARK, Turn, render, render_with_spans
from openjanus.processor.image import (
    ImageLike,
    gen_pixel_values,
    open_image,
    pixel_values_to_uint8,
    und_pixel_values,
)
from openjanus.processor.text import TextTokenizer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prompt:
    """What the model is asked: ids, and the pictures of their image slots."""

    input_ids: tuple[int, ...]
    images: Tensor | None
    """(I, 3, S, S) in the order of their slots; None without pictures."""


class Processor:
    """Prompts, training ids and pixels of one model."""

    def __init__(self, config: JanusConfig, tokenizer: TextTokenizer) -> None:
        """Join a tokenizer to a model's configuration.

        Raises:
            ValueError: The tokenizer has ids that the model's table lacks.
        """
        if tokenizer.vocab_size > config.text_vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} ids, the model's vocab_size is "
                f"{config.text_vocab_size}: use the tokenizer of this checkpoint"
            )
        self.config = config
        self.tokenizer = tokenizer

    def und_prompt(
        self,
        dialogue_turns: Sequence[Turn],
        images: Sequence[ImageLike] = (),
        *,
        system: str | None = None,
    ) -> Prompt:
        """The prompt of the next answer (understanding and plain chat).

        Args:
            dialogue_turns: Ends with what the user says.
            images: A picture for each mark in the texts, in order.
            system: System prompt; None is the model's own, "" is none.

        Returns:
            BOS and the rendered dialogue, each mark replaced by BOI, N image slots and EOI.

        Raises:
            ValueError: The last turn is not the user's, marks and images differ in number, or a
                text is refused by the template.
        """
        if not dialogue_turns or dialogue_turns[-1].role != "user":
            raise ValueError("the last turn must be the user's: add a question")
        if not dialogue_turns[-1].text.replace(IMAGE_MARK, "").strip():
            raise ValueError("the question is empty: write what you want to know")
        marks = sum(turn.text.count(IMAGE_MARK) for turn in dialogue_turns)
        if marks != len(images):
            raise ValueError(
                f"{marks} {IMAGE_MARK} marks for {len(images)} images: give one for each mark"
            )
        turns = [*dialogue_turns, Turn(role="assistant", text="")]
        text = render(turns, config=self.config.processor, system=self._system(system))
        ids = self._expand(self.tokenizer.encode(text))
        pixels = self.und_pixels(images) if len(images) > 0 else None
        return Prompt(input_ids=(self.tokenizer.bos_id, *ids), images=pixels)

    def plain_prompt(self, text: str, images: Sequence[ImageLike] = ()) -> Prompt:
        """The beginning of a document, to go on with: BOS and the text, marks expanded.

        Args:
            text: Words, as ``training_plain`` takes them; the end stays as it is, spaces too.
            images: A picture for each mark, in order.

        Raises:
            ValueError: No text, marks and images differ in number, or a special token in the text.
        """
        words = text.replace(IMAGE_MARK, "")
        if not text.strip():
            raise ValueError("the text is empty: write how the document begins")
        self._check_words(words)
        marks = text.count(IMAGE_MARK)
        if marks != len(images):
            raise ValueError(
                f"{marks} {IMAGE_MARK} marks for {len(images)} images: give one for each mark"
            )
        ids = self.tokenizer.encode(text.replace(IMAGE_MARK, self.config.processor.image_token))
        pixels = self.und_pixels(images) if len(images) > 0 else None
        return Prompt(input_ids=(self.tokenizer.bos_id, *self._expand(ids)), images=pixels)

    def gen_prompt(self, text: str) -> tuple[int, ...]:
        """The prompt of a drawing: the dialogue template without a system prompt, then BOI.

        Raises:
            ValueError: Nothing to draw, a picture, or a special token in the text.
        """
        self._check_drawing(text)
        turns = [Turn(role="user", text=text), Turn(role="assistant", text="")]
        rendered = render(turns, config=self.config.processor, system="")
        ids = (self.tokenizer.bos_id, *self.tokenizer.encode(rendered), self.tokenizer.boi_id)
        assert self.tokenizer.boi_id not in ids[:-1] and self.tokenizer.bos_id not in ids[1:]
        return ids

    def uncond_prompt(self, length: int) -> tuple[int, ...]:
        """The unconditional prompt of a length: BOS, pads (attended like words), BOI.

        Raises:
            ValueError: No room for BOS and BOI.
        """
        if length < 2:
            raise ValueError(f"length must be >= 2 (BOS and BOI), got {length}")
        pads = (self.tokenizer.pad_id,) * (length - 2)
        return (self.tokenizer.bos_id, *pads, self.tokenizer.boi_id)

    def drop_condition(self, ids: Sequence[int]) -> tuple[int, ...]:
        """A drawing prompt with its words taken away: what guidance is trained with.

        Raises:
            ValueError: ``ids`` is not a drawing prompt.
        """
        if len(ids) < 2 or ids[0] != self.tokenizer.bos_id or ids[-1] != self.tokenizer.boi_id:
            raise ValueError(
                "a drawing prompt starts with BOS and ends with BOI: make it with gen_prompt"
            )
        return self.uncond_prompt(len(ids))

    def training_dialogue(
        self, turns: Sequence[Turn], *, system: str | None = None, answers_draw: bool = False
    ) -> tuple[list[int], list[bool]]:
        """A finished dialogue as training ids.

        The whole text is encoded at once, as at inference, so that the ids before an answer are
        those of the prompt that asks for it.

        Args:
            turns: Ends with an answer.
            system: System prompt; None is the model's own, "" is none.
            answers_draw: Whether answers may hold marks, of pictures that are drawn there.

        Returns:
            Ids, BOS first and marks expanded, and the loss mask: True on answers and their EOS.

        Raises:
            ValueError: The last answer is empty, or a text is refused by the template.
        """
        if not turns or not turns[-1].text.strip():
            raise ValueError("a training dialogue must end with an answer: the last turn is empty")
        text, spans = render_with_spans(
            turns,
            config=self.config.processor,
            system=self._system(system),
            answers_draw=answers_draw,
        )
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        mask = [any(a <= start and end <= b for a, b in spans) for start, end in offsets]
        return self._with_bos(ids, mask)

    def training_plain(
        self, text: str, *, needs_words: bool = True
    ) -> tuple[list[int], list[bool]]:
        """Text without roles, as in stage I (``<image_placeholder>caption``) and pure text.

        Args:
            text: Words and marks.
            needs_words: Whether marks alone teach nothing; a picture that is drawn does.

        Returns:
            BOS, the text with its marks expanded, EOS; and the loss mask: True on words and EOS.

        Raises:
            ValueError: No words to learn, or a special token other than the image mark in them.
        """
        words = text.replace(IMAGE_MARK, "").strip()
        if needs_words and not words:
            raise ValueError("a plain training text must have words: it is empty")
        self._check_words(words)
        ids = self.tokenizer.encode(text.replace(IMAGE_MARK, self.config.processor.image_token))
        mask = [token != self.tokenizer.image_pad_id for token in ids]
        return self._with_bos([*ids, self.tokenizer.eos_id], [*mask, True])

    def gen_plain_prompt(self, text: str) -> tuple[int, ...]:
        """A drawing prompt without roles, as in stage I: BOS, words, BOI.

        Raises:
            ValueError: As ``gen_prompt``.
        """
        self._check_drawing(text)
        self._check_words(text)
        ids = self.tokenizer.encode(text.strip())
        return (self.tokenizer.bos_id, *ids, self.tokenizer.boi_id)

    def und_pixels(self, images: Sequence[ImageLike]) -> Tensor:
        """Pictures as the understanding encoder wants them: (I, 3, S, S), normalised."""
        opened = [open_image(image) for image in images]
        return und_pixel_values(opened, self.config.und_image_size, self.config.processor)

    def gen_pixels(self, images: Sequence[ImageLike]) -> Tensor:
        """Pictures as the generation tokenizer wants them: (I, 3, S, S) in [-1, 1]."""
        return gen_pixel_values([open_image(i) for i in images], self.config.gen_image_size)

    def decode_picture(self, pixel_values: Tensor) -> list[Image.Image]:
        """(I, 3, S, S) in [-1, 1] to RGB pictures, truncated to 8 bits."""
        return [Image.fromarray(picture) for picture in pixel_values_to_uint8(pixel_values)]

    def _system(self, system: str | None) -> str:
        return self.config.processor.und_system_prompt if system is None else system

    def _check_drawing(self, text: str) -> None:
        if not isinstance(text, str):
            raise ValueError(f"a drawing prompt is one string, got {type(text).__name__}: {text!r}")
        if not text.strip():
            raise ValueError("the prompt is empty: say what to draw")
        if IMAGE_MARK in text or self.config.processor.image_token in text:
            raise ValueError(
                f"a drawing prompt holds {IMAGE_MARK}: these models cannot edit or combine "
                "pictures; describe the picture in words"
            )

    def _check_words(self, text: str) -> None:
        for token in self.tokenizer.encode(text):
            if self.tokenizer.is_special(token):
                raise ValueError(
                    f"the text holds the special token "
                    f"{self.tokenizer.decode([token], skip_special=False)!r}: take it out"
                )

    def _expand(self, ids: Sequence[int]) -> list[int]:
        """Replace each image mark by BOI, the slots of a picture, and EOI."""
        return self._with_slots(ids, [False] * len(ids))[0]

    def _with_bos(self, ids: Sequence[int], mask: Sequence[bool]) -> tuple[list[int], list[bool]]:
        ids, mask = self._with_slots(ids, mask)
        return [self.tokenizer.bos_id, *ids], [False, *mask]

    def _with_slots(self, ids: Sequence[int], mask: Sequence[bool]) -> tuple[list[int], list[bool]]:
        slots = [self.tokenizer.image_pad_id] * self.config.num_und_image_tokens
        picture = [self.tokenizer.boi_id, *slots, self.tokenizer.eoi_id]
        new_ids: list[int] = []
        new_mask: list[bool] = []
        for token, counts in zip(ids, mask, strict=True):
            run = picture if token == self.tokenizer.image_pad_id else [token]
            new_ids += run
            new_mask += [counts] * len(run)
        return new_ids, new_mask
