"""The judge's network: pictures to maps of what is where, in the manner of CenterNet.

On a grid of 16 x 16 places it tells how surely the middle of a thing is there, which of its world's
concepts it is, where its box lies and which of the ten colours it is painted in, if any.
`judge_peaks` reads things off these maps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.vocabulary import WorldName, world

INPUT_SIZE: Final = 128
"""Side of the pictures that the network sees; others are resized."""
STRIDE: Final = 8
GRID: Final = INPUT_SIZE // STRIDE
RARE: Final = -4.0
"""Where the centre map starts, as a logit: middles are rare."""

NATURAL: Final = len(COLOURS)
"""Index of things in their own colours, after those of the ten tints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """Widths of the network, by resolution, and what it knows."""

    widths: tuple[int, int, int, int] = (32, 48, 80, 112)
    """Channels at a half, a quarter, an eighth and a sixteenth of the input's side."""
    world: WorldName = "v0"
    """Whose concepts it names."""

    def __post_init__(self) -> None:
        if len(self.widths) != 4 or min(self.widths) < 1:
            raise ValueError(f"widths must be four numbers above 0, got {self.widths}")

    @property
    def names(self) -> tuple[str, ...]:
        """What it can name, in the order of its outputs."""
        return tuple(world(self.world).concepts)


class ConvUnit(nn.Module):
    """Convolution, and batch normalisation while it is trained; then ReLU unless told not to."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        norm: bool,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=not norm
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else None
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h / stride, w / stride)."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return F.relu(x) if self.relu else x


class Residual(nn.Module):
    """Two 3x3 units beside a shortcut."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.first = ConvUnit(channels, channels, norm=norm)
        self.second = ConvUnit(channels, channels, norm=norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, c, h, w)."""
        return F.relu(x + self.second(self.first(x)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Maps:
    """What the network says of each place of the grid; raw logits except for boxes."""

    centre: Tensor
    """(B, g, g): whether the middle of a thing is here."""
    concept: Tensor
    """(B, concepts, g, g)."""
    colour: Tensor
    """(B, 11, g, g): the ten tints, then `NATURAL`."""
    box: Tensor
    """(B, 4, g, g): middle (x, y) less the place's own, and size, in sides of the picture."""


class JudgeNetwork(nn.Module):
    """A stride-8 network with a look at stride 16, for wide sight at little cost.

    Args:
        config: Widths.
        norm: With batch normalisation (to train) or without (`folded`, to ship and use).
    """

    def __init__(self, config: JudgeConfig, *, norm: bool) -> None:
        super().__init__()
        self.config = config
        half, quarter, eighth, sixteenth = config.widths
        self.stem = nn.Sequential(
            ConvUnit(3, half, stride=2, norm=norm),
            ConvUnit(half, quarter, stride=2, norm=norm),
            Residual(quarter, norm=norm),
        )
        self.middle = nn.Sequential(
            ConvUnit(quarter, eighth, stride=2, norm=norm), Residual(eighth, norm=norm)
        )
        self.deep = nn.Sequential(
            ConvUnit(eighth, sixteenth, stride=2, norm=norm),
            Residual(sixteenth, norm=norm),
            ConvUnit(sixteenth, eighth, 1, norm=norm, relu=False),
        )
        self.joint = Residual(eighth, norm=norm)
        self.sizes = (1, len(config.names), len(COLOURS) + 1, 4)
        self.heads = nn.Conv2d(eighth, sum(self.sizes), 1)

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw every weight; only networks that are to be trained need it."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        nn.init.normal_(self.heads.weight, std=0.01, generator=generator)
        assert self.heads.bias is not None
        nn.init.constant_(self.heads.bias[:1], RARE)

    def see(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, 128, 128) in [-1, 1] -> (B, c, g, g), what the heads read."""
        x = self.middle(self.stem(pixel_values))  # (B, c, g, g)
        return self.joint(F.relu(x + F.interpolate(self.deep(x), scale_factor=2.0)))

    def forward(self, pixel_values: Tensor) -> Maps:
        """Look at pictures.

        Args:
            pixel_values: (B, 3, 128, 128) in [-1, 1].
        """
        x = self.see(pixel_values)
        centre, concept, colour, box = self.heads(x).float().split(self.sizes, dim=1)
        return Maps(centre=centre[:, 0], concept=concept, colour=colour, box=box)


def empty_network(config: JudgeConfig, *, norm: bool) -> JudgeNetwork:
    """A network whose weights are not set yet, made without touching the global generator."""
    with torch.device("meta"):
        network = JudgeNetwork(config, norm=norm)
    return network.to_empty(device="cpu")


def folded(network: JudgeNetwork) -> JudgeNetwork:
    """A copy for use, each normalisation folded into its convolution; the same function."""
    source = copy.deepcopy(network).eval()
    target = empty_network(network.config, norm=False)
    units = dict(target.named_modules())
    with torch.no_grad():
        for name, module in source.named_modules():
            if isinstance(module, ConvUnit):
                unit = units[name]
                assert isinstance(unit, ConvUnit)
                assert module.norm is not None
                fused = fuse_conv_bn_eval(module.conv, module.norm)
                unit.conv.load_state_dict(fused.state_dict())
        target.heads.load_state_dict(network.heads.state_dict())
    return target.eval()


def pixel_values_of(pictures: Iterable[np.ndarray | Image.Image]) -> Tensor:
    """uint8 (H, W, 3) or PIL pictures of any size -> (B, 3, 128, 128) in [-1, 1]."""
    arrays = []
    for picture in pictures:
        image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        image = image.convert("RGB")
        if image.size != (INPUT_SIZE, INPUT_SIZE):
            image = image.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC)
        arrays.append(np.asarray(image))
    stack = torch.from_numpy(np.stack(arrays))
    return stack.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1  # (B, 3, S, S)
