"""What a training step is worth on a CPU: packed against padded rows, and the share of the peak.

    python benchmarks/training.py [--rounds N] [--threads N] [--only NAME ...] [--output FILE]

Random weights, random words and pictures; all that is compared takes turns, round by round, in one
process, and medians are compared. Names of the parts:

`packing`: stage II at the nano's size, on a mixture (und : text : gen = 2 : 3 : 5 in samples)
whose mean length is under half its maximum. `ours` is supervised tokens a second of packs, `theirs`
those of rows padded to the longest of the batch, at the best of 8, 16 and 32 samples; and of the
same with samples of like lengths put together (drawn from pools of 16 batches).

`wait`: share of a step that waits for data, with two workers that read and decode PNGs.

`nano`, `wide`: share of the measured bf16 peak of matrix products that a step reaches: at the
nano's size, for steps of 5 packs of 1024 tokens and of 16; and for 4 layers at the width of
Janus-Pro-1B with its heads and embeddings, for steps of one pack of 4096 tokens. Each as it is and
with `compile`. A step's work is what the trainer's own MFU counts (`train.flops`); the peak is that
of the product of (4096, 2048) and (2048, 5632) after each step. Beside it stands where the time of
a step went.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from openjanus.train.host_memory import keep_freed_memory

keep_freed_memory()  # as the command line does: before torch is imported
# ruff: noqa: E402 - for that

import numpy as np
import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from openjanus.config import JanusConfig
from openjanus.data.collate import Batch, collate
from openjanus.data.encoding import EncodedSample, SampleEncoder
from openjanus.data.fetching import Crew, Fetcher
from openjanus.data.mixture import Mixture
from openjanus.data.packed import PackedStream
from openjanus.data.packing import BinRules
from openjanus.data.samples import IMAGE_MARK, KINDS, Kind, Sample, Turn
from openjanus.data.stream import Stream
from openjanus.presets import preset
from openjanus.processor.prompt import Processor
from openjanus.processor.text import byte_tokenizer
from openjanus.train.config import JanusTrainConfig
from openjanus.train.flops import FlopCounter
from openjanus.train.optim_config import OptimConfig
from openjanus.train.run_config import RunConfig
from openjanus.train.source_config import SourcesConfig
from openjanus.train.start import fresh_model
from openjanus.train.trainer import JanusTrainer

RATIO = (2, 3, 5)
POOL = 16
PACK = 1024
LONGEST = 352
WIDE_PACK, WIDE_LAYERS = 4096, 4
WARM_UP = 5
"""Steps that are not counted: the first compiles, and memory settles for some more."""


class Words:
    """Random samples of a kind, in many lengths; pictures to draw are ids already."""

    def __init__(
        self, kind: Kind, config: JanusConfig, longest: int, *, decodes: bool = False
    ) -> None:
        self.kind: Kind = kind
        self.config = config
        self.longest = longest
        self.decodes = decodes
        self._png = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
        Image.fromarray(noise).save(self._png, "PNG")

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> Sample:
        random = np.random.default_rng((index, KINDS.index(self.kind)))
        key = f"{self.kind}/{index}"
        # Log-uniform: many short texts and a few long ones, as in any corpus.
        text = "w" * int(np.exp(random.uniform(np.log(8), np.log(self.longest))))
        if self.kind == "gen":
            ids = random.integers(0, self.config.codebook_size, self.config.num_gen_image_tokens)
            target = self._picture() if self.decodes else ids
            return Sample(
                key=key, kind="gen", turns=(Turn(role="user", text=text[:24]),), target=target
            )
        images = (self._picture(),) if self.kind == "und" else ()
        question = f"{IMAGE_MARK}\nq" if images else "q"
        text = text[: self.longest - self.config.num_und_image_tokens - 40] if images else text
        turns = (Turn(role="user", text=question), Turn(role="assistant", text=text))
        return Sample(key=key, kind=self.kind, turns=turns, images=images)

    def _picture(self) -> np.ndarray:
        if not self.decodes:
            size = self.config.und_image_size
            return np.zeros((size, size, 3), np.uint8)
        with Image.open(self._png) as picture:
            return np.asarray(picture)


def make_stream(
    processor: Processor, longest: int, packs: int, pack_length: int, ratio: Sequence[int] = RATIO
) -> Stream:
    """Packs of the mixture."""
    sources: dict[Kind, list[Words]] = {
        kind: [Words(kind, processor.config, longest)] for kind in KINDS
    }
    mixture = Mixture(
        {k: [len(s[0])] for k, s in sources.items()}, {k: [1] for k in KINDS}, ratio, seed=0
    )
    encode = SampleEncoder(processor=processor, max_length=longest, cond_drop=0.1)
    crew = Crew(Fetcher(sources, mixture, encode))
    return PackedStream(crew, mixture, batch_size=packs, rules=BinRules(capacity=pack_length))


def samples_of(stream: Stream, number: int) -> list[EncodedSample]:
    """The first samples of a stream."""
    state: dict[str, Any] = {}
    found: list[EncodedSample] = []
    while len(found) < number:
        step = stream.take(state)
        state = step.state
        found += step.samples
    return found[:number]


def make_trainer(config: JanusConfig, folder: str, **options: Any) -> JanusTrainer:
    """Stage II with random weights; what is trained and how is the recipe ``nano/stage2``'s."""
    sources = options.pop("sources", None)
    settings: dict[str, Any] = {
        "stage": 2,
        "init": ["none"],
        "sources": SourcesConfig(),
        "ratio": RATIO,
        "id_cache": None,
        "run": RunConfig(dir=folder),
        "optim": OptimConfig(name="muon", lr=1e-3, muon_lr=0.01),
        "max_length": config.language.max_position_embeddings,
    }
    words: dict[Kind, list[Words]] = {k: [Words(k, config, LONGEST)] for k in KINDS}
    processor = Processor(config, byte_tokenizer(config.processor))
    run = JanusTrainConfig(**(settings | options))
    return JanusTrainer(
        fresh_model(config, 0), processor, run, sources=words if sources is None else sources
    )


