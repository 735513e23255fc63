"""Train the judge: `python -m openjanus.worlds.emoji.judge_training --vq VQ --out FOLDER`.

It learns from renders of training-split scenes and from what the image tokenizer makes of them,
never from drawings of a model and never from a held-out cell. Scores are then calibrated on other
training-split scenes, and the judge is measured on held-out ones (`judge_measures`).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from tqdm import tqdm

from openjanus.config import VQConfig
from openjanus.model.vq import VQTokenizer
from openjanus.presets import preset
from openjanus.weights.formats import load_model
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.judge import RECORD_NAME, Judge
from openjanus.worlds.emoji.judge_calibration import calibrate, detection_report, find_peaks
from openjanus.worlds.emoji.judge_measures import (
    ACCEPTED,
    as_record,
    measure,
    redrawn,
)
from openjanus.worlds.emoji.judge_network import JudgeConfig, empty_network, folded, pixel_values_of
from openjanus.worlds.emoji.judge_pool import ReconstructionPool, redraw_with
from openjanus.worlds.emoji.judge_targets import augmented, false_coloured, judge_loss, targets_of
from openjanus.worlds.emoji.scenes import Tag
from openjanus.worlds.emoji.vocabulary import WORLDS

TRAIN_TAGS: Final[dict[Tag, float]] = {
    "single_object": 0.5,
    "two_object": 1.0,
    "counting": 1.0,
    "colors": 2.0,
    "position": 0.5,
    "color_attr": 3.0,
    "free": 1.5,
}
"""Tinted things have lost their natural colours, so their names take the longest to learn."""

TRAIN_SEED: Final = 7001
CALIBRATION_SEED: Final = 7002
MEASURE_SEED: Final = 7003
"""Streams of scenes of the judge's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeTrainConfig:
    """How the judge is trained."""

    minutes: float = 25.0
    """Wall-clock budget of the training steps; the schedule follows the clock."""
    batch_size: int = 48
    """Pictures a step, half of them renders and half reconstructions."""
    fresh_reconstructions: int = 3
    """New reconstructions a step; the rest come from those made before."""
    first_reconstructions: int = 192
    """Reconstructions made before the first step."""
    pool_size: int = 12_000
    """Reconstructions kept, 49 kB each; later ones push out the oldest."""
    disturbed_share: float = 0.5
    """Share of reconstructions some of whose ids are moved to near rows of the codebook."""
    disturbed_ids: float = 0.08
    """Largest share of the ids of such a picture that is moved."""
    false_colours: float = 0.25
    """Share of pictures in false colours, of which no colour is asked."""
    lr: float = 3e-3
    weight_decay: float = 0.02
    warmup: float = 0.03
    """Share of the budget over which the learning rate rises."""
    save_every_s: float = 120.0
    per_tag: int = 400
    """Pictures a tag in the measurement."""
    calibration_scenes: int = 1500
    bf16: bool = True

    def __post_init__(self) -> None:
        if not self.minutes > 0 or self.batch_size < 2:
            raise ValueError(
                "minutes must be > 0 and batch_size at least 2, got "
                f"{self.minutes} and {self.batch_size}"
            )
        if not 0 < self.fresh_reconstructions <= self.first_reconstructions <= self.pool_size:
            raise ValueError(
                "reconstructions must be 0 < fresh <= first <= pool_size, got "
                f"{self.fresh_reconstructions}, {self.first_reconstructions}, {self.pool_size}"
            )


