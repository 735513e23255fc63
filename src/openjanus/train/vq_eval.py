"""What a tokenizer in training does to held-out pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable

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
from openjanus.train.perceptual import FRECHET_FEATURES, PerceptualLoss
from openjanus.train.vq_config import VQEvalConfig
from openjanus.train.vq_data import HELD_OUT_FIRST, PictureSource, centre

RANDOM_FEATURES = "random_encoder"


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
    ) -> None:
        """Keep what is needed, the untrained encoder included.

        Args:
            source: Held-out pictures lie from ``HELD_OUT_FIRST`` on.
            model: As it was before the first step, also in a resumed run.
            config: How many.
            size: Side of the pictures, in pixels.
            perceptual: Gives the features of the Frechet figure.

        Raises:
            ValueError: Pictures too small for the window of SSIM.
        """
        if size < WINDOW:
            raise ValueError(f"eval needs pictures of {WINDOW} pixels a side, got {size}")
        self._source, self._config, self._size = source, config, size
        self._features: Callable[[Tensor], Tensor]
        if perceptual is not None:
            self.features_name, self._features = FRECHET_FEATURES, perceptual.pooled
        else:
            encoder = copy.deepcopy(model.encoder).requires_grad_(False)
            self.features_name = RANDOM_FEATURES
            self._features = lambda pixels: encoder(pixels).float().mean(dim=(2, 3))

    @torch.no_grad()
    def measure(self, model: VQTokenizer) -> dict[str, float]:
        """PSNR, SSIM, use of the codebook and a Frechet figure, in fp32."""
        device = model.quant_conv.weight.device
        counts = torch.zeros(model.config.codebook_size, dtype=torch.long)
        ratios: list[Tensor] = []
        similarities: list[Tensor] = []
        real: list[Tensor] = []
        made: list[Tensor] = []
        for start in range(0, self._config.pictures, self._config.batch_size):
            stop = min(start + self._config.batch_size, self._config.pictures)
            pictures = [
                centre(self._source.picture(HELD_OUT_FIRST + i), self._size)
                for i in range(start, stop)
            ]
            pixels = uint8_to_pixel_values(np.stack(pictures)).contiguous().to(device)
            ids = model.encode_to_ids(pixels)
            restored = model.decode_ids(ids).float()
            counts += torch.bincount(ids.flatten().cpu(), minlength=len(counts))
            ratios.append(psnr(restored, pixels))
            similarities.append(ssim(restored, pixels))
            real.append(self._features(pixels))
            made.append(self._features(restored))
        usage, perplexity = codebook_use(counts)
        return {
            "val_psnr": torch.cat(ratios).mean().item(),
            "val_ssim": torch.cat(similarities).mean().item(),
            "val_codebook_usage": usage,
            "val_perplexity": perplexity,
            f"frechet_{self.features_name}": frechet_distance(torch.cat(real), torch.cat(made)),
        }
