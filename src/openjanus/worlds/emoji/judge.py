"""The judge: a small detector that finds, names and colours the things of a drawing.

A convolutional network in the manner of CenterNet (Zhou et al., 2019; `judge_network`) looks, its
peaks (`judge_peaks`) are what is found. `judge_training` trains it; GenEval's rules
(`openjanus.eval.geneval`) turn what it finds into verdicts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as load_safetensors

from openjanus.eval.geneval import Detection, Verdict, judge
from openjanus.eval.record import weights_hash
from openjanus.weights.shards import save_tensors
from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.judge_network import (
    NATURAL,
    JudgeConfig,
    JudgeNetwork,
    empty_network,
    pixel_values_of,
)
from openjanus.worlds.emoji.judge_peaks import Peaks, peaks_of
from openjanus.worlds.emoji.prompts import metadata_for_prompt

FORMAT_VERSION: Final = 1
WEIGHTS_NAME: Final = "judge.safetensors"
RECORD_NAME: Final = "judge.json"

SCORE_FLOOR: Final = 0.02
"""Calibrated scores below this are not reported."""
CHUNK: Final = 64
"""Pictures looked at in one go."""


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
