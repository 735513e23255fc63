"""What a run will take, told from shapes alone: memory a device, arithmetic, time.

Pure functions of a model on the meta device and a configuration; ``docs/recipes.md`` has the
formulas in words. Bytes of activations are those that autograd keeps under bf16 autocast in the
model's own forward, counted tensor by tensor (a test counts them again with hooks).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from openjanus.config import DecoderConfig, SharedEncoderConfig, SiglipConfig, VQConfig
from openjanus.data.samples import KINDS, Kind
from openjanus.model.janus import JanusModel
from openjanus.train.config import JanusTrainConfig
from openjanus.train.optim import DECODER_LAYERS
from openjanus.train.stages import Part, part_of

FP32, BF16 = 4, 2

ENCODE_CHUNK = 16
"""Pictures that the trainer tokenizes at once."""
ENCODE_BYTES = 12
"""Bytes an element of the tokenizer's largest feature map while a picture is encoded: the map in
bf16 and fp32, its norm in fp32, and the next one in bf16."""
LOGIT_BYTES = 12
"""Bytes a logit at the height of the backward: log-probabilities, their gradient, the logits'."""

GB = 1e9
"""Bytes. Cards of 24 and 80 GB hold a few percent more, which the driver and fragments take."""

PEAK_TFLOPS = 312.0
"""Dense bf16 of an A100."""
MFU = 0.4
"""Share of that peak which is reached; assumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSize:
    """Parameters of a part."""

    total: int
    trained: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """How much a run goes through; tokens are at most these."""

    row_length: int
    """Tokens of a row."""
    rows_per_step: float
    steps: int
    """Of a complete run."""
    shares: Mapping[Kind, float]
    """Of the positions, by kind, as if the ratio were of tokens."""

    @property
    def tokens_per_step(self) -> int:
        """Positions of a step."""
        return round(self.rows_per_step * self.row_length)

    @property
    def tokens(self) -> int:
        """Positions of the run."""
        return self.tokens_per_step * self.steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of one device."""

    rows: int
    """That it takes at a time."""

    weights: int
    gradients: int
    optimizer: int
    copies: int
    """Weights in bf16 that autocast makes and the backward needs."""
    activations: int
    logits: int
    encoding: int
    """While pictures are tokenized, before the forward."""

    @property
    def kept(self) -> int:
        """What stays from step to step."""
        return self.weights + self.gradients + self.optimizer

    @property
    def peak(self) -> int:
        """The most that is there at once."""
        return self.kept + max(self.encoding, self.copies + self.activations + self.logits)


def part_sizes(model: JanusModel) -> dict[Part, PartSize]:
    """Parameters of each part, and those that require gradients: freeze first."""
    total: dict[Part, int] = {}
    trained: dict[Part, int] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        total[part] = total.get(part, 0) + parameter.numel()
        trained[part] = trained.get(part, 0) + parameter.requires_grad * parameter.numel()
    return {part: PartSize(total=total[part], trained=trained[part]) for part in total}


def work_of(config: JanusTrainConfig) -> Work:
    """Rows, tokens and steps of a run, at most: samples may be shorter than ``max_length``."""
    length = config.max_length if config.pack_length is None else config.pack_length
    rows = float(config.batch_size)
    if config.batch_unit == "samples":
        rows = config.batch_size * config.max_length / length
    total = sum(config.ratio)
    return Work(
        row_length=length,
        rows_per_step=rows,
        steps=config.run.last_step,
        shares={kind: part / total for kind, part in zip(KINDS, config.ratio, strict=True)},
    )


def decoder_layer_bytes(config: DecoderConfig, *, trained: bool) -> int:
    """Bytes a token that autograd keeps in one layer of the decoder.

    Frozen layers keep what the gradient of their input needs, which the aligners wait for.
    """
    width, ffn = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads
    queries = heads * config.head_size
    keys = config.num_key_value_heads * config.head_size
    small = 2 * FP32 + FP32 * heads + 4 * BF16 * config.head_size  # norms, softmax, rotary
    attention = 2 * BF16 * queries + 2 * BF16 * keys
    if not trained:
        return 2 * FP32 * width + attention + 3 * BF16 * ffn + small
    norms = 2 * 2 * FP32 * width
    inputs = 5 * BF16 * width  # of q, k, v, gate and up: each casts the norm's output anew
    return norms + inputs + attention + 4 * BF16 * ffn + small


def siglip_layer_bytes(config: SiglipConfig) -> int:
    """Bytes a patch that autograd keeps in one block of a trained encoder."""
    width = config.hidden_size
    norms = 2 * (FP32 + BF16) * width + 4 * FP32
    attention = 4 * BF16 * width + FP32 * config.num_attention_heads
    return norms + attention + 2 * BF16 * config.intermediate_size


