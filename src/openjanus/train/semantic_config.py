"""What the training of a semantic tokenizer is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from openjanus.train.vq_config import VQLossConfig, VQTrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticLossConfig(VQLossConfig):
    """Weights of a semantic tokenizer's losses (Janus, appendix A)."""

    semantic: float = 0.25
    """1 - cosine between what the branch predicts and the teacher's features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticTrainConfig(VQTrainConfig):
    """Train a semantic tokenizer: the VQ's losses, and a frozen encoder's features to predict."""

    kind: Literal["semantic"] = "semantic"  # pyright: ignore[reportIncompatibleVariableOverride]
    preset: str = "tiny-semantic"
    """Architecture whose ``gen_tokenizer`` is trained; the picture size is the sources'."""
    teacher: str
    """Whose features are predicted: the folder of a Janus in any layout, or of a trained
    ``und_encoder`` (a relative one lies beside ``run.dir``); or ``nano``."""
    loss: SemanticLossConfig = field(default_factory=SemanticLossConfig)

    def __post_init__(self) -> None:
        VQTrainConfig.__post_init__(self)
        if self.whole_from is not None:
            raise ValueError(
                f"whole_from must be left out, got {self.whole_from}: a semantic tokenizer is "
                "trained on whole pictures from the start"
            )
        if self.compile:
            raise ValueError("compile must be false: a semantic tokenizer's step is not compiled")
        if self.decoder_only:
            raise ValueError("decoder_only must be false: a semantic tokenizer is trained whole")
