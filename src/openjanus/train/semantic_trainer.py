"""Training of a semantic tokenizer: the VQ's losses, and a frozen encoder's features to predict.

Both branches read the same quantized vectors, so what pixels need and what meaning needs meet in
one codebook (Janus, appendix A; the cosine is BEiT-v2's). The teacher only looks.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import SemanticConfig
from openjanus.model.semantic import SemanticDecoder, SemanticTokenizer
from openjanus.processor.image import uint8_to_pixel_values
from openjanus.train.parallel import ALONE, World
from openjanus.train.semantic_config import SemanticTrainConfig
from openjanus.train.teacher import Teacher
from openjanus.train.vq_data import HELD_OUT_FIRST, PictureSource, centre
from openjanus.train.vq_losses import vq_losses
from openjanus.train.vq_trainer import NUM_SAMPLES, VQTrainer

INIT_STD = 0.02


@torch.no_grad()
def init_semantic(model: SemanticTokenizer, seed: int) -> None:
    """Normal weights and places in the branch, zero biases; by the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.semantic.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(0.0, INIT_STD, generator=generator)
            module.bias.zero_()
    model.semantic.pos_embed.normal_(0.0, INIT_STD, generator=generator)


def semantic_loss(predicted: Tensor, features: Tensor) -> Tensor:
    """1 - cosine of each place's two vectors, the mean of all; (B, N, C) each, in fp32."""
    return (1 - F.cosine_similarity(predicted.float(), features.float(), dim=-1)).mean()


def semantic_terms(
    branch: SemanticDecoder, teacher: Teacher, pixels: Tensor, quantized: Tensor
) -> dict[str, Tensor]:
    """(B, 3, S, S), (B, N, d) -> what the branch is taught, by its name in the losses."""
    features = teacher.features(pixels, quantized.shape[1])
    return {"semantic": semantic_loss(branch.predict(branch(quantized)), features)}


def check_whole(config: SemanticTrainConfig, door: SemanticConfig) -> None:
    """Raise ``ValueError`` where pieces of pictures are asked for."""
    if config.crop_size not in (0, door.image_size):
        raise ValueError(
            f"crop_size must be 0 or the picture's side {door.image_size}, got "
            f"{config.crop_size}: the branch learns the places of whole pictures"
        )


class SemanticTrainer(VQTrainer):
    """One optimizer step at a time; the loop is ``train.loop``'s.

    Args:
        model: With values to begin with.
        teacher: Frozen.
        source: Whole pictures of the tokenizer's size.
        config: The run.
        world: All processes; each asks a teacher of its own about its part of a batch.

    Raises:
        ValueError: The teacher's features are of another width, or of a grid that does not fit; or
            pieces of pictures are asked for; or the batch cannot be dealt evenly.
    """

    def __init__(
        self,
        model: SemanticTokenizer,
        teacher: Teacher,
        source: PictureSource,
        config: SemanticTrainConfig,
        *,
        world: World = ALONE,
    ) -> None:
        door = model.semantic.config
        check_whole(config, door)
        teacher.check(door)
        super().__init__(model, source, config, world=world)
        self.teacher = teacher.to(model.quantize.embedding.weight.device)
        self._semantic = model.semantic
        self._losses = partial(vq_losses, more=self._terms)

    def _terms(self, pixels: Tensor, quantized: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S), (B, N, d) -> what the branch is taught; reaches the encoder too."""
        return semantic_terms(self._semantic, self.teacher, pixels, quantized)

    @torch.no_grad()
    def agreement(self) -> float:
        """Mean cosine with the teacher on pictures that are never trained on, as ids have them."""
        side = self.model.config.image_size
        places = range(HELD_OUT_FIRST, HELD_OUT_FIRST + NUM_SAMPLES)
        pictures = [centre(self.source.picture(place), side) for place in places]
        weight = self.model.quantize.embedding.weight
        pixels = uint8_to_pixel_values(np.stack(pictures)).to(weight.device)
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=self.config.bf16):
            ids = self.model.encode_to_ids(pixels)
            return 1 - self._terms(pixels, self.model.quantize.lookup(ids))["semantic"].item()

    def sample(self, folder: Path, step: int) -> None:
        """Write the VQ's sheet, and how far the branch agrees with the teacher."""
        super().sample(folder, step)
        self.world.on_main(lambda: self._write_agreement(folder / f"step-{step:08d}.txt"))

    def _write_agreement(self, path: Path) -> None:
        text = f"cosine with the teacher on {NUM_SAMPLES} held-out pictures: {self.agreement():.4f}"
        path.write_text(text + "\n", encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """The VQ trainer's, and which teacher it was."""
        return {**super().state_dict(), "teacher": self.teacher.digest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: It was trained with another teacher.
        """
        if state["teacher"] != self.teacher.digest():
            raise ValueError(
                f"{self.teacher.name} is not the teacher that this run began with: give the same, "
                "or start another run with --init"
            )
        super().load_state_dict(state)