def optimizer_bytes(
    model: nn.Module, name: str, *, muon_takes: tuple[str, ...] = DECODER_LAYERS
) -> int:
    """Bytes of the optimizer's states: two numbers a parameter, for Muon's matrices one."""
    total = 0
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            muon = name == "muon" and parameter.ndim == 2 and key.startswith(muon_takes)
            total += (1 if muon else 2) * FP32 * parameter.numel()
    return total


def activation_bytes(
    model: JanusModel, work: Work, sizes: Mapping[Part, PartSize], *, checkpointing: bool
) -> int:
    """Bytes of the activations of one row.

    Args:
        model: Frozen as the stage says.
        work: Length of a row, and which kinds there are.
        sizes: Of ``part_sizes``.
        checkpointing: Whether each layer of the decoder keeps its input alone, and one is
            computed anew.
    """
    language = model.config.language
    length, width = work.row_length, language.hidden_size
    layer = decoder_layer_bytes(language, trained=sizes["language_model"].trained > 0)
    per_token = language.num_hidden_layers * layer
    if checkpointing:
        per_token = language.num_hidden_layers * FP32 * width + layer
    per_token += 5 * FP32 * width  # embeddings, their two scatters, the final norm
    per_token += 6 * width  # an aligner's two layers
    total = length * per_token
    encoder = model.config.und_encoder
    is_trained = sizes.get("und_encoder", PartSize(total=0, trained=0)).trained > 0
    if is_trained and work.shares["und"] > 0 and isinstance(encoder, SiglipConfig):
        patches = length // encoder.num_image_tokens * encoder.num_image_tokens
        total += patches * encoder.num_hidden_layers * siglip_layer_bytes(encoder)
    return total


def rows_at_a_time(config: JanusTrainConfig, *, devices: int) -> int:
    """Rows of a device's forward, at most: ``micro_batch``, or its share over ``accumulate``."""
    taken = config.part_size(devices)
    if config.batch_unit == "packs" or config.pack_length is None:
        return taken
    return math.ceil(taken * config.max_length / config.pack_length)


def estimate_memory(
    model: JanusModel, config: JanusTrainConfig, *, devices: int = 1, checkpointing: bool = False
) -> Memory:
    """Bytes of one device of several that share weights, gradients and states (FSDP).

    Args:
        model: On any device, frozen as the stage says.
        config: The run.
        devices: Over which what is kept is dealt.
        checkpointing: As in ``activation_bytes``.
    """
    work = work_of(config)
    sizes = part_sizes(model)
    total = sum(size.total for size in sizes.values())
    trained = sum(size.trained for size in sizes.values())
    language = model.config.language
    is_words = work.shares["und"] + work.shares["text"] > 0 or model.config.one_vocabulary
    classes = language.vocab_size if is_words else model.config.codebook_size
    rows = rows_at_a_time(config, devices=devices)
    encoding = 0
    base = getattr(model.config.gen_tokenizer, "base_channels", 0)
    if work.shares["gen"] > 0:
        encoding = ENCODE_CHUNK * base * model.config.gen_image_size**2 * ENCODE_BYTES
    return Memory(
        rows=rows,
        weights=FP32 * total // devices,
        gradients=FP32 * trained // devices,
        optimizer=optimizer_bytes(model, config.optim.name) // devices,
        copies=BF16 * _copied(model, devices=devices),
        activations=rows * activation_bytes(model, work, sizes, checkpointing=checkpointing),
        logits=LOGIT_BYTES * rows * work.row_length * classes,
        encoding=encoding,
    )


def _copied(model: JanusModel, *, devices: int) -> int:
    """Weights that lie in bf16 beside the masters.

    One device keeps those of all matrices that the gradient goes through. Several gather a layer
    at a time, and the next one ahead of it; what is in no layer stays gathered.
    """
    in_layers = 0
    others = 0
    for name, parameter in model.named_parameters():
        part = part_of(name)
        goes_through = part in ("language_model", "und_aligner", "gen_aligner", "gen_head")
        if parameter.ndim < 2 or not (goes_through or parameter.requires_grad):
            continue
        if name.startswith(DECODER_LAYERS):
            in_layers += parameter.numel()
        elif "embed" not in name:  # tables are looked up in fp32
            others += parameter.numel()
    if devices > 1:
        in_layers = 2 * in_layers // model.config.language.num_hidden_layers
    return in_layers + others


