"""The trainer of every stage: und, text and gen samples in one step, one loss, one optimizer."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from openjanus.data.collate import EncodedSample, collate, encode_sample, with_image_ids
from openjanus.data.id_cache import IdCache, module_hash, source_digest
from openjanus.data.islands import VERSION as ISLANDS_VERSION
from openjanus.data.islands import IslandIds
from openjanus.data.mixture import Draw, Mixture, stable_uniform
from openjanus.data.samples import KINDS, Kind, Sample, Turn
from openjanus.data.sources import Source, build_source
from openjanus.data.stream import BadSample, SampleStream, StepSamples, TooManyBadSamples
from openjanus.model.doors import ImageTokenizer
from openjanus.model.janus import JanusModel
from openjanus.processor.prompt import Processor
from openjanus.train.config import JanusTrainConfig, SourceConfig
from openjanus.train.fast_forward import run_decoder, run_encoder
from openjanus.train.lora import add_lora, load_trained, trained_state
from openjanus.train.losses import compute_losses
from openjanus.train.optim import Optimizers
from openjanus.train.stages import freeze_for_stage
from openjanus.train.start import beside
from openjanus.train.trial import write_trial
from openjanus.train.watch import Watch

ENCODE_CHUNK = 16
"""Pictures encoded at once, always: so that ids do not depend on the batch they came in."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s")


