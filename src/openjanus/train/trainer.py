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

from openjanus.data.collate import Batch, EncodedSample, collate
from openjanus.data.fetching import Ahead, BadSample, Crew, Fetcher, TooManyBadSamples
from openjanus.data.islands import IslandIds
from openjanus.data.mixture import Draw
from openjanus.data.samples import KINDS, Kind, Sample
from openjanus.data.sources import Source, build_source
from openjanus.data.stream import StepSamples, StreamState
from openjanus.model.doors import ImageTokenizer
from openjanus.model.dropout import DropoutKey
from openjanus.model.janus import JanusModel
from openjanus.processor.prompt import Processor
from openjanus.train.config import JanusTrainConfig, SourceConfig
from openjanus.train.fast_forward import run_decoder, run_encoder
from openjanus.train.feed import encoder_of, mixture_of, open_stream
from openjanus.train.flops import FlopCounter
from openjanus.train.kept_ids import KeptIds, open_caches
from openjanus.train.lora import add_lora
from openjanus.train.losses import LossKind
from openjanus.train.meters import GradientNorms, codebook_use, fill_of, speeds
from openjanus.train.other_face import OtherFace
from openjanus.train.parallel import ALONE, World
from openjanus.train.sharding import blocks_of, checkpoint_activations, gather_model, shard_model
from openjanus.train.stages import freeze_for_stage
from openjanus.train.step import Door, TrainStep, doors_of
from openjanus.train.trained import Trained, hash_frozen
from openjanus.train.trial import write_trial
from openjanus.train.validation import Validation

ENCODE_CHUNK = 16
"""Pictures encoded at once, always: so that ids do not depend on the batch they came in."""

