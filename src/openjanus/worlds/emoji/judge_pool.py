"""What the image tokenizer makes of scenes: half of the pictures that the judge learns from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from openjanus.model.vq import VQTokenizer
from openjanus.processor.image import pixel_values_to_uint8, uint8_to_pixel_values
from openjanus.worlds.emoji.draws import below
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.judge_measures import Redraw
from openjanus.worlds.emoji.scenes import Scene


def redraw_with(vq: VQTokenizer, *, bf16: bool) -> Redraw:
    """Pictures to ids and back."""

    @torch.no_grad()
    def redraw(pictures: np.ndarray) -> np.ndarray:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            ids = vq.encode_to_ids(uint8_to_pixel_values(pictures))
            return pixel_values_to_uint8(vq.decode_ids(ids, chunk_size=len(ids)))

    return redraw


class ReconstructionPool:
    """What the tokenizer makes of training scenes; grows by some every step.

    Args:
        vq: The image tokenizer.
        source: Training-split scenes.
        size: Reconstructions kept; later ones push out the oldest.
        disturbed_share: Share of pictures some of whose ids are moved.
        disturbed_ids: Largest share of the ids of such a picture that is moved.
        bf16: Whether convolutions run in bf16.
    """

    NEIGHBOURS = 8

    def __init__(
        self,
        vq: VQTokenizer,
        source: SceneSource,
        *,
        size: int,
        disturbed_share: float,
        disturbed_ids: float,
        bf16: bool,
    ) -> None:
        self.vq = vq
        self.source = source
        self.size = size
        self.disturbed_share = disturbed_share
        self.disturbed_ids = disturbed_ids
        self.bf16 = bf16
        self.pictures: list[np.ndarray] = []
        self.scenes: list[Scene] = []
        self._added = 0
        codebook = vq.quantize.normalised_codebook().detach()
        wanted = min(self.NEIGHBOURS + 1, len(codebook))
        self._near = (codebook @ codebook.T).topk(wanted, dim=1).indices[:, 1:]  # (C, k)

    def add(self, indices: range) -> None:
        """Reconstruct the scenes of some indices."""
        scenes = [self.source.scene(index) for index in indices]
        pictures = np.stack([self.source.picture(index) for index in indices])
        rng = np.random.default_rng([self.source.options.seed, indices.start, 3])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            ids = self._disturbed(self.vq.encode_to_ids(uint8_to_pixel_values(pictures)), rng)
            redrawn = pixel_values_to_uint8(self.vq.decode_ids(ids, chunk_size=len(ids)))
        for picture, scene in zip(redrawn, scenes, strict=True):
            if len(self.pictures) < self.size:
                self.pictures.append(picture)
                self.scenes.append(scene)
            else:
                slot = self._added % self.size
                self.pictures[slot], self.scenes[slot] = picture, scene
            self._added += 1

    def _disturbed(self, ids: Tensor, rng: np.random.Generator) -> Tensor:
        """Ids (B, N), in some pictures a few of them moved to near rows of the codebook."""
        share = rng.random(len(ids)) * self.disturbed_ids
        share *= rng.random(len(ids)) < self.disturbed_share
        moved = torch.from_numpy(rng.random(ids.shape) < share[:, None])
        choice = torch.from_numpy(rng.integers(self._near.shape[1], size=ids.shape))
        return torch.where(moved, self._near[ids].gather(2, choice[..., None])[..., 0], ids)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[list[np.ndarray], list[Scene]]:
        """Any n of the reconstructions, with their scenes."""
        count = len(self.pictures)
        chosen = [below(rng, count) for _ in range(n)]
        return [self.pictures[i] for i in chosen], [self.scenes[i] for i in chosen]
