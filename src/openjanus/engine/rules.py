"""What a request must keep to suit a model, and the room that it takes."""

from __future__ import annotations

from openjanus.engine.request import ChatRequest, ComposeRequest, DrawRequest, Request
from openjanus.engine.scheduler import Mode, capacity_class
from openjanus.model.janus import JanusModel


class Rules:
    """Of requests to one model.

    Args:
        model: The model.
        image_pad_id: The placeholder of pictures.
    """

    def __init__(self, model: JanusModel, image_pad_id: int) -> None:
        self._model = model
        self._image_pad_id = image_pad_id

    def plan(self, request: Request) -> tuple[Mode, int, int]:
        """Mode, capacity class and number of ids of a request, after checking it."""
        config = self._model.config
        context = config.language.max_position_embeddings
        mode: Mode
        if isinstance(request, DrawRequest):
            mode, limit = "image", config.num_gen_image_tokens
            length = self._check_draw(request)
        elif isinstance(request, ComposeRequest):
            mode, length = "compose", len(request.input_ids)
            limit = self._check_compose(request)
        else:
            self._check_ids(request.input_ids)
            self._check_images(request)
            mode, length = "text", len(request.input_ids)
            limit = min(request.max_new_tokens, max(context - length, 1))
        return mode, capacity_class(length + limit, context), limit

    def _check_draw(self, request: DrawRequest) -> int:
        """The length of the longer prompt of the guidance pair."""
        config = self._model.config
        num_ids, size = config.num_gen_image_tokens, config.codebook_size
        request.scales(num_ids, round(num_ids**0.5))  # its rule
        kept = request.prefix_ids
        if len(kept) >= num_ids:
            raise ValueError(
                f"prefix_ids must be fewer than the {num_ids} of a picture, got {len(kept)}: "
                "leave some to draw"
            )
        if kept and (min(kept) < 0 or max(kept) >= size):
            raise ValueError(f"prefix_ids must be in [0, {size}), got {min(kept)} to {max(kept)}")
        prompts = [request.prompt_ids]
        if request.is_guided:
            assert request.uncond_ids is not None  # DrawRequest's own rule
            prompts.append(request.uncond_ids)
        for ids in prompts:
            self._check_ids(ids)
            if self._image_pad_id in ids:
                raise ValueError("a drawing prompt cannot hold pictures: describe them in words")
        return max(len(ids) for ids in prompts)

    def _check_compose(self, request: ComposeRequest) -> int:
        """The most ids, of words and pictures, that a composition may have."""
        config = self._model.config
        self._check_ids(request.input_ids)
        self._check_ids((request.boi_id, request.eoi_id, request.pad_id))
        self._check_images(request)
        length, context = len(request.input_ids), config.language.max_position_embeddings
        picture = config.num_gen_image_tokens + 2
        if request.max_images > 0 and length + picture > context:
            raise ValueError(
                f"a picture takes {picture} tokens beside a prompt of {length}, the context holds "
                f"{context}: shorten the prompt, or ask for words alone by max_images 0"
            )
        most = request.max_new_tokens + request.max_images * (picture - 1)
        return min(most, max(context - length, 1))

    def _check_ids(self, ids: tuple[int, ...]) -> None:
        vocab_size = self._model.config.text_vocab_size
        low, high = min(ids), max(ids)
        if low < 0 or high >= vocab_size:
            wrong = low if low < 0 else high
            raise ValueError(
                f"prompt id {wrong} is outside the vocabulary [0, {vocab_size}): "
                "encode with the tokenizer of this model"
            )

    def _check_images(self, request: ChatRequest | ComposeRequest) -> None:
        config = self._model.config
        size, num_tokens = config.und_image_size, config.num_und_image_tokens
        shape = (0, 3, size, size) if request.images is None else tuple(request.images.shape)
        if len(shape) != 4 or shape[1:] != (3, size, size):
            raise ValueError(f"images must be (I, 3, {size}, {size}), got {shape}")
        if request.images is not None and not bool(request.images.isfinite().all()):
            raise ValueError("images hold NaN or infinity: preprocess them again")
        slots = request.input_ids.count(self._image_pad_id)
        if slots != shape[0] * num_tokens:
            raise ValueError(
                f"{slots} image slots for {shape[0]} images of {num_tokens} each: "
                "each image needs exactly its own number of slots"
            )
