"""What a training step costs in matrix products, and how fast this machine does one.

For a matrix of n numbers that t tokens go through, forward is 2 n t operations; its backward is
2 n t for the gradient of what went in, where something at or before that part is trained, and 2 n t
for that of the matrix, where it is trained itself: 6 n t where all is trained, 2 n t where a frozen
encoder comes first. Attention adds 4 x width for each pair of a token and one that it sees (causal,
within its document), a layer, and twice that for its backward. Each head counts the places that it
is run on. Padding, lookups, norms, the optimizer, the tokenizing of pictures (done once, kept) and
encoders other than SigLIP count nothing: this is the work wanted, not the work done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from openjanus.config import SiglipConfig
from openjanus.data.collate import Batch
from openjanus.model.janus import JanusModel
from openjanus.train.stages import Part, part_of

BEFORE: dict[Part, tuple[Part, ...]] = {
    "und_encoder": (),
    "und_aligner": ("und_encoder",),
    "gen_aligner": ("gen_embed",),
    "language_model": ("und_encoder", "und_aligner", "gen_embed", "gen_aligner"),
    "gen_head": ("und_encoder", "und_aligner", "gen_embed", "gen_aligner", "language_model"),
}
"""Parts that a gradient goes on to from each; others cost nothing that is counted."""

_HEAD = "language_model.lm_head."
PEAK_SIDE = {"cpu": 2048}
"""Side of the matrices whose product is timed; other devices take the larger one."""
PEAK_SIDE_ELSEWHERE = 8192
PEAK_TRIALS = 4


class FlopCounter:
    """Operations of a step, by the shapes of its batches and by what is trained.

    Args:
        model: After its parts were frozen.
        und_images: Whether the ids of pictures to understand are learnt too.
    """

    def __init__(self, model: JanusModel, *, und_images: bool = False) -> None:
        config = model.config
        self._one_vocabulary = config.one_vocabulary
        self._und_images = und_images
        door = config.und_encoder
        used = _used_blocks(door) if isinstance(door, SiglipConfig) else 0
        trained = {part_of(n) for n, p in model.named_parameters() if p.requires_grad}
        self._backward = {
            part: 1 if trained & {part, *before} else 0 for part, before in BEFORE.items()
        }
        self._per_token: dict[str, int] = {}
        for name, module in model.named_modules():
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            part = part_of(f"{name}.")
            if part not in BEFORE or (part == "und_encoder" and not _is_used(name, used)):
                continue
            place = "lm_head" if f"{name}.".startswith(_HEAD) else part
            times = 1 + self._backward[part] + int(module.weight.requires_grad)
            cost = 2 * module.weight.numel() * times
            self._per_token[place] = self._per_token.get(place, 0) + cost
        language = config.language
        width = language.num_attention_heads * language.head_size
        self._per_pair = 4 * width * language.num_hidden_layers
        self._per_pair *= 1 + 2 * self._backward["language_model"]
        self._per_picture = 0
        if isinstance(door, SiglipConfig):
            self._per_picture = 4 * door.hidden_size * used * door.num_image_tokens**2
            self._per_picture *= 1 + 2 * self._backward["und_encoder"]

    def count(self, batches: Sequence[Batch]) -> int:
        """Operations of one step over its batches."""
        return sum(self._count(batch) for batch in batches)

    def _count(self, batch: Batch) -> int:
        pictures = 0 if batch.pixel_values is None else len(batch.pixel_values)
        und_tokens = int(batch.und_slots.sum())
        words = len(batch.text_places)
        if self._one_vocabulary:  # one head, for ids of pictures as for words
            words += len(batch.image_places) + (und_tokens if self._und_images else 0)
        tokens = {
            "und_encoder": und_tokens,
            "und_aligner": und_tokens,
            "gen_aligner": int(batch.gen_slots.sum()),
            "language_model": batch.num_tokens,
            "lm_head": words,
            "gen_head": len(batch.image_places),
        }
        # Positions restart in each document, so a token sees as many as its own tells.
        pairs = int((batch.positions + 1)[batch.attention_mask].sum())
        products = sum(cost * tokens[place] for place, cost in self._per_token.items())
        return products + self._per_pair * pairs + self._per_picture * pictures


def _used_blocks(door: SiglipConfig) -> int:
    return door.select_layer % door.num_hidden_layers + 1


def _is_used(name: str, used: int) -> bool:
    """Whether a module of the encoder is run: the blocks behind ``select_layer`` are not."""
    if used == 0:  # another kind of encoder, whose tokens are not its features
        return False
    words = name.split(".")
    return words[1] != "blocks" or int(words[2]) < used


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, the best of a few: what MFU is a share of."""
    side = PEAK_SIDE.get(device.type, PEAK_SIDE_ELSEWHERE)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in "ab")
    best = float("inf")
    for _ in range(1 + PEAK_TRIALS):  # the first warms up
        _wait(device)
        began = time.perf_counter()
        torch.matmul(left, right)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
