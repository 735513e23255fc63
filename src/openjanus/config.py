"""What a Janus is made of: frozen configurations. Architectures by name are in ``presets``.

Nothing here imports torch. A configuration is plain data: every size that a module needs is a
field or a property of one of these classes, and no size is written anywhere else.

A door (an encoder for understanding, a tokenizer for generation) is configured by a class whose
``type`` names it. ``register_door_config`` adds a class of one's own, so that a new door is a
configuration, not a change of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, get_args

from openjanus.quantization import QuantizationConfig
from openjanus.rules import near, require, require_number, require_positive, require_temperature

UND_SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
"""System prompt of the released models when they answer (none when they draw)."""

TemplateName = Literal["deepseek", "paper"]
"""How a dialogue is written: as the released models have it, or as the papers word it."""

PAPER_ROLES = ("User", "Assistant")
"""Role names in the papers' wording."""

MAX_GUIDANCE_SCALE = 1000
"""Largest size of a guidance scale; far beyond it logits leave fp32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """The language model in the middle: a Llama-style decoder."""

    vocab_size: int
    """Text vocabulary V, special tokens included; and the codebook's ids behind it where a model
    has one vocabulary."""
    hidden_size: int
    """Width D of the residual stream."""
    intermediate_size: int
    """Width of the SwiGLU."""
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    """Heads of keys and values; fewer than ``num_attention_heads`` is grouped-query attention."""
    head_dim: int | None = None
    """Width of a head; None means hidden_size / num_attention_heads."""
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 4096
    """Context in tokens."""
    tie_word_embeddings: bool = False
    """Whether lm_head is the embedding table."""
    qk_norm: bool = False
    """Whether each head's queries and keys are layer-normed before they are rotated (Chameleon)."""
    norm_order: str = "pre"
    """Where a layer's norms stand: ``pre``, before attention and feed-forward (Llama); ``post``,
    after each, before it is added (Chameleon 34B)."""
    dropout: float = 0.0
    """Share of what attention and feed-forward add that is dropped; in training alone."""

    def __post_init__(self) -> None:
        require_positive(self, but="dropout")
        require(
            self.norm_order in ("pre", "post"),
            f"norm_order must be 'pre' or 'post', got {self.norm_order!r}",
        )
        require(0 <= self.dropout < 1, f"dropout must be a share in [0, 1), got {self.dropout}")
        require(
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
            f"num_key_value_heads ({self.num_key_value_heads}): change one of them",
        )
        if self.head_dim is None:
            require(
                self.hidden_size % self.num_attention_heads == 0,
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads}): change one of them or set head_dim",
            )
        require(
            self.head_size % 2 == 0,
            f"head_dim must be even for rotary positions, got {self.head_size}: change the heads",
        )

    @property
    def head_size(self) -> int:
        """Width K of a head."""
        if self.head_dim is not None:
            return self.head_dim
        return self.hidden_size // self.num_attention_heads


LLAMA_LAYERS: Mapping[str, Any] = {"qk_norm": False, "norm_order": "pre", "dropout": 0.0}
"""What a decoder's options of stability are where it is Llama's; files leave them out then."""


