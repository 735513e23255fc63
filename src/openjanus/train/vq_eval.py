"""What a tokenizer in training does to held-out pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from openjanus.model.vq import VQTokenizer
from openjanus.processor.image import uint8_to_pixel_values
from openjanus.train.image_metrics import (
    WINDOW,
    codebook_use,
    frechet_distance,
    psnr,
    ssim,
)
from openjanus.train.parallel import ALONE, World
from openjanus.train.perceptual import FRECHET_FEATURES, PerceptualLoss
from openjanus.train.vq_config import VQEvalConfig
from openjanus.train.vq_data import HELD_OUT_FIRST, PictureSource, centre

RANDOM_FEATURES = "random_encoder"


class _Measured(NamedTuple):
    """Of one batch of pictures."""

    counts: Tensor
    """(C,) how often each row was chosen."""
    psnr: Tensor
    """(B,)."""
    ssim: Tensor
    """(B,)."""
    real: Tensor
    """(B, d) features of the pictures."""
    made: Tensor
    """(B, d) features of the reconstructions."""


class HeldOut:
    """Pictures that are never trained on, and the figures of a tokenizer on them.

    The Frechet figure is of VGG16's last features where the perceptual loss has them, else of the
    tokenizer's own encoder as it was before training. Neither is the published rFID, which is of
    Inception's features on 50,000 pictures; compare it within one run, at one number of pictures.
    """

    def __init__(
        self,
        source: PictureSource,
        model: VQTokenizer,
        config: VQEvalConfig,
        *,
        size: int,
        perceptual: PerceptualLoss | None,
        world: World = ALONE,
    ) -> None:
        """Keep what is needed, the untrained encoder included.

        Args:
            source: Held-out pictures lie from ``HELD_OUT_FIRST`` on.
            model: As it was before the first step, also in a resumed run.
            config: How many.
            size: Side of the pictures, in pixels.
            perceptual: Gives the features of the Frechet figure.
            world: All processes; the batches are dealt to them.

        Raises:
            ValueError: Pictures too small for the window of SSIM.
        """
        if size < WINDOW:
            raise ValueError(f"eval needs pictures of {WINDOW} pixels a side, got {size}")
        self._source, self._config, self._size = source, config, size
        self._world = world
        self._features: Callable[[Tensor], Tensor]
        if perceptual is not None:
            self.features_name, self._features = FRECHET_FEATURES, perceptual.pooled
        else:
            encoder = copy.deepcopy(model.encoder).requires_grad_(False)
            self.features_name = RANDOM_FEATURES
            self._features = lambda pixels: encoder(pixels).float().mean(dim=(2, 3))

    @torch.no_grad()
    def measure(self, model: VQTokenizer) -> dict[str, float]:
        """PSNR, SSIM, use of the codebook and a Frechet figure, in fp32.

        Batches are the same for any number of processes, each measured by one of them; the figures
        are of all, and the same everywhere. All processes must call this.
        """
        total, size = self._config.pictures, self._config.batch_size
        starts = range(0, total, size)
        own = [
            self._measure(model, range(start, min(start + size, total)))
            for start in starts[self._world.rank :: self._world.size]
        ]
        dealt = self._world.gather(own)
        batches = [dealt[place % len(dealt)][place // len(dealt)] for place in range(len(starts))]
        figures = self._world.on_main(lambda: self._figures(batches))
        figures = self._world.gather(figures)[0]
        assert figures is not None  # the first process's
        return figures

    def _measure(self, model: VQTokenizer, places: Sequence[int]) -> _Measured:
        pictures = [centre(self._source.picture(HELD_OUT_FIRST + i), self._size) for i in places]
        pixels = uint8_to_pixel_values(np.stack(pictures)).contiguous()
        pixels = pixels.to(model.quant_conv.weight.device)
        ids = model.encode_to_ids(pixels)
        restored = model.decode_ids(ids).float()
        found = _Measured(
            torch.bincount(ids.flatten(), minlength=model.config.codebook_size),
            psnr(restored, pixels),
            ssim(restored, pixels),
            self._features(pixels),
            self._features(restored),
        )
        return _Measured(*(tensor.cpu() for tensor in found))

    def _figures(self, batches: Sequence[_Measured]) -> dict[str, float]:
        counts, ratios, similarities, real, made = zip(*batches, strict=True)
        usage, perplexity = codebook_use(torch.stack(counts).sum(0))
        return {
            "val_psnr": torch.cat(ratios).mean().item(),
            "val_ssim": torch.cat(similarities).mean().item(),
            "val_codebook_usage": usage,
            "val_perplexity": perplexity,
            f"frechet_{self.features_name}": frechet_distance(torch.cat(real), torch.cat(made)),
        }
