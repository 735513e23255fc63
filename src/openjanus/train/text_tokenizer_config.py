"""What the training of a text tokenizer is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from openjanus.rules import require_at_least_one
from openjanus.train.run_config import RunConfig
from openjanus.train.source_config import SourceConfig, refuse_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerTrainConfig:
    """Train the text tokenizer of a preset on the words of sources."""

    kind: Literal["tokenizer"] = "tokenizer"
    preset: str = "tiny"
    """Architecture whose vocabulary is filled."""
    run: RunConfig = field(default_factory=RunConfig)
    """Only ``dir`` and ``seed``, which orders the samples, are used."""
    sources: list[SourceConfig]
    """Sources of samples or pairs; all their words are read."""
    samples: int = 10_000
    """Samples in all, dealt by the sources' weights."""
    split_han: bool = False
    """Whether no merge goes beyond one Chinese character; see ``train_tokenizer``."""

    def __post_init__(self) -> None:
        require_at_least_one("samples", self.samples)
        refuse_steps(self.sources, self.kind)
