"""What a run is made of. A recipe (YAML) fills these classes; the command line overrides them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from openjanus.train.stages import TRAINED, Part, Stage

DECODER_PROJECTIONS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
"""The matrices of a decoder layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """The loop around a training step."""

    dir: str = ""
    """Folder of checkpoints, metrics and samples."""
    steps: int = 1000
    """Optimizer steps of the whole schedule."""
    stop_at: int | None = None
    """Stop after this step without touching the schedule; resume later."""
    resume: bool = False
    """Go on from the newest checkpoint in ``dir``."""
    seed: int = 0
    """Names the data order, drops and noise; counter-based, so any step can be repeated."""
    log_every: int = 1
    """Steps between lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept."""
    sample_every: int = 0
    """Steps between sample grids and answers; 0 means at the end alone."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "save_every", "keep"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"run.{name} must be >= 1, got {value}")
        if self.stop_at is not None and self.stop_at < 1:
            raise ValueError(f"run.stop_at must be >= 1, got {self.stop_at}: leave it out for all")
        if self.sample_every < 0:
            raise ValueError(f"run.sample_every must be >= 0, got {self.sample_every}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Optimizer and schedule."""

    name: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """``adamw8bit`` keeps AdamW's two averages in 8 bits, by bitsandbytes. ``muon`` takes the
    weight matrices of the decoder's layers, or of both towers' layers when the encoder is trained
    by itself; AdamW has everything else."""
    lr: float = 1e-4
    """Peak learning rate of AdamW."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr_ratio: float = 0.0
    """Where cosine ends, as a share of ``lr``."""
    offload: bool = False
    """Keep AdamW's averages and its copy of the weights in host memory, and update there."""

    def __post_init__(self) -> None:
        for name in ("lr", "muon_lr", "grad_clip"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"optim.{name} must be > 0, got {value}")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError("optim.weight_decay and optim.warmup_steps must be >= 0")
        if not 0 <= self.final_lr_ratio <= 1:
            raise ValueError(f"optim.final_lr_ratio must be in [0, 1], got {self.final_lr_ratio}")
        if self.offload and self.name != "adamw":
            raise ValueError(f"optim.offload is for name adamw, got {self.name}: leave one out")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """A source of samples: a name known to the registry, and its options."""

    type: str
    """Registered name, for instance ``emoji``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the source; checked by the source itself."""
    weight: float = 1.0
    """Share among the sources of the same kind, in samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VQLossConfig:
    """Weights of the tokenizer's losses (LlamaGen's, without the GAN)."""

    l1: float = 1.0
    mse: float = 1.0
    edge: float = 0.0
    """L1 between horizontal and vertical differences: keeps outlines sharp."""
    codebook: float = 1.0
    commitment: float = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class VQTrainConfig:
    """Train the generation tokenizer."""

    kind: Literal["vq"] = "vq"
    preset: str = "tiny"
    """Architecture whose ``gen_tokenizer`` is trained; the picture size is the sources'."""
    run: RunConfig = field(default_factory=RunConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: VQLossConfig = field(default_factory=VQLossConfig)
    source: SourceConfig
    batch_size: int = 32
    crop_size: int = 0
    """Side of the square pieces trained on, in pixels; 0 means whole pictures."""
    whole_from: int | None = None
    """Step from which whole pictures are trained on, ``crop_size`` aside."""
    whole_batch_size: int = 16
    """Batch size for whole pictures once ``whole_from`` is reached, in place of ``batch_size``."""
    quantize_from: int = 0
    """Steps before this one train a plain auto-encoder with noise in place of quantization, so
    that its vectors spread before there is a codebook to cling to."""
    noise: float = 0.12
    """Standard deviation of that noise on each coordinate of a unit vector."""
    restart_every: int = 100
    """Steps between restarts of codebook rows that nothing chose; 0 never."""
    restart_until: int = 0
    """Step after which rows are left alone."""
    compile: bool = False
    """torch.compile the step: two minutes at the start, faster after."""
    bf16: bool = True
    """Convolutions in bf16 by autocast; losses and the codebook stay in fp32."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "whole_batch_size"):
            _at_least_one(name, getattr(self, name))
        for name in ("crop_size", "quantize_from", "noise", "restart_every", "restart_until"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.quantize_from >= self.run.steps:
            raise ValueError(
                f"quantize_from ({self.quantize_from}) must be below run.steps "
                f"({self.run.steps}), or the codebook is never trained: lower it"
            )


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

    def __post_init__(self) -> None:
        for name in ("text_layers", "text_heads", "eval_every", "eval_pairs"):
            _at_least_one(name, getattr(self, name))
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

    def __post_init__(self) -> None:
        _at_least_one("samples", self.samples)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Train thin matrices beside the decoder's, and freeze the rest (LoRA, Hu et al., 2021)."""

    rank: int = 16
    """Width of the thin matrices."""
    alpha: float = 32.0
    """What they add is scaled by alpha over rank."""
    dropout: float = 0.0
    """Must be 0: a mask drawn anew would not be the same after a resume."""
    faces: Literal["und", "gen", "both"] = "both"
    """Whose doors ``train_doors`` is about; the decoder, which both share, always has adapters."""
    targets: list[str] = field(default_factory=lambda: list(DECODER_PROJECTIONS))
    """Projections of the decoder's layers that have adapters."""
    train_doors: Literal["none", "lora", "full"] = "none"
    """Whether the faces' aligners and ``gen_head`` stay frozen, have adapters, or are trained."""

    def __post_init__(self) -> None:
        _at_least_one("lora.rank", self.rank)
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha must be > 0, got {self.alpha}")
        if self.dropout != 0:
            raise ValueError(
                f"lora.dropout must be 0, got {self.dropout}: a resumed run could not repeat it; "
                "lower lora.rank or run.steps against overfitting"
            )
        unknown = [name for name in self.targets if name not in DECODER_PROJECTIONS]
        if unknown or not self.targets:
            raise ValueError(
                f"lora.targets must be some of {', '.join(DECODER_PROJECTIONS)}, got {self.targets}"
            )

    @property
    def doors(self) -> tuple[Part, ...]:
        """The doors of the faces, which lead into the decoder or out of it."""
        und: tuple[Part, ...] = ("und_aligner",)
        gen: tuple[Part, ...] = ("gen_aligner", "gen_head")
        return {"und": und, "gen": gen, "both": (*und, *gen)}[self.faces]

    @property
    def whole_doors(self) -> frozenset[Part]:
        """The doors that are trained whole."""
        return frozenset(self.doors if self.train_doors == "full" else ())


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcesConfig:
    """Sources of each kind of sample."""

    und: list[SourceConfig] = field(default_factory=list)
    """Questions and captions about pictures."""
    text: list[SourceConfig] = field(default_factory=list)
    """Words alone."""
    gen: list[SourceConfig] = field(default_factory=list)
    """Pictures to draw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchConfig:
    """Measure losses on samples that are not trained on, to see what a fine-tuning costs."""

    sources: SourcesConfig
    """What is measured: of a face that must not get worse, or of all."""
    samples: int = 64
    """Of each source, its first ones."""
    every: int = 0
    """Steps between measurements; 0 means at the start and at the end alone."""
    margin: float = 0.05
    """Growth of a loss since the start, in nats a token, past which there is a warning."""

    def __post_init__(self) -> None:
        _at_least_one("watch.samples", self.samples)
        if self.every < 0 or self.margin < 0:
            raise ValueError("watch.every and watch.margin must be >= 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class JanusTrainConfig:
    """Train a Janus: one of the papers' stages, or text alone before them."""

    kind: Literal["janus"] = "janus"
    stage: Stage
    """0 text alone, then the papers' I, II and III: says which parts are trained."""
    init: list[str]
    """Where the weights come from, in order of preference; the first that exists is taken. Each is
    a folder that openjanus wrote (a relative one lies beside ``run.dir``); ``nano``, the trained
    model in this package; or a preset such as ``nano-v0``, which gives fresh weights."""
    tokenizer: str | None = None
    """Text tokenizer of a fresh model: a file, or its folder; None takes bytes. A model that is
    gone on with keeps its own."""
    vq: str | None = None
    """Folder of a trained generation tokenizer, put into the model at the start."""
    und_encoder: str | None = None
    """Folder of a trained understanding encoder, put into the model at the start."""
    run: RunConfig = field(default_factory=RunConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    sources: SourcesConfig
    ratio: tuple[float, float, float]
    """und : text : gen, in samples; met exactly in every step, up to rounding."""
    batch_size: int = 32
    """Samples a step."""
    max_length: int = 256
    """Tokens a sample may have; longer ones are skipped, counted and named."""
    pack_length: int | None = None
    """Tokens of a row that samples are packed into; None gives each sample a row."""
    mask_prompt: bool = True
    """Supervise answers alone; False also what users say (understanding and text)."""
    cond_drop: float = 0.1
    """Share of drawings whose prompt is hidden, in the form that guidance uses."""
    first_sentence: float = 0.0
    """Share of drawings that are told by the first sentence of their caption alone."""
    train_gen_embed: bool = False
    """Stage I: whether gen_embed, which starts as a copy of the codebook, is trained."""
    lora: LoraConfig | None = None
    """Adapters in place of the stage's parts; None trains what the stage says."""
    watch: WatchConfig | None = None
    """Held-out losses that must not get worse."""
    tokenize: Literal["whole", "islands"] = "whole"
    """How pictures to draw become ids: as a whole, as the papers do, or each thing on plain ground
    alone, so that its ids are the same wherever it lies (``data.islands``)."""
    id_cache: str | None = "id-cache"
    """Folder where codebook ids are kept between runs; relative ones lie beside ``run.dir``."""
    max_bad_samples: int = 100
    """Samples that may be unusable before the run stops."""
    held_back: int = 8
    """Last items of every source, never trained on: what the samples of a run show."""
    bf16: bool = True
    """Matrix products in bf16 by autocast; weights, norms and losses stay in fp32."""
    compile: bool = False
    """torch.compile the decoder: a minute or two at the start, a fifth faster after."""
    device: str = "cpu"
    """Where the model is trained, for instance ``cuda``."""
    prefetch: bool = True
    """Prepare the samples of the next step in a thread."""

    def __post_init__(self) -> None:
        if self.stage not in TRAINED:
            raise ValueError(f"stage must be one of {list(TRAINED)}, got {self.stage}")
        if not self.init:
            raise ValueError("init must name a folder or a preset: add --init '[tiny]'")
        if self.tokenize not in ("whole", "islands"):
            raise ValueError(f"tokenize must be whole or islands, got {self.tokenize!r}")
        _at_least_one("batch_size", self.batch_size)
        _at_least_one("held_back", self.held_back)
        for name in ("cond_drop", "first_sentence"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a share in [0, 1], got {value}")
        if self.lora is not None and self.stage != 3:
            raise ValueError(
                f"lora says what is trained in place of a stage: stage must be 3, got {self.stage}"
            )
        if self.lora is not None and self.optim.name == "muon":
            raise ValueError("optim.name muon is for whole matrices, not for lora's: take adamw")
        if self.pack_length is not None and self.pack_length < self.max_length:
            raise ValueError(
                f"pack_length ({self.pack_length}) must be >= max_length ({self.max_length}): "
                "a sample is never split"
            )
        if self.max_bad_samples < 0:
            raise ValueError(f"max_bad_samples must be >= 0, got {self.max_bad_samples}")


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