def train_on(trainer: JanusTrainer, *batches: Batch) -> float:
    """Seconds of one whole step on batches, one after another."""
    began = time.perf_counter()
    trainer.gradients.add(0, batches)
    trainer.optimizers.step(0, 1000)
    return time.perf_counter() - began


def race_packing(rounds: int) -> dict[str, Any]:
    """Supervised tokens a second: packs, padded rows, rows of like lengths."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(preset("nano-v0"), folder)
        processor = trainer.processor
        stream = make_stream(processor, LONGEST, 5, PACK)
        samples = samples_of(stream, 32 * POOL)
        lengths = [len(s.input_ids) for s in samples]
        print(f"mean length {statistics.mean(lengths):.0f} of at most {max(lengths)} tokens")
        ways: dict[str, list[Batch]] = {"packed": _packed(stream, processor, rounds)}
        random = np.random.default_rng(0)
        for size in (8, 16, 32):
            plain = [samples[i : i + size] for i in range(0, len(samples), size)]
            ways[f"padded, {size}"] = _padded(plain[:rounds], processor)
            pool = sorted(samples[: size * POOL], key=lambda s: len(s.input_ids))
            like = [pool[i : i + size] for i in range(0, len(pool), size)]
            chosen = random.permutation(len(like))[:rounds]
            ways[f"buckets, {size}"] = _padded([like[i] for i in chosen], processor)
        rates = _take_turns(
            {
                name: [lambda b=batch: b.num_supervised / train_on(trainer, b) for batch in batches]
                for name, batches in ways.items()
            },
            "packing",
        )
    for name, rate in rates.items():
        print(f"{name:14} {rate:8.0f} supervised tokens a second")
    best = {
        kind: max(rate for name, rate in rates.items() if name.startswith(kind))
        for kind in ("padded", "buckets")
    }
    return {
        f"packed against {kind}": _entry(rates["packed"], rate, "supervised tokens/s")
        for kind, rate in best.items()
    }


def _packed(stream: Stream, processor: Processor, number: int) -> list[Batch]:
    state: dict[str, Any] = {}
    batches = []
    for _ in range(number):
        step = stream.take(state)
        state = step.state
        assert step.rows is not None
        sizes = [len(row) for row in step.rows]
        batches.append(collate(step.samples, processor, pack_length=PACK, row_sizes=sizes))
    return batches


def _padded(parts: Sequence[Sequence[EncodedSample]], processor: Processor) -> list[Batch]:
    return [collate(part, processor) for part in parts]


def _take_turns(ways: dict[str, list[Callable[[], float]]], name: str) -> dict[str, float]:
    """The median of what each way's runs give, one after another; the first round is not kept."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in tqdm(range(max(map(len, ways.values()))), desc=name, leave=False):
        for way, runs in ways.items():
            value = runs[number % len(runs)]()
            if number > 0:
                found[way].append(value)
    return {way: statistics.median(values) for way, values in found.items()}


