"""What a run is made of. A recipe (YAML) fills these classes; the command line overrides them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from openjanus.config import PRESETS, near
from openjanus.train.stages import TRAINED, Part, Stage
from openjanus.train.vq_config import GanConfig, VQEvalConfig
from openjanus.train.watch_config import (
    SINKS,
    BestConfig,
    SinkName,
    ValConfig,
    WandbConfig,
    check_watch,
)

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
    early_stop: int | None = None
    """Step at which the run is complete, before the end of its schedule: what comes after it goes
    on from there. None is ``steps``."""
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
    best: BestConfig | None = None
    """Checkpoints kept for a metric, beside the newest; None keeps none."""
    patience: int = 0
    """Measurements of ``best.metric`` in a row without a new best after which the run is complete;
    0 never."""
    final_from: Literal["last", "best"] = "last"
    """Which checkpoint of a complete run becomes its result."""
    sinks: list[SinkName] = field(default_factory=list)
    """Where values and samples go beside ``metrics.jsonl``."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    measure_peak: bool = False
    """Time a matrix product at the start, so that each line has the share of it that the step
    reached (``mfu``)."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "save_every", "keep"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"run.{name} must be >= 1, got {value}")
        if self.stop_at is not None and self.stop_at < 1:
            raise ValueError(f"run.stop_at must be >= 1, got {self.stop_at}: leave it out for all")
        if self.early_stop is not None and not 1 <= self.early_stop <= self.steps:
            raise ValueError(
                f"run.early_stop must be in [1, run.steps ({self.steps})], got {self.early_stop}: "
                "leave it out for the whole schedule"
            )
        if self.sample_every < 0:
            raise ValueError(f"run.sample_every must be >= 0, got {self.sample_every}")
        check_watch(self.best, self.patience, self.final_from)
        if len(set(self.sinks)) < len(self.sinks):
            raise ValueError(f"run.sinks must be some of {list(SINKS)}, each once: {self.sinks}")

    @property
    def last_step(self) -> int:
        """Optimizer steps of a complete run."""
        return self.steps if self.early_stop is None else self.early_stop


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
    from_step: int = 0
    """Optimizer step, from 0, from which the source takes part in a Janus's training."""
    until_step: int | None = None
    """Step from which it does so no more; None never."""

    def __post_init__(self) -> None:
        if self.from_step < 0:
            raise ValueError(f"from_step of a source must be >= 0, got {self.from_step}")
        if self.until_step is not None and self.until_step <= self.from_step:
            raise ValueError(
                f"until_step of a source must be > from_step ({self.from_step}), got "
                f"{self.until_step}: leave the source out, or None for the end of the run"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class VQLossConfig:
    """Weights of the tokenizer's losses (LlamaGen's; the GAN has options of its own)."""

    l1: float = 1.0
    mse: float = 1.0
    edge: float = 0.0
    """L1 between horizontal and vertical differences: keeps outlines sharp."""
    codebook: float = 1.0
    commitment: float = 0.25
    entropy: float = 0.0
    """Weight of: mean entropy of a vector's soft choice, minus the entropy of the mean choice."""
    entropy_temperature: float = 0.01
    """Squared distance that a soft choice takes for one unit."""
    perceptual: float = 0.0
    """Weight of LPIPS with VGG16; needs ``perceptual_weights``."""
    perceptual_weights: list[str] = field(default_factory=list)
    """Paths of the files that hold VGG16's and LPIPS' weights (``train.perceptual``)."""

    def __post_init__(self) -> None:
        if not self.entropy_temperature > 0:
            raise ValueError(
                f"loss.entropy_temperature must be > 0, got {self.entropy_temperature}"
            )
        if self.perceptual < 0 or self.entropy < 0:
            raise ValueError(
                "loss.perceptual and loss.entropy must be >= 0, got "
                f"{self.perceptual} and {self.entropy}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class VQTrainConfig:
    """Train the generation tokenizer."""

    kind: Literal["vq"] = "vq"
    preset: str = "tiny"
    """Architecture whose ``gen_tokenizer`` is trained; the picture size is the sources'."""
    run: RunConfig = field(default_factory=RunConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: VQLossConfig = field(default_factory=VQLossConfig)
    gan: GanConfig = field(default_factory=GanConfig)
    eval: VQEvalConfig = field(default_factory=VQEvalConfig)
    ema_decay: float | None = None
    """Keep a moving average of the weights, which is then the result; None keeps none."""
    source: SourceConfig
    batch_size: int = 32
    crop_size: int = 0
    """Side of the square pieces trained on, in pixels; 0 means whole pictures."""
    crop: Literal["busiest", "random"] = "busiest"
    """Pieces cut where there is most contrast; or, as LlamaGen, anywhere at a random scale."""
    crop_share: float = 0.8
    """Least share of a picture's shorter side that a random crop shows."""
    flip: bool = False
    """Mirror pictures left to right, each by a coin of its own."""
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
    device: str = "cpu"
    """Where the tokenizer is trained, for instance ``cuda``."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "whole_batch_size"):
            _at_least_one(name, getattr(self, name))
        _refuse_steps([self.source], self.kind)
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share must be in (0, 1], got {self.crop_share}")
        if self.eval.every % self.run.log_every:
            raise ValueError(
                f"eval.every ({self.eval.every}) must be a multiple of run.log_every "
                f"({self.run.log_every}), or its figures are not written"
            )
        if self.gan.adaptive and self.compile:
            raise ValueError(
                "gan.adaptive looks at single gradients, which compile does away with: set one "
                "of them to false"
            )
        for name in ("crop_size", "quantize_from", "noise", "restart_every", "restart_until"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.quantize_from >= self.run.steps:
            raise ValueError(
                f"quantize_from ({self.quantize_from}) must be below run.steps "
                f"({self.run.steps}), or the codebook is never trained: lower it"
            )


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
    init: str | None = None
    """Folder of the step before (a relative one lies beside ``run.dir``); None starts afresh."""
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
        if self.init is not None and self.quantize_from > 0:
            raise ValueError(
                f"quantize_from must be 0 where init names a trained tokenizer, got "
                f"{self.quantize_from}: its codebook would be thrown away"
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
        _refuse_steps([self.source], self.kind)
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
        _refuse_steps(self.sources, self.kind)


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
    preset: str | None = None
    """Architecture that the weights must be of, and that a dry run builds where there are none
    yet; None takes any."""
    decoder: dict[str, Any] = field(default_factory=dict)
    """Fields of a fresh model's decoder in place of its preset's, for instance ``qk_norm``."""
    tokenizer: str | None = None
    """Text tokenizer of a fresh model: a file, or its folder; None takes that of
    ``language_model``, or bytes. A model that is gone on with keeps its own."""
    language_model: str | None = None
    """Folder of a trained decoder, put into the model at the start: a Llama as transformers writes
    it, or a whole Janus in any layout."""
    vq: str | None = None
    """A trained generation tokenizer, put into the model at the start: the folder of its run, a
    whole Janus in any layout, or LlamaGen's ``.pt`` file."""
    und_encoder: str | None = None
    """Folder of a trained understanding encoder, put into the model at the start: of its run, a
    whole Janus in any layout, or a SigLIP as transformers writes it."""
    run: RunConfig = field(default_factory=RunConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    sources: SourcesConfig
    ratio: tuple[float, float, float]
    """und : text : gen; in samples it is met in every step, up to rounding, in other units in the
    long run."""
    ratio_unit: Literal["samples", "tokens", "packs"] = "samples"
    """What the ratio counts, where the batch is counted in packs. ``packs`` holds each kind in
    packs of its own."""
    batch_size: int = 32
    """Samples or packs a step, of all processes together."""
    batch_unit: Literal["samples", "packs"] = "samples"
    """``samples`` packs each step's own samples into as many rows as they need, if there is a
    ``pack_length``; ``packs`` fills rows across steps, so that every step has ``batch_size`` rows
    of ``pack_length`` tokens, nearly full."""
    accumulate: int = 1
    """Parts that a process cuts its share of a step into, whose gradients are added up; the loss
    stays one mean over all of them."""
    micro_batch: int | None = None
    """Samples or packs that a process takes at a time, in place of ``accumulate``: a number that
    fits a device's memory, however many devices there are. The last part of a step may be smaller.
    """
    max_length: int = 256
    """Tokens a sample may have; longer ones are skipped, counted and named."""
    pack_length: int | None = None
    """Tokens of a row that samples are packed into; None gives each sample a row."""
    open_packs: int = 16
    """Rows that are filled at once, where the batch is counted in packs."""
    pack_images: int | None = None
    """Pictures to understand that a pack may hold, where the batch is counted in packs."""
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
    z_loss: float = 0.0
    """Weight of log^2 Z of both heads, which keeps logits small (Chameleon: 1e-5); 0 is none."""
    und_image_loss: bool = False
    """Learn to predict the ids of pictures to understand too, as Chameleon does with every token;
    for a model of one vocabulary. Off, as in Janus, where pictures that are asked about are given.
    """
    max_bad_samples: int = 100
    """Samples that may be unusable before the run stops."""
    log_keys: bool = False
    """Write the keys of each step's samples to metrics.jsonl, for the report of spikes."""
    held_back: int = 8
    """Last items of every source, never trained on: what the samples of a run show, and what its
    held-out loss is of where ``val`` names no other sources."""
    val: ValConfig = field(default_factory=ValConfig)
    """Held-out loss and eval tasks on the way."""
    bf16: bool = True
    """Matrix products in bf16 by autocast; weights, norms and losses stay in fp32."""
    compile: bool = False
    """torch.compile the decoder: a minute or two at the start, a fifth faster after."""
    ema_decay: float | None = None
    """Share of a moving average of the weights that a step keeps; ``final`` then holds the
    average. None: there is none, as in the papers."""
    activation_checkpointing: bool = False
    """Run each block again in the backward in place of keeping what it computed: less memory, a
    third more work."""
    process_timeout_s: float = 600.0
    """Seconds that several processes wait for one of them, which may be drawing samples."""
    device: str = "cpu"
    """Where the model is trained, for instance ``cuda``."""
    prefetch: bool = True
    """Prepare the samples of the next step in a thread."""
    num_workers: int = 0
    """Processes that read and tokenize samples; their number changes nothing of what comes."""

    def part_size(self, processes: int) -> int:
        """Samples or packs that a process takes at a time, at most.

        Args:
            processes: Of the run; ``batch_size`` is a multiple of them.
        """
        share = -(-self.batch_size // processes)
        if self.micro_batch is not None:
            return min(share, self.micro_batch)
        return -(-share // self.accumulate)

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
        self._check_batch()
        metric = "" if self.run.best is None else self.run.best.metric
        if metric.startswith("val_") and self.val.every == 0:
            raise ValueError(
                f"run.best.metric is {metric!r}, and val.every is 0: add --val.every STEPS"
            )
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}; {near(self.preset, list(PRESETS))}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in (0, 1), or left out, got {self.ema_decay}")
        if not self.process_timeout_s > 0:
            raise ValueError(f"process_timeout_s must be > 0, got {self.process_timeout_s}")
        if self.z_loss < 0:
            raise ValueError(f"z_loss must be >= 0, got {self.z_loss}: 0 is none")
        if self.max_bad_samples < 0:
            raise ValueError(f"max_bad_samples must be >= 0, got {self.max_bad_samples}")
        self._check_sources()
        self._check_lora()

    def _check_sources(self) -> None:
        by_kind = (self.sources.und, self.sources.text, self.sources.gen)
        for kind, share, sources in zip(("und", "text", "gen"), self.ratio, by_kind, strict=True):
            if share > 0 and sources:
                _require_no_gap(kind, sources, self.run.last_step)

    def _check_lora(self) -> None:
        if self.lora is not None and self.stage != 3:
            raise ValueError(
                f"lora says what is trained in place of a stage: stage must be 3, got {self.stage}"
            )
        if self.lora is not None and self.ema_decay is not None:
            raise ValueError("ema_decay averages whole models, not adapters: leave it out of lora")
        if self.lora is not None and self.optim.name == "muon":
            raise ValueError("optim.name muon is for whole matrices, not for lora's: take adamw")

    def _check_batch(self) -> None:
        if self.pack_length is not None and self.pack_length < self.max_length:
            raise ValueError(
                f"pack_length ({self.pack_length}) must be >= max_length ({self.max_length}): "
                "a sample is never split"
            )
        for name in ("accumulate", "open_packs"):
            _at_least_one(name, getattr(self, name))
        if self.pack_images is not None:
            _at_least_one("pack_images", self.pack_images)
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be >= 0, got {self.num_workers}")
        if self.batch_unit == "packs" and self.pack_length is None:
            raise ValueError("batch_unit is packs, and there is no pack_length: give one")
        if self.batch_unit == "samples":
            for name in ("ratio_unit", "pack_images"):
                if getattr(self, name) not in ("samples", None):
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}, which needs batch_unit packs"
                    )
        if self.micro_batch is not None:
            _at_least_one("micro_batch", self.micro_batch)
            if self.accumulate != 1:
                raise ValueError(
                    f"micro_batch ({self.micro_batch}) and accumulate ({self.accumulate}) both say "
                    "how a step is cut: leave accumulate out"
                )
        if self.batch_size % self.accumulate != 0:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of accumulate "
                f"({self.accumulate})"
            )


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")


def _require_no_gap(kind: str, sources: Sequence[SourceConfig], steps: int) -> None:
    """Raise ``ValueError`` where a kind with a share has no source at some step."""
    covered = 0
    for source in sorted(sources, key=lambda source: source.from_step):
        if source.from_step > covered:
            break
        end = steps if source.until_step is None else source.until_step
        covered = max(covered, end)
    if covered < steps:
        later = [source.from_step for source in sources if source.from_step > covered]
        raise ValueError(
            f"ratio gives {kind!r} a share, but no source of sources.{kind} takes part in steps "
            f"{covered} to {min([*later, steps]) - 1}: change their from_step or until_step"
        )


def _refuse_steps(sources: Sequence[SourceConfig], kind: str) -> None:
    """Sources that come and go are the mixture's, which these trainings have not."""
    if any(source.from_step > 0 or source.until_step is not None for source in sources):
        raise ValueError(
            f"from_step and until_step belong to the sources of kind janus, this run is of kind "
            f"{kind!r}: leave them out"
        )
