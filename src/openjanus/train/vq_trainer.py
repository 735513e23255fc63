"""Training of the generation tokenizer (LlamaGen's VQ recipe)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from openjanus.config import VQConfig
from openjanus.data.islands import IslandIds
from openjanus.data.mixture import stable_hash
from openjanus.model.vq import VQTokenizer
from openjanus.processor.image import pixel_values_to_uint8, sheet, uint8_to_pixel_values
from openjanus.train.feed import facts_of_source, refuse_other_data
from openjanus.train.gan import Adversary, adaptive_weight, smallest_side
from openjanus.train.mended import MendedPictures
from openjanus.train.optim import Optimizers
from openjanus.train.parallel import ALONE, World
from openjanus.train.perceptual import SMALLEST, load_perceptual
from openjanus.train.replicas import (
    all_rows,
    check_batch,
    mean_values,
    own_part,
    sum_gradients,
    sum_tensor,
)
from openjanus.train.vq_config import VQTrainConfig
from openjanus.train.vq_data import (
    HELD_OUT_FIRST,
    EpochPictures,
    PictureSource,
    busiest_crop,
    centre,
    random_crop,
)
from openjanus.train.vq_ema import Ema
from openjanus.train.vq_eval import HeldOut
from openjanus.train.vq_losses import OF_PICTURES, VQLosses, decoder_losses, vq_losses

NUM_SAMPLES = 24
CROPS = 5
FLIPS = 6
ADVERSARY = 7
"""What a random stream is for; pictures take smaller numbers for theirs."""


def mark_decoder(model: VQTokenizer) -> None:
    """Let what draws the pixels of ids learn, and nothing else."""
    model.requires_grad_(False)
    for part in (model.post_quant_conv, model.decoder):
        part.requires_grad_(True)


def check_sizes(config: VQTrainConfig, door: VQConfig) -> None:
    """Raise ``ValueError`` for a crop that does not fit, or pictures too small for a loss."""
    factor, side = door.downsample_factor, door.image_size
    if config.crop_size % factor or config.crop_size > side:
        raise ValueError(
            f"crop_size must be a multiple of {factor}, at most {side}, or 0 for whole "
            f"pictures, got {config.crop_size}"
        )
    trained_side = config.crop_size if config.crop_size > 0 else side
    needs = {
        "gan.layers": smallest_side(config.gan.layers) if config.gan.weight > 0 else 0,
        "loss.perceptual": SMALLEST if config.loss.perceptual > 0 else 0,
    }
    for name, needed in needs.items():
        if trained_side < needed:
            raise ValueError(
                f"{name} needs pictures of {needed} pixels a side, got {trained_side}: "
                "train on larger pieces, or lower it"
            )


class VQTrainer:
    """One optimizer step at a time; the loop is ``train.loop``'s."""

    def __init__(
        self,
        model: VQTokenizer,
        source: PictureSource,
        config: VQTrainConfig,
        *,
        world: World = ALONE,
    ) -> None:
        """Take a fresh model, on its device; a resumed run restores it afterwards.

        Args:
            model: With the same values in every process.
            source: The same in every process, which reads its part of each batch.
            config: The run.
            world: All processes.

        Raises:
            FileNotFoundError: The perceptual weights are not there.
            ValueError: A crop that does not fit, pictures too small for a loss, or a batch that
                cannot be dealt evenly.
        """
        check_sizes(config, model.config)
        check_batch("batch_size", config.batch_size, world)
        if config.whole_from is not None:
            check_batch("whole_batch_size", config.whole_batch_size, world)
        if config.compile and config.loss.entropy > 0 and world.size > 1:
            raise ValueError(
                f"loss.entropy is of what all {world.size} processes choose, who tell each other "
                "within the loss, which compile cannot hold: set compile to false"
            )
        self.world = world
        self.model = model
        self.facts = {"source": facts_of_source(source)}
        self._any_size = isinstance(source, EpochPictures)
        self.source = MendedPictures(
            source, seed=config.run.seed, limit=config.max_bad_samples, world=world
        )
        self.config = config
        self.device = model.quant_conv.weight.device
        self._tokenize: Callable[[Tensor], Tensor] = self._encode
        if config.decoder_only:
            mark_decoder(model)
            if config.tokenize == "islands":
                grid = model.config.image_size // model.config.downsample_factor
                self._tokenize = IslandIds(self._encode, grid)
        self.optimizers = Optimizers(model.named_parameters(), config.optim)
        self.code_counts = torch.zeros(model.config.codebook_size, dtype=torch.long)
        self.next_index = 0
        self._keys: list[str] = []
        self.perceptual = None
        if config.loss.perceptual > 0:
            self.perceptual = load_perceptual(config.loss.perceptual_weights).to(self.device)
        self.adversary = None
        if config.gan.weight > 0:
            seed = config.run.seed * 1_000_003 + ADVERSARY
            self.adversary = Adversary(config.gan, seed=seed, device=self.device, world=world)
        self.ema = Ema(model, config.ema_decay) if config.ema_decay is not None else None
        self.held_out = None
        if config.eval.every > 0:
            # Whole pictures; where they are never trained on, at the size that is.
            only_crops = config.crop_size > 0 and config.whole_from is None
            self.held_out = HeldOut(
                self.source,
                model,
                config.eval,
                size=config.crop_size if only_crops else model.config.image_size,
                perceptual=self.perceptual,
                world=world,
            )
        losses = vq_losses
        self._losses = torch.compile(losses, dynamic=False) if config.compile else losses

    @property
    def result(self) -> VQTokenizer:
        """What the run is for: the moving average where there is one, else the model."""
        return self.model if self.ema is None else self.ema.module

    def _batch(self, step: int) -> Tensor:
        """This process's part of the next batch."""
        crop_size, whole_from = self.config.crop_size, self.config.whole_from
        changed = crop_size > 0 and whole_from is not None and step >= whole_from
        size = self.config.whole_batch_size if changed else self.config.batch_size
        side = self.model.config.image_size if changed or crop_size == 0 else crop_size
        indices = range(self.next_index, self.next_index + size)
        self.next_index += size
        whole = changed or crop_size == 0
        pictures = [self._piece(i, side, whole=whole) for i in own_part(indices, self.world)]
        self._keys = [self.source.key(index) for index in indices]
        # NCHW: GroupNorm is several times slower, backward, on channels-last memory.
        pixels = uint8_to_pixel_values(np.stack(pictures)).contiguous()
        return pixels.to(self.device)

    def _piece(self, index: int, side: int, *, whole: bool) -> np.ndarray:
        """What is trained on of a picture: a function of seed and index alone."""
        config, picture = self.config, self.source.picture(index)
        rng = np.random.default_rng([config.run.seed, index, CROPS])
        if config.crop == "random":
            picture = random_crop(picture, side, config.crop_share, rng)
        else:
            picture = self._whole(picture)
            picture = picture if whole else busiest_crop(picture, side, rng)
        if config.flip and np.random.default_rng([config.run.seed, index, FLIPS]).random() < 0.5:
            picture = picture[:, ::-1]
        return picture

    def _whole(self, picture: np.ndarray) -> np.ndarray:
        """Pictures of a folder have any size; a source without an end has one, which is kept."""
        size = self.model.config.image_size
        return centre(picture, size) if self._any_size else picture

    def train_step(self, step: int) -> dict[str, Any]:
        """One batch, one update of each side; restarts unused codebook rows when due."""
        pixels = self._batch(step)
        noise = self._noise(pixels, step) if step < self.config.quantize_from else None
        with self._autocast():
            if self.config.decoder_only:
                ids = self._noisy(self._tokenize(pixels), step)
                losses = decoder_losses(self.model, ids, pixels, self.config.loss, self.perceptual)
            else:
                losses = self._losses(
                    self.model,
                    pixels,
                    self.config.loss,
                    noise,
                    self.perceptual,
                    processes=self.world.size,
                )
        fooled, of_gan = self._adversarial(losses, step)
        total = losses.total if fooled is None else losses.total + fooled
        (total / self.world.size).backward()
        sum_gradients(self.optimizers.parameters, self.world)
        norm, lr = self.optimizers.step(step, self.config.run.steps)
        means = {"loss": total.item()} | {name: term.item() for name, term in losses.terms.items()}
        means |= of_gan
        if fooled is not None:
            means |= self._train_adversary(pixels, losses.reconstruction)
        values: dict[str, Any] = {"loss": 0.0, "lr": lr, "grad_norm": norm}
        values |= mean_values(means, self.world)
        values["images"] = self.next_index
        if self.ema is not None:
            self.ema.update(self.model)
        values |= self._tend_codebook(losses, step, seen=noise is None)
        if self.held_out is not None and (step + 1) % self.config.eval.every == 0:
            values |= self.held_out.measure(self.result)
        return values | self.source.count_bad()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.bf16)

    def _adversarial(self, losses: VQLosses, step: int) -> tuple[Tensor | None, dict[str, float]]:
        """The generator's weighted adversarial term once it counts, and what to log of it."""
        if self.adversary is None or step < self.config.gan.start:
            return None, {}
        with self._autocast():
            term = self.adversary.generator_loss(losses.reconstruction)
        weight = self.config.gan.weight
        if self.config.gan.adaptive:
            config = self.config.loss
            found = [name for name in OF_PICTURES if name in losses.terms]
            compared = [getattr(config, name) * losses.terms[name] for name in found]
            last = self.model.decoder.conv_out.weight
            ratio = adaptive_weight(torch.stack(compared).sum(), term, last, self.world)
            weight *= ratio.item()
        return weight * term, {"gan_generator": term.item(), "gan_weight": weight}

    def _train_adversary(self, pixels: Tensor, reconstruction: Tensor) -> dict[str, float]:
        assert self.adversary is not None
        with self._autocast():
            loss, verdicts = self.adversary.discriminator_loss(pixels, reconstruction)
        values = {"gan_discriminator": loss.item()}
        values |= {name: verdict.item() for name, verdict in verdicts.items()}
        return values | {"gan_grad_norm": self.adversary.update(loss)}

    def _tend_codebook(self, losses: VQLosses, step: int, *, seen: bool) -> dict[str, float]:
        """Count what was chosen; seed the rows before their first use, restart the unused."""
        counts = torch.bincount(losses.ids.flatten(), minlength=len(self.code_counts))
        self.code_counts += sum_tensor(counts, self.world).cpu()
        values: dict[str, float] = {}
        if not seen:
            if step + 1 == self.config.quantize_from:
                self._seed_codebook(step)
            return values
        restarts = self.config.restart_every > 0
        window = self.config.restart_every if restarts else self.config.run.log_every
        if (step + 1) % window == 0:
            values["codebook_usage"] = (self.code_counts > 0).float().mean().item()
            if restarts and step < self.config.restart_until:
                values["codebook_restarts"] = self._restart_unused(losses.vectors, step)
            self.code_counts.zero_()
        return values

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.config.run.seed * 1_000_003 + step)

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, N), in fp32: what is trained on is what a model is told."""
        with torch.autocast(pixels.device.type, enabled=False):
            return self.model.encode_to_ids(pixels.to(self.device))

    def _noisy(self, ids: Tensor, step: int) -> Tensor:
        """Some ids replaced by others of the batch, at the share that the run says."""
        if self.config.id_noise == 0:
            return ids
        generator = torch.Generator().manual_seed(
            stable_hash("ids", self.config.run.seed, step, self.world.rank) % (1 << 63)
        )
        others = ids.flatten()[torch.randperm(ids.numel(), generator=generator)].view_as(ids)
        chosen = torch.rand(ids.shape, generator=generator) < self.config.id_noise
        return torch.where(chosen.to(ids.device), others, ids)

    def _noise(self, pixels: Tensor, step: int) -> Tensor:
        """(B, N, d) of this process's pictures, drawn for those of all."""
        config = self.model.config
        count = pixels.shape[2] * pixels.shape[3] // config.downsample_factor**2
        shape = (len(pixels) * self.world.size, count, config.codebook_dim)
        noise = torch.randn(shape, generator=self._generator(step))
        return (own_part(noise, self.world) * self.config.noise).to(self.device)

    def _of_all(self, vectors: Tensor) -> Tensor:
        """(M, d) of this process's pictures -> those of the whole batch, in its order."""
        return all_rows(vectors, self.world.size).flatten(0, 1)

    @torch.no_grad()
    def _seed_codebook(self, step: int) -> None:
        """Place the codebook's rows on vectors of fresh pictures, just before it is first used."""
        codebook_size, found = self.model.config.codebook_size, []
        while sum(map(len, found)) < 2 * codebook_size:
            with self._autocast():
                grid = self.model.encode_to_vectors(self._batch(step)).float()
            unit = F.normalize(grid, dim=1).flatten(2).transpose(1, 2)  # (B, N, d)
            found.append(self._of_all(unit.flatten(0, 1)))
        vectors = torch.cat(found)
        order = torch.randperm(len(vectors), generator=self._generator(step))
        self.model.quantize.embedding.weight.copy_(vectors[order[:codebook_size]])
        self.code_counts.zero_()
        if self.ema is not None:
            self.ema.reset(self.model)  # a mean of rows before and after means nothing

    @torch.no_grad()
    def _restart_unused(self, vectors: Tensor, step: int) -> int:
        """Move rows that nothing chose lately onto vectors of the last batch."""
        vectors = self._of_all(vectors)
        unused = (self.code_counts == 0).nonzero().flatten()
        picks = torch.randint(len(vectors), (len(unused),), generator=self._generator(step))
        weight = self.model.quantize.embedding.weight
        weight[unused] = vectors[picks].to(weight.dtype)
        if self.ema is not None:
            self.ema.module.quantize.embedding.weight[unused] = weight[unused]
        return len(unused)

    def last_keys(self) -> list[str]:
        """Keys of the last batch, of all processes."""
        return self._keys

    def sample(self, folder: Path, step: int) -> None:
        """Write a sheet: pictures that are never trained on above their reconstructions."""
        self.world.on_main(lambda: self._write_sheet(folder, step))
        self.source.count_bad()

    @torch.no_grad()
    def _write_sheet(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [
            self._whole(self.source.picture(HELD_OUT_FIRST + i)) for i in range(NUM_SAMPLES)
        ]
        pixels = uint8_to_pixel_values(np.stack(pictures)).to(self.device)
        with self._autocast():
            ids = self._tokenize(pixels) if self.config.decoder_only else None
            restored = self.result.decode_ids(
                self.result.encode_to_ids(pixels) if ids is None else ids
            )
        rows = _interleave_rows(pictures, list(pixel_values_to_uint8(restored)), columns=8)
        sheet([Image.fromarray(p) for p in rows], columns=8).save(folder / f"step-{step:08d}.png")

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizers, and where the data order stands."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "next_index": self.next_index,
            "code_counts": self.code_counts,
            "bad": self.source.bad,
            "sources": self.facts,
        }
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict()
        if self.ema is not None:
            state["ema"] = self.ema.module.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: The source's files were changed since.
        """
        refuse_other_data(state.get("sources", {}), self.facts)  # none in an older checkpoint
        self.model.load_state_dict(state["model"], strict=True)
        self.optimizers.load_state_dict(state["optimizers"])
        self.next_index = state["next_index"]
        self.code_counts = state["code_counts"]
        # A checkpoint from before broken pictures were replaced has none.
        self.source.bad = dict(state.get("bad", {}))
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"], strict=True)


def _interleave_rows(
    above: Sequence[np.ndarray], below: Sequence[np.ndarray], *, columns: int
) -> list[np.ndarray]:
    rows: list[np.ndarray] = []
    for start in range(0, len(above), columns):
        rows += [*above[start : start + columns], *below[start : start + columns]]
    return rows
