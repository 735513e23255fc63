"""Defects that were seen in the wild, put back: the vectors that are there for them see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from openjanus.config import ProcessorConfig
from openjanus.model.janus import Aligner, JanusModel
from openjanus.model.siglip import SiglipEncoder, SiglipMLP
from openjanus.model.vq import Downsample, VectorQuantizer
from openjanus.processor.image import und_pixel_values
from openjanus.processor.prompt import Processor
from openjanus.train.losses import Losses, compute_losses

Patch = pytest.MonkeyPatch

LOOKING = {"und_logits", "loss_und", "loss_mixed"}
"""What looks through the understanding encoder, in numbers."""
DRAWING = {"gen_logits", "guided_ids", "unguided_ids", "loss_gen", "loss_mixed"}
PROMPTED = {"prompt_ids", "training_ids", "guided_ids", "unguided_ids"}
"""What a changed drawing prompt changes."""


def tanh_gelu(patch: Patch) -> None:
    def forward(self: SiglipMLP, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))

    patch.setattr(SiglipMLP, "forward", forward)


def no_final_norm(patch: Patch) -> None:
    def forward(self: SiglipEncoder, pixel_values: Tensor) -> Tensor:
        x = self.embed_patches(pixel_values)
        for block in self.used_blocks():
            x = block(x)
        return x

    patch.setattr(SiglipEncoder, "forward", forward)


def tanh_gelu_in_aligners(patch: Patch) -> None:
    def forward(self: Aligner, x: Tensor) -> Tensor:
        return self.layers[2](F.gelu(self.layers[0](x), approximate="tanh"))

    patch.setattr(Aligner, "forward", forward)


def raw_nearest(patch: Patch) -> None:
    """The codebook taken for one of unit rows."""

    def nearest(self: VectorQuantizer, z: Tensor) -> Tensor:
        return torch.cdist(z, self.embedding.weight).argmin(-1)

    patch.setattr(VectorQuantizer, "nearest", nearest)


def z_alone_normalised(patch: Patch) -> None:
    def nearest(self: VectorQuantizer, z: Tensor) -> Tensor:
        return torch.cdist(F.normalize(z, dim=-1), self.embedding.weight).argmin(-1)

    patch.setattr(VectorQuantizer, "nearest", nearest)


def raw_lookup(patch: Patch) -> None:
    patch.setattr(VectorQuantizer, "lookup", lambda self, ids: self.embedding(ids))


def symmetric_padding(patch: Patch) -> None:
    def forward(self: Downsample, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (1, 1, 1, 1)))[..., : x.shape[-2] // 2, : x.shape[-1] // 2]

    patch.setattr(Downsample, "forward", forward)


def normalised_gen_embed(patch: Patch) -> None:
    def embed_gen(self: JanusModel, image_ids: Tensor) -> Tensor:
        return self.gen_aligner(F.normalize(self.gen_embed(image_ids), dim=-1))

    patch.setattr(JanusModel, "embed_gen", embed_gen)


def codebook_as_gen_embed(patch: Patch) -> None:
    def embed_gen(self: Any, image_ids: Tensor) -> Tensor:
        return self.gen_aligner(self.vq.quantize.lookup(image_ids))

    patch.setattr(JanusModel, "embed_gen", embed_gen)


def rounded_pixels(patch: Patch) -> None:
    def to_uint8(pixel_values: Tensor) -> np.ndarray:
        values = ((pixel_values + 1) / 2 * 255).round().clamp(0, 255).to(torch.uint8)
        return values.permute(0, 2, 3, 1).contiguous().numpy()

    patch.setattr("openjanus.processor.prompt.pixel_values_to_uint8", to_uint8)


def _padded(
    image: Image.Image, size: int, config: ProcessorConfig, *, sides: Any, colour: Any, least: int
) -> Image.Image:
    """The padding with parts of it to be replaced."""
    width, height = (max(sides(side, max(image.size), size), least) for side in image.size)
    square = Image.new("RGB", (size, size), tuple(colour(m * 255) for m in config.image_mean))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    return square


def _patch_padding(patch: Patch, **parts: Any) -> None:
    right = {"sides": lambda side, longest, size: int(side / longest * size), "colour": int}
    defect = partial(_padded, **({"least": 14} | right | parts))
    patch.setattr("openjanus.processor.image.pad_to_square", defect)
    patch.setattr("openjanus.conformance.openjanus.pad_to_square", defect)


def scale_first(patch: Patch) -> None:
    """One pixel off for some sizes."""
    _patch_padding(patch, sides=lambda side, longest, size: int(side * (size / longest)))


def rounded_sides(patch: Patch) -> None:
    _patch_padding(patch, sides=lambda side, longest, size: round(side / longest * size))


def rounded_background(patch: Patch) -> None:
    _patch_padding(patch, colour=round)


def no_least_side(patch: Patch) -> None:
    _patch_padding(patch, least=1)


def fixed_mean_and_std(patch: Patch) -> None:
    def halves(images: list[Image.Image], size: int, config: ProcessorConfig) -> Tensor:
        half = (0.5, 0.5, 0.5)
        return und_pixel_values(images, size, replace(config, image_mean=half, image_std=half))

    patch.setattr("openjanus.processor.prompt.und_pixel_values", halves)


def padded_targets(patch: Patch) -> None:
    def gen_pixels(self: Processor, images: Any) -> Tensor:
        opened = [Image.fromarray(image) for image in images]
        return und_pixel_values(opened, self.config.gen_image_size, self.config.processor)

    patch.setattr(Processor, "gen_pixels", gen_pixels)


def plain_conversion(patch: Patch) -> None:
    """No EXIF, alpha dropped, wide values clipped."""
    patch.setattr("openjanus.processor.image.to_rgb", lambda image: image.convert("RGB"))


def roles_of_janus_pro(patch: Patch) -> None:
    roles = ("<|User|>", "<|Assistant|>")
    patch.setattr("openjanus.weights.published.choose_roles", lambda *args: roles)


def space_after_an_open_role(patch: Patch) -> None:
    import openjanus.processor.chat as chat

    def render(*args: Any, **options: Any) -> str:
        text = chat.render_with_spans(*args, **options)[0]
        return text + " " if text.endswith(":") else text

    patch.setattr("openjanus.conformance.openjanus.render", render)
    patch.setattr("openjanus.processor.prompt.render", render)


def system_prompt_when_drawing(patch: Patch) -> None:
    import openjanus.processor.chat as chat

    def render(turns: Any, *, config: ProcessorConfig, system: str) -> str:
        return chat.render(turns, config=config, system=system or config.und_system_prompt)

    patch.setattr("openjanus.processor.prompt.render", render)


def pads_all_over(patch: Patch) -> None:
    """The unconditional prompt without BOS and BOI."""
    patch.setattr(
        Processor, "uncond_prompt", lambda self, length: (self.tokenizer.pad_id,) * length
    )


def hard_coded_pad(patch: Patch) -> None:
    from openjanus.processor.text import TextTokenizer

    made = TextTokenizer.__init__

    def init(self: TextTokenizer, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        self.pad_id = 2

    patch.setattr(TextTokenizer, "__init__", init)


def slots_without_boi(patch: Patch) -> None:
    def with_slots(self: Processor, ids: Any, mask: Any) -> tuple[list[int], list[bool]]:
        new_ids: list[int] = []
        new_mask: list[bool] = []
        for token, counts in zip(ids, mask, strict=True):
            is_mark = token == self.tokenizer.image_pad_id
            run = [token] * (self.config.num_und_image_tokens if is_mark else 1)
            new_ids, new_mask = new_ids + run, new_mask + [counts] * len(run)
        return new_ids, new_mask

    patch.setattr(Processor, "_with_slots", with_slots)


def other_defaults(patch: Patch) -> None:
    from openjanus.weights import llama

    defaults = {**llama.LLAMA_DEFAULTS, "hidden_size": 2048, "num_attention_heads": 16}
    patch.setattr(llama, "LLAMA_DEFAULTS", defaults)


def padding_is_seen(patch: Patch) -> None:
    from openjanus.model.attention import causal_mask

    patch.setattr(
        "openjanus.conformance.openjanus.padding_causal_mask",
        lambda mask: causal_mask(mask.shape[1]),
    )


def neighbours_rotated(patch: Patch) -> None:
    """Rotary positions that pair neighbours, not halves."""

    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        return x * cos + turned * sin

    patch.setattr("openjanus.model.attention.rotate", rotate)


def weak_guidance(patch: Patch) -> None:
    """Guidance the way of those who count from 0."""
    patch.setattr(
        "openjanus.engine.image_page.guide",
        lambda cond, uncond, scale: cond + scale[:, None] * (cond - uncond),
    )


def shifted_twice(patch: Patch) -> None:
    """The first id of a picture is learnt from the state at itself."""
    from openjanus.data.collate import Batch, collate

    def shifted(*args: Any, **options: Any) -> Batch:
        batch = collate(*args, **options)
        return replace(batch, image_places=batch.image_places + 1)

    patch.setattr("openjanus.conformance.lessons.collate", shifted)


def mean_of_means(patch: Patch) -> None:
    def compute(model: JanusModel, batch: Any) -> Losses:
        nothing = torch.zeros(0, dtype=torch.long)
        no_text = replace(
            batch, text_places=nothing, text_targets=nothing, text_is_und=nothing.bool()
        )
        parts = [replace(batch, image_ids=None, image_places=nothing), no_text]
        parts = [part for part in parts if len(part.text_places) + len(part.image_places) > 0]
        found = [compute_losses(model, part) for part in parts]
        return replace(found[0], total=torch.stack([one.total for one in found]).mean())

    patch.setattr("openjanus.conformance.openjanus.compute_losses", compute)


def mean_over_all_places(patch: Patch) -> None:
    def compute(model: JanusModel, batch: Any) -> Losses:
        found = compute_losses(model, batch)
        supervised = len(batch.text_places) + len(batch.image_places)
        return replace(found, total=found.total * supervised / batch.num_tokens)

    patch.setattr("openjanus.conformance.openjanus.compute_losses", compute)


def frozen_encoder(patch: Patch) -> None:
    def embed(model: JanusModel, pixel_values: Tensor, encoder: Any) -> Tensor:
        return model.und_aligner(model.und_encoder(pixel_values).detach())

    patch.setattr("openjanus.train.losses.embed_und", embed)


def prompt_is_learnt(patch: Patch) -> None:
    from openjanus.data.encoding import encode_sample

    def encode(sample: Any, processor: Any, **options: Any) -> Any:
        return encode_sample(sample, processor, **(options | {"mask_prompt": False}))

    patch.setattr("openjanus.conformance.lessons.encode_sample", encode)


DEFECTS: list[tuple[Callable[[Patch], None], set[str]]] = [
    (tanh_gelu, {"siglip_features"} | LOOKING),
    (no_final_norm, {"siglip_features", "answer_ids"} | LOOKING),
    (tanh_gelu_in_aligners, {"und_aligner", "gen_embed", "gen_logits", "loss_gen"} | LOOKING),
    (raw_nearest, {"vq_ids"}),
    (z_alone_normalised, {"vq_ids"}),
    (raw_lookup, {"vq_pixels", "pixels"}),
    (symmetric_padding, {"vq_latents", "vq_ids"}),
    (normalised_gen_embed, {"gen_embed"} | DRAWING),
    (codebook_as_gen_embed, {"gen_embed"} | DRAWING),
    (rounded_pixels, {"pixels"}),
    (scale_first, {"resize"}),
    (rounded_sides, {"resize"}),
    (rounded_background, {"resize", "und_pixels"}),
    (no_least_side, {"resize", "und_pixels"}),
    (fixed_mean_and_std, {"und_pixels"}),
    (padded_targets, {"gen_pixels"}),
    (plain_conversion, {"picture_modes", "picture_depths"}),
    (roles_of_janus_pro, {"templates"}),
    (space_after_an_open_role, {"templates", "answer_ids"} | PROMPTED),
    (system_prompt_when_drawing, {"answer_ids"} | PROMPTED),
    (pads_all_over, {"uncond_ids", "training_ids", "guided_ids"}),
    (hard_coded_pad, {"special_ids", "uncond_ids", "training_ids", "guided_ids"}),
    (slots_without_boi, {"prompt_ids", "training_ids", "answer_ids"}),
    (other_defaults, {"config_defaults"}),
    (padding_is_seen, {"und_logits"}),
    (neighbours_rotated, LOOKING | DRAWING | {"answer_ids", "loss_text"}),
    (weak_guidance, {"guided_ids", "unguided_ids"}),
    (shifted_twice, {"loss_gen", "loss_mixed"}),
    (mean_of_means, {"loss_mixed"}),
    (mean_over_all_places, {"loss_text", "loss_und", "loss_gen", "loss_mixed"}),
    (frozen_encoder, {"loss_und", "loss_mixed"}),
    (prompt_is_learnt, {"training_ids"}),
]
"""Each with every vector that it is seen in."""


@pytest.mark.parametrize(
    ("defect", "seen_in"), DEFECTS, ids=[defect.__name__ for defect, _ in DEFECTS]
)
def test_a_defect_is_seen_where_it_belongs(
    defect: Callable[[Patch], None],
    seen_in: set[str],
    differing: Callable[[], set[str]],
    monkeypatch: Patch,
) -> None:
    defect(monkeypatch)
    assert differing() == seen_in
