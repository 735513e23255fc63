"""Perceptual distance (LPIPS): differences of VGG16's features, weighted channel by channel.

The weights are not ours to ship; they are read from files that the user has. Names are those of
the files: torchvision's ``features.N`` and lpips' ``linN.model.1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of VGG16's convolutions; a pooling lies between stages."""
SMALLEST = 16
"""Smallest side of a picture: four poolings leave a pixel."""
EPS = 1e-10
FRECHET_FEATURES = "vgg16_relu5_3"

FILES = (
    "vgg16-397923af.pth (torchvision's VGG16, IMAGENET1K_V1) and vgg.pth (in the folder "
    "lpips/weights/v0.1 of the Python package lpips)"
)


class PerceptualLoss(nn.Module):
    """LPIPS with VGG16: frozen, but gradients pass to the pictures."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self._ends: list[int] = []
        width_in = 3
        for stage in STAGES:
            for width in stage:
                layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU()]
                width_in = width
            self._ends.append(len(layers))
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        for index, stage in enumerate(STAGES):
            # Place 1: lpips has its dropout before the convolution.
            head = nn.ModuleDict({"1": nn.Conv2d(stage[-1], 1, 1, bias=False)})
            self.add_module(f"lin{index}", nn.ModuleDict({"model": head}))
        # What [-1, 1] becomes for VGG: ImageNet's mean and deviation, as lpips rounds them.
        shift, scale = [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]
        self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def feature_maps(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, S, S) in [-1, 1] -> (B, c, s, s) after the last ReLU of each stage."""
        maps: list[Tensor] = []
        h, start = (pixels - self.shift) / self.scale, 0
        for end in self._ends:
            for layer in list(self.features)[start:end]:
                h = layer(h)
            maps.append(h)
            start = end
        return maps

    def pooled(self, pixels: Tensor) -> Tensor:
        """(B, 512): the last feature map's mean over the picture."""
        return self.feature_maps(pixels)[-1].float().mean(dim=(2, 3))

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """(B, 3, S, S) each, in [-1, 1] -> the mean distance, a scalar in fp32."""
        total = one.new_zeros((), dtype=torch.float32)
        for index, (a, b) in enumerate(
            zip(self.feature_maps(one), self.feature_maps(other), strict=True)
        ):
            weight = self.get_parameter(f"lin{index}.model.1.weight").float()  # (1, c, 1, 1)
            gap = (_unit(a) - _unit(b)).square()
            total = total + (gap * weight).sum(dim=1).mean()
        return total


def _unit(features: Tensor) -> Tensor:
    # Not sqrt(sum): its gradient is NaN where all channels are 0.
    features = features.float()
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + EPS)


def load_perceptual(paths: Sequence[str]) -> PerceptualLoss:
    """The network with weights from one file or several that make it up.

    Args:
        paths: ``.safetensors``, or ``.pth`` state dicts. VGG16's ``classifier`` is left out.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: No path; a file that is no state dict; a name or shape too many or missing.
    """
    if not paths:
        raise ValueError(
            f"loss.perceptual needs loss.perceptual_weights: give the paths of {FILES}"
        )
    state: dict[str, Tensor] = {}
    for path in paths:
        for name, tensor in _read(Path(path).expanduser()).items():
            if name in state:
                raise ValueError(f"loss.perceptual_weights: {path} has {name} a second time")
            state[name] = tensor
    state = {name: t for name, t in state.items() if not name.startswith("classifier.")}
    model = PerceptualLoss()
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = [f"missing {name}" for name in wanted if name not in state]
    wrong += [f"unexpected {name}" for name in state if name not in wanted]
    wrong += [
        f"{name} is {tuple(state[name].shape)}, wanted {tuple(shape)}"
        for name, shape in wanted.items()
        if name in state and state[name].shape != shape
    ]
    if wrong:
        raise ValueError(
            f"loss.perceptual_weights: {', '.join(paths)} is not LPIPS with VGG16: "
            f"{'; '.join(wrong[:3])} ({len(wrong)} differences): give {FILES}"
        )
    model.load_state_dict(state, strict=True)
    return model.eval()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"loss.perceptual_weights: no file {path}: give {FILES}")
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(torch.is_tensor(item) for item in state.values()):
        raise ValueError(f"loss.perceptual_weights: {path} is no state dict: give {FILES}")
    return state
