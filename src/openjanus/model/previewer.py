"""A small decoder beside the image tokenizer's: rough pictures of ids for next to nothing.

Three convolutions from codebook vectors to pixels, trained to come near what the tokenizer's own
decoder makes (``scripts/fit_previewer.py``). No part of a Janus: a model draws the same without it,
and shows its unfinished pictures by its own decoder then.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3


class Previewer(nn.Module):
    """Rows of codebook ids to pixels; each place sees two places around it.

    Args:
        codebook: (C, d) rows of the tokenizer's, kept at unit length, in fp32.
        patch: Pixels a side of each id.
        width: Channels in between.
    """

    def __init__(self, codebook: Tensor, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.codebook: Tensor
        self.register_buffer("codebook", F.normalize(codebook.float(), dim=-1), persistent=False)
        size = codebook.shape[1]
        self.conv_in = nn.Conv2d(size + 1, width, KERNEL, padding=KERNEL // 2)
        self.conv_mid = nn.Conv2d(width, width, KERNEL, padding=KERNEL // 2)
        self.conv_out = nn.Conv2d(width, 3 * patch * patch, 1)

    def forward(self, image_ids: Tensor, is_known: Tensor | None = None) -> Tensor:
        """Draw ids roughly.

        Args:
            image_ids: (B, h, w) in [0, C).
            is_known: (B, h, w) bool; what is not known is seen as what lies outside. None knows
                all.

        Returns:
            (B, 3, h * patch, w * patch), about in [-1, 1], unclipped.
        """
        known = torch.ones_like(image_ids) if is_known is None else is_known
        seen = known[:, None].to(self.codebook.dtype)  # (B, 1, h, w)
        # Unit vectors of d entries, at a variance of about one.
        vectors = self.codebook[image_ids].permute(0, 3, 1, 2) * self.codebook.shape[1] ** 0.5
        h = F.silu(self.conv_in(torch.cat([vectors * seen, seen], 1))) * seen  # (B, width, h, w)
        h = F.silu(self.conv_mid(h))
        return F.pixel_shuffle(self.conv_out(h), self.patch)
