"""What an implementation is held to: every vector with the trap that it is there for.

A further one is a line here, its inputs in ``inputs`` or ``lessons``, and an answer of each
implementation (or a word on why it has none).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

Kind = Literal["exact", "ids", "bytes", "numbers"]
"""Plain values, integers, pictures in 8 bits, fp32: how two answers are compared."""

KINDS: tuple[str, ...] = get_args(Kind)

Inputs = Mapping[str, Any]
"""What is asked: tensors and plain data by name."""
Answers = Mapping[str, Tensor | str | int | float]
"""What comes out: plain values for ``exact``, tensors for every other kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vector:
    """One thing to agree on."""

    name: str
    kind: Kind
    trap: str
    """What goes wrong where it is missed."""
    tolerance: float = 0.0
    """numbers: the largest absolute difference; bytes: the share that may be off by one."""


class Subject(Protocol):
    """An implementation that has opened a kit's checkpoint and can be asked."""

    @property
    def name(self) -> str:
        """What a report calls it."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """What answered, for the report."""
        ...

    @property
    def known(self) -> Mapping[str, str]:
        """By vector: where it is known to differ or to fail, and why."""
        ...

    @property
    def absent(self) -> Mapping[str, str]:
        """By vector: what it has nothing for, and why."""
        ...

    @property
    def notes(self) -> Mapping[str, str]:
        """By vector: what a reader should know of how the answer was made."""
        ...

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What it may raise when asked; anything else is a mistake of ours."""
        ...

    def knows(self, vector: str) -> bool:
        """Whether it has an answer, or a word on why there is none."""
        ...

    def answer(self, vector: str, inputs: Inputs) -> Answers:
        """What comes out of a vector's inputs."""
        ...


FEATURES = 1e-4
"""Of single modules, whose outputs are near 1: fp32 rounding is a hundred times smaller."""
LOGITS = 1e-4
"""Of the whole decoder, whose rounding is as small."""
LOSSES = 1e-5
"""Of means over many tokens, and of gradients near 1."""

_WORDS = (
    Vector(
        name="config_defaults",
        kind="exact",
        trap="language_config leaves out what equals LlamaConfig's defaults: hidden 4096, "
        "intermediate 11008, 32 heads and layers, eps 1e-6, theta 1e4",
    ),
    Vector(
        name="special_ids",
        kind="exact",
        trap="ids differ between checkpoints: resolve special tokens by name, full-width bars "
        "and all",
    ),
    Vector(
        name="templates",
        kind="exact",
        trap="role names come from the checkpoint; contents are stripped, turns of the user end "
        "in two line breaks and answers in EOS, an open answer has no space after its colon",
    ),
    Vector(
        name="prompt_ids",
        kind="ids",
        trap="BOS comes first; a picture is BOI, its slots and EOI; a drawing has no system "
        "prompt and ends with BOI",
    ),
    Vector(
        name="uncond_ids",
        kind="ids",
        trap="the unconditional prompt is as long as the prompt and keeps BOS and BOI",
    ),
    Vector(
        name="training_ids",
        kind="ids",
        trap="answers and their EOS are learnt, nothing else; a dropped condition looks as it "
        "does when drawing",
    ),
)

_PICTURES = (
    Vector(
        name="resize",
        kind="exact",
        trap="the longer side becomes S, the other int(side / longest * S) in this order of "
        "operations; bicubic; centred on the mean colour",
    ),
    Vector(
        name="und_pixels",
        kind="numbers",
        tolerance=1e-6,
        trap="no side below 14 px; int(mean * 255) around the picture; mean and std are the "
        "checkpoint's",
    ),
    Vector(
        name="gen_pixels",
        kind="numbers",
        tolerance=1e-6,
        trap="what is to be drawn is cut from the centre, its shorter side S, in [-1, 1]: not "
        "the padded path",
    ),
    Vector(
        name="picture_modes",
        kind="bytes",
        trap="grey and palettes become RGB, and EXIF says which side is up",
    ),
    Vector(
        name="picture_depths",
        kind="bytes",
        trap="alpha lies over white and 16 bits are scaled to 8, not clipped (our reading)",
    ),
)

_UNDERSTANDING = (
    Vector(
        name="siglip_features",
        kind="numbers",
        tolerance=FEATURES,
        trap="exact-erf GELU where stock SigLIP has tanh; final norm on every patch, no pooling",
    ),
    Vector(
        name="und_aligner",
        kind="numbers",
        tolerance=FEATURES,
        trap="two layers with exact-erf GELU between them, none after",
    ),
    Vector(
        name="und_logits",
        kind="numbers",
        tolerance=LOGITS,
        trap="in a left-padded batch no real token sees the padding",
    ),
    Vector(
        name="answer_ids",
        kind="ids",
        trap="a greedy answer about a picture: positions go on where the prompt ends",
    ),
)

_GENERATION = (
    Vector(
        name="vq_latents",
        kind="numbers",
        tolerance=FEATURES,
        trap="the encoder pads right and bottom alone before it halves the sides",
    ),
    Vector(
        name="vq_ids",
        kind="ids",
        trap="z and the codebook's rows are both L2-normalised before the nearest is looked for",
    ),
    Vector(
        name="vq_pixels",
        kind="numbers",
        tolerance=FEATURES,
        trap="normalised rows are decoded; conv_blocks.0 is the lowest resolution",
    ),
    Vector(
        name="pixels",
        kind="bytes",
        tolerance=0.005,
        trap="clip((x + 1) / 2 * 255) is truncated, not rounded",
    ),
    Vector(
        name="gen_embed",
        kind="numbers",
        tolerance=FEATURES,
        trap="ids come back in by a table of its own, not the codebook, and not normalised",
    ),
    Vector(
        name="gen_logits",
        kind="numbers",
        tolerance=LOGITS,
        trap="the state at BOI predicts the first id; pads of the unconditional row are attended",
    ),
    Vector(
        name="guided_ids",
        kind="ids",
        trap="l_u + 5 (l_c - l_u), the same id into both rows, exactly N ids",
    ),
    Vector(name="unguided_ids", kind="ids", trap="at scale 1 the conditional logits alone"),
)


def _loss(task: str, trap: str) -> Vector:
    return Vector(name=f"loss_{task}", kind="numbers", tolerance=LOSSES, trap=trap)


_TRAINING = (
    _loss("text", "the mean over the tokens that are supervised, not over all"),
    _loss("und", "gradients reach the aligner and the encoder through the slots"),
    _loss("gen", "the state at BOI predicts the first id, the last id predicts nothing"),
    _loss("mixed", "one mean over all supervised tokens, not a mean of the tasks' means"),
)

_LOADING = tuple(
    Vector(name=f"weights_{layout}", kind="numbers", tolerance=1e-4, trap=trap)
    for layout, trap in (
        ("deepseek", "several shards, and tensors that nobody uses: attn_pool, codebook_used"),
        ("transformers", "renamed towers, and the encoder's qkv in three"),
    )
)

VECTORS: Mapping[str, Vector] = {
    vector.name: vector
    for vector in (
        *_LOADING,
        *_WORDS,
        *_PICTURES,
        *_UNDERSTANDING,
        *_GENERATION,
        *_TRAINING,
    )
}
"""By name, in the order of a report."""