class DoorConfig(Protocol):
    """What every door's configuration has: a type name, set once for its class."""

    type: ClassVar[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipConfig:
    """Understanding encoder: a SigLIP vision tower (Janus, section 3.1)."""

    type: ClassVar[str] = "siglip"

    image_size: int
    """Side S of the square input, in pixels."""
    patch_size: int
    hidden_size: int
    """Width C of the features."""
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float = 1e-6
    select_layer: int = -1
    """Which layer's output is used, counted as a list index; -1 is the last."""

    def __post_init__(self) -> None:
        require_positive(self, but="select_layer")
        require(
            self.image_size % self.patch_size == 0,
            f"image_size ({self.image_size}) must be a multiple of patch_size "
            f"({self.patch_size}): change one of them",
        )
        require(
            self.hidden_size % self.num_attention_heads == 0,
            f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
            f"({self.num_attention_heads}): change one of them",
        )
        require(
            -self.num_hidden_layers <= self.select_layer < self.num_hidden_layers,
            f"select_layer must be in [-{self.num_hidden_layers}, {self.num_hidden_layers - 1}], "
            f"got {self.select_layer}: use -1 for the last layer",
        )

    @property
    def num_image_tokens(self) -> int:
        """Features N an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def output_size(self) -> int:
        """Width of a feature as it leaves the encoder."""
        return self.hidden_size


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedEncoderConfig:
    """Understanding through the other face's tokenizer (Exp-A and B of Janus, Table 5).

    A plain VQ gives its codebook vectors, a semantic tokenizer the features of its branch.
    """

    type: ClassVar[str] = "shared"

    shared_with: str = "vq"
    """Name of the module whose encoder serves both faces."""

    def __post_init__(self) -> None:
        require(
            self.shared_with == "vq",
            f"shared_with must name the generation tokenizer 'vq', got {self.shared_with!r}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class VQConfig:
    """Generation tokenizer: LlamaGen's VQ-16 and its relatives (Janus, section 3.1)."""

    type: ClassVar[str] = "vq"

    image_size: int
    """Side S of the square pictures, in pixels."""
    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """One level each; every level but the last halves the side."""
    num_res_blocks: int = 2
    """Residual blocks a level in the encoder; the decoder has one more."""
    z_channels: int = 256
    codebook_size: int = 16384
    """Codebook entries C."""
    codebook_dim: int = 8
    norm_groups: int = 32

    def __post_init__(self) -> None:
        require_positive(self)
        require(len(self.channel_multipliers) > 0, "channel_multipliers must name a level")
        for multiplier in self.channel_multipliers:
            require(multiplier > 0, f"channel_multipliers must be > 0, got {multiplier}")
            width = self.base_channels * multiplier
            require(
                width % self.norm_groups == 0,
                f"every VQ width must be a multiple of norm_groups ({self.norm_groups}), "
                f"got {width}: change base_channels or channel_multipliers",
            )
        require(
            self.image_size % self.downsample_factor == 0,
            f"image_size ({self.image_size}) must be a multiple of {self.downsample_factor} "
            f"({len(self.channel_multipliers)} levels): change one of them",
        )

    @property
    def downsample_factor(self) -> int:
        """Pixels a side that one id stands for."""
        return 2 ** (len(self.channel_multipliers) - 1)

    @property
    def grid_size(self) -> int:
        """Ids a side."""
        return self.image_size // self.downsample_factor

    @property
    def num_image_tokens(self) -> int:
        """Ids N an image."""
        return self.grid_size**2


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticConfig(VQConfig):
    """A VQ with a second branch: a causal ViT over its quantized vectors (Janus, appendix A).

    As a generation tokenizer its ids enter the decoder through the branch; as an understanding
    encoder, or shared by both faces, the branch's outputs are the features.
    """

    type: ClassVar[str] = "semantic"

    hidden_size: int = 768
    """Width of the branch, and of the features as they leave it."""
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    layer_norm_eps: float = 1e-6
    teacher_size: int = 1024
    """Width of the frozen encoder's features that the branch learns to predict."""

    def __post_init__(self) -> None:
        VQConfig.__post_init__(self)
        require(
            self.hidden_size % self.num_attention_heads == 0,
            f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
            f"({self.num_attention_heads}): change one of them",
        )

    @property
    def output_size(self) -> int:
        """Width of a feature as it leaves the branch."""
        return self.hidden_size


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessorConfig:
    """How words and pictures become model inputs; travels with the weights."""

    template: TemplateName = "deepseek"
    """How dialogues and requests to draw are written (``processor.templates``)."""
    user_role: str = "<|User|>"
    assistant_role: str = "<|Assistant|>"
    und_system_prompt: str = UND_SYSTEM_PROMPT
    """System prompt when answering; drawing has none."""
    bos_token: str = "<｜begin▁of▁sentence｜>"
    eos_token: str = "<｜end▁of▁sentence｜>"
    pad_token: str = "<｜▁pad▁｜>"
    boi_token: str = "<begin_of_image>"
    eoi_token: str = "<end_of_image>"
    image_token: str = "<image_placeholder>"
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    min_size: int = 14
    """Smallest side after resizing, in pixels."""

    def __post_init__(self) -> None:
        require(
            self.template in get_args(TemplateName),
            f"unknown template {self.template!r}; "
            f"{near(str(self.template), list(get_args(TemplateName)))}",
        )
        roles = (self.user_role, self.assistant_role)
        require(
            self.template != "paper" or roles == PAPER_ROLES,
            f"the template 'paper' has the roles {PAPER_ROLES[0]!r} and {PAPER_ROLES[1]!r}, got "
            f"{roles[0]!r} and {roles[1]!r}: give these, or take the template 'deepseek'",
        )
        require(self.min_size > 0, f"min_size must be > 0, got {self.min_size}")
        require(
            all(0 <= mean <= 1 for mean in self.image_mean) and min(self.image_std) > 0,
            f"image_mean must be in [0, 1] and image_std > 0, got {self.image_mean} and "
            f"{self.image_std}: pixels are numbers from 0 to 1 before they are normalised",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawingConfig:
    """How a model draws where nothing else is asked for; the papers' values are the defaults."""

    guidance_scale: float = 5.0
    """Weight of the prompt against the unconditional model; 1 is none."""
    temperature: float = 1.0
    """0 is greedy."""

    def __post_init__(self) -> None:
        require_number("guidance_scale", self.guidance_scale)
        require(
            abs(self.guidance_scale) <= MAX_GUIDANCE_SCALE,  # no NaN is
            f"guidance_scale must be finite and within +-{MAX_GUIDANCE_SCALE}, got "
            f"{self.guidance_scale}: 1 is no guidance",
        )
        require_temperature(self.temperature)


@dataclass(frozen=True, kw_only=True, slots=True)
class JanusConfig:
    """A whole Janus: one decoder, a door for each face, and how its inputs are made."""

    language: DecoderConfig
    und_encoder: DoorConfig
    """Pixels to features; chosen by ``type``."""
    gen_tokenizer: DoorConfig
    """Pixels to codebook ids and back; chosen by ``type``."""
    extra_doors: Mapping[str, DoorConfig] = field(default_factory=dict)
    """Further inputs by name, each an encoder with an aligner of its own."""
    processor: ProcessorConfig = field(default_factory=ProcessorConfig)
    drawing: DrawingConfig = field(default_factory=DrawingConfig)
    one_vocabulary: bool = False
    """Chameleon: the last ``codebook_size`` ids of ``language.vocab_size`` are the codebook's. One
    table embeds them, one head predicts them, and pictures to understand are such ids too."""
    quantization: QuantizationConfig | None = None
    """None keeps the decoder's linear layers as they were trained."""

    def __post_init__(self) -> None:
        self._check_doors()
        if self.one_vocabulary:
            self._check_one_vocabulary()
        if self.quantization is not None:
            self.quantization.check(self.language, one_vocabulary=self.one_vocabulary)

    def _check_one_vocabulary(self) -> None:
        require(
            isinstance(self.und_encoder, SharedEncoderConfig),
            "a model of one vocabulary understands pictures by their ids: und_encoder must be of "
            f"type 'shared', got {self.und_encoder.type!r}",
        )
        require(
            self.text_vocab_size > 0,
            f"vocab_size ({self.language.vocab_size}) of a model of one vocabulary must hold words "
            f"besides the codebook's {self.codebook_size} ids: raise it",
        )
        mean, std = self.processor.image_mean, self.processor.image_std
        require(
            {*mean, *std} == {0.5},
            "a model of one vocabulary tokenizes pictures in [-1, 1]: image_mean and image_std "
            f"must be 0.5, got {mean} and {std}",
        )

    def _check_doors(self) -> None:
        for attribute in ("codebook_size", "codebook_dim", "num_image_tokens"):
            require(
                hasattr(self.gen_tokenizer, attribute),
                f"gen_tokenizer of type {self.gen_tokenizer.type!r} lacks {attribute}: "
                "a generation door must say its codebook and its number of ids an image",
            )
        if not isinstance(self.und_encoder, SharedEncoderConfig):
            for attribute in ("image_size", "num_image_tokens"):
                require(
                    hasattr(self.und_encoder, attribute),
                    f"und_encoder of type {self.und_encoder.type!r} lacks {attribute}: an "
                    "understanding door must say its picture size and its features an image",
                )

    def require_plain(self, where: object) -> None:
        """Raise ``ValueError`` for quantized weights, which cannot be trained."""
        require(
            self.quantization is None,
            f"{where} is quantized, and quantized weights cannot be trained: give the model that "
            "it was made from",
        )

    @property
    def text_vocab_size(self) -> int:
        """Ids of words: the first of the vocabulary, and where there is one, where codes begin."""
        if self.one_vocabulary:
            return self.language.vocab_size - self.codebook_size
        return self.language.vocab_size

    @property
    def num_gen_image_tokens(self) -> int:
        """Codebook ids N that a drawing takes."""
        return getattr(self.gen_tokenizer, "num_image_tokens")

    @property
    def num_und_image_tokens(self) -> int:
        """Features N that an understood picture takes."""
        if isinstance(self.und_encoder, SharedEncoderConfig):
            return self.num_gen_image_tokens
        return getattr(self.und_encoder, "num_image_tokens")

    @property
    def und_image_size(self) -> int:
        """Side in pixels of the understanding input."""
        if isinstance(self.und_encoder, SharedEncoderConfig):
            return self.gen_image_size
        return getattr(self.und_encoder, "image_size")

    @property
    def gen_image_size(self) -> int:
        """Side in pixels of a drawing."""
        return getattr(self.gen_tokenizer, "image_size")

    @property
    def codebook_size(self) -> int:
        """Codebook entries C."""
        return getattr(self.gen_tokenizer, "codebook_size")

    @property
    def codebook_dim(self) -> int:
        """Width of a codebook vector."""
        return getattr(self.gen_tokenizer, "codebook_dim")


_DOOR_CONFIGS: dict[str, type] = {
    cls.type: cls for cls in (SiglipConfig, SharedEncoderConfig, VQConfig, SemanticConfig)
}


def register_door_config(cls: type) -> type:
    """Make a door's configuration class known by its ``type``; usable as a decorator.

    Raises:
        ValueError: The class has no ``type``, or another class has it.
    """
    name = getattr(cls, "type", None)
    require(isinstance(name, str), f"{cls.__name__} needs a class attribute type: str")
    known = _DOOR_CONFIGS.setdefault(str(name), cls)
    require(known is cls, f"door type {name!r} is taken by {known.__name__}: choose another")
    return cls


def door_configs() -> Mapping[str, type]:
    """The classes of door configurations by their ``type``."""
    return _DOOR_CONFIGS