def estimate_flops(model: JanusModel, config: JanusTrainConfig) -> dict[str, float]:
    """Floating-point operations of a step by where they are spent, at most.

    A position costs 2 operations a parameter forward, as many for the gradient of its input, and
    as many for that of the weights; what is computed anew by checkpointing does not count.
    """
    work, sizes, language = work_of(config), part_sizes(model), model.config.language
    positions = work.rows_per_step * work.row_length
    one_head = model.config.one_vocabulary  # then words and pictures are of one head
    words = positions * (1 if one_head else work.shares["und"] + work.shares["text"])
    pictures = {
        "und": positions * work.shares["und"] / model.config.num_und_image_tokens,
        "gen": positions * work.shares["gen"] / model.config.num_gen_image_tokens,
    }
    layers = sum(
        _passes(parameter) * parameter.numel()
        for name, parameter in model.named_parameters()
        if name.startswith(DECODER_LAYERS) and parameter.ndim == 2
    )
    word_head = _passes(model.language_model.lm_head.weight)
    queries = language.num_attention_heads * language.head_size
    attended = work.row_length / 2  # causal: half of the row on average
    encoder_factor = 3 if _is_trained(sizes, "und_encoder") else 1
    door_flops = {
        "und": encode_flops(model, "und") if pictures["und"] else 0,
        "gen": encode_flops(model, "gen") if pictures["gen"] else 0,
    }
    aligned = {"und_aligner": pictures["und"] * model.config.num_und_image_tokens}
    aligned["gen_aligner"] = pictures["gen"] * model.config.num_gen_image_tokens
    return {
        "decoder layers": layers * positions,
        "attention": 3 * 4 * attended * queries * language.num_hidden_layers * positions,
        "lm_head": word_head * language.vocab_size * language.hidden_size * words,
        "gen_head": 0 if one_head else 6 * sizes["gen_head"].total * positions * work.shares["gen"],
        "aligners": sum(6 * sizes[part].total * n for part, n in aligned.items() if part in sizes),
        "und_encoder": encoder_factor * door_flops["und"] * pictures["und"],
        "vq encoder": door_flops["gen"] * pictures["gen"],
    }


def _passes(weight: Tensor) -> int:
    """Operations a parameter and position: forward, input's gradient, its own where trained."""
    return 6 if weight.requires_grad else 4


def _is_trained(sizes: Mapping[Part, PartSize], part: Part) -> bool:
    return part in sizes and sizes[part].trained > 0


def encode_flops(model: JanusModel, face: str) -> int:
    """Operations of one picture through the encoder of a face; the model is on the meta device.

    The search of the nearest codes is left out (C * d of them an id), and so is a tokenizer of
    one's own that has no ``encode_to_vectors``.
    """
    side = model.config.und_image_size if face == "und" else model.config.gen_image_size
    encode = model.und_encoder if face == "und" else getattr(model.vq, "encode_to_vectors", None)
    if face == "und" and isinstance(model.config.und_encoder, SharedEncoderConfig | VQConfig):
        return encode_flops(model, "gen")
    if encode is None:
        return 0
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        encode(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops()


def seconds(flops: float, *, devices: int, peak_tflops: float, mfu: float) -> float:
    """Time of so many operations at a share of the devices' peak."""
    return flops / (devices * peak_tflops * 1e12 * mfu)


MAX_DEVICES = 1024


def advise(model: JanusModel, config: JanusTrainConfig, *, devices: int, capacity: float) -> str:
    """Whether a run fits devices of a capacity in bytes, and what would make it fit."""
    refused = config.refused(devices)
    if refused is not None:
        return f"no: {refused}"
    plain = estimate_memory(model, config, devices=devices)
    if plain.peak <= capacity:
        return f"yes, {plain.peak / GB:.1f} GB"
    least = estimate_memory(model, config, devices=devices, checkpointing=True)
    if least.peak <= capacity:
        return f"with activation checkpointing, {least.peak / GB:.1f} GB ({plain.peak / GB:.1f})"
    how = "with activation checkpointing"
    if least.rows > 1:
        config = replace(config, micro_batch=1, accumulate=1)
        least = estimate_memory(model, config, devices=devices, checkpointing=True)
        if least.peak <= capacity:
            return f"{how} and micro_batch 1, {least.peak / GB:.1f} GB ({plain.peak / GB:.1f})"
        how += " and micro_batch 1"
    told = f"no, {least.peak / GB:.1f} GB {how} ({plain.peak / GB:.1f})"
    several = devices * 2
    while several <= MAX_DEVICES and config.refused(several) is None:
        memory = estimate_memory(model, config, devices=several, checkpointing=True)
        if memory.peak <= capacity:
            return f"{told}: {several} of them do (FSDP), or train adapters (LoRA)"
        several *= 2
    return f"{told}: shorter packs, or train adapters (LoRA)"
