"""The adversary of the image tokenizer: a discriminator of patches with an optimizer of its own.

Two losses go through one discriminator, and neither may leave gradients where the other learns:
the generator's loss sees it frozen, its own loss sees pictures without a graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.train.parallel import ALONE, World
from openjanus.train.replicas import BatchNorm2d, sum_gradients, sum_tensor
from openjanus.train.vq_config import GanConfig

SLOPE = 0.2
MAX_ADAPTIVE = 1e4


class PatchDiscriminator(nn.Module):
    """Real or made, patch by patch (pix2pix; LlamaGen takes 3 layers from 64 channels)."""

    def __init__(self, layers: int, width: int, *, processes: int = 1) -> None:
        super().__init__()
        widths = [width * min(2**index, 8) for index in range(layers + 1)]
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        for index in range(1, layers + 1):
            stride = 2 if index < layers else 1
            blocks += [
                nn.Conv2d(widths[index - 1], widths[index], 4, stride, padding=1, bias=False),
                # Statistics of the batch alone: running ones would let the generator's pass
                # change the discriminator.
                BatchNorm2d(widths[index], processes=processes),
                nn.LeakyReLU(SLOPE),
            ]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1, p, p) verdicts; above 0 is real."""
        return self.blocks(pixels)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Normal weights of 0.02 around 0, norms around 1, as pix2pix."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                mean = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
                module.weight.normal_(mean, 0.02, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()


def smallest_side(layers: int) -> int:
    """The smallest picture whose verdict has a place: the last two layers take a pixel each."""
    return 3 * 2**layers


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """What the generator pays for verdicts on what it made: -E[D(fake)]."""
    return -fake.float().mean()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """(E[max(0, 1 - D(real))] + E[max(0, 1 + D(fake))]) / 2."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def adaptive_weight(
    reconstruction: Tensor, adversary: Tensor, last_layer: Tensor, world: World = ALONE
) -> Tensor:
    """How much stronger one loss pulls at a weight than another (VQGAN, equation 7).

    Args:
        reconstruction: Scalar loss.
        adversary: Scalar loss.
        last_layer: The weight that both are looked at from.
        world: All processes; each has a part of the batch, and the ratio is that of the whole.

    Returns:
        A scalar without a graph, in [0, 1e4].
    """
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (given,) = torch.autograd.grad(adversary, last_layer, retain_graph=True)
    # Before the norms: the norm of a mean is not the mean of the norms.
    wanted, given = sum_tensor(torch.stack([wanted, given]), world) / world.size
    return (wanted.norm() / (given.norm() + 1e-4)).clamp(0, MAX_ADAPTIVE).detach()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module without leaving any in it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def generator_loss(discriminator: nn.Module, reconstruction: Tensor) -> Tensor:
    """The term of the generator; the discriminator gets no gradient from it."""
    with frozen(discriminator):
        return hinge_generator_loss(discriminator(reconstruction))


def discriminator_loss(
    discriminator: nn.Module, pixels: Tensor, reconstruction: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The discriminator's own loss, and its mean verdicts; the generator gets no gradient."""
    real = discriminator(pixels.detach())
    fake = discriminator(reconstruction.detach())
    verdicts = {"gan_real": real.detach().mean(), "gan_fake": fake.detach().mean()}
    return hinge_discriminator_loss(real, fake), verdicts


class Adversary:
    """The discriminator and its training."""

    def __init__(
        self, config: GanConfig, *, seed: int, device: torch.device, world: World = ALONE
    ) -> None:
        self.config = config
        self.world = world
        self.discriminator = PatchDiscriminator(config.layers, config.width, processes=world.size)
        self.discriminator.init_weights(torch.Generator().manual_seed(seed))
        self.discriminator.to(device)
        self.optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=config.lr, betas=config.betas, fused=True
        )

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        """As ``generator_loss`` of the discriminator."""
        return generator_loss(self.discriminator, reconstruction)

    def discriminator_loss(
        self, pixels: Tensor, reconstruction: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As ``discriminator_loss`` of the discriminator."""
        return discriminator_loss(self.discriminator, pixels, reconstruction)

    def update(self, loss: Tensor) -> float:
        """One step of the discriminator; returns the gradient norm before clipping."""
        (loss / self.world.size).backward()
        parameters = list(self.discriminator.parameters())
        sum_gradients(parameters, self.world)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        self.discriminator.load_state_dict(state["discriminator"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