class JudgeTrainer:
    """One step at a time on batches half rendered and half reconstructed.

    Args:
        vq: The image tokenizer whose pictures the judge will see.
        source: Training-split scenes at the tokenizer's picture size.
        config: How to train.
        network: Widths.
    """

    def __init__(
        self, vq: VQTokenizer, source: SceneSource, config: JudgeTrainConfig, network: JudgeConfig
    ) -> None:
        size = vq.config.image_size
        if source.options.split != "train" or source.options.size != size:
            raise ValueError(
                f"the judge learns from split 'train' at the tokenizer's {size} px, got "
                f"{source.options.split!r} at {source.options.size} px"
            )
        if source.sprites.world.name != network.world:
            raise ValueError(
                f"a judge of world {network.world} cannot learn from scenes of world "
                f"{source.sprites.world.name}: give both the same"
            )
        self.source = source
        self.config = config
        self.network = empty_network(network, norm=True).train()
        self.network.init_weights(torch.Generator().manual_seed(source.options.seed))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.pool = ReconstructionPool(
            vq,
            source,
            size=config.pool_size,
            disturbed_share=config.disturbed_share,
            disturbed_ids=config.disturbed_ids,
            bf16=config.bf16,
        )
        self.step = 0
        self.elapsed = 0.0
        """Seconds of training so far, earlier runs included."""
        self._next_index = 0

    def train_step(self) -> float:
        """One update; returns the loss."""
        config = self.config
        wanted = (
            config.fresh_reconstructions if self.pool.pictures else config.first_reconstructions
        )
        for start in range(0, wanted, config.batch_size):
            self.pool.add(self._take(min(config.batch_size, wanted - start)))
        rng = np.random.default_rng([self.source.options.seed, self.step, 4])
        pictures, scenes = self.pool.draw(config.batch_size // 2, rng)
        for index in self._take(config.batch_size - len(pictures)):
            pictures.append(self.source.picture(index))
            scenes.append(self.source.scene(index))
        generator = torch.Generator().manual_seed(self.source.options.seed * 1_000_003 + self.step)
        pixels, false = false_coloured(pixel_values_of(pictures), config.false_colours, generator)
        pixels = augmented(pixels, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * self._rate(self.elapsed / (60 * config.minutes))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
            maps = self.network(pixels)
        loss = judge_loss(maps, targets_of(scenes).without_colours(false))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def fill_pool(self) -> None:
        """Make the first reconstructions, where they are not there yet."""
        while len(self.pool.pictures) < self.config.first_reconstructions:
            missing = self.config.first_reconstructions - len(self.pool.pictures)
            self.pool.add(self._take(min(self.config.batch_size, missing)))

    def _take(self, n: int) -> range:
        self._next_index += n
        return range(self._next_index - n, self._next_index)

    def _rate(self, progress: float) -> float:
        """Rise, then a cosine down to 0."""
        warmup = self.config.warmup
        if progress < warmup:
            return (progress + 0.01 * warmup) / (1.01 * warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))

    def run(self, checkpoint: Path) -> None:
        """Train until the budget is spent, saving now and then; goes on where `load` left off."""
        budget, saved = 60 * self.config.minutes, self.elapsed
        bar = tqdm(total=round(budget), initial=round(self.elapsed), desc="judge", unit="s")
        smooth = math.nan
        self.fill_pool()  # before the clock runs
        with bar:
            while self.elapsed < budget:
                began = time.perf_counter()
                loss = self.train_step()
                if not math.isfinite(loss):
                    raise ValueError(f"the loss is {loss} at step {self.step}: lower --lr")
                self.elapsed += time.perf_counter() - began
                smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
                bar.update(min(round(self.elapsed), bar.total) - bar.n)
                bar.set_postfix(step=self.step, loss=f"{smooth:.3f}", refresh=False)
                if self.elapsed - saved >= self.config.save_every_s:
                    saved = self.elapsed
                    self.save(checkpoint)
        self.save(checkpoint)

    def save(self, path: Path) -> None:
        """Write everything that going on needs but the pool, which is made anew."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "next_index": self._next_index,
        }
        draft = path.with_name(f"{path.name}.part")
        torch.save(state, draft)
        draft.replace(path)

    def load(self, path: Path) -> None:
        """Take up what `save` wrote.

        Raises:
            FileNotFoundError: Nothing was saved there.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint at {path}: leave out --resume")
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        self._next_index = state["next_index"]


def finished(trainer: JudgeTrainer) -> Judge:
    """Fold the network, calibrate it, and measure it on scenes that it was not made from.

    The record of the judge gets `measures` (balanced verdicts on held-out scenes, as renders and
    as reconstructions), `detection` (on the calibration scenes) and `training`.
    """
    config, source = trainer.config, trainer.source
    redraw = redraw_with(trainer.pool.vq, bf16=config.bf16)
    network = folded(trainer.network)
    others = SceneSource(
        sprites=source.sprites,
        seed=CALIBRATION_SEED,
        size=source.options.size,
        world=source.sprites.world.name,
    )
    scenes = [others.scene(i) for i in range(config.calibration_scenes)]
    pictures = [others.picture(i) for i in range(config.calibration_scenes)]
    half = len(pictures) // 2
    pictures[half:] = redrawn(pictures[half:], redraw)
    found = find_peaks(network, pictures)
    calibration = calibrate(found, scenes)
    detection = {
        "renders": detection_report(found[:half], scenes[:half], calibration),
        "reconstructions": detection_report(found[half:], scenes[half:], calibration),
    }
    judge = Judge(network, calibration, {})
    measures = {
        name: as_record(
            measure(
                judge,
                source.sprites,
                size=source.options.size,
                per_tag=config.per_tag,
                seed=MEASURE_SEED,
                redraw=how,
            )
        )
        for name, how in (("renders", None), ("reconstructions", redraw))
    }
    training = asdict(config) | {
        "picture_size": source.options.size,
        "sprites_sha256": source.sprites.sha256(),
        "steps": trainer.step,
        "seconds": round(trainer.elapsed, 1),
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "seeds": {
            "training": source.options.seed,
            "calibration": CALIBRATION_SEED,
            "measurement": MEASURE_SEED,
        },
    }
    record = {"measures": measures, "detection": detection, "training": training}
    return Judge(network, calibration, record)


def report(judge: Judge) -> str:
    """The judge's figures as a table, and whether it reaches what is asked of it."""
    lines = [f"{'':16}{'tag':16}{'balanced':>10}{'false no':>10}{'false yes':>10}"]
    lowest = 1.0
    for shown, tags in judge.record["measures"].items():
        for tag, figures in tags.items():
            lowest = min(lowest, figures["balanced_accuracy"])
            lines.append(
                f"{shown:16}{tag:16}{figures['balanced_accuracy']:10.4f}"
                f"{figures['false_rejections']:10.4f}{figures['false_acceptances']:10.4f}"
            )
    for shown, figures in judge.record["detection"].items():
        found = {key: value for key, value in figures.items() if key != "reliability"}
        lines.append(f"{shown}: " + ", ".join(f"{key} {value}" for key, value in found.items()))
    word = "reached" if lowest >= ACCEPTED else "NOT reached"
    lines.append(f"lowest balanced accuracy {lowest:.4f}: {ACCEPTED} in every tag is {word}")
    return "\n".join(lines)


def load_vq(path: Path, architecture: str) -> VQTokenizer:
    """Open an image tokenizer.

    Args:
        path: The folder of a whole model; or of tokenizer training, finished or a checkpoint.
        architecture: Preset whose tokenizer was trained.

    Raises:
        FileNotFoundError: Nothing of that kind is there.
        ValueError: The model has another kind of image tokenizer, or one of another shape.
    """
    if (path / "config.json").is_file():
        vq = load_model(path, device="cpu", dtype=torch.float32)[0].vq
        if not isinstance(vq, VQTokenizer):
            raise ValueError(f"{path} has another image tokenizer ({type(vq).__name__}): give a VQ")
    else:
        config = preset(architecture).gen_tokenizer
        assert isinstance(config, VQConfig)
        vq = VQTokenizer(config)
        try:
            vq.load_state_dict(_tokenizer_state(path), strict=True)
        except RuntimeError as error:
            raise ValueError(
                f"{path} holds another tokenizer than that of {architecture!r}: give its preset"
            ) from error
    return vq.eval().requires_grad_(False)


def _tokenizer_state(path: Path) -> dict[str, torch.Tensor]:
    """What tokenizer training wrote: its result in `final`, or a checkpoint `step-NNNNNNNN`."""
    for result in (path / "final" / "door.safetensors", path / "door.safetensors"):
        if result.is_file():
            return load_safetensors(result.read_bytes())
    if (path / "state.pt").is_file():
        return torch.load(path / "state.pt", map_location="cpu", weights_only=True)["task"]["model"]
    raise FileNotFoundError(
        f"no tokenizer at {path}: give a model's folder, or one of tokenizer training"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, calibrate, measure and write a judge."""
    defaults = JudgeTrainConfig()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--vq", type=Path, required=True, help="folder of a model or of tokenizer training"
    )
    parser.add_argument("--vq-preset", default="nano-v0", help="architecture of a VQ checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder for the judge")
    parser.add_argument("--minutes", type=float, default=defaults.minutes)
    parser.add_argument("--lr", type=float, default=defaults.lr)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--per-tag", type=int, default=defaults.per_tag)
    parser.add_argument(
        "--sprites", type=Path, help="folder of the artwork; the world's own if left out"
    )
    parser.add_argument("--world", choices=WORLDS, default="v0", help="whose scenes it judges")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/training.pt")
    options = parser.parse_args(arguments)
    try:
        config = JudgeTrainConfig(
            minutes=options.minutes,
            lr=options.lr,
            batch_size=options.batch_size,
            per_tag=options.per_tag,
        )
        judge = _trained(options, config)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    sys.stdout.write(f"{report(judge)}\nwritten: {options.out / RECORD_NAME}\n")


def _trained(options: argparse.Namespace, config: JudgeTrainConfig) -> Judge:
    """What `main` is asked for.

    Raises:
        FileNotFoundError: No tokenizer, no artwork, or nothing to resume.
        ValueError: The folder holds a training already, or too little was learnt to calibrate.
    """
    vq = load_vq(options.vq, options.vq_preset)
    size = vq.config.image_size
    source = SceneSource(
        options.sprites, seed=TRAIN_SEED, tags=TRAIN_TAGS, size=size, world=options.world
    )
    trainer = JudgeTrainer(vq, source, config, JudgeConfig(world=options.world))
    checkpoint = options.out / "training.pt"
    if options.resume:
        trainer.load(checkpoint)
    elif checkpoint.exists():
        raise ValueError(f"{checkpoint} exists: add --resume, or give another --out")
    trainer.run(checkpoint)
    judge = finished(trainer)
    judge.save(options.out)
    return judge


if __name__ == "__main__":
    main()