def measure_wait(steps: int) -> dict[str, Any]:
    """Share of a step that waits for its samples."""
    config = preset("nano-v0")
    sources: dict[Kind, list[Words]] = {
        kind: [Words(kind, config, LONGEST, decodes=True)] for kind in KINDS
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            config,
            folder,
            sources=sources,
            batch_unit="packs",
            batch_size=5,
            pack_length=PACK,
            num_workers=2,
        )
        waits = [trainer.train_step(step)["data_wait"] for step in tqdm(range(steps), "wait")]
        trainer.crew.close()
    wait = statistics.median(waits[2:])
    print(f"waiting for data: {wait:.2%} of a step")
    return {"share of a step that waits for data": _entry(wait, 0.02, "share; theirs is wanted")}


def peak() -> float:
    """Operations a second of a large product in bf16."""
    a, b = torch.randn(4096, 2048).bfloat16(), torch.randn(2048, 5632).bfloat16()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - began)
    return 2 * a.numel() * b.shape[1] / min(times)


def measure_share(
    config: JanusConfig, parts: Sequence[int], length: int, rounds: int, *, compiled: bool
) -> tuple[float, dict[str, float]]:
    """Share of the peak that a step reaches, and where its time goes.

    Args:
        config: Of the model.
        parts: Packs of each of a step's batches, whose gradients are added up.
        length: Tokens of a pack.
        rounds: Steps that are counted.
        compiled: Whether with ``compile``.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(config, folder, optim=OptimConfig(lr=1e-4), compile=compiled)
        longest = 640 if length > PACK else LONGEST
        stream = make_stream(trainer.processor, longest, sum(parts), length, (0, 3, 5))
        step = stream.take({})
        assert step.rows is not None
        samples, rows, batches = iter(step.samples), iter(step.rows), []
        for packs in parts:
            sizes = [len(next(rows)) for _ in range(packs)]
            chosen = [next(samples) for _ in range(sum(sizes))]
            batches.append(collate(chosen, trainer.processor, pack_length=length, row_sizes=sizes))
        work = FlopCounter(trainer.model).count(batches)
        for _ in range(WARM_UP):
            train_on(trainer, batches[0])
        shares = [
            work / train_on(trainer, *batches) / peak()
            for _ in tqdm(range(rounds), "share", leave=False)
        ]
        with profile(activities=[ProfilerActivity.CPU]) as trace:
            train_on(trainer, batches[0])
    events = sorted(trace.key_averages(), key=lambda e: -e.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    where = {e.key: round(e.self_cpu_time_total / whole, 3) for e in events[:8]}
    return statistics.median(shares), where


def measure_shares(
    name: str,
    config: JanusConfig,
    batches: Sequence[Sequence[int]],
    length: int,
    rounds: int,
    wanted: float,
) -> dict[str, Any]:
    """`measure_share` of several steps, each in a process of its own: two wide ones do not fit."""
    found = {}
    for parts in batches:
        for compiled in (False, True):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                job = pool.submit(
                    measure_share,
                    config,
                    parts,
                    length,
                    max(3, rounds // len(parts)),
                    compiled=compiled,
                )
                share, where = job.result()
            how = "compiled" if compiled else "as it is"
            full = f"{name}, {sum(parts)} x {length} tokens a step, {how}"
            print(f"{full}: {share:.1%} of the peak (wanted {wanted:.0%}); {where}", flush=True)
            found[full] = _entry(share, wanted, "share of the bf16 peak; theirs is wanted")
            found[full] |= {"profile": where}
    return found


def wide_config() -> JanusConfig:
    """Janus-Pro-1B with few layers."""
    config = preset("janus-pro-1b")
    language = dataclasses.replace(config.language, num_hidden_layers=WIDE_LAYERS)
    return dataclasses.replace(config, language=language)


def _entry(ours: float, theirs: float, unit: str) -> dict[str, Any]:
    return {
        "ours": round(ours, 4),
        "theirs": round(theirs, 4),
        "ratio": round(ours / theirs, 2),
        "unit": unit,
    }


def main() -> None:
    """Print what each part finds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", choices=["packing", "wait", "nano", "wide"])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "packing": lambda: race_packing(options.rounds),
        "wait": lambda: measure_wait(4 * options.rounds),
        "nano": lambda: measure_shares(
            "nano", preset("nano-v0"), [[5], [16]], PACK, options.rounds, 0.2
        ),
        "wide": lambda: measure_shares(
            "4 layers at 1B width", wide_config(), [[1]], WIDE_PACK, options.rounds, 0.55
        ),
    }
    found: dict[str, Any] = {}
    for name, run in parts.items():
        if options.only is None or name in options.only:
            found |= run()
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
