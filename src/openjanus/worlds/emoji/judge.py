"""The judge: a small detector that finds, names and colours the things of a drawing.

A convolutional network in the manner of CenterNet (Zhou et al., 2019): on a grid of 16 x 16 places
it tells how surely the middle of a thing is there, which of its world's concepts it is, where its
box lies and which of the ten colours it is painted in, if any. `judge_training` trains it;
GenEval's rules (`openjanus.eval.geneval`) turn what it finds into verdicts.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from openjanus.eval.geneval import Detection, Verdict, judge
from openjanus.eval.record import weights_hash
from openjanus.weights.shards import save_tensors
from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.prompts import metadata_for_prompt
from openjanus.worlds.emoji.vocabulary import WorldName, world

FORMAT_VERSION: Final = 1
WEIGHTS_NAME: Final = "judge.safetensors"
RECORD_NAME: Final = "judge.json"

INPUT_SIZE: Final = 128
"""Side of the pictures that the network sees; others are resized."""
STRIDE: Final = 8
GRID: Final = INPUT_SIZE // STRIDE
MAX_PEAKS: Final = 16
"""Things found in a picture at most."""
SCORE_FLOOR: Final = 0.02
"""Calibrated scores below this are not reported."""
SAME_PLACE: Final = 0.4
"""Two finds whose boxes overlap (intersection over union) more than this are one thing: the
surest name counts. Things of this world overlap by a quarter at most."""
RARE: Final = -4.0
"""Where the centre map starts, as a logit: middles are rare."""
CHUNK: Final = 64
"""Pictures looked at in one go."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Turns the network's raw scores into probabilities of being right (Platt, 1999)."""

    scale: float = 1.0
    bias: float = 0.0

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Raw scores in [0, 1] -> calibrated scores in (0, 1), in the same order."""
        return 1 / (1 + np.exp(-(self.scale * logit(raw) + self.bias)))


def logit(score: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of scores, kept finite at 0 and 1."""
    clipped = np.clip(score.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


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


class Judge:
    """A network ready to use, with its calibration.

    Args:
        network: A `folded` network.
        calibration: From raw scores to probabilities.
        record: How it was made and measured: the content of `judge.json`.
    """

    def __init__(
        self, network: JudgeNetwork, calibration: Calibration, record: Mapping[str, Any]
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.calibration = calibration
        self.record = dict(record)
        self.names = network.config.names

    @classmethod
    def load(cls, folder: str | Path | None = None) -> Judge:
        """Open a judge.

        Args:
            folder: Where `save` wrote; None is the judge that ships with the package.

        Raises:
            FileNotFoundError: No judge there.
            ValueError: Written by a newer version, or weights that do not fit.
        """
        place: Traversable = (
            files("openjanus.worlds.emoji") / "assets" if folder is None else Path(folder)
        )
        record_file, weights_file = place / RECORD_NAME, place / WEIGHTS_NAME
        if not record_file.is_file() or not weights_file.is_file():
            raise FileNotFoundError(
                f"no judge in {place}: train one with python -m "
                "openjanus.worlds.emoji.judge_training --vq VQ --out FOLDER"
            )
        record = json.loads(record_file.read_text(encoding="utf-8"))
        if record["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{place}: format_version {record['format_version']} is newer than "
                f"{FORMAT_VERSION}: install a newer openjanus (pip install -U openjanus)"
            )
        config = JudgeConfig(widths=tuple(record["widths"]), world=record.get("world", "v0"))
        if tuple(record["concepts"]) != config.names or tuple(record["colours"]) != COLOURS:
            raise ValueError(f"{place} knows other concepts or colours: train the judge anew")
        network = empty_network(config, norm=False)
        weights = load_safetensors(weights_file.read_bytes())
        try:
            network.load_state_dict({name: x.float() for name, x in weights.items()}, strict=True)
        except RuntimeError as error:
            raise ValueError(
                f"{place}: the weights are of another network than this version's: train the "
                "judge anew"
            ) from error
        return cls(network, Calibration(**record["calibration"]), record)

    def save(self, folder: Path) -> None:
        """Write `judge.safetensors` (fp16) and `judge.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: x.half().contiguous() for name, x in self.network.state_dict().items()}
        save_tensors(weights, folder / WEIGHTS_NAME)
        record = {
            "format_version": FORMAT_VERSION,
            "widths": list(self.network.config.widths),
            "world": self.network.config.world,
            "concepts": list(self.names),
            "colours": list(COLOURS),
            "calibration": asdict(self.calibration),
        }
        record |= {key: value for key, value in self.record.items() if key not in record}
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (folder / RECORD_NAME).write_text(text, encoding="utf-8")

    def sha256(self) -> str:
        """Hash of the weights and the calibration, for records."""
        return hashlib.sha256(
            f"{weights_hash(self.network)} {self.calibration}".encode()
        ).hexdigest()

    def look(self, pictures: Sequence[np.ndarray | Image.Image]) -> list[list[Detection]]:
        """Find the things of pictures, each looked at alone.

        Args:
            pictures: uint8 (H, W, 3) or PIL, of any size.

        Returns:
            For each picture its finds, the surest first.
        """
        found: list[list[Detection]] = []
        for start in range(0, len(pictures), CHUNK):
            pixels = pixel_values_of(pictures[start : start + CHUNK])
            with torch.no_grad():
                maps = self.network(pixels)
            found += [self._detections(peaks) for peaks in peaks_of(maps)]
        return found

    def _detections(self, peaks: Peaks) -> list[Detection]:
        scores = self.calibration(peaks.score)
        return [
            Detection(
                class_name=self.names[int(concept)],
                score=float(score),
                box=(float(x0), float(y0), float(x1), float(y1)),
                colour=None if colour == NATURAL else COLOURS[int(colour)],
            )
            for score, concept, colour, (x0, y0, x1, y1) in zip(
                scores, peaks.concept, peaks.colour, peaks.box, strict=True
            )
            if score >= SCORE_FLOOR
        ]


def judge_drawings(
    pictures: Sequence[np.ndarray | Image.Image],
    requests: Sequence[str | Mapping[str, Any]],
    *,
    referee: Judge | None = None,
) -> list[Verdict]:
    """Tell of drawings whether they show what was asked for, by GenEval's rules.

    Args:
        pictures: uint8 (H, W, 3) or PIL, of any size.
        requests: For each its prompt in GenEval's form ("a photo of three apples") or its line of
            GenEval metadata.
        referee: The judge; None is the one that ships with the package.

    Raises:
        ValueError: Not as many requests as pictures, or one that is not of GenEval's form.
    """
    if len(pictures) != len(requests):
        raise ValueError(
            f"every drawing needs its request, got {len(pictures)} drawings and "
            f"{len(requests)} requests"
        )
    if referee is None:
        referee = Judge.load()
    known = referee.network.config.world
    lines = [metadata_for_prompt(r, known) if isinstance(r, str) else r for r in requests]
    found = referee.look(pictures)
    return [judge(detections, line) for detections, line in zip(found, lines, strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Peaks:
    """The things found in one picture, the surest first, raw scores above 0."""

    score: np.ndarray
    """(n,) raw, in [0, 1]."""
    concept: np.ndarray
    """(n,) indices into the judge's names."""
    colour: np.ndarray
    """(n,) indices into `COLOURS`, or `NATURAL`."""
    box: np.ndarray
    """(n, 4) x0, y0, x1, y1 in sides of the picture."""


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


def places() -> tuple[Tensor, Tensor]:
    """Middles of the grid's places in sides of the picture: x (1, g) and y (g, 1)."""
    middles = (torch.arange(GRID) + 0.5) / GRID
    return middles[None, :], middles[:, None]


def peaks_of(maps: Maps) -> list[Peaks]:
    """Read the things off the network's maps.

    A thing is where the centre map, times the likeliest concept's probability, is not below its
    eight neighbours; finds in the same place as a surer one are dropped.
    """
    probability, concept = maps.concept.softmax(1).max(1)  # (B, g, g)
    scores = maps.centre.sigmoid() * probability
    highest = F.max_pool2d(scores[:, None], 3, stride=1, padding=1)[:, 0]
    scores = torch.where(scores == highest, scores, 0).flatten(1)  # (B, g*g)
    score, index = scores.topk(MAX_PEAKS, dim=1)
    x, y = places()
    middle_x, middle_y = maps.box[:, 0] + x, maps.box[:, 1] + y
    half_width, half_height = maps.box[:, 2].relu() / 2, maps.box[:, 3].relu() / 2
    box = torch.stack(
        [
            middle_x - half_width,
            middle_y - half_height,
            middle_x + half_width,
            middle_y + half_height,
        ],
        dim=-1,
    ).clamp(0, 1)
    box = box.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4))  # (B, n, 4)
    concept = concept.flatten(1).gather(1, index)
    colour = maps.colour.argmax(1).flatten(1).gather(1, index)
    arrays = [tensor.numpy() for tensor in (score, concept, colour, box)]
    return [_distinct(*row) for row in zip(*arrays, strict=True)]


def _distinct(score: np.ndarray, concept: np.ndarray, colour: np.ndarray, box: np.ndarray) -> Peaks:
    """Peaks without those that lie in the place of a surer one."""
    kept: list[int] = []
    for i in range(len(score)):
        if score[i] > 0 and all(overlap(box[i], box[j]) <= SAME_PLACE for j in kept):
            kept.append(i)
    return Peaks(score=score[kept], concept=concept[kept], colour=colour[kept], box=box[kept])


def overlap(box_a: np.ndarray, box_b: np.ndarray) -> float:
    """Intersection over union of two boxes; 0 for boxes without area."""
    sides = np.minimum(box_a[2:], box_b[2:]) - np.maximum(box_a[:2], box_b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    areas = float(np.prod(box_a[2:] - box_a[:2]) + np.prod(box_b[2:] - box_b[:2]))
    return shared / (areas - shared) if areas > shared else 0.0