class JanusTrainer:
    """One optimizer step at a time; the loop is ``train.loop``'s.

    Args:
        model: In fp32; which parameters require gradients is set here, by the stage.
        processor: Its processor.
        config: The run.
        sources: By kind, instead of those that ``config.sources`` names; codebook ids of such
            sources are not kept between runs.

    Raises:
        KeyError: An unknown source.
        ValueError: Options that a source refuses, or a ratio without sources.
    """

    def __init__(
        self,
        model: JanusModel,
        processor: Processor,
        config: JanusTrainConfig,
        *,
        sources: Mapping[Kind, Sequence[Source]] | None = None,
    ) -> None:
        context = model.config.language.max_position_embeddings
        if config.max_length > context:
            raise ValueError(
                f"max_length ({config.max_length}) is past the model's context of {context} "
                "tokens: lower it"
            )
        self.model = model.train()
        self.processor = processor
        self.config = config
        named = _named_sources(config)
        if sources is None:
            sources = {k: [build_source(s.type, s.options) for s in v] for k, v in named.items()}
            self._caches = self._open_caches(named["gen"], sources["gen"])
        else:
            self._caches = [None for _ in sources.get("gen", ())]
        self.sources = sources
        self._tokenize = self.encode_images
        if config.tokenize == "islands":
            grid = math.isqrt(model.config.num_gen_image_tokens)
            self._tokenize = IslandIds(self.encode_images, grid)
        mixture = Mixture(
            {kind: [len(s) - config.held_back for s in sources.get(kind, ())] for kind in KINDS},
            {
                kind: [s.weight for s in named[kind]] or [1.0 for _ in sources.get(kind, ())]
                for kind in KINDS
            },
            config.ratio,
            seed=config.run.seed,
        )
        self.stream = SampleStream(
            sources, mixture, batch_size=config.batch_size, encode=self._encode
        )
        if config.lora is not None:
            add_lora(model, config.lora, seed=config.run.seed)
        freeze_for_stage(
            model,
            config.stage,
            train_gen_embed=config.train_gen_embed,
            beside=None if config.lora is None else config.lora.whole_doors,
        )
        self.optimizers = Optimizers(model.named_parameters(), config.optim)
        self.device = torch.device(config.device)
        decoder = model.language_model.model
        on_cpu = self.device.type == "cpu"
        plain = partial(run_decoder, decoder) if on_cpu else decoder
        self._encoder = partial(run_encoder, model.und_encoder) if on_cpu else None
        self._decoder = torch.compile(plain, dynamic=True) if config.compile else plain
        self._executor = ThreadPoolExecutor(1) if config.prefetch else None
        self._next: tuple[int, Future[StepSamples]] | None = None
        self.num_bad = 0
        self.seen: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._keys: list[str] = []
        self._watch = None if config.watch is None else self._open_watch()

    def _open_watch(self) -> Watch:
        encode = partial(
            encode_sample,
            processor=self.processor,
            max_length=self.config.max_length,
            mask_prompt=self.config.mask_prompt,
        )
        warn = partial(tqdm.write, file=sys.stderr)
        return Watch(
            self.config,
            self.model,
            self.processor,
            encode=encode,
            tokenize=self._tokenize,
            warn=warn,
        )

    def _open_caches(
        self, configs: Sequence[SourceConfig], sources: Sequence[Source]
    ) -> list[IdCache | None]:
        if self.config.id_cache is None:
            return [None for _ in sources]
        root = beside(self.config.run.dir, self.config.id_cache)
        tokenizer_hash = module_hash(self.model.vq)
        how: dict[str, Any] = {} if self.config.bf16 else {"bf16": False}
        if self.config.tokenize == "islands":
            how["islands"] = ISLANDS_VERSION
        names = [source_digest(config.type, {**config.options, **how}) for config in configs]
        return [
            IdCache(
                root / name,
                tokenizer_hash=tokenizer_hash,
                source=name,
                num_items=len(source),
                num_image_tokens=self.model.config.num_gen_image_tokens,
                codebook_size=self.model.config.codebook_size,
            )
            for name, source in zip(names, sources, strict=True)
        ]

    def _encode(self, sample: Sample, draw: Draw) -> EncodedSample:
        """Tokenize; what is hidden or cut depends on (seed, key, epoch) alone."""
        config, drop = self.config, False
        if sample.kind == "gen":
            place = (config.run.seed, sample.key, draw.epoch)
            drop = stable_uniform("drop", *place) < config.cond_drop
            if stable_uniform("sentence", *place) < config.first_sentence:
                sample = _first_sentence(sample)
        return encode_sample(
            sample,
            self.processor,
            max_length=config.max_length,
            mask_prompt=config.mask_prompt,
            drop_condition=drop,
        )

    def _samples(self, step: int) -> StepSamples:
        """The samples of a step, prepared while the step before it ran."""
        if self._executor is None:
            return self.stream.step(step)
        if self._next is not None and self._next[0] == step:
            result = self._next[1].result()
        else:
            result = self.stream.step(step)
        self._next = (step + 1, self._executor.submit(self.stream.step, step + 1))
        return result

    def _count_bad(self, bad: Sequence[BadSample]) -> None:
        for sample in bad:
            tqdm.write(f"skipped {sample.name}: {sample.reason}", file=sys.stderr)
        self.num_bad += len(bad)
        if self.num_bad > self.config.max_bad_samples:
            raise TooManyBadSamples(
                f"{self.num_bad} samples could not be used, max_bad_samples is "
                f"{self.config.max_bad_samples}; the last: {bad[-1].name}: {bad[-1].reason}"
            )

    def _with_image_ids(self, step: StepSamples) -> list[EncodedSample]:
        """Put codebook ids in place of pictures: known ones from the cache, others computed."""
        samples = list(step.samples)
        missing: list[int] = []
        for place, (draw, sample) in enumerate(zip(step.draws, samples, strict=True)):
            if sample.target is None or sample.target.ndim == 1:
                continue
            cache = self._caches[draw.source]
            known = None if cache is None else cache.get(draw.index)
            if known is None:
                missing.append(place)
            else:
                samples[place] = replace(sample, target=known)
        computed = with_image_ids([samples[i] for i in missing], self.processor, self._tokenize)
        for place, sample in zip(missing, computed, strict=True):
            samples[place] = sample
            draw = step.draws[place]
            cache = self._caches[draw.source]
            if cache is not None and sample.target is not None:
                cache.put([draw.index], sample.target[None])
        return samples

    @torch.no_grad()
    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """(G, 3, S, S) in [-1, 1] -> (G, N) ids; convolutions as the run's ``bf16`` says."""
        tokenizer = self.model.vq
        assert isinstance(tokenizer, ImageTokenizer)
        ids = []
        for chunk in pixel_values.to(self.device).split(ENCODE_CHUNK):
            filler = chunk.new_zeros(ENCODE_CHUNK - len(chunk), *chunk.shape[1:])
            with torch.autocast(chunk.device.type, torch.bfloat16, enabled=self.config.bf16):
                ids.append(tokenizer.encode_to_ids(torch.cat([chunk, filler]))[: len(chunk)])
        return torch.cat(ids)

    def train_step(self, step: int) -> dict[str, Any]:
        """One batch, one update."""
        began = time.perf_counter()
        watched = {} if self._watch is None else self._watch.before(step)
        samples = self._samples(step)
        self._count_bad(samples.bad)
        batch = collate(
            self._with_image_ids(samples), self.processor, pack_length=self.config.pack_length
        )
        self._keys = list(batch.keys)
        num_tokens = batch.num_tokens
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            losses = compute_losses(self.model, batch, decoder=self._decoder, encoder=self._encoder)
        losses.total.backward()
        norm, lr = self.optimizers.step(step, self.config.run.steps)
        for kind in KINDS:
            self.seen[kind] += batch.num_samples[kind]
        values: dict[str, Any] = {"loss": losses.total.item()}
        values |= {f"loss_{kind}": round(mean, 5) for kind, mean in losses.means().items()}
        values |= {f"tokens_{kind}": count for kind, count in losses.counts.items()}
        if self._watch is not None:
            values |= watched | self._watch.after(step)
        values |= {"lr": lr, "grad_norm": norm, "samples": dict(self.seen)}
        if self.num_bad > 0:
            values["bad_samples"] = self.num_bad
        seconds = time.perf_counter() - began
        values["tokens_per_second"] = round(num_tokens / seconds)
        return values

    def last_keys(self) -> list[str]:
        """Keys of the last batch."""
        return self._keys

    def sample(self, folder: Path, step: int) -> None:
        """Write drawings and answers for the items that are held back; seeds are fixed."""
        shares = dict(zip(KINDS, self.config.ratio, strict=True))
        held_back = [
            source[index]
            for kind in KINDS
            if shares[kind] > 0
            for source in self.sources[kind][:1]
            for index in range(len(source) - self.config.held_back, len(source))
        ]
        write_trial(self.model, self.processor, held_back, folder, step)
        self.model.train()

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizers and counters; the data order is a function of the step."""
        for cache in self._caches:
            if cache is not None:
                cache.flush()
        return {
            "model": trained_state(self.model, self.config.lora),
            "optimizers": self.optimizers.state_dict(),
            "num_bad": self.num_bad,
            "seen": dict(self.seen),
            **({} if self._watch is None else {"watch": dict(self._watch.start)}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        before = module_hash(self.model.vq)
        load_trained(self.model, self.config.lora, state["model"])
        if module_hash(self.model.vq) != before:
            raise ValueError(
                "the checkpoint holds another generation tokenizer than this run started from: "
                "resume with the init and vq that the run was started with"
            )
        self.optimizers.load_state_dict(state["optimizers"])
        self.num_bad = state["num_bad"]
        self.seen = dict(state["seen"])
        if self._watch is not None:
            self._watch.start = dict(state["watch"])


def _named_sources(config: JanusTrainConfig) -> dict[Kind, list[SourceConfig]]:
    return {"und": config.sources.und, "text": config.sources.text, "gen": config.sources.gen}


def _first_sentence(sample: Sample) -> Sample:
    turns = tuple(
        Turn(role=turn.role, text=_SENTENCE_END.split(turn.text.strip())[0])
        for turn in sample.turns
    )
    return replace(sample, turns=turns)
