"""Options of the image tokenizer's training that most runs leave off."""

from __future__ import annotations

from dataclasses import dataclass


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
        if self.weight < 0 or self.start < 0:
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
