"""What the training of a Janus is made of.

A recipe (YAML) fills these classes, the command line overrides them. The sections that other
trainings have too, and those trainings, have files of their own beside this one: ``run_config``,
``optim_config``, ``source_config``, ``vq_config`` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from openjanus.config import TemplateName
from openjanus.presets import PRESETS
from openjanus.rules import near, require_at_least_one
from openjanus.train.lora_config import LoraConfig
from openjanus.train.loss_weights import LossWeights
from openjanus.train.optim_config import OptimConfig
from openjanus.train.run_config import RunConfig, check_timeout
from openjanus.train.source_config import SourceConfig, SourcesConfig
from openjanus.train.stages import TRAINED, Stage
from openjanus.train.watch_config import ValConfig, WatchConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class JanusTrainConfig:
    """Train a Janus: one of the papers' stages, or text alone before them."""

    kind: Literal["janus"] = "janus"
    stage: Stage
    """0 text alone, then the papers' I, II and III: says which parts are trained."""
    init: list[str]
    """Where the weights come from, in order of preference; the first that exists is taken. Each is
    a folder that openjanus wrote (a relative one lies beside ``run.dir``); ``nano``, the newest
    trained model in this package, or ``shipped/nano-v0``, that one; or a preset such as
    ``nano-v0``, which gives fresh weights."""
    preset: str | None = None
    """Architecture that the weights must be of, and that a dry run builds where there are none
    yet; None takes any."""
    decoder: dict[str, Any] = field(default_factory=dict)
    """Fields of a fresh model's decoder in place of its preset's, for instance ``qk_norm``."""
    tokenizer: str | None = None
    """Text tokenizer of a fresh model: a file, or its folder, or ``nano``; None takes that of
    ``language_model``, or bytes. A model that is gone on with keeps its own."""
    template: TemplateName | None = None
    """How dialogues and requests to draw are written: ``deepseek``, as the released models have it,
    or ``paper``, as the papers word it. Chosen where a model starts anew; None takes the preset's,
    and the model's own where one is gone on with."""
    change_template: bool = False
    """Let a model that is gone on with learn another ``template`` than its own; else it is refused.
    """
    language_model: str | None = None
    """Folder of a trained decoder, put into the model at the start: a Llama as transformers writes
    it, or a whole Janus in any layout."""
    vq: str | None = None
    """A trained generation tokenizer, put into the model at the start: the folder of its run, a
    whole Janus in any layout, ``nano``, or LlamaGen's ``.pt`` file."""
    und_encoder: str | None = None
    """Folder of a trained understanding encoder, put into the model at the start: of its run, a
    whole Janus in any layout, ``nano``, or a SigLIP as transformers writes it."""
    run: RunConfig = field(default_factory=RunConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    sources: SourcesConfig
    ratio: tuple[float, float, float]
    """und : text : gen; in samples it is met in every step, up to rounding, in other units in the
    long run."""
    ratio_unit: Literal["samples", "tokens", "packs"] = "samples"
    """What the ratio counts, where the batch is counted in packs. ``packs`` holds each kind in
    packs of its own."""
    batch_size: int = 32
    """Samples or packs a step, of all processes together."""
    batch_unit: Literal["samples", "packs"] = "samples"
    """``samples`` packs each step's own samples into as many rows as they need, if there is a
    ``pack_length``; ``packs`` fills rows across steps, so that every step has ``batch_size`` rows
    of ``pack_length`` tokens, nearly full."""
    accumulate: int = 1
    """Parts that a process cuts its share of a step into, whose gradients are added up; the loss
    stays one mean over all of them."""
    micro_batch: int | None = None
    """Samples or packs that a process takes at a time, in place of ``accumulate``: a number that
    fits a device's memory, however many devices there are. The last part of a step may be smaller.
    Another number changes nothing but the rounding, and what a model with dropout drops."""
    max_length: int = 256
    """Tokens a sample may have; longer ones are skipped, counted and named."""
    pack_length: int | None = None
    """Tokens of a row that samples are packed into; None gives each sample a row."""
    open_packs: int = 16
    """Rows that are filled at once, where the batch is counted in packs."""
    pack_images: int | None = None
    """Pictures to understand that a pack may hold, where the batch is counted in packs."""
    mask_prompt: bool = True
    """Supervise answers alone; False also what users say (understanding and text)."""
    cond_drop: float = 0.1
    """Share of drawings whose prompt is hidden, in the form that guidance uses."""
    first_sentence: float = 0.0
    """Share of drawings that are told by the first sentence of their caption alone."""
    train_gen_embed: bool = False
    """Stage I: whether gen_embed, which starts as a copy of the codebook, is trained."""
    lora: LoraConfig | None = None
    """Adapters in place of the stage's parts; None trains what the stage says."""
    watch: WatchConfig | None = None
    """Held-out losses that must not get worse."""
    tokenize: Literal["whole", "islands"] = "whole"
    """How pictures to draw become ids: as a whole, as the papers do, or each thing on plain ground
    alone, so that its ids are the same wherever it lies (``data.islands``)."""
    id_cache: str | None = "id-cache"
    """Folder where codebook ids are kept between runs; relative ones lie beside ``run.dir``."""
    loss_weights: LossWeights = field(default_factory=LossWeights)
    """What a supervised token of each kind counts; all alike in the papers."""
    z_loss: float = 0.0
    """Weight of log^2 Z of both heads, which keeps logits small (Chameleon: 1e-5); 0 is none."""
    und_image_loss: bool = False
    """Learn to predict the ids of pictures to understand too, as Chameleon does with every token;
    for a model of one vocabulary. Off, as in Janus, where pictures that are asked about are given.
    """
    image_start_loss: bool = False
    """Learn ``<begin_of_image>`` where documents and answers draw, as Chameleon learns every token:
    what ``compose`` needs. Off, where a picture comes is the document's to say."""
    max_bad_samples: int = 100
    """Different samples that may be unusable before the run stops."""
    max_bad_share: float = 0.0
    """Share of the sources' samples that may be, where that is more than ``max_bad_samples``."""
    log_keys: bool = False
    """Write the keys of each step's samples to metrics.jsonl, for the report of spikes."""
    held_back: int = 8
    """Last items of every source, never trained on: what the samples of a run show, and what its
    held-out loss is of where ``val`` names no other sources."""
    val: ValConfig = field(default_factory=ValConfig)
    """Held-out loss and eval tasks on the way."""
    bf16: bool = True
    """Matrix products in bf16 by autocast; weights, norms and losses stay in fp32."""
    compile: bool = False
    """torch.compile the decoder; on a CPU one layer for all, which needs a C++ compiler: up to a
    minute at the start, a fifth faster after."""
    ema_decay: float | None = None
    """Share of a moving average of the weights that a step keeps; ``final`` then holds the
    average. None: there is none, as in the papers."""
    activation_checkpointing: bool = False
    """Run each block again in the backward in place of keeping what it computed: less memory, a
    third more work."""
    process_timeout_s: float = 600.0
    """Seconds after which a process that says nothing is given up by the others."""
    device: str = "cpu"
    """Where the model is trained, for instance ``cuda``."""
    prefetch: bool = True
    """Prepare the samples of the next step in a thread."""
    num_workers: int = 0
    """Processes that read and tokenize samples; their number changes nothing of what comes."""

    def part_size(self, processes: int) -> int:
        """Samples or packs that a process takes at a time, at most.

        Args:
            processes: Of the run; ``batch_size`` is a multiple of them.
        """
        share = -(-self.batch_size // processes)
        if self.micro_batch is not None:
            return min(share, self.micro_batch)
        return -(-share // self.accumulate)

    def refused(self, processes: int) -> str | None:
        """Why so many processes cannot share a step's batch; None where they can."""
        parts = processes * self.accumulate
        if self.batch_size % parts == 0:
            return None
        return (
            f"batch_size ({self.batch_size}) must be a multiple of processes x accumulate "
            f"({processes} x {self.accumulate}), for every process has as much of it: "
            f"give {max(1, self.batch_size // parts) * parts}"
        )

    def __post_init__(self) -> None:
        if self.stage not in TRAINED:
            raise ValueError(f"stage must be one of {list(TRAINED)}, got {self.stage}")
        if not self.init:
            raise ValueError("init must name a folder or a preset: add --init '[tiny]'")
        self._check_template()
        if self.tokenize not in ("whole", "islands"):
            raise ValueError(f"tokenize must be whole or islands, got {self.tokenize!r}")
        require_at_least_one("batch_size", self.batch_size)
        require_at_least_one("held_back", self.held_back)
        for name in ("cond_drop", "first_sentence", "max_bad_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a share in [0, 1], got {value}")
        self._check_batch()
        metric = "" if self.run.best is None else self.run.best.metric
        if metric.startswith("val_") and self.val.every == 0:
            raise ValueError(
                f"run.best.metric is {metric!r}, and val.every is 0: add --val.every STEPS"
            )
        scored = tuple(f"eval_{task.task}_" for task in self.val.tasks)
        if metric.startswith("eval_") and not metric.startswith(scored):
            raise ValueError(
                f"run.best.metric is {metric!r}, the score of a task, and val.tasks does not name "
                f"it: its scores are {', '.join(f'{name}...' for name in scored) or 'none'}"
            )
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}; {near(self.preset, list(PRESETS))}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in (0, 1), or left out, got {self.ema_decay}")
        check_timeout(self.process_timeout_s)
        if not 0 <= self.z_loss < math.inf:
            raise ValueError(f"z_loss must be finite and >= 0, got {self.z_loss}: 0 is none")
        if self.max_bad_samples < 0:
            raise ValueError(f"max_bad_samples must be >= 0, got {self.max_bad_samples}")
        self._check_sources()
        self._check_lora()

    def _check_template(self) -> None:
        names = list(get_args(TemplateName))
        if self.template not in (None, *names):
            raise ValueError(
                f"unknown template {self.template!r}; {near(str(self.template), names)}"
            )
        if self.change_template and self.template is None:
            raise ValueError(
                f"change_template says that there is another template: add --template, one of "
                f"{', '.join(names)}"
            )
        if self.change_template and self.lora is not None:
            raise ValueError(
                "change_template is for whole models: adapters are used with the template of the "
                "model below them; leave it out of lora"
            )

    def _check_sources(self) -> None:
        by_kind = (self.sources.und, self.sources.text, self.sources.gen)
        for kind, share, sources in zip(("und", "text", "gen"), self.ratio, by_kind, strict=True):
            if share > 0 and sources:
                _require_no_gap(kind, sources, self.run.last_step)

    def _check_lora(self) -> None:
        if self.lora is not None and self.stage != 3:
            raise ValueError(
                f"lora says what is trained in place of a stage: stage must be 3, got {self.stage}"
            )
        if self.lora is not None and self.ema_decay is not None:
            raise ValueError("ema_decay averages whole models, not adapters: leave it out of lora")
        if self.lora is not None and self.optim.name == "muon":
            raise ValueError("optim.name muon is for whole matrices, not for lora's: take adamw")

    def _check_batch(self) -> None:
        if self.pack_length is not None and self.pack_length < self.max_length:
            raise ValueError(
                f"pack_length ({self.pack_length}) must be >= max_length ({self.max_length}): "
                "a sample is never split"
            )
        for name in ("accumulate", "open_packs"):
            require_at_least_one(name, getattr(self, name))
        if self.pack_images is not None:
            require_at_least_one("pack_images", self.pack_images)
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be >= 0, got {self.num_workers}")
        if self.batch_unit == "packs" and self.pack_length is None:
            raise ValueError("batch_unit is packs, and there is no pack_length: give one")
        if self.batch_unit == "samples":
            for name in ("ratio_unit", "pack_images"):
                if getattr(self, name) not in ("samples", None):
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}, which needs batch_unit packs"
                    )
        if self.micro_batch is not None:
            require_at_least_one("micro_batch", self.micro_batch)
            if self.accumulate != 1:
                raise ValueError(
                    f"micro_batch ({self.micro_batch}) and accumulate ({self.accumulate}) both say "
                    "how a step is cut: leave accumulate out"
                )
        if self.batch_size % self.accumulate != 0:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of accumulate "
                f"({self.accumulate})"
            )


def _require_no_gap(kind: str, sources: Sequence[SourceConfig], steps: int) -> None:
    """Raise ``ValueError`` where a kind with a share has no source at some step."""
    covered = 0
    for source in sorted(sources, key=lambda source: source.from_step):
        if source.from_step > covered:
            break
        end = steps if source.until_step is None else source.until_step
        covered = max(covered, end)
    if covered < steps:
        later = [source.from_step for source in sources if source.from_step > covered]
        raise ValueError(
            f"ratio gives {kind!r} a share, but no source of sources.{kind} takes part in steps "
            f"{covered} to {min([*later, steps]) - 1}: change their from_step or until_step"
        )
