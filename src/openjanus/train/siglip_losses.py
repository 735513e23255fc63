"""SigLIP's sigmoid loss, and how often what belongs together is found."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_loss(logits: Tensor, true_of: Tensor, num_regions: int | None = None) -> Tensor:
    """SigLIP's loss.

    Args:
        logits: (R, U), regions by captions.
        true_of: (R, U) bool, which captions are taught as true of which region.
        num_regions: Those of the whole batch, where these are a part of it; None stands for R.

    Returns:
        The sum over captions, the mean over regions; of a part, its share of that mean.
    """
    signs = true_of.to(logits.dtype) * 2 - 1
    return -F.logsigmoid(signs * logits).sum() / (
        len(logits) if num_regions is None else num_regions
    )


def retrieval(logits: Tensor, true_of: Tensor) -> dict[str, float]:
    """How often what belongs together is found.

    Args:
        logits: (R, U), regions by captions.
        true_of: (R, U) bool, which captions are true of which region; each of one at least.

    Returns:
        ``image_to_text``, the share of true captions that are likelier of their region than every
        false one; ``text_to_image``, the share of captions that are true of their likeliest region.
    """
    likeliest_false = logits.masked_fill(true_of, -math.inf).amax(1, keepdim=True)  # (R, 1)
    columns = torch.arange(logits.shape[1], device=logits.device)
    return {
        "image_to_text": (logits > likeliest_false)[true_of].float().mean().item(),
        "text_to_image": true_of[logits.argmax(0), columns].float().mean().item(),
    }
