"""Drawing: prompts to requests, and the engine's ids to pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from openjanus.engine.noise import seed_or_new
from openjanus.engine.request import DrawRequest, FinishedEvent, ImageIdEvent
from openjanus.model.doors import ImageTokenizer
from openjanus.model.janus import JanusModel
from openjanus.model.previewer import Previewer
from openjanus.pipeline.critic import MAX_PICTURES, Critic, candidate_stream
from openjanus.pipeline.driver import EngineDriver
from openjanus.pipeline.preview import Band, Preview, default_states, plan_bands
from openjanus.pipeline.results import Check, Drawing, DrawOptions, OnProgress, PartialDrawing
from openjanus.processor.image import ImageLike
from openjanus.processor.prompt import Processor

Painting = Callable[[Callable[[], Image.Image]], Image.Image]
"""Calls what makes a picture of ids, in whichever thread is right for that."""


def _here(make: Callable[[], Image.Image]) -> Image.Image:
    return make()


class Artist:
    """What ``Janus`` draws with.

    Args:
        model: Has an image tokenizer.
        processor: Its own.
        driver: Of an engine of this model.
        painting: Makes the pictures of ``stream``.
        previewer: Draws the unfinished ones.
    """

    def __init__(
        self,
        model: JanusModel,
        processor: Processor,
        driver: EngineDriver,
        painting: Painting = _here,
        previewer: Previewer | None = None,
    ) -> None:
        assert isinstance(model.vq, ImageTokenizer)
        self._painting = painting
        self._previewer = previewer
        self._vq = model.vq
        self._processor = processor
        self._driver = driver
        self._device = model.language_model.model.embed_tokens.weight.device
        self._codebook_size = model.config.codebook_size
        self._num_ids = model.config.num_gen_image_tokens
        self._side = round(self._num_ids**0.5)

    def draw(
        self,
        prompts: list[str],
        n: int,
        seed: int | Sequence[int] | None,
        options: DrawOptions,
        critic: Critic | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[Drawing]:
        """Draw n pictures of every prompt, a critic's choice; see ``Janus.draw_batch``."""
        if isinstance(seed, Sequence):
            if len(seed) != len(prompts):
                raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seed)}")
            seeds = list(seed)
        else:
            seeds = [seed_or_new(seed) for _ in prompts]
        best_of = 1 if critic is None else critic.best_of
        requests: list[DrawRequest] = []
        checks: list[tuple[Check, ...]] = []
        for index, prompt in enumerate(prompts):
            try:
                requests += self._requests(prompt, n, seeds[index], options, best_of)
                checks.append(() if critic is None else critic.checks(prompt))
            except ValueError as error:
                if len(prompts) == 1:
                    raise
                raise ValueError(f"prompts[{index}]: {error}") from error
        ids: list[tuple[int, ...]] = [()] * len(requests)
        drawn = 0
        for index, event in self._driver.run(requests):
            if isinstance(event, FinishedEvent):
                ids[index] = event.ids
            elif on_progress is not None and isinstance(event, ImageIdEvent):
                drawn += 1
                on_progress("drawing", drawn, len(requests) * self._num_ids)
        each = n * best_of
        drawings = []
        for index, prompt in enumerate(prompts):
            image_ids = torch.tensor(
                ids[index * each : (index + 1) * each], device="cpu"
            )  # (n * k, N)
            images, candidates = [self.decode(one) for one in image_ids], None
            if critic is not None:
                sets = image_ids.view(n, best_of, -1)
                candidates = critic.choose(images, sets, checks[index], on_progress)
                kept = [i * best_of + j for i, j in enumerate(candidates.chosen)]
                images, image_ids = [images[i] for i in kept], image_ids[kept]  # (n, N)
            drawings.append(
                Drawing(
                    images=tuple(images),
                    image_ids=image_ids,
                    prompt=prompt,
                    seed=seeds[index],
                    options=options,
                    candidates=candidates,
                )
            )
        return drawings

    def stream(
        self,
        prompt: str,
        n: int,
        seed: int | None,
        options: DrawOptions,
        partial_images: int | None,
    ) -> Iterator[PartialDrawing]:
        """Draw n pictures of a prompt, row by row; see ``Janus.draw_stream``."""
        most = self._side - 1
        states = partial_images
        if states is None:
            states = default_states(self._side, is_cheap=self._previewer is not None)
        if not 0 <= states <= most:
            raise ValueError(
                f"partial_images must be in [0, {most}], got {states}: "
                "a picture cannot show more states than rows"
            )
        requests = self._requests(prompt, n, seed_or_new(seed), options)
        return self._partial_drawings(requests, options, plan_bands(self._side, states))

    def _partial_drawings(
        self, requests: list[DrawRequest], options: DrawOptions, bands: list[Band]
    ) -> Iterator[PartialDrawing]:
        known: list[list[int]] = [[] for _ in requests]
        previews = [
            Preview(self._vq, self._side, self._to_picture, self._previewer) for _ in requests
        ]
        by_length = {band.end * self._side: band for band in bands}
        for index, event in self._driver.run(requests):
            if isinstance(event, ImageIdEvent):
                known[index].append(event.image_id)
                if len(known[index]) not in by_length:
                    continue
            image_ids = torch.tensor(known[index], device="cpu")
            is_complete = isinstance(event, FinishedEvent)
            if is_complete:
                make = partial(self.decode, image_ids)
            else:
                band = by_length[len(image_ids)]
                make = partial(previews[index].show, band, image_ids.to(self._device))
            yield PartialDrawing(
                image_index=index,
                image=self._painting(make),
                image_ids=image_ids,
                seed=requests[index].seed,
                options=options,
                is_complete=is_complete,
            )

    def _to_picture(self, pixel_values: Tensor) -> Image.Image:
        return self._processor.decode_picture(pixel_values)[0]

    def _requests(
        self, prompt: str, n: int, seed: int, options: DrawOptions, best_of: int = 1
    ) -> list[DrawRequest]:
        """A request for every candidate, those of one picture together."""
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(f"n must be an integer >= 1, got {n!r}")
        if best_of > 1 and n > MAX_PICTURES:
            raise ValueError(f"n must be <= {MAX_PICTURES} with best_of, got {n}")
        prompt_ids = self._processor.gen_prompt(prompt)
        uncond_ids = self._processor.uncond_prompt(len(prompt_ids))
        if options.negative_prompt is not None:
            try:
                uncond_ids = self._processor.gen_prompt(options.negative_prompt)
            except ValueError as error:
                raise ValueError(f"negative_prompt: {error}") from error
        requests = [
            DrawRequest(
                prompt_ids=prompt_ids,
                uncond_ids=uncond_ids,
                seed=seed,
                image_index=candidate_stream(index, candidate),
                guidance_scale=options.guidance_scale,
                prefix_ids=options.prefix_ids,
                temperature=options.temperature,
                top_k=options.top_k,
                top_p=options.top_p,
            )
            for index in range(n)
            for candidate in range(best_of)
        ]
        if options.negative_prompt is not None and not requests[0].is_guided:
            raise ValueError(
                "negative_prompt does nothing at guidance_scale 1: raise it or leave it out"
            )
        self._driver.engine.check(requests[0])
        return requests

    @torch.inference_mode()
    def encode(self, image: ImageLike) -> Tensor:
        """A picture's codebook ids; see ``Janus.encode_image``."""
        pixel_values = self._processor.gen_pixels([image]).to(self._device)
        return self._vq.encode_to_ids(pixel_values)[0].cpu()

    @torch.inference_mode()
    def decode(self, image_ids: Tensor | Sequence[int]) -> Image.Image:
        """The picture of N codebook ids; see ``Janus.decode_image``."""
        ids = self.checked_ids(image_ids)
        # One at a time: convolutions of a batch differ in the last bits from those of one.
        return self._processor.decode_picture(self._vq.decode_ids(ids[None]))[0]

    def checked_ids(self, image_ids: Tensor | Sequence[int]) -> Tensor:
        """(N,) valid codebook ids on the model's device.

        Raises:
            ValueError: Another number of ids, or one outside the codebook.
        """
        ids, size = torch.as_tensor(image_ids, device=self._device), self._codebook_size
        if ids.shape != (self._num_ids,) or ids.is_floating_point():
            raise ValueError(
                f"image_ids must be {self._num_ids} integers, got {ids.dtype} of shape "
                f"{tuple(ids.shape)}: give one picture of this model's size"
            )
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= size:
            raise ValueError(f"image_ids must be in [0, {size}), got {low} to {high}")
        return ids.long()
