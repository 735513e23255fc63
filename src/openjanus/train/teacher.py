"""A frozen encoder whose features a semantic tokenizer learns to predict (Janus, appendix A)."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from openjanus.config import ProcessorConfig, SemanticConfig
from openjanus.config_file import parse_door
from openjanus.data.id_cache import module_hash
from openjanus.model.doors import UndEncoder, build_door
from openjanus.train.fast_forward import run_encoder
from openjanus.train.parts import RECORD, load_door
from openjanus.train.start import donor
from openjanus.weights.formats import open_checkpoint


class Teacher:
    """An understanding encoder that is looked at and never trained.

    Args:
        encoder: Put into evaluation mode, its parameters frozen.
        image_size: Side of the pictures that it takes, in pixels.
        processor: How its pictures are normalised.
        name: What messages call it.

    Raises:
        ValueError: It does not say the width of its features.
    """

    def __init__(
        self, encoder: nn.Module, image_size: int, processor: ProcessorConfig, name: str
    ) -> None:
        if not isinstance(encoder, UndEncoder):
            raise ValueError(f"{name}: {type(encoder).__name__} has no output_size: no encoder")
        self.name = name
        self.image_size = image_size
        self.output_size = encoder.output_size
        self._encoder: nn.Module = encoder.eval().requires_grad_(False)
        self._mean = torch.tensor(processor.image_mean).view(3, 1, 1)
        self._std = torch.tensor(processor.image_std).view(3, 1, 1)

    def to(self, device: torch.device) -> Teacher:
        """Move it; the same teacher."""
        self._encoder.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    @torch.no_grad()
    def features(self, pixels: Tensor, num_places: int) -> Tensor:
        """What it sees of pictures.

        Args:
            pixels: (B, 3, S, S) in [-1, 1], of any side.
            num_places: N, a square number; several of the teacher's patches may share a place.

        Returns:
            (B, N, output_size) in fp32.

        Raises:
            ValueError: The teacher's grid is no multiple of that of the N places.
        """
        if pixels.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(-1, 1)
        pixels = ((pixels + 1) / 2 - self._mean) / self._std
        features = run_encoder(self._encoder, pixels).float()  # (B, M, C)
        side, wanted = math.isqrt(features.shape[1]), math.isqrt(num_places)
        if side * side != features.shape[1] or side % wanted != 0:
            raise ValueError(
                f"{self.name} sees {features.shape[1]} patches a picture, and the tokenizer has "
                f"{num_places} ids: the teacher's grid must be the tokenizer's or a multiple of it"
            )
        if side == wanted:
            return features
        grid = features.transpose(1, 2).unflatten(2, (side, side))  # (B, C, g, g)
        return F.avg_pool2d(grid, side // wanted).flatten(2).transpose(1, 2)  # (B, N, C)

    def check(self, config: SemanticConfig) -> None:
        """Raise ``ValueError`` for a tokenizer that cannot learn from it."""
        if config.teacher_size != self.output_size:
            raise ValueError(
                f"{self.name} has features of width {self.output_size}, and the tokenizer's "
                f"teacher_size is {config.teacher_size}: take another teacher, or set teacher_size"
            )
        blank = self._mean.new_zeros(1, 3, self.image_size, self.image_size)
        self.features(blank, config.num_image_tokens)

    def digest(self) -> str:
        """Names its weights."""
        return module_hash(self._encoder)


def load_teacher(run_dir: str, path: str) -> Teacher:
    """The encoder of a Janus, or one that was trained by itself.

    Args:
        run_dir: Folder of the run.
        path: ``nano``; a Janus in any layout; or a run of ``kind: siglip`` or its result. A
            relative folder lies beside ``run_dir``.

    Raises:
        FileNotFoundError: Nothing of the kind lies there.
        ValueError: A broken folder, or an encoder that gives no features.
    """
    folder = donor(run_dir, path)
    tqdm.write(f"teacher: {folder}", file=sys.stderr)
    if (folder / "config.json").is_file():
        checkpoint = open_checkpoint(folder)
        # The weights as they lie in the file: of all but the encoder nothing is read.
        encoder = checkpoint.load(device="cpu", dtype=None).und_encoder.float()
        config = checkpoint.config
        return Teacher(encoder, config.und_image_size, config.processor, str(folder))
    record = next((f / RECORD for f in (folder / "final", folder) if (f / RECORD).is_file()), None)
    if record is None:
        raise FileNotFoundError(
            f"no teacher in {folder}: give the folder of a Janus, or train an und_encoder first "
            "(a recipe of kind siglip)"
        )
    config = parse_door(json.loads(record.read_text(encoding="utf-8"))["config"], str(record))
    encoder = build_door(config)
    load_door(record.parent, encoder, config)
    return Teacher(encoder, _image_size(config, record), ProcessorConfig(), str(folder))


def _image_size(config: object, record: Path) -> int:
    size = getattr(config, "image_size", None)
    if not isinstance(size, int):
        raise ValueError(f"{record} says no image_size: a teacher must be an encoder of pictures")
    return size
