"""How much a supervised token of each kind counts in the loss."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """What a token of each kind counts; all count alike where nothing is said, as in the papers.

    A picture to draw has hundreds of ids and an answer a word or two, so that with as many samples
    of both the answers are a tenth of the loss. Its mean is over the weights: all doubled is the
    same run.

    Raises:
        ValueError: A weight that is negative or not finite, or none above 0.
    """

    und: float = 1.0
    """Answers about pictures."""
    text: float = 1.0
    """Words alone."""
    gen: float = 1.0
    """Ids of pictures to draw."""
    und_image: float = 1.0
    """Ids of pictures to understand, where ``und_image_loss`` learns them."""

    def __post_init__(self) -> None:
        told = dataclasses.asdict(self)
        for name, weight in told.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"loss_weights.{name} must be finite and >= 0, got {weight}")
        if not any(told.values()):
            raise ValueError("loss_weights are all 0, so nothing is learnt: give one above 0")


EQUAL = LossWeights()
