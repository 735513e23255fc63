"""Which parts a stage trains (Janus, section 3.2 and Figure 3), as a table over parameter names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from torch import nn

from openjanus.model.doors import ImageTokenizer

Stage = Literal[0, 1, 2, 3]
"""0 is text alone, which the papers' decoder arrives with; 1 to 3 are theirs."""

Part = Literal[
    "und_encoder",
    "und_aligner",
    "gen_embed",
    "gen_aligner",
    "gen_head",
    "vq",
    "language_model",
    "extra_encoders",
    "extra_aligners",
]

PARTS: dict[Part, re.Pattern[str]] = {part: re.compile(rf"{part}\.") for part in get_args(Part)}
"""Patterns that a parameter's name begins with; every name matches exactly one."""

TRAINED: dict[Stage, frozenset[Part]] = {
    0: frozenset({"language_model"}),
    1: frozenset({"und_aligner", "gen_aligner", "gen_head", "extra_aligners"}),
    2: frozenset(
        {
            "und_aligner",
            "gen_embed",
            "gen_aligner",
            "gen_head",
            "language_model",
            "extra_aligners",
        }
    ),
    3: frozenset(
        {
            "und_encoder",
            "und_aligner",
            "gen_embed",
            "gen_aligner",
            "gen_head",
            "language_model",
            "extra_encoders",
            "extra_aligners",
        }
    ),
}
"""The generation tokenizer is never trained here: its ids are what is learned."""

STAGE_1_OPTION: frozenset[Part] = frozenset({"gen_embed"})


def part_of(name: str) -> Part:
    """The part that a parameter belongs to.

    Raises:
        ValueError: No pattern matches its name, or several do.
    """
    matches: list[Part] = [part for part, pattern in PARTS.items() if pattern.match(name)]
    if len(matches) != 1:
        raise ValueError(
            f"parameter {name!r} must belong to exactly one part, matches {matches}: "
            "add a pattern to train.stages.PARTS"
        )
    return matches[0]


def trained_parts(stage: Stage, *, train_gen_embed: bool) -> frozenset[Part]:
    """The parts that a stage trains.

    Args:
        stage: Which.
        train_gen_embed: Whether stage I trains gen_embed. The papers train the adaptors and the
            image head and call the embeddings the codebook's; the released checkpoints have them
            as weights of their own. Later stages always train it.

    Raises:
        ValueError: No such stage.
    """
    if stage not in TRAINED:
        raise ValueError(f"stage must be one of {list(TRAINED)}, got {stage}")
    if stage == 1 and train_gen_embed:
        return TRAINED[1] | STAGE_1_OPTION
    return TRAINED[stage]


ADAPTER = re.compile(r".+\.lora_[AB]\..+")
"""Names of the thin matrices that LoRA puts beside a model's own."""


def freeze_for_stage(
    model: nn.Module, stage: Stage, *, train_gen_embed: bool, beside: frozenset[Part] | None = None
) -> None:
    """Set ``requires_grad`` of every parameter as the stage says, or LoRA.

    A tokenizer is never trained with the decoder, not even as the understanding encoder: no
    gradient passes its ids, and what its branch has learned is what they mean.

    Args:
        model: Whose.
        stage: Which.
        train_gen_embed: As in ``trained_parts``.
        beside: Parts that are trained whole beside adapters, which are all that is trained then;
            None is a run without adapters.
    """
    parts = trained_parts(stage, train_gen_embed=train_gen_embed) if beside is None else beside
    if isinstance(getattr(model, "und_encoder", None), ImageTokenizer):
        parts -= {"und_encoder"}
    for name, parameter in model.named_parameters():
        adapts = beside is not None and ADAPTER.fullmatch(name) is not None
        parameter.requires_grad_(adapts or part_of(name) in parts)


def count_by_part(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[Part, int]:
    """Numbers of each part, for the summary at the start of a run."""
    counts: dict[Part, int] = {}
    for name, parameter in named_parameters:
        part = part_of(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts
