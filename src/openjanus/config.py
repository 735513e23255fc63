"""What a Janus is made of: frozen configurations, and presets of them.

Nothing here imports torch. A configuration is plain data: every size that a module needs is a
field or a property of one of these classes, and no size is written anywhere else.

A door (an encoder for understanding, a tokenizer for generation) is configured by a class whose
``type`` names it. ``register_door_config`` adds a class of one's own, so that a new door is a
configuration, not a change of this file.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol

UND_SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
"""System prompt of the released models when they answer (none when they draw)."""


MAX_GUIDANCE_SCALE = 1000
"""Largest size of a guidance scale; far beyond it logits leave fp32."""


def require(rule: bool, message: str) -> None:
    """Raise ``ValueError`` with the message unless the rule holds."""
    if not rule:
        raise ValueError(message)


def require_temperature(temperature: float) -> None:
    """Raise ``ValueError`` for what is no temperature of any sampling."""
    require(
        0 <= temperature < math.inf,
        f"temperature must be finite and >= 0 (0 is greedy), got {temperature}",
    )


def _require_positive(config: Any, *, but: str = "") -> None:
    """Every number of a configuration is positive, but one."""
    for item in fields(config):
        value = getattr(config, item.name)
        require(
            item.name == but or not isinstance(value, int | float) or value > 0 or value is False,
            f"{type(config).__name__}.{item.name} must be > 0, got {value}: give a positive size",
        )


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
        _require_positive(self, but="dropout")
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
        _require_positive(self, but="select_layer")
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
        _require_positive(self)
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

    def __post_init__(self) -> None:
        self._check_doors()
        if self.one_vocabulary:
            self._check_one_vocabulary()

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


def near(name: str, known: list[str]) -> str:
    """The tail of a message about an unknown name: its near matches, or all that is known."""
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if matches:
        return "did you mean " + " or ".join(repr(match) for match in matches) + "?"
    return "known: " + ", ".join(sorted(known))


def _tiny() -> JanusConfig:
    """Random weights in a second: for tests, recipes ``tiny/*`` and a look at the interface."""
    return JanusConfig(
        language=DecoderConfig(
            vocab_size=384,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
        ),
        und_encoder=SiglipConfig(
            image_size=32,
            patch_size=8,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
        gen_tokenizer=VQConfig(
            image_size=32,
            base_channels=32,
            channel_multipliers=(1, 1, 2, 2),
            num_res_blocks=1,
            z_channels=32,
            codebook_size=64,
            codebook_dim=8,
        ),
        processor=ProcessorConfig(und_system_prompt=""),
    )


def _tiny_chameleon() -> JanusConfig:
    """``tiny`` as a Chameleon: one vocabulary, one head, and every option of stability."""
    tiny = _tiny()
    language = replace(
        tiny.language,
        vocab_size=tiny.language.vocab_size + tiny.codebook_size,
        qk_norm=True,
        norm_order="post",
        dropout=0.05,
    )
    return replace(tiny, language=language, und_encoder=SharedEncoderConfig(), one_vocabulary=True)


def _chameleon_7b() -> JanusConfig:
    """Chameleon 7B's sizes (its paper, section 2, and its published configuration).

    Words, templates and the tokenizer's unit codebook are this family's, not Chameleon's, so its
    published weights are not for this.
    """
    return JanusConfig(
        language=DecoderConfig(
            vocab_size=65536,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            rms_norm_eps=1e-5,
            max_position_embeddings=4096,
            qk_norm=True,
            dropout=0.1,
        ),
        und_encoder=SharedEncoderConfig(),
        gen_tokenizer=VQConfig(image_size=512, codebook_size=8192, codebook_dim=256),
        processor=ProcessorConfig(und_system_prompt=""),
        one_vocabulary=True,
    )


def _tiny_semantic() -> JanusConfig:
    """``tiny`` with one encoder for both faces: a semantic tokenizer (Exp-B of Janus, Table 5)."""
    return _with_semantic(
        _tiny(),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        teacher_size=160,  # the encoder of nano-v0
    )


def _with_semantic(config: JanusConfig, **sizes: Any) -> JanusConfig:
    """The same Janus, its VQ with a semantic branch that both faces share."""
    plain = config.gen_tokenizer
    assert isinstance(plain, VQConfig)
    kept: dict[str, Any] = {item.name: getattr(plain, item.name) for item in fields(plain)}
    return replace(
        config,
        und_encoder=SharedEncoderConfig(),
        gen_tokenizer=SemanticConfig(**kept, **sizes),
    )


def _nano_v0() -> JanusConfig:
    """The first Janus trained here: 96 px, 144 ids a picture, 13.5 M parameters."""
    return JanusConfig(
        language=DecoderConfig(
            vocab_size=2048,
            hidden_size=320,
            intermediate_size=896,
            num_hidden_layers=6,
            num_attention_heads=10,
            num_key_value_heads=5,
            max_position_embeddings=512,
        ),
        und_encoder=SiglipConfig(
            image_size=96,
            patch_size=8,
            hidden_size=160,
            intermediate_size=480,
            num_hidden_layers=5,
            num_attention_heads=5,
        ),
        gen_tokenizer=VQConfig(
            image_size=96,
            base_channels=32,
            channel_multipliers=(1, 1, 2, 4),
            num_res_blocks=1,
            z_channels=64,
            codebook_size=1024,
            codebook_dim=8,
        ),
        processor=ProcessorConfig(und_system_prompt=""),
        drawing=DrawingConfig(guidance_scale=1.5, temperature=0.5),
    )


def _released(
    language: DecoderConfig, user_role: str = "<|User|>", assistant_role: str = "<|Assistant|>"
) -> JanusConfig:
    """The released models: they differ in their decoder, and the first one in its role names."""
    return JanusConfig(
        language=language,
        und_encoder=SiglipConfig(
            image_size=384,
            patch_size=16,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
        ),
        gen_tokenizer=VQConfig(image_size=384),
        processor=ProcessorConfig(user_role=user_role, assistant_role=assistant_role),
    )


_DECODER_1B = DecoderConfig(
    vocab_size=102400,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=24,
    num_attention_heads=16,
    num_key_value_heads=16,
    max_position_embeddings=16384,
)
_DECODER_7B = DecoderConfig(
    vocab_size=102400,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=30,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=16384,
)

PRESETS: Mapping[str, Callable[[], JanusConfig]] = {
    "tiny": _tiny,
    "tiny-chameleon": _tiny_chameleon,
    "chameleon-7b": _chameleon_7b,
    "tiny-semantic": _tiny_semantic,
    "nano-v0": _nano_v0,
    "janus-1.3b": lambda: _released(_DECODER_1B, user_role="User", assistant_role="Assistant"),
    "janus-1.3b-semantic": lambda: _with_semantic(preset("janus-1.3b")),
    "janus-pro-1b": lambda: _released(_DECODER_1B),
    "janus-pro-7b": lambda: _released(_DECODER_7B),
}
"""Architectures by name; each value builds a ``JanusConfig``."""


def preset(name: str) -> JanusConfig:
    """An architecture by name.

    Raises:
        KeyError: Unknown name; the message names near matches.
    """
    if name not in PRESETS:
        raise KeyError(f"unknown preset {name!r}; {near(name, list(PRESETS))}")
    return PRESETS[name]()
