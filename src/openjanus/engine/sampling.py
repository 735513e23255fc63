"""Logits to ids: guidance, filtering and Gumbel-max, as pure functions of tensors, in fp32.

Every function treats a row by itself: what one row asks for never changes another's sample.
"""

from __future__ import annotations

import torch
from torch import Tensor


def guide(cond: Tensor, uncond: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance on logits: l_u + s (l_c - l_u) (Janus, section 3.3).

    Args:
        cond: (B, C) conditional logits.
        uncond: (B, C) unconditional logits; of a row with scale 1 they are not read.
        scale: (B,) fp32 guidance scales.

    Returns:
        (B, C) fp32.
    """
    cond, uncond, scale = cond.float(), uncond.float(), scale[:, None]
    # Exactly l_c at 1: u + (c - u) differs from c in the last bits.
    return torch.where(scale == 1, cond, uncond + scale * (cond - uncond))


def apply_temperature_top_k_top_p(
    logits: Tensor, temperature: Tensor, top_k: Tensor | None = None, top_p: Tensor | None = None
) -> Tensor:
    """Divide by the temperature, then cut what top-k and then top-p leave out.

    Args:
        logits: (B, C).
        temperature: (B,) >= 0; rows at 0 are left as if it were 1 (``sample`` makes them greedy).
        top_k: (B,) integers in [1, C], how many ids stay; ids tied with the last one stay too.
            None cuts nothing.
        top_p: (B,) in (0, 1]: the likeliest ids stay, until their probability reaches it. None
            cuts nothing.

    Returns:
        (B, C) fp32 with a maximum of 0; cut ids are -inf.
    """
    # The maximum goes first, so that a tiny temperature cannot overflow.
    logits = logits.float() - logits.float().amax(-1, keepdim=True)
    logits = logits / torch.where(temperature == 0, 1.0, temperature)[:, None]
    if top_k is None and top_p is None:
        return logits
    ranked = logits.sort(dim=-1, descending=True).values
    if top_k is not None:
        least = ranked.gather(-1, top_k[:, None] - 1)
        logits = logits.masked_fill(logits < least, -torch.inf)
        ranked = ranked.masked_fill(ranked < least, -torch.inf)
    if top_p is not None:
        probabilities = ranked.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        # Rounding lets `before` pass 1, so a row that cuts nothing is told apart by its 1.
        kept = (before < top_p[:, None]) | (top_p[:, None] >= 1)
        kept[:, 0] = True  # the likeliest stays also where fp32 rounds top_p to 0
        least = ranked.masked_fill(~kept, torch.inf).amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < least, -torch.inf)
    return logits


def sample(
    logits: Tensor,
    noise: Tensor,
    temperature: Tensor,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
) -> Tensor:
    """Draw an id a row by the Gumbel-max trick: argmax(logits / T + noise).

    With the noise held fixed this is a deterministic map from logits to ids.

    Args:
        logits: (B, C).
        noise: (B, C) standard Gumbel noise; of a greedy row it is not read.
        temperature: (B,); 0 is greedy.
        top_k: As in ``apply_temperature_top_k_top_p``.
        top_p: As there.

    Returns:
        (B,) int64 ids.
    """
    logits = apply_temperature_top_k_top_p(logits, temperature, top_k, top_p)
    return (logits + torch.where(temperature[:, None] == 0, 0.0, noise)).argmax(-1)