LOSS_KINDS: tuple[LossKind, ...] = (*KINDS, "und_image")

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
    ) -> None:
        _check(model, config, world)
        self.world = world
        self.share = world.share()
        self.model = model.train()
        self.processor = processor
        self.config = config
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
        self.mixture = mixture_of(config, named, sources)
        self._encode = encoder_of(config, processor)
        self.crew = Crew(Fetcher(sources, self.mixture, self._encode), config.num_workers)
        self.stream = open_stream(config, self.crew, self.mixture, self.share)
        self._position: StreamState = {}
        if config.lora is not None:
            add_lora(model, config.lora, seed=config.run.seed)
        freeze_for_stage(
            model,
            config.stage,
            train_gen_embed=config.train_gen_embed,
            beside=None if config.lora is None else config.lora.whole_doors,
        )
        self.device = world.device
        frozen_hash = hash_frozen(model)  # before it is cut to parts
        self._module = self._make_step()
        self.trained = Trained(model, config, frozen_hash=frozen_hash)
        self.optimizers = self.trained.optimizers
        self._next: Ahead[StepSamples] | None = None
        self.num_bad = 0
        self.seen: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self.seen_tokens: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._keys: list[str] = []
        self._output: Tensor | None = None
        self._norms = GradientNorms(model.named_parameters())
        self._flops = FlopCounter(model)
        self.validation = self._open_validation()
        self._other_face = None if config.watch is None else self._open_watch()

    def _open_validation(self) -> Validation | None:
        if self.config.val.every == 0 and not self.config.val.tasks:
            return None
        if self.config.val.tasks and self.world.size > 1:
            raise ValueError(
                f"val.tasks draw and answer in one process, and there are {self.world.size}: leave "
                "them out, and run openjanus eval on the checkpoints"
            )
        return Validation(
            self.model,
            self.processor,
            self.config,
            sources=self.sources,
            encode=self._encode,
            tokenize=self._tokenize,
            measure=self._measure,
        )

    @property
    def products(self) -> tuple[torch.device, torch.dtype]:
        """Where matrix products are done, and in what."""
        return self.device, torch.bfloat16 if self.config.bf16 else torch.float32

    def _make_step(self) -> TrainStep:
        """The model and its loss, on this process's device, sharded where there are several.

        The fast forwards of a CPU read the weights of layers without calling these, so they are
        not for weights that are gathered, or activations that are dropped, around a call.
        """
        config, model = self.config, self.model
        sharded = self.world.size > 1
        if config.activation_checkpointing:
            checkpoint_activations(model)
        if sharded or config.activation_checkpointing or self.device.type != "cpu":
            decoder, encoder = model.language_model.model, None
        else:
            decoder = partial(run_decoder, model.language_model.model)
            encoder = partial(run_encoder, model.und_encoder)
        if config.compile and not sharded:
            decoder = torch.compile(decoder, dynamic=True)
        step = TrainStep(
            model,
            decoder=decoder,
            encoder=encoder,
            z_loss=config.z_loss,
            und_images=config.und_image_loss,
            # What is compiled keeps one kind of mask, and does not compile for each batch.
            isolation="dense" if config.compile else None,
        )
        if not sharded:
            return step.to(self.device)
        if config.compile:
            for block in blocks_of(model):
                block.compile(dynamic=True)
        shard_model(step, model, self.world, bf16=config.bf16)
        return step

    def _open_watch(self) -> OtherFace:
        encode = replace(self._encode, cond_drop=0.0, first_sentence=0.0)
        warn = partial(tqdm.write, file=sys.stderr)
        return OtherFace(
            self.config,
            self.model,
            self.processor,
            encode=lambda sample: encode(
                sample, Draw(kind=sample.kind, source=0, index=0, epoch=0)
            ),
            tokenize=self._tokenize,
            measure=self._measure,
            warn=warn,
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

    def _count_bad(self, bad: Sequence[BadSample]) -> None:
        for sample in bad if self.world.is_main else ():
            tqdm.write(f"skipped {sample.name}: {sample.reason}", file=sys.stderr)
        self.num_bad += len(bad)
        if bad and self.num_bad > self.config.max_bad_samples:
            raise TooManyBadSamples(
                f"{self.num_bad} samples could not be used, max_bad_samples is "
                f"{self.config.max_bad_samples}; the last: {bad[-1].name}: {bad[-1].reason}"
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
        if self.validation is not None:
            self.validation.refuse_trained([sample.key for sample in samples.samples])
        batches = self._batches(samples)
        self._position = samples.state
        self._keys = [key for batch in batches for key in batch.keys]
        found = self._backward(step, batches)
        if (step + 1) % self.config.run.log_every == 0 or step + 1 == self.config.run.last_step:
            found |= self._norms.read()
        norm, lr = self.optimizers.step(step, self.config.run.steps)
        if self.trained.ema is not None:
            self.trained.ema.update()
        tokens, supervised = self._count(samples.samples, batches)
        values = found | {"lr": lr, "grad_norm": norm, "samples": dict(self.seen)}
        if self.config.log_keys:
            values["keys"] = self._keys
        values["tokens"] = dict(self.seen_tokens)
        values["fill"] = round(fill_of(batches) if samples.fill is None else samples.fill, 4)
        values |= codebook_use(batches, self.model.config.codebook_size)
        values["flops"] = self._flops.count(batches)
        if self._other_face is not None:
            values |= watched | self._other_face.after(step)
        if self.num_bad > 0:
            values["bad_samples"] = self.num_bad
        seconds = time.perf_counter() - began
        values["data_wait"] = round(waited / seconds, 4)
        return values | speeds(tokens, supervised, seconds)

    def _batches(self, step: StepSamples) -> list[Batch]:
        """The step's samples in as many batches as gradients are accumulated over."""
        config = self.config
        samples = self._with_image_ids(step)
        rows = step.rows
        if rows is None:
            parts = _split(samples, config.accumulate)
            return [collate(part, self.processor, pack_length=config.pack_length) for part in parts]
        return [
            collate(
                [samples[place] for row in part for place in row],
                self.processor,
                pack_length=config.pack_length,
                row_sizes=[len(row) for row in part],
            )
            for part in _split(rows, config.accumulate)
        ]

    def _backward(self, step: int, batches: Sequence[Batch]) -> dict[str, Any]:
        """Gradients of one mean over the supervised tokens of all processes' batches."""
        own = [doors_of(batch) for batch in batches]
        told = self.world.gather((sum(self._num_supervised(batch) for batch in batches), own))
        whole = sum(number for number, _ in told)
        total, z_loss, squares = 0.0, 0.0, 0.0
        sums: dict[LossKind, float] = dict.fromkeys(LOSS_KINDS, 0.0)
        counts: dict[LossKind, int] = dict.fromkeys(LOSS_KINDS, 0)
        drops = self.model.config.language.dropout > 0
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)
        for part, batch in enumerate([batch.to(self.device) for batch in batches]):
            doors = frozenset[Door]().union(*(every[part] for _, every in told))
            shard = part * self.share.world + self.share.rank
            key = DropoutKey(seed=self.config.run.seed, step=step, shard=shard) if drops else None
            with autocast:
                loss, found, numbers, z = self._module(
                    batch, whole, doors, dropout=key, observe=self._observe
                )
            loss.backward()
            total += loss.item()
            z_loss += 0.0 if z is None else z.item()
            squares += self._output_square(batch) * batch.num_tokens
            for kind, number in numbers.items():
                sums[kind] += float(found[kind])
                counts[kind] += number
        num_tokens = sum(batch.num_tokens for batch in batches)
        total, z_loss, squares, places, *rest = self.world.sum(
            [total, z_loss, squares, num_tokens, *sums.values(), *counts.values()]
        )
        half = len(LOSS_KINDS)
        means = zip(LOSS_KINDS, rest[:half], rest[half:], strict=True)
        present = [(kind, value, int(count)) for kind, value, count in means if count > 0]
        values: dict[str, Any] = {"loss": total}
        if self.config.z_loss > 0:
            values["z_loss"] = z_loss
        values["output_norm"] = round(math.sqrt(squares / places), 5)
        values |= {f"loss_{kind}": round(value / count, 5) for kind, value, count in present}
        return values | {f"tokens_{kind}": count for kind, _, count in present}

    def _measure(self, batch: Batch) -> tuple[dict[LossKind, Tensor], dict[LossKind, int]]:
        """Sums and counts of a batch that every process has, without gradients."""
        _, sums, counts, _ = self._module(batch, self._num_supervised(batch), doors_of(batch))
        return sums, counts

    def _count(
        self, samples: Sequence[EncodedSample], batches: Sequence[Batch]
    ) -> tuple[float, float]:
        """Count what all processes have seen; tokens and supervised ones of the step."""
        own = [sum(sample.kind == kind for sample in samples) for kind in KINDS]
        own += [sum(len(s.input_ids) for s in samples if s.kind == kind) for kind in KINDS]
        tokens = sum(batch.num_tokens for batch in batches)
        supervised = sum(self._num_supervised(batch) for batch in batches)
        *seen, tokens, supervised = self.world.sum([*own, tokens, supervised])
        for place, kind in enumerate(KINDS):
            self.seen[kind] += int(seen[place])
            self.seen_tokens[kind] += int(seen[len(KINDS) + place])
        return tokens, supervised

    def _num_supervised(self, batch: Batch) -> int:
        """Places of a batch that predict something."""
        und = int(batch.und_slots.sum()) if self.config.und_image_loss else 0
        return batch.num_supervised + und

    def _observe(self, hidden_states: Tensor) -> None:
        self._output = hidden_states.detach()

    def _output_square(self, batch: Batch) -> float:
        """Mean square of what the last layer gave, before the final norm, at real tokens.

        It grows long before the loss shows that a run goes wrong (Chameleon, section 2.3).
        """
        assert self._output is not None
        outputs, self._output = self._output, None
        squares = outputs.float().square().mean(-1)  # (R, T)
        return squares[batch.attention_mask].mean().item()

    def last_keys(self) -> list[str]:
        """Keys of the last batch."""
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
        model = self.whole_model()
        if model is not None:
            write_trial(model, self.processor, held_back, folder, step)
        self.model.train()
        self.world.barrier()

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
        return gather_model(self.model, self.world, instead=instead)

    def state_dict(self) -> dict[str, Any]:
        """What is trained, with its optimizers, and counters; all that is frozen as a hash."""
        self._ids.flush()
        return self.trained.state_dict() | {
            "data": self._position,
            "num_bad": self.num_bad,
            "seen": dict(self.seen),
            "seen_tokens": dict(self.seen_tokens),
            "watched": {} if self._other_face is None else dict(self._other_face.start),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave, in this or another number of processes.

        Raises:
            ValueError: The run started from other weights, or trained other parts.
        """
        self.trained.load_state_dict(state)
        self._position = state["data"]
        self._next = None
        self.num_bad = state["num_bad"]
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
    parts = world.size * config.accumulate
    if config.batch_size % parts != 0:
        raise ValueError(
            f"batch_size ({config.batch_size}) must be a multiple of processes x accumulate "
            f"({world.size} x {config.accumulate}), for every process has as much of it: "
            f"give {max(1, config.batch_size // parts) * parts}"
        )
    if config.lora is not None and world.size > 1:
        raise ValueError(
            f"lora is of one process, and there are {world.size}: run it without torchrun"
        )


def _split(items: Sequence[T], number: int) -> list[Sequence[T]]:
    """Neighbours in so many equal parts."""
    size = len(items) // number
    return [items[start : start + size] for start in range(0, len(items), size)]


def _named_sources(config: JanusTrainConfig) -> dict[Kind, list[SourceConfig]]:
    return {"und": config.sources.und, "text": config.sources.text, "gen": config.sources.gen}
