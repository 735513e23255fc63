"""What the training of the generation tokenizer is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from openjanus.rules import require_at_least_one
from openjanus.train.optim_config import OptimConfig
from openjanus.train.run_config import RunConfig, check_timeout
from openjanus.train.source_config import SourceConfig, refuse_steps


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
        if not (self.perceptual >= 0 and self.entropy >= 0):
            raise ValueError(
                "loss.perceptual and loss.entropy must be >= 0, got "
                f"{self.perceptual} and {self.entropy}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class GanConfig:
    """A discriminator of patches (LlamaGen's recipe: PatchGAN, hinge loss)."""

    weight: float = 0.0
    """Weight of the adversarial term in the generator's loss; 0 builds no discriminator."""
    start: int = 20_000
    """Step from which the discriminator is trained and its verdict counts."""
    layers: int = 3
    """Strided convolutions: each doubles the patch that a verdict is about."""
    width: int = 64
    """Channels of the first layer; each later one doubles them, up to eight times."""
    lr: float = 1e-4
    """Constant learning rate of the discriminator's own Adam."""
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0
    adaptive: bool = False
    """Scale ``weight`` by the ratio of the gradients that reconstruction and adversary have at
    the decoder's last layer (VQGAN's rule); LlamaGen's recipe takes the plain weight."""

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.start >= 0):
            raise ValueError(
                f"gan.weight and gan.start must be >= 0, got {self.weight} and {self.start}"
            )
        if self.layers < 1 or self.width < 1:
            raise ValueError(
                f"gan.layers and gan.width must be >= 1, got {self.layers} and {self.width}"
            )
        if not (self.lr > 0 and self.grad_clip > 0):
            raise ValueError(
                f"gan.lr and gan.grad_clip must be > 0, got {self.lr} and {self.grad_clip}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class VQEvalConfig:
    """Measurements on pictures that are never trained on."""

    every: int = 0
    """Steps between measurements; 0 never."""
    pictures: int = 64
    """How many; a source with an end holds as many back, also where nothing is measured."""
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"eval.every must be >= 0, got {self.every}")
        if self.pictures < 2 or self.batch_size < 1:
            raise ValueError(
                "eval.pictures must be >= 2 and eval.batch_size >= 1, got "
                f"{self.pictures} and {self.batch_size}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class VQTrainConfig:
    """Train the generation tokenizer."""

    kind: Literal["vq"] = "vq"
    preset: str = "tiny"
    """Architecture whose ``gen_tokenizer`` is trained; the picture size is the sources'."""
    init: str | None = None
    """Folder of a trained tokenizer or of a whole Janus (a relative one lies beside ``run.dir``),
    or ``shipped/NAME``, to start from; None starts afresh."""
    decoder_only: bool = False
    """Train what draws the pixels of ids and leave the ids as they are: a decoder that predicts
    them needs no more training for it. Needs ``init``."""
    tokenize: Literal["whole", "islands"] = "whole"
    """With ``decoder_only``: how pictures become ids, as in the recipes of whole models."""
    id_noise: float = 0.0
    """With ``decoder_only``: share of ids that others of the batch replace, in [0, 1), so that a
    slip in a drawing spoils no more than its place."""
    run: RunConfig = field(default_factory=RunConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: VQLossConfig = field(default_factory=VQLossConfig)
    gan: GanConfig = field(default_factory=GanConfig)
    eval: VQEvalConfig = field(default_factory=VQEvalConfig)
    ema_decay: float | None = None
    """Keep a moving average of the weights, which is then the result; None keeps none."""
    source: SourceConfig
    batch_size: int = 32
    max_bad_samples: int = 100
    """Different pictures that may be unusable before the run stops."""
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
    """Steps between restarts of codebook rows that nothing chose, and over which the codebook's use
    is measured; 0 never restarts, and measures it over ``run.log_every``."""
    restart_until: int = 0
    """Step after which rows are left alone."""
    compile: bool = False
    """torch.compile the step: two minutes at the start, faster after."""
    bf16: bool = True
    """Convolutions in bf16 by autocast; losses and the codebook stay in fp32."""
    device: str = "cpu"
    """Where the tokenizer is trained, for instance ``cuda``."""
    process_timeout_s: float = 600.0
    """Seconds that several processes wait for one of them, which may be reading pictures."""

    def __post_init__(self) -> None:
        self._check_parts()
        for name in ("batch_size", "whole_batch_size"):
            require_at_least_one(name, getattr(self, name))
        refuse_steps([self.source], self.kind)
        check_timeout(self.process_timeout_s)
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
        for name in (
            "crop_size",
            "quantize_from",
            "noise",
            "restart_every",
            "restart_until",
            "max_bad_samples",
        ):
            if not getattr(self, name) >= 0:  # nor is NaN
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.quantize_from >= self.run.steps:
            raise ValueError(
                f"quantize_from ({self.quantize_from}) must be below run.steps "
                f"({self.run.steps}), or the codebook is never trained: lower it"
            )

    def _check_parts(self) -> None:
        """Which parts are trained, and from what."""
        if self.init is not None and self.quantize_from > 0:
            raise ValueError(
                f"quantize_from must be 0 where init names a trained tokenizer, got "
                f"{self.quantize_from}: its codebook would be thrown away"
            )
        if self.tokenize not in ("whole", "islands"):
            raise ValueError(f"tokenize must be whole or islands, got {self.tokenize!r}")
        if not 0 <= self.id_noise < 1:
            raise ValueError(f"id_noise must be in [0, 1), got {self.id_noise}")
        if self.decoder_only:
            wrong = {
                "init": self.init is None,
                "restart_until": self.restart_until > 0,
                "crop_size": self.crop_size > 0 and self.whole_from != 0,
                "compile": self.compile,
                "loss.entropy": self.loss.entropy > 0,
            }
            if any(wrong.values()):
                names = ", ".join(name for name, is_wrong in wrong.items() if is_wrong)
                raise ValueError(
                    f"decoder_only leaves the ids of a trained tokenizer's whole pictures as they "
                    f"are, {names} says otherwise: give init, and leave out the others"
                )
        elif self.tokenize != "whole" or self.id_noise > 0:
            raise ValueError(
                f"tokenize {self.tokenize} and id_noise {self.id_noise} belong to decoder_only: "
                "set it, or leave them out"
            )
