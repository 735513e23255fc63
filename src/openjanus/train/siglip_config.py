"""What the training of the understanding encoder is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from openjanus.rules import require_at_least_one
from openjanus.train.optim_config import OptimConfig
from openjanus.train.run_config import RunConfig, check_timeout
from openjanus.train.source_config import SourceConfig, refuse_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipTrainConfig:
    """Train the understanding encoder with the sigmoid loss on (picture, caption) pairs.

    A source may give a picture's regions in place of one caption.
    """

    kind: Literal["siglip"] = "siglip"
    preset: str = "tiny"
    """Architecture whose ``und_encoder`` is trained."""
    run: RunConfig = field(default_factory=RunConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    source: SourceConfig
    tokenizer: str | None = None
    """Text tokenizer of the captions: a ``tokenizer.json`` or its folder; None takes bytes."""
    init: list[str] = field(default_factory=list)
    """A trained Janus whose encoder is trained on, the first that exists: folders beside
    ``run.dir``, or ``nano``. Without any the encoder starts afresh; the text tower always does."""
    batch_size: int = 64
    max_bad_samples: int = 100
    """Different pictures that may be unusable before the run stops."""
    embed_size: int = 128
    """Width of the space where pictures and captions meet."""
    text_layers: int = 2
    """Layers of the text tower, which is thrown away after training."""
    text_heads: int = 4
    max_text_length: int = 64
    """Tokens of a caption that are read; longer ones are cut."""
    eval_every: int = 100
    """Steps between measurements of retrieval on pairs that are never trained on."""
    eval_pairs: int = 128
    bf16: bool = True
    device: str = "cpu"
    """Where the encoder is trained, for instance ``cuda``."""
    process_timeout_s: float = 600.0
    """Seconds that several processes wait for one of them, which may be reading pictures."""

    def __post_init__(self) -> None:
        for name in ("text_layers", "text_heads", "eval_every", "eval_pairs"):
            require_at_least_one(name, getattr(self, name))
        refuse_steps([self.source], self.kind)
        check_timeout(self.process_timeout_s)
        if self.max_bad_samples < 0:
            raise ValueError(f"max_bad_samples must be >= 0, got {self.max_bad_samples}")
        if self.batch_size < 2 or self.max_text_length < 2:
            raise ValueError(
                "batch_size and max_text_length must be >= 2, got "
                f"{self.batch_size} and {self.max_text_length}"
            )
        if self.embed_size % self.text_heads != 0:
            raise ValueError(
                f"embed_size ({self.embed_size}) must be a multiple of text_heads "
                f"({self.text_heads})"
            )
