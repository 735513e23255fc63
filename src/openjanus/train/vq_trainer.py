"""Training of the generation tokenizer (LlamaGen's VQ recipe, without its GAN)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from openjanus.model.vq import VQTokenizer
from openjanus.processor.image import pixel_values_to_uint8, sheet, uint8_to_pixel_values
from openjanus.train.config import VQLossConfig, VQTrainConfig
from openjanus.train.optim import Optimizers

NUM_SAMPLES = 24
CROP_CANDIDATES = 4
CROPS = 5
"""What a random stream is for; pictures take smaller numbers for theirs."""
SAMPLE_FIRST = 1 << 40
"""Index of the first picture of the sample grid: far from every training index."""


class PictureSource(Protocol):
    """Pictures by index, the same for ever."""

    def picture(self, index: int) -> np.ndarray:
        """uint8 (S, S, 3)."""
        ...

    def key(self, index: int) -> str:
        """The picture's name for messages."""
        ...


def busiest_crop(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """The piece with the most contrast among a few random ones, so that plain ground is rare.

    Args:
        picture: uint8 (H, W, 3).
        size: Side of the piece, <= H and W.
        rng: Draws the candidates.
    """
    height, width = picture.shape[:2]
    tops = rng.integers(0, height - size + 1, CROP_CANDIDATES)
    lefts = rng.integers(0, width - size + 1, CROP_CANDIDATES)
    pieces = [picture[t : t + size, x : x + size] for t, x in zip(tops, lefts, strict=True)]
    return max(pieces, key=lambda piece: float(piece.std(axis=(0, 1)).sum()))


def edge_loss(reconstruction: Tensor, pixels: Tensor) -> Tensor:
    """L1 between the differences of neighbouring pixels, both ways; (B, 3, S, S) each."""
    error = reconstruction - pixels
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


def vq_losses(
    model: VQTokenizer,
    pixels: Tensor,
    config: VQLossConfig,
    noise: Tensor | None = None,
    *,
    more: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None,
) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
    """Reconstruct and compare.

    Args:
        model: The tokenizer.
        pixels: (B, 3, S, S) in [-1, 1].
        config: Weights of the terms.
        noise: (B, N, d) added to the unit vectors in place of quantization; None quantizes.
        more: Called with the pixels and the quantized vectors (B, N, d); gives further terms, whose
            weights ``config`` has by their names.

    Returns:
        The weighted sum, the terms by name, the chosen ids (B, N), and the unit vectors before
        quantization (B * N, d).
    """
    grid = model.encode_to_vectors(pixels).float()  # (B, d, g, g)
    vectors = F.normalize(grid, dim=1)
    flat = vectors.flatten(2).transpose(1, 2)  # (B, N, d)
    ids = model.quantize.nearest(flat.detach())
    chosen = model.quantize.lookup(ids)  # (B, N, d)
    terms: dict[str, Tensor] = {}
    if noise is None:
        terms["codebook"] = F.mse_loss(chosen, flat.detach())
        terms["commitment"] = F.mse_loss(flat, chosen.detach())
        # Straight through: the decoder sees the rows, the encoder gets the decoder's gradient.
        quantized = flat + (chosen - flat).detach()
    else:
        quantized = F.normalize(flat + noise, dim=-1)
    if more is not None:
        terms |= more(pixels, quantized)
    quantized = quantized.transpose(1, 2).unflatten(2, grid.shape[-2:])
    reconstruction = model.decode_vectors(quantized).float()
    terms["l1"] = F.l1_loss(reconstruction, pixels)
    terms["mse"] = F.mse_loss(reconstruction, pixels)
    if config.edge > 0:
        terms["edge"] = edge_loss(reconstruction, pixels)
    total = sum(
        (getattr(config, name) * term for name, term in terms.items()), pixels.new_zeros(())
    )
    return total, terms, ids, flat.detach().reshape(-1, flat.shape[-1])


class VQTrainer:
    """One optimizer step at a time; the loop is ``train.loop``'s."""

    def __init__(self, model: VQTokenizer, source: PictureSource, config: VQTrainConfig) -> None:
        factor, side = model.config.downsample_factor, model.config.image_size
        if config.crop_size % factor or config.crop_size > side:
            raise ValueError(
                f"crop_size must be a multiple of {factor}, at most {side}, or 0 for whole "
                f"pictures, got {config.crop_size}"
            )
        self.model = model
        self.source = source
        self.config = config
        self.optimizers = Optimizers(model.named_parameters(), config.optim)
        self.code_counts = torch.zeros(model.config.codebook_size, dtype=torch.long)
        self.next_index = 0
        self._keys: list[str] = []
        losses = vq_losses
        self._losses = torch.compile(losses, dynamic=False) if config.compile else losses

    def _batch(self, step: int) -> Tensor:
        crop_size, whole_from = self.config.crop_size, self.config.whole_from
        changed = crop_size > 0 and whole_from is not None and step >= whole_from
        whole = crop_size == 0 or changed
        size = self.config.whole_batch_size if changed else self.config.batch_size
        indices = range(self.next_index, self.next_index + size)
        self.next_index += size
        pictures = [self.source.picture(index) for index in indices]
        if not whole:
            pictures = [
                busiest_crop(
                    picture,
                    self.config.crop_size,
                    np.random.default_rng([self.config.run.seed, index, CROPS]),
                )
                for picture, index in zip(pictures, indices, strict=True)
            ]
        self._keys = [self.source.key(index) for index in indices]
        # NCHW: GroupNorm is several times slower, backward, on channels-last memory.
        return uint8_to_pixel_values(np.stack(pictures)).contiguous()

    def train_step(self, step: int) -> dict[str, Any]:
        """One batch, one update; restarts unused codebook rows when due."""
        pixels = self._batch(step)
        noise = self._noise(pixels, step) if step < self.config.quantize_from else None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.bf16):
            loss, terms, ids, vectors = self._losses(self.model, pixels, self.config.loss, noise)
        loss.backward()
        norm, lr = self.optimizers.step(step, self.config.run.steps)
        self.code_counts += torch.bincount(ids.flatten(), minlength=len(self.code_counts))
        values: dict[str, Any] = {"loss": loss.item(), "lr": lr, "grad_norm": norm}
        values |= {name: term.item() for name, term in terms.items()}
        values["images"] = self.next_index
        if noise is not None:
            if step + 1 == self.config.quantize_from:
                self._seed_codebook(step)
            return values
        if self.config.restart_every and (step + 1) % self.config.restart_every == 0:
            values["codebook_usage"] = (self.code_counts > 0).float().mean().item()
            if step < self.config.restart_until:
                values["codebook_restarts"] = self._restart_unused(vectors, step)
            self.code_counts.zero_()
        return values

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.config.run.seed * 1_000_003 + step)

    def _noise(self, pixels: Tensor, step: int) -> Tensor:
        config = self.model.config
        count = pixels.shape[2] * pixels.shape[3] // config.downsample_factor**2
        noise = torch.randn(
            len(pixels), count, config.codebook_dim, generator=self._generator(step)
        )
        return noise * self.config.noise

    @torch.no_grad()
    def _seed_codebook(self, step: int) -> None:
        """Place the codebook's rows on vectors of fresh pictures, just before it is first used."""
        codebook_size, found = self.model.config.codebook_size, []
        while sum(map(len, found)) < 2 * codebook_size:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.bf16):
                grid = self.model.encode_to_vectors(self._batch(step)).float()
            found.append(F.normalize(grid, dim=1).flatten(2).transpose(1, 2).flatten(0, 1))
        vectors = torch.cat(found)
        order = torch.randperm(len(vectors), generator=self._generator(step))
        self.model.quantize.embedding.weight.copy_(vectors[order[:codebook_size]])
        self.code_counts.zero_()

    @torch.no_grad()
    def _restart_unused(self, vectors: Tensor, step: int) -> int:
        """Move rows that nothing chose lately onto vectors of the last batch."""
        unused = (self.code_counts == 0).nonzero().flatten()
        picks = torch.randint(len(vectors), (len(unused),), generator=self._generator(step))
        weight = self.model.quantize.embedding.weight
        weight[unused] = vectors[picks].to(weight.dtype)
        return len(unused)

    def last_keys(self) -> list[str]:
        """Keys of the last batch."""
        return self._keys

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        """Write a sheet: pictures that are never trained on above their reconstructions."""
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [self.source.picture(SAMPLE_FIRST + i) for i in range(NUM_SAMPLES)]
        pixels = uint8_to_pixel_values(np.stack(pictures))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.bf16):
            restored = self.model.decode_ids(self.model.encode_to_ids(pixels))
        rows = _interleave_rows(pictures, list(pixel_values_to_uint8(restored)), columns=8)
        sheet([Image.fromarray(p) for p in rows], columns=8).save(folder / f"step-{step:08d}.png")

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer, and where the data order stands."""
        return {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "next_index": self.next_index,
            "code_counts": self.code_counts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        self.model.load_state_dict(state["model"], strict=True)
        self.optimizers.load_state_dict(state["optimizers"])
        self.next_index = state["next_index"]
        self.code_counts = state["code_counts"]


def _interleave_rows(
    above: Sequence[np.ndarray], below: Sequence[np.ndarray], *, columns: int
) -> list[np.ndarray]:
    rows: list[np.ndarray] = []
    for start in range(0, len(above), columns):
        rows += [*above[start : start + columns], *below[start : start + columns]]
    return rows
