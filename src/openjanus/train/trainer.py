"""The trainer of every stage: und, text and gen samples in one step, one loss, one optimizer."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from openjanus.data.collate import Batch, collate
from openjanus.data.encoding import EncodedSample
from openjanus.data.fetching import Ahead, BadSample, Crew, Fetcher, TooManyBadSamples
from openjanus.data.islands import IslandIds
from openjanus.data.mixture import Draw
from openjanus.data.samples import KINDS, Kind, Sample
from openjanus.data.sources import Source, build_source
from openjanus.data.stream import StepSamples, StreamState
from openjanus.model.doors import ImageTokenizer
from openjanus.model.janus import JanusModel
from openjanus.processor.prompt import Processor
from openjanus.train.config import JanusTrainConfig
from openjanus.train.feed import (
    encoder_of,
    facts_of_source,
    mixture_of,
    open_stream,
    refuse_other_data,
)
from openjanus.train.flops import FlopCounter
from openjanus.train.gradients import Gradients
from openjanus.train.kept_ids import KeptIds, open_caches
from openjanus.train.late_weights import LateWeights
from openjanus.train.lora import add_lora
from openjanus.train.meters import (
    GradientNorms,
    StepFacts,
    codebook_use,
    count_codes,
    facts_of,
    join_facts,
    speeds,
)
from openjanus.train.other_face import OtherFace
from openjanus.train.parallel import ALONE, World
from openjanus.train.sharding import free_gathered, gather_model
from openjanus.train.source_config import SourceConfig
from openjanus.train.step import build_step
from openjanus.train.trained import Trained, hash_frozen, mark_trained
from openjanus.train.trial import write_trial
from openjanus.train.validation import Validation

ENCODE_CHUNK = 16
"""Pictures encoded at once, always: so that ids do not depend on the batch they came in."""

T = TypeVar("T")


class JanusTrainer:
    """One optimizer step at a time; the loop is ``train.loop``'s.

    Args:
        model: In fp32; which parameters require gradients is set here, by the stage.
        processor: Its processor.
        config: The run.
        sources: By kind, instead of those that ``config.sources`` names; codebook ids of such
            sources are not kept between runs.
        world: The processes that train together; the model is moved to their devices here, and
            each keeps its part of it.
        weights: Of a model on the meta device, poured in once each process knows its part.

    Raises:
        KeyError: An unknown source.
        ValueError: Options that a source refuses, a ratio without sources, or a batch that cannot
            be dealt evenly.
    """

    def __init__(
        self,
        model: JanusModel,
        processor: Processor,
        config: JanusTrainConfig,
        *,
        sources: Mapping[Kind, Sequence[Source]] | None = None,
        world: World = ALONE,
        weights: LateWeights | None = None,
    ) -> None:
        _check(model, config, world)
        self.world = world
        self.share = world.share()
        self.model = model.train()
        self.processor = processor
        self.config = config
        mark_trained(model, config)
        self.device = world.device
        self._module = build_step(model, config, world)
        if weights is not None:
            weights.pour(self._module, world)
        named = _named_sources(config)
        if sources is None:
            sources = {k: [build_source(s.type, s.options) for s in v] for k, v in named.items()}
            # The first process makes what is missing; the others open it.
            gen = named["gen"], sources["gen"]
            first = world.on_main(lambda: open_caches(config, model, *gen))
            caches = open_caches(config, model, *gen) if first is None else first
        else:
            caches = [None for _ in sources.get("gen", ())]
        self.sources = sources
        self._tokenize = self.encode_images
        if config.tokenize == "islands":
            grid = math.isqrt(model.config.num_gen_image_tokens)
            self._tokenize = IslandIds(self.encode_images, grid)
        self._ids = KeptIds(caches, processor, self._tokenize)
        self._data = {
            f"sources.{kind}[{place}]": facts_of_source(source)
            for kind, some in sources.items()
            for place, source in enumerate(some)
        }
        self.mixture = mixture_of(config, named, sources)
        shares = self.mixture.shares
        self._num_items = sum(len(one) for kind in sources for one in sources[kind] if shares[kind])
        self._encode = encoder_of(config, processor)
        self.crew = Crew(Fetcher(sources, self.mixture, self._encode), config.num_workers)
        self.stream = open_stream(config, self.crew, self.mixture, self.share)
        self._position: StreamState = {}
        self.gradients = Gradients(self._module, config, world)
        self.trained = Trained(model, config, frozen_hash=hash_frozen(model, world))
        self.optimizers = self.trained.optimizers
        self._next: Ahead[StepSamples] | None = None
        self._bad: set[str] = set()
        self._bad_before = 0
        self.seen: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self.seen_tokens: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._keys: list[str] = []
        self._norms = GradientNorms(model.named_parameters())
        self._flops = FlopCounter(model, und_images=config.und_image_loss)
        self._shipped = partial(self.trained.shipped, self._module)
        self.validation = self._open_validation()
        self._other_face = None if config.watch is None else self._open_watch()
        measuring = (self.validation, self._other_face)
        self._measured_on = {
            k: v for one in measuring if one is not None for k, v in one.facts.items()
        }

    def _open_validation(self) -> Validation | None:
        if self.config.val.every == 0 and not self.config.val.tasks:
            return None
        return Validation(
            self.model,
            self.processor,
            self.config,
            sources=self.sources,
            encode=self._encode,
            tokenize=self._tokenize,
            measure=self.gradients.measure,
            shipped=self._shipped,
            whole_model=self.whole_model,
            world=self.world,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Of all data that is trained or measured on, by the keys of its sources."""
        return self._data | self._measured_on

    @property
    def products(self) -> tuple[torch.device, torch.dtype]:
        """Where matrix products are done, and in what."""
        return self.device, torch.bfloat16 if self.config.bf16 else torch.float32

    def _open_watch(self) -> OtherFace:
        encode = replace(self._encode, cond_drop=0.0, first_sentence=0.0)

        def warn(line: str) -> None:
            if self.world.is_main:
                tqdm.write(line, file=sys.stderr)

        return OtherFace(
            self.config,
            self.model,
            self.processor,
            encode=lambda sample: encode(
                sample, Draw(kind=sample.kind, source=0, index=0, epoch=0)
            ),
            tokenize=self._tokenize,
            measure=self.gradients.measure,
            shipped=self._shipped,
            warn=warn,
            world=self.world,
        )

    def _samples(self) -> StepSamples:
        """The samples of the next step, prepared while the step before it ran."""
        if not self.config.prefetch:
            return self.stream.take(self._position)
        if self._next is None:
            self._next = Ahead(self.stream.take, self._position)
        result = self._next.result()
        self._next = Ahead(self.stream.take, result.state)
        return result

    def close(self) -> None:
        """Wait for what is still being prepared, and end the workers."""
        if self._next is not None:
            self._next.wait()
        self.crew.close()

    @property
    def num_bad(self) -> int:
        """Different samples that could not be used."""
        return self._bad_before + len(self._bad)

    def _count_bad(self, bad: Sequence[BadSample]) -> None:
        new = {sample.name: sample for sample in bad if sample.name not in self._bad}
        self._bad |= new.keys()
        for sample in new.values() if self.world.is_main else ():
            tqdm.write(f"skipped {sample.name}: {sample.reason}", file=sys.stderr)
        limit, share = self.config.max_bad_samples, self.config.max_bad_share
        if new and self.num_bad > max(limit, share * self._num_items):
            last = next(reversed(new.values()))
            raise TooManyBadSamples(
                f"{self.num_bad} of {self._num_items} samples could not be used, max_bad_samples "
                f"is {limit} and max_bad_share {share}; the last: {last.name}: {last.reason}"
            )

    def fill(self, step: StepSamples) -> None:
        """Put the ids of drawings into the caches, where they are not yet."""
        self._with_image_ids(step)

    def _with_image_ids(self, step: StepSamples) -> list[EncodedSample]:
        """Put codebook ids in place of pictures."""
        return self._ids.put_in(step)

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
        watched = {} if self._other_face is None else self._other_face.before(step)
        samples = self._samples()
        waited = time.perf_counter() - began
        self._count_bad(samples.bad)
        batches = self._batches(samples)
        facts = self._facts(samples, batches)
        self._keys = facts.keys
        if self.validation is not None:
            self.validation.refuse_trained(self._keys)
        self._position = samples.state
        found = self.gradients.add(step, batches)
        if (step + 1) % self.config.run.log_every == 0 or step + 1 == self.config.run.last_step:
            found |= self._norms.read()
        norm, lr = self.optimizers.step(step, self.config.run.steps)
        if self.trained.ema is not None:
            self.trained.ema.update()
        for kind in KINDS:
            self.seen[kind] += facts.samples[kind]
            self.seen_tokens[kind] += facts.tokens[kind]
        values = found | {"lr": lr, "grad_norm": norm, "samples": dict(self.seen)}
        if self.config.log_keys:
            values["keys"] = self._keys
        values["tokens"] = dict(self.seen_tokens)
        values["fill"] = round(facts.fill if samples.fill is None else samples.fill, 4)
        codes = count_codes(batches, self.model.config.codebook_size)
        values |= codebook_use(self.world.sum_counts(codes))
        values["flops"] = facts.flops
        if self._other_face is not None:
            values |= watched | self._other_face.after(step)
        if self.num_bad > 0:
            values["bad_samples"] = self.num_bad
        seconds = time.perf_counter() - began
        values["data_wait"] = round(waited / seconds, 4)
        return values | speeds(facts.num_tokens, facts.supervised, seconds)

    def _batches(self, step: StepSamples) -> list[Batch]:
        """The step's samples in as many batches as gradients are accumulated over."""
        config = self.config
        samples = self._with_image_ids(step)
        rows = step.rows
        if rows is None:
            parts = _split(samples, config.part_size(self.world.size))
            return [collate(part, self.processor, pack_length=config.pack_length) for part in parts]
        return [
            collate(
                [samples[place] for row in part for place in row],
                self.processor,
                pack_length=config.pack_length,
                row_sizes=[len(row) for row in part],
            )
            for part in _split(rows, config.part_size(self.world.size))
        ]

    def _facts(self, samples: StepSamples, batches: Sequence[Batch]) -> StepFacts:
        """What the step is made of, in all processes."""
        supervised = sum(self.gradients.num_supervised(batch) for batch in batches)
        flops = self._flops.count(batches)
        own = facts_of(samples, batches, supervised=supervised, flops=flops)
        return join_facts(self.world.gather(own))

    def last_keys(self) -> list[str]:
        """Keys of the last step, of all processes, in the order in which they were dealt."""
        return self._keys

    def validate(self, folder: Path, step: int) -> dict[str, Any]:
        """What ``config.val`` asks for after ``step`` steps; see ``Validation.run``."""
        return {} if self.validation is None else self.validation.run(folder, step)

    def sample(self, folder: Path, step: int) -> None:
        """Write drawings and answers for the items that are held back; seeds are fixed."""
        shares = dict(zip(KINDS, self.config.ratio, strict=True))
        held_back = [
            sample
            for kind in KINDS
            if shares[kind] > 0
            for source in self.sources[kind][:1]
            for index in range(len(source) - self.config.held_back, len(source))
            if (sample := self._readable(kind, source, index)) is not None
        ]

        def write() -> None:
            assert model is not None  # in the first process
            write_trial(model, self.processor, held_back, folder, step)

        with self._shipped():
            model = self.whole_model()
            self.world.on_main(write)
        self.model.train()

    def _readable(self, kind: Kind, source: Source, index: int) -> Sample | None:
        """An item that is to be shown; None, and its name told, where it is broken."""
        try:
            return source[index]
        except Exception as error:  # noqa: BLE001 - any code of a source: named
            if self.world.is_main:
                reason = f"{type(error).__name__}: {error}"
                tqdm.write(f"samples leave out {kind} item {index}: {reason}", file=sys.stderr)
            return None

    def whole_model(self, *, average: bool = False) -> JanusModel | None:
        """The model in one piece, in the first process; all processes must call this.

        Args:
            average: Whether the weights are their moving average, if there is one.

        Returns:
            The model itself where it is in one piece, else a copy; None in the other processes.
        """
        ema = self.trained.ema
        instead = ema.tensors if average and ema is not None else None
        if self.world.size == 1 and instead is None:
            return self.model
        lora, seed = self.config.lora, self.config.run.seed
        prepare = None if lora is None else partial(add_lora, config=lora, seed=seed)
        return gather_model(self.model, self.world, instead=instead, prepare=prepare)

    def reshard(self) -> None:
        """Drop the whole weights that a forward without a backward left gathered."""
        free_gathered(self._module)

    def state_dict(self) -> dict[str, Any]:
        """What is trained, with its optimizers, and counters; all that is frozen as a hash."""
        self._ids.flush()
        return self.trained.state_dict() | {
            "template": self.processor.config.processor.template,
            "data": self._position,
            "sources": self._data,
            "measured_on": self._measured_on,
            "num_bad": self.num_bad,
            "bad": sorted(self._bad),
            "seen": dict(self.seen),
            "seen_tokens": dict(self.seen_tokens),
            "watched": {} if self._other_face is None else dict(self._other_face.start),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave, in this or another number of processes.

        Raises:
            ValueError: The run started from other weights, trained other parts, or its files were
                changed since.
        """
        own, before = self.processor.config.processor.template, state.get("template", "deepseek")
        if own != before:
            raise ValueError(
                f"the run was started with a model of the template {before!r}, and init now gives "
                f"one of {own!r}: give the model that it was started with, or another --run.dir"
            )
        refuse_other_data(state.get("sources", {}), self._data)  # none in an older checkpoint
        self.trained.load_state_dict(state)
        self._position = state["data"]
        self._next = None
        self._bad = set(state.get("bad", ()))
        self._bad_before = state["num_bad"] - len(self._bad)  # counted before names were kept
        self.seen = dict(state["seen"])
        # A checkpoint from before tokens were counted: they count from there on.
        self.seen_tokens = dict(state.get("seen_tokens", self.seen_tokens))
        if self._other_face is not None:
            self._other_face.start = dict(state["watched"])


def _check(model: JanusModel, config: JanusTrainConfig, world: World) -> None:
    """Refuse what does not go together, before anything is read."""
    context = model.config.language.max_position_embeddings
    if config.max_length > context:
        raise ValueError(
            f"max_length ({config.max_length}) is past the model's context of {context} "
            "tokens: lower it"
        )
    if config.und_image_loss and not model.config.one_vocabulary:
        raise ValueError(
            "und_image_loss is for a model of one vocabulary: this one's pictures to "
            "understand are features, which nothing predicts; leave it out"
        )
    if config.compile and model.config.language.dropout > 0:
        raise ValueError(
            f"dropout {model.config.language.dropout} draws by a generator of each step, which "
            "torch.compile cannot hold: set compile to false"
        )
    refused = config.refused(world.size)
    if refused is not None:
        raise ValueError(refused)


def _split(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Neighbours in parts of a size; the last one may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def _named_sources(config: JanusTrainConfig) -> dict[Kind, list[SourceConfig]]:
    return {"und": config.sources.und, "text": config.sources.text, "gen": config.sources.gen}
